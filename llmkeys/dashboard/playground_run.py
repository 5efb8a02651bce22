"""A request of the playground, and what is known about it afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.template.loader import render_to_string

from llmkeys.exceptions import InvalidInput, LLMKeysError
from llmkeys.models import ApiKey, UsageRecord
from llmkeys.presentation import known_words
from llmkeys.relay.inside import Conversation
from llmkeys.relay.requests import Answer, RelayRequest
from llmkeys.relay.texts import chat_request, complete_text, deltas
from llmkeys.tokens.rights import Caller

_LONGEST_NAME = 100  # of a caller, in a usage row


def request_of(given: dict[str, Any], *, user_name: str, stream: bool) -> RelayRequest:
    """Return the request of a submitted form, under the user's name. Raises InvalidInput."""
    system = [{"role": "system", "content": given["system"]}] if given["system"] else []
    body: dict[str, Any] = {"messages": [*system, {"role": "user", "content": given["prompt"]}]}
    if given["model"]:
        body["model"] = given["model"]
    if given["max_tokens"]:
        body["max_completion_tokens"] = given["max_tokens"]  # the name that all four providers accept
    if stream:
        body["stream"] = True
    return chat_request(body, Caller(name=user_name[:_LONGEST_NAME]))


def error_words(error: LLMKeysError) -> str:
    if isinstance(error, InvalidInput):
        return " ".join(f"“{field}” {text}" for field, texts in error.errors.items() for text in texts)
    return str(error)


@dataclass(frozen=True, slots=True)
class WholeAnswer:
    """An answer that was not streamed: its text, or why there is none."""

    request_id: str
    text: str = ""
    error: str = ""


def ask(request: RelayRequest) -> WholeAnswer:
    try:
        return WholeAnswer(request.id, text=complete_text(Conversation(request).answer()))
    except LLMKeysError as error:
        return WholeAnswer(request.id, error=error_words(error))


class StreamedAnswer:
    """An answer as lines of JSON: the request's id, pieces of text, and finally the facts or an error.

    Not a generator, because one that was never started does not run its `finally`. The request is sent after the first
    line, so that a reader who stops knows the id of the request that continues. After `close` the relay reads the rest
    of the provider's stream for its cost.
    """

    def __init__(self, request: RelayRequest):
        self._request = request
        self._conversation: Conversation | None = None
        self._lines = self._generate()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return json.dumps(next(self._lines)).encode() + b"\n"

    def close(self) -> None:
        if self._conversation is not None:
            self._conversation.close()

    def _generate(self) -> Iterator[dict[str, str]]:
        yield {"request": self._request.id}
        try:
            self._conversation = Conversation(self._request)
            answer = self._conversation.answer()
            for text in self._texts(answer, self._conversation):
                yield {"text": text}
        except LLMKeysError as error:
            yield {"error": error_words(error)}
        finally:
            self.close()
        yield {"facts": facts_html(self._request.id)}

    @staticmethod
    def _texts(answer: Answer, conversation: Conversation) -> Iterator[str]:
        return deltas(conversation) if answer.is_stream else iter((complete_text(answer),))


# --- afterwards ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a request: its attempts in order, the last of which answered."""

    request_id: str
    rows: list[UsageRecord]
    names: dict[str, str]

    @property
    def last(self) -> UsageRecord:
        return self.rows[-1]

    @property
    def is_open(self) -> bool:
        return self.last.state == UsageRecord.State.HELD

    @property
    def cost_nano(self) -> int:
        return sum(row.cost_nano for row in self.rows)

    @property
    def known_by(self) -> str:
        return known_words(self.rows)

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The names of the keys that were passed over before the one that answered, with the reasons."""
        return [
            {"name": self.names.get(skip["keyId"], skip["keyId"]), "reason": skip["reason"]}
            for skip in self.last.skipped
        ]


def facts_of(request_id: str) -> Facts | None:
    """Return what is recorded about a request, or None if there was no attempt."""
    found = UsageRecord.objects.filter(request_id=request_id).select_related("key").defer("key__secret")
    rows = list(found.order_by("attempt"))
    if not rows:
        return None
    ids = {skip["keyId"] for skip in rows[-1].skipped}
    return Facts(request_id, rows, dict(ApiKey.objects.filter(pk__in=ids).values_list("pk", "name")) if ids else {})


def facts_html(request_id: str) -> str:
    """Return the facts as HTML, or an empty string if there are none."""
    facts = facts_of(request_id)
    return render_to_string("dashboard/_playground_facts.html", {"facts": facts}) if facts else ""
