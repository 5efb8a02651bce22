"""What comes in and what goes out: a chat request of a client, the body for one key, the answer."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from django.conf import settings

from llmkeys.dialects import bounds
from llmkeys.dialects.base import Bound
from llmkeys.exceptions import InvalidInput
from llmkeys.providers.base import Provider
from llmkeys.relay.candidates import Caller

OPENAI_CHAT = "openai-chat"
MAX_MODEL_NAME = 200


def new_request_id() -> str:
    """Return an id that grows with time, so that the index of a large table is written at one end only."""
    return f"req_{time.time_ns() // 1_000_000:011x}{secrets.token_hex(7)}"


@dataclass(frozen=True)
class ChatRequest:
    """A request in the OpenAI chat dialect. `raw` is the client's own bytes, `body` the same parsed."""

    body: Mapping[str, Any]
    raw: bytes
    caller: Caller
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    id: str = field(default_factory=new_request_id)
    dialect: str = OPENAI_CHAT

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The models to try in turn: the one that was named, or the primary and the fallbacks."""
        named = self.requested_model
        if named and named != "auto":
            return (named,)
        return (settings.PRIMARY_MODEL, *settings.FALLBACK_MODELS)

    @cached_property
    def requested_model(self) -> str:
        return self.body.get("model") or ""

    @cached_property
    def other_models(self) -> tuple[str, ...]:
        """OpenRouter's own fallback list: any of these may answer and be billed."""
        listed = self.body.get("models")
        return tuple(name for name in listed if isinstance(name, str)) if isinstance(listed, list) else ()

    @cached_property
    def streamed(self) -> bool:
        return self.body.get("stream") is True

    @cached_property
    def wants_usage(self) -> bool:
        options = self.body.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True

    @cached_property
    def bound(self) -> Bound:
        return bounds.chat_bound(dict(self.body), body_size=len(self.raw))

    def validate(self) -> None:
        """Raise InvalidInput for what no provider could answer, before anything is held or sent."""
        model, messages = self.body.get("model"), self.body.get("messages")
        if model is not None and not isinstance(model, str):
            raise InvalidInput({"model": ["must be a text, the name of a model."]})
        if len(self.requested_model) > MAX_MODEL_NAME or not self.requested_model.isprintable():
            raise InvalidInput({"model": [f"must be at most {MAX_MODEL_NAME} printable characters."]})
        if not isinstance(messages, list) or not messages:
            raise InvalidInput({"messages": ["is missing or empty: give at least one message."]})
        if not all(isinstance(message, dict) for message in messages):
            raise InvalidInput({"messages": ["must be a list of objects with role and content."]})
        if not isinstance(self.body.get("stream"), bool | None):
            raise InvalidInput({"stream": ["must be true or false."]})
        if self.body.get("stream_options") is not None and not isinstance(self.body["stream_options"], dict):
            raise InvalidInput({"stream_options": ["must be an object."]})
        try:
            _ = self.bound
        except ValueError as error:
            raise InvalidInput({"body": [str(error)]}) from None

    def body_for(self, provider: Provider, model: str, *, output_limit: int | None, own_base_url: bool) -> bytes:
        """Return the bytes for one key: the client's own where nothing has to change."""
        changes: dict[str, Any] = {}
        if self.body.get("model") != model:
            changes["model"] = model
        if output_limit is not None:
            changes[provider.output_limit_field(model, own_base_url=own_base_url)] = output_limit
        if self.streamed and not provider.tells_usage_unasked and not self.wants_usage:
            changes["stream_options"] = {**(self.body.get("stream_options") or {}), "include_usage": True}
        return _dump({**self.body, **changes}) if changes else self.raw


def _dump(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # a lone surrogate that the client wrote as an escape
        return json.dumps(body, separators=(",", ":")).encode()


@dataclass(frozen=True)
class Answer:
    """What the client gets. `content` is bytes, or an iterator of pieces with a `close` method."""

    status: int
    content_type: str
    content: bytes | Iterator[bytes]
    request_id: str
    key_id: str
    attempts: int
    headers: Mapping[str, str] = field(default_factory=dict)
    cost_nano: int | None = None
    remaining_day_nano: int | None = None

    @property
    def is_stream(self) -> bool:
        return not isinstance(self.content, bytes)
