"""The base class of the simulator's dialects, which parse requests and write answers, streamed or not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from ..generation import Asked, Generation, Unacceptable
from ..http import Request
from ..refusals import Occasion, refuse
from ..wire import encoded


@dataclass(frozen=True, slots=True)
class Reply:
    """A generation as it is sent by a provider; `distortion` is a behaviour that falsifies the usage."""

    provider: str
    id: str
    created: int
    generation: Generation
    asked: Asked
    distortion: str = ""

    @property
    def is_routed(self) -> bool:
        """True for OpenRouter, which reports the cost."""
        return self.provider == "openrouter"

    @property
    def reports_usage(self) -> bool:
        return self.distortion != "nousage"

    @property
    def is_falsified(self) -> bool:
        return self.distortion in _DISTORTIONS

    def falsified(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the usage object as it is sent, changed if the behaviour says so."""
        change = _DISTORTIONS.get(self.distortion)
        return _changed(usage, change) if change else usage

    def with_cost(self, usage: dict[str, Any], *, input_name: str, output_name: str) -> dict[str, Any]:
        """Return the usage, for OpenRouter with its cost in exact USD."""
        if not self.is_routed:
            return usage
        generation = self.generation
        details = {
            "upstream_inference_cost": generation.cost,
            f"upstream_inference_{input_name}_cost": generation.bill.prompt,
            f"upstream_inference_{output_name}_cost": generation.bill.completion,
        }
        return usage | {"cost": generation.cost, "is_byok": False, "cost_details": details}


@dataclass(frozen=True, slots=True)
class Stream:
    """The events of a stream: before the text, the text, and after it (finish reason, usage, end marker).

    Bytes are sent as they are, anything else as an event of the dialect.
    """

    opening: list[Any]
    contents: list[Any]
    closing: list[Any]


class Dialect:
    """A dialect; the providers and paths that use it are in `__init__.py`."""

    prefix: ClassVar[str]  # of an answer's id
    stream_type: ClassVar[str] = "text/event-stream"

    def caches_at(self, provider: str) -> bool:
        """Return whether the provider can report cached tokens in this dialect."""
        return True

    def read(self, body: dict[str, Any], request: Request, action: str) -> Asked:
        """Return what the body asks for. Raises Unacceptable."""
        raise NotImplementedError

    def whole(self, reply: Reply) -> Any:
        """Return the body of an answer that is not streamed, without usage if the behaviour withholds it."""
        raise NotImplementedError

    def stream(self, reply: Reply) -> Stream:
        """Return all events of an undisturbed stream."""
        raise NotImplementedError

    def written(self, value: Any, reply: Reply, *, first: bool) -> bytes:
        """Return an event as bytes."""
        return value if isinstance(value, bytes) else b"data: " + encoded(value) + b"\n\n"

    def broken(self, reply: Reply, *, first: bool) -> bytes:
        """Return an event whose JSON is cut off."""
        return self.written({"id": reply.id, "choices": []}, reply, first=first).rstrip()[:-2] + b"\n\n"

    def error_inside(self, reply: Reply) -> Any:
        """Return the error of a generation that failed after its answer had begun with status 200."""
        if reply.is_routed:
            error = {
                "code": 502,
                "message": "Provider returned error",
                "metadata": {"error_type": "provider_unavailable"},
            }
            return {"error": error}
        kind = {"openai": "500", "anthropic": "503", "google": "503"}[reply.provider]
        return refuse(Occasion(reply.provider, kind, native=True)).body

    def error_event(self, reply: Reply) -> Any:
        """Return the same error as the last event of a stream."""
        return self.error_inside(reply)


# --- false usage --------------------------------------------------------------------------------------------------

_DISTORTIONS: dict[str, Callable[[Any], Any]] = {
    "zerousage": lambda number: 0,
    "negusage": lambda number: -(number or 1),
    "strusage": lambda number: "abc",
}


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: _changed(inner, change) for name, inner in value.items()}
    if isinstance(value, list):
        return [_changed(inner, change) for inner in value]
    return change(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value


# --- reading a body -----------------------------------------------------------------------------------------------


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list; a single object counts as a list of one."""
    if isinstance(value, dict):
        return [value]
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def texts_of(content: object) -> list[str]:
    """Return the texts of a content, which is a string, a list of parts, or one part."""
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in objects(content) if isinstance(part.get("text"), str)]


def whole_number(body: dict[str, Any], name: str, *, most: int | None = None) -> int | None:
    """Return a count of at least 1, or None. Raises Unacceptable."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
        raise Unacceptable(f"Invalid value for '{name}': expected an integer of at least 1.")
    return value


def smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def named_model(body: dict[str, Any]) -> str:
    """Return the model; a list of models (OpenRouter) replaces a missing one. Raises Unacceptable."""
    model = body.get("model")
    if "model" not in body and isinstance(body.get("models"), list) and body["models"]:
        model = body["models"][0]
    if not isinstance(model, str) or not model:
        raise Unacceptable("The model is missing.")
    return model


def listed(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Return a list of objects that must not be empty. Raises Unacceptable."""
    if not isinstance(body.get(name), list) or not body[name]:
        raise Unacceptable(f"The {name} are missing.")
    return objects(body[name])


def halves(text: str) -> Iterable[str]:
    """Return a text in two pieces, like streamed tool arguments."""
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]
