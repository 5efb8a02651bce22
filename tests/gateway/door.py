"""What the gateway's tests share: requests, a provider's answers, and looks at what is recorded."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.db import connection

from llmkeys import ledger
from llmkeys.key_state import current_windows
from llmkeys.ledger import audit
from llmkeys.lib.money import usd_to_nano
from llmkeys.lib.windows import WINDOWS
from llmkeys.models import Adjustment, ApiKey, UsageRecord
from llmkeys.relay import background
from tests.helpers import NOW
from tests.provider import CLOSE, RESET, SILENCE, Gate, Pieces, sent_with
from tests.web import Program, Reply

__all__ = ["CLOSE", "RESET", "SILENCE", "Gate", "Pieces", "Program", "Reply", "sent_with"]

PATH = "/v1/chat/completions"
OPENROUTER = "https://openrouter.ai/api/v1/chat/completions"
OPENAI = "https://api.openai.com/v1/chat/completions"
ANTHROPIC = "https://api.anthropic.com/v1/chat/completions"
GOOGLE = "https://generativelanguage.googleapis.com/v1beta/openai/chat/completions"
MODEL = "openai/gpt-6.1-terra"  # 1 USD per million input tokens, 1.25 when written to the cache, 5 for output
DONE = b"data: [DONE]\n\n"


def chat(**changes: Any) -> dict[str, Any]:
    """Return a request of one short message and 50 output tokens; a change to `...` leaves the field out."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50} | changes
    return {name: value for name, value in body.items() if value is not ...}


def usage(prompt: int = 10, completion: int = 5, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}


def completion(**changes: Any) -> dict[str, Any]:
    """Return an answer as OpenRouter sends it, 0.0123 USD; a change to `...` leaves the field out."""
    message = {"role": "assistant", "content": "hello"}
    body = {
        "id": "gen-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": usage(cost=0.0123),
    } | changes
    return {name: value for name, value in body.items() if value is not ...}


def event(value: Any, end: bytes = b"\n\n") -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + end


def chunk(text: str = "word", **changes: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": changes.pop("finish_reason", None)}
    return event({"id": "gen-1", "object": "chat.completion.chunk", "choices": [choice]} | changes)


def usage_chunk(**counts: Any) -> bytes:
    return event({"id": "gen-1", "choices": [], "usage": usage(**counts)})


def ask(client: Program, **changes: Any) -> Reply:
    return client.post(PATH, json.dumps(chat(**changes)))


def begin(client: Program, **changes: Any) -> Any:
    """Send the request and return its wire: nobody has waited for the answer."""
    return client.begin("POST", PATH, json.dumps(chat(**changes)))


def eventually(condition: Callable[[], object], what: str, *, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, what
        pause.wait(0.01)


def done() -> None:
    """Wait until nothing goes on behind the answers: tests of keys that were refused, alerts, drained streams."""
    eventually(lambda: background.count() == 0, "something is under way")


def settled(count: int = 1, *, seconds: float = 10) -> None:
    """Wait until so many rows are there and none is open."""

    def are_ended() -> bool:
        states = [row.state for row in rows()]  # read once: a row may come between two reads
        return len(states) == count and "HELD" not in states

    eventually(are_ended, "a row is open", seconds=seconds)


def rows() -> list[UsageRecord]:
    return list(UsageRecord.objects.order_by("id"))


def only_row() -> UsageRecord:
    return UsageRecord.objects.get()


def fresh(key: ApiKey) -> ApiKey:
    return ApiKey.objects.get(pk=key.pk)


def limits(*, daily: str = "0", monthly: str = "0", total: str = "0") -> dict[str, int]:
    """Return the columns of a key with these limits in USD."""
    return {
        "daily_limit_nano": usd_to_nano(daily),
        "monthly_limit_nano": usd_to_nano(monthly),
        "total_limit_nano": usd_to_nano(total),
    }


def spend(key: ApiKey, usd: str, *, at: datetime = NOW) -> None:
    """Let a key have spent so much in its windows, so that the books still balance."""
    with connection.cursor() as cursor:
        amounts = {window.name: usd_to_nano(usd) for window in WINDOWS}
        account = ledger.Account(ledger.KEYS, key.id)
        ledger.adjust(cursor, Adjustment.Kind.OPENING, account, current_windows(at), amounts, at)


def error_of(answer: Any) -> dict[str, Any]:
    """Return the error, after a look at its shape, which is OpenAI's."""
    assert answer["Content-Type"] == "application/json"
    body = answer.json()
    assert list(body) == ["error"]
    assert sorted(body["error"]) == ["code", "message", "param", "type"]
    return body["error"]


def is_refused(answer: Any, status: int, code: str, beginning: str) -> str:
    """Check status, code and how the message begins; return the message."""
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (status, code), answer.content
    assert error["message"].startswith(beginning), error["message"]
    return error["message"]


def books_balance() -> None:
    """Nothing is held, no row is open, and every counter is the sum of its history."""
    done()
    with connection.cursor() as cursor:
        report = audit.audit_through(cursor)
    assert not report.differences, "\n".join(map(str, report.differences))
    assert not UsageRecord.objects.filter(state="HELD").exists()
    assert not ApiKey.objects.exclude(held_nano=0).exists()
