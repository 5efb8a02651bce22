"""The paths of the simulator: the providers' own, and control paths that begin with "/_"."""

from __future__ import annotations

from typing import Any

from .answers import SLOW_SECONDS, answer_call, answer_refusal
from .auth import Caller, identify
from .behaviour import REFUSALS
from .catalogue import (
    anthropic_models,
    google_models,
    google_openai_models,
    one_model,
    openai_models,
    openrouter_generation,
    openrouter_key,
    openrouter_models,
)
from .dialects import spoken
from .http import FOREVER, Answer, Request
from .refusals import Occasion, refuse
from .state import State
from .wire import encoded


def answer(state: State, request: Request) -> Answer:
    """Return the answer to any request."""
    if request.path.startswith("/_"):
        return _control(state, request)
    caller = identify(request)
    if caller is None:
        return _json({"error": "simulated: no provider has this path"}, status=404)
    if (found := spoken(caller)) is not None:
        return answer_call(state, caller, request, *found) if request.method == "POST" else _wrong_method("POST")
    return _free_call(state, caller, request)


def _json(value: Any, *, status: int = 200) -> Answer:
    body = encoded(value)
    return Answer(status, [body], len(body))


def _wrong_method(allowed: str) -> Answer:
    reply = _json({"error": f"simulated: this path takes {allowed}"}, status=405)
    reply.headers["Allow"] = allowed
    return reply


# --- control ------------------------------------------------------------------------------------------------------


def _control(state: State, request: Request) -> Answer:
    method = "POST" if request.path == "/_reset" else "GET"
    known = request.path in ("/_health", "/_journal", "/_journal/summary", "/_reset")
    if known and request.method != method:
        return _wrong_method(method)
    match request.path:
        case "/_health":
            return _json({"status": "ok", "simulated": True})
        case "/_journal":
            after = request.parameter("after") or "0"
            return _json(state.journal.entries(after=int(after) if after.isascii() and after.isdecimal() else 0))
        case "/_journal/summary":
            return _json(state.journal.summary())
        case "/_reset":
            state.reset()
            return _json({"status": "ok"})
    return _json({"error": "simulated: no such control path"}, status=404)


# --- free calls ---------------------------------------------------------------------------------------------------


def _free_call(state: State, caller: Caller, request: Request) -> Answer:
    # OpenRouter's model list is public, but a key that is sent anyway may still be a failing one.
    public = caller.provider == "openrouter" and caller.path == "/api/v1/models"
    behaviour = state.failures.of_free_call(caller.key)
    if caller.refusal and not (public and caller.refusal == "missing"):
        return _refused(caller, caller.refusal)
    if behaviour in REFUSALS - {"404", "400", "402", "429"} or behaviour == "invalid":
        return _refused(caller, behaviour)
    found = _listing(state, caller, request)
    if found is None:
        return _refused(caller, "404", text=f"simulated: there is nothing at {request.method} {caller.path}")
    if request.method != "GET":
        return _wrong_method("GET")
    reply = _json(found)
    reply.delay = {"hang": FOREVER, "slow": SLOW_SECONDS}.get(behaviour, 0.0)
    return reply


def _refused(caller: Caller, kind: str, *, text: str = "") -> Answer:
    occasion = Occasion(caller.provider, kind, key=caller.key, text=text, native=caller.native)
    return answer_refusal(refuse(occasion))


def _listing(state: State, caller: Caller, request: Request) -> dict[str, Any] | None:
    match caller.provider, caller.path:
        case "openrouter", "/api/v1/models":
            return openrouter_models()
        case "openrouter", "/api/v1/key":
            return openrouter_key(state, caller.key)
        case "openrouter", "/api/v1/generation":
            entry = state.journal.generation(request.parameter("id") or "")
            return openrouter_generation(entry) if entry else None
        case "openai", "/v1/models":
            return openai_models()
        case "anthropic", "/v1/models":
            return anthropic_models(request)
        case "google", "/v1beta/openai/models":
            return google_openai_models()
        case "google", "/v1beta/models":
            return google_models(request)
    return one_model(caller.provider, caller.path)
