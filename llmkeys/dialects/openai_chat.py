"""The dialect *OpenAI chat*: `POST /v1/chat/completions`, which all four providers and most local servers speak."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from llmkeys.dialects import bounds, checks
from llmkeys.dialects.base import (
    Bound,
    Dialect,
    Door,
    Request,
    Rewrite,
    Seen,
    dump,
    with_max_price,
)
from llmkeys.dialects.content import content_size
from llmkeys.dialects.usage import read_openai_usage
from llmkeys.lib.sse import DONE, EventSplitter, documents

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    429: "rate_limit_error",
}


class OpenAIChat(Dialect):
    name = "openai-chat"
    doors = (Door("/v1/chat/completions", "chat"),)
    passed_headers = frozenset(
        {"openai-beta", "http-referer", "x-title", "x-openrouter-title", "x-openrouter-categories"}
    )
    read_while_streaming = frozenset({"stream_options"})
    limit_names: ClassVar[tuple[str, ...]] = ("max_tokens", "max_completion_tokens")
    telling = re.compile(
        rb'usage"\s*:\s*[^n\s]|error|finish_reason"\s*:\s*"|s(?:ervice_tier|ignature)"\s*:\s*"|\[DONE\]|\\u00|'
        rb'data(?:"\s*:\s*"|:image/)'  # sound and pictures
    )

    # --- the request -------------------------------------------------------------------------------------------------

    def validate(self, request: Request) -> None:
        checks.check_model(request.body)
        checks.check_other_models(request)
        checks.check_messages(request.body)
        checks.check_flag(request.body, "stream")
        checks.check_object(request.body, "stream_options")
        checks.check_bound(request)

    def other_models(self, request: Request) -> tuple[str, ...]:
        """Return OpenRouter's list of models, any of which may answer and be billed."""
        return bounds.names_in(request.body.get("models"))

    def bound(self, request: Request, model: str) -> Bound:
        return bounds.chat_bound(request.body, body_size=len(request.raw), model=model)

    def traits(self, model: str) -> Any:
        return bounds.traits(model)

    def tighter_bound(self, request: Request, model: str) -> Bound:
        return bounds.tighter_chat_bound(request.body, request.bound_for(model), model=model)

    def rewritten(self, request: Request, change: Rewrite) -> bytes:
        body = request.body
        changes: dict[str, Any] = {}
        if body.get("model") != change.model:
            changes["model"] = change.model
        removed: set[str] = set()
        if change.output_limit is not None:
            removed = {name for name in self.limit_names if body.get(name) is not None}
            field = next(iter(sorted(removed)), None) or change.limit_field
            changes[change.renamed.get(field, field)] = change.output_limit
        if request.streamed and change.asks_usage and not wants_usage(body):
            changes["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        if change.max_price:
            changes["provider"] = with_max_price(body.get("provider"), change.max_price)
        changes = {name: value for name, value in changes.items() if name == "model" or name not in change.without}
        if not changes:
            return request.raw
        return dump({**{name: value for name, value in body.items() if name not in removed}, **changes})

    def added_fields(self, request: Request, change: Rewrite) -> set[str]:
        added = super().added_fields(request, change)
        if request.streamed and change.asks_usage and request.body.get("stream_options") is None:
            added.add("stream_options")
        return added

    # --- the answer --------------------------------------------------------------------------------------------------

    def events(self, request: Request) -> EventSplitter:
        return EventSplitter()

    def see_event(self, event: bytes, request: Request) -> Seen:
        seen, carried = Seen(), documents(event)
        for found in carried:
            if found == DONE:
                seen.is_end = True
            elif isinstance(found, Mapping):
                see_document(seen, found, "delta")
        body = seen.body
        if len(carried) == 1 and isinstance(body, Mapping) and body.get("usage") and not body.get("choices"):
            seen.is_usage_only = not seen.error and not wants_usage(request.body)
        return seen

    def see_answer(self, body: Any) -> Seen:
        seen = Seen()
        if isinstance(body, list) and len(body) == 1:  # Google wraps its errors in a list
            body = body[0]
        if isinstance(body, Mapping):
            see_document(seen, body, "message")
        return seen

    # --- to the client ------------------------------------------------------------------------------------------------

    def error_body(self, status: int, code: str, message: str, param: str | None = None) -> bytes:
        return dump({"error": {"message": message, "type": self.error_type(status), "param": param, "code": code}})

    @staticmethod
    def error_type(status: int) -> str:
        return _TYPES.get(status, "api_error")

    def error_event(self, status: int, code: str, message: str, request: Request) -> bytes:
        return b"data: " + self.error_body(status, code, message) + b"\n\n"


def wants_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def see_document(seen: Seen, body: Mapping[str, Any], part: str) -> None:
    """Add to `seen` what an answer or chunk says; `part` is the field of a choice that has its content."""
    seen.body = body
    usage = read_openai_usage(body)
    choices = body.get("choices")
    if usage:
        seen.usage = usage.merged(seen.usage)
        seen.is_running_total = bool(choices)  # some hosts count in every chunk
    if isinstance(found := body.get("id"), str):
        seen.id = seen.id or found
    if body.get("error"):
        seen.error = body
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, Mapping):
            continue
        if choice.get("error") or choice.get("finish_reason") == "error":
            seen.error = body
        if choice.get("finish_reason"):
            seen.is_finished = True
        content = content_size(choice.get(part))
        if not content and isinstance(choice.get("text"), str):
            content = len(choice["text"])
        if content:
            seen.has_content = True
            seen.content_bytes += content
