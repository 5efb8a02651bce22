"""`manage.py chat`: one question to a model, relayed like a request to the gateway: budgets, rotation, exact cost."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from llmkeys.exceptions import LLMKeysError
from llmkeys.lib.money import format_usd, usd_json
from llmkeys.management import asking
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import add_json_option
from llmkeys.models import UsageRecord
from llmkeys.presentation import known_words
from llmkeys.relay import inside
from llmkeys.relay.inside import Conversation
from llmkeys.relay.requests import Answer, RelayRequest
from llmkeys.relay.texts import chat_request, complete_text, deltas
from llmkeys.tokens.rights import Caller

DRAIN_SECONDS = 35.0  # longer than the relay reads on for the usage of an abandoned stream


class Command(BaseCommand):
    help = "Ask a model one question through the stored keys. The answer goes to stdout, its cost to stderr."
    example = 'chat "Say hello" --model openai/gpt-6.1-terra --stream'

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("prompt", metavar="PROMPT", help="the question; - reads it from stdin")
        parser.add_argument("--model", default="", metavar="M", help="default: the primary model, then the fallbacks")
        parser.add_argument("--stream", action="store_true", help="print the answer as it arrives")
        parser.add_argument("--max-tokens", type=int, metavar="N", help="the longest answer")
        add_json_option(parser)

    def handle(self, *, prompt: str, model: str, stream: bool, max_tokens: int | None, json: bool, **_: Any) -> None:
        if max_tokens is not None and max_tokens < 1:
            raise CommandError("--max-tokens must be at least 1.")
        question = asking.piped_in() if prompt == "-" else prompt
        if not question.strip():
            raise CommandError("The prompt is empty.")
        request = _request(question, model, stream, max_tokens)
        conversation = Conversation(request)
        try:
            try:
                answer = conversation.answer()
                text = self._collect(answer, conversation, show=not json)
            finally:
                self._leave(conversation)
        except LLMKeysError as error:
            if _cost_of(rows := _rows_of(request.id)):
                raise CommandError(f"{error}\nIt cost {_cost_words(rows)}.") from None
            raise
        rows = _rows_of(answer.request_id)
        if json:
            self.write_json(_as_json(answer, text, rows))
        elif rows:
            self.stderr.write(_summary(answer, rows), lambda line: line)

    def _collect(self, answer: Answer, conversation: Conversation, *, show: bool) -> str:
        """Print the answer, in pieces if it is streamed, and return it."""
        if not answer.is_stream:
            text = complete_text(answer)
            if show:
                self.stdout.write(text)
            return text
        pieces: list[str] = []
        try:
            for piece in deltas(conversation):
                pieces.append(piece)
                if show:
                    self.stdout.write(piece, ending="")
                    self.stdout.flush()
        finally:
            if show and pieces:
                self.stdout.write("")
        return "".join(pieces)

    def _leave(self, conversation: Conversation) -> None:
        """Close the stream; if it was left early, wait until its cost is recorded."""
        conversation.close()
        if conversation.is_streaming:
            self.stderr.write("Waiting for the cost of the interrupted answer …", lambda line: line)
        inside.finish(DRAIN_SECONDS)


def _request(prompt: str, model: str, stream: bool, max_tokens: int | None) -> RelayRequest:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    if model:
        body["model"] = model
    if stream:
        body["stream"] = True
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    return chat_request(body, Caller())


def _rows_of(request_id: str) -> list[UsageRecord]:
    """Return the request's attempts in order; each may have cost something."""
    rows = UsageRecord.objects.filter(request_id=request_id).select_related("key").defer("key__secret")
    return list(rows.order_by("attempt"))


def _cost_of(rows: list[UsageRecord]) -> int:
    return sum(row.cost_nano for row in rows)


def _cost_words(rows: list[UsageRecord]) -> str:
    return f"{format_usd(_cost_of(rows))} ({known_words(rows)})"


def _summary(answer: Answer, rows: list[UsageRecord]) -> str:
    row, attempts = rows[-1], f"{answer.attempts} attempt" + ("s" if answer.attempts != 1 else "")
    return (
        f"{row.model} · key “{row.key.name}” · {_count(row.input_tokens)} input and {_count(row.output_tokens)} output "
        f"tokens · {_cost_words(rows)} · {attempts}"
    )


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else str(tokens)


def _as_json(answer: Answer, text: str, rows: list[UsageRecord]) -> dict[str, Any]:
    row = rows[-1] if rows else None
    known = {} if row is None else {
        "model": row.model,
        "keyName": row.key.name,
        "provider": row.provider,
        "inputTokens": row.input_tokens,
        "outputTokens": row.output_tokens,
        "cost": usd_json(_cost_of(rows)),
        "costSource": row.cost_source,
    }  # fmt: skip
    return {
        "requestId": answer.request_id, "answer": text, "keyId": answer.key_id, "attempts": answer.attempts, **known
    }  # fmt: skip
