"""Thirty-odd faults of a provider × streamed or not × at the first, the middle and the last key, over real sockets:
what the client gets and how soon, what becomes of the key, and what is recorded."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass

import pytest

from llmkeys.models import ApiKey, Cooling
from tests.gateway.door import (
    CLOSE,
    DONE,
    MODEL,
    OPENROUTER,
    RESET,
    SILENCE,
    Gate,
    Pieces,
    ask,
    chunk,
    completion,
    done,
    error_of,
    event,
    fresh,
    rows,
    sent_with,
    usage,
    usage_chunk,
)
from tests.helpers import NOW, make_key, new_secret

KEY = "https://openrouter.ai/api/v1/key"
JSON = {"Content-Type": "application/json"}
GOOD_KEY = {"data": {"label": "sk-or-v1-…", "limit": None, "usage": 1}}
ROLE = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
TIMEOUT_SECONDS = 3  # for the whole answer, in the tests of silences
BUSY_SECONDS = 15  # what a busy machine may need besides; whatever the product waits for by default is made longer


def said(message: str, code: int, **more) -> dict:
    return {"error": {"message": message, "code": code, **more}}


def refused(status: int, body: object = None, **headers: str) -> Pieces:
    raw = body if isinstance(body, bytes) else json.dumps(body or said("Something", status)).encode()
    kind = "text/html" if raw.startswith(b"<") else "application/json"
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Pieces.whole(body=raw, status=status, content_type=kind, headers=named)


def raw(*pieces: object) -> Pieces:
    return Pieces(*pieces, framing="raw")


def trickle():
    """A blank now and then, for ever."""
    answer = Pieces(headers=JSON)

    def blanks():
        pause = threading.Event()
        while True:
            yield lambda: pause.wait(0.05)
            yield b" "

    answer.pieces = blanks()
    return answer


@dataclass(frozen=True)
class Fault:
    """What a key answers, and what follows.

    `rows` are the states of its rows. `then` is what the client gets where no key is left: status and code; where
    `stops`, it gets that although other keys are left. `key` is the key's state afterwards: ACTIVE, COOLING, DISABLED.
    """

    name: str
    answer: object
    rows: tuple[str, ...]
    then: tuple[int, str]
    key: str = "ACTIVE"
    stops: bool = False
    test: object = None  # what the key's free test says
    slow: bool = False

    @property
    def is_lost(self) -> bool:
        return "LOST" in self.rows


REJECTED = said("User not found.", 401)
ONCE, TWICE = ("RELEASED",), ("RELEASED", "RELEASED")
COOLS, FAILS, LOST = (503, "all_keys_cooling"), (502, "upstream_error"), ("LOST", "LOST")
NOBODY, LATE = (503, "no_key_available"), (504, "upstream_timeout")
SHORT = Pieces(b'{"id":', CLOSE, headers=JSON, framing="length", length=900)
THROTTLED_LATE = Pieces(event(ROLE), event(said("Rate limit exceeded", 429)))
HTML = b"<html><body>Bad gateway</body></html>"

FAULTS = [
    # the key's own sake: passed over, and no retry is used up
    Fault("rejected", refused(401, REJECTED), ONCE, NOBODY, "DISABLED", test=Pieces.whole(json=REJECTED, status=401)),
    Fault("rejected falsely", refused(401, REJECTED), ONCE, NOBODY, "COOLING", test=Pieces.whole(json=GOOD_KEY)),
    Fault("no credit", refused(402, said("Insufficient credits.", 402)), ONCE, COOLS, "COOLING"),
    Fault(
        "too little credit",
        refused(402, said("This request requires more credits, or fewer max_tokens. You can only afford 20.", 402)),
        ONCE,
        (429, "all_keys_at_limit"),
    ),
    Fault("its limit", refused(403, said("Key limit exceeded (daily limit).", 403)), ONCE, COOLS, "COOLING"),
    Fault("throttled", refused(429, said("Rate limit exceeded", 429)), ONCE, COOLS, "COOLING"),
    Fault("throttled for 90 s", refused(429, said("Slow down", 429), Retry_After="90"), ONCE, COOLS, "COOLING"),
    Fault("throttled, in a sentence", refused(429, said("Please retry after 90 seconds", 429)), ONCE, COOLS, "COOLING"),
    Fault("throttled under 200", refused(200, said("Rate limit exceeded", 429)), ONCE, COOLS, "COOLING"),
    Fault("rejected under 200", refused(200, REJECTED), ONCE, NOBODY, "COOLING", test=Pieces.whole(json=GOOD_KEY)),
    # the client's own mistake, or a model that is not there: no other key would do better
    Fault("a client's mistake", refused(400, said("messages.0.role: unknown", 400)), ONCE, (400, "400"), stops=True),
    Fault("too long", refused(413, said("Request too large", 413)), ONCE, (413, "413"), stops=True),
    Fault(
        "no such model",
        refused(404, said(f"No endpoints found for {MODEL}.", 404)),
        ONCE,
        (404, "model_not_available"),
        stops=True,
    ),
    # not the provider at all: its other keys would meet the same
    Fault("another API", refused(404, {"detail": "Not Found"}), ONCE, FAILS, stops=True),
    Fault("a web server", refused(404, b"<html>404</html>"), ONCE, FAILS, stops=True),
    Fault("a redirect", refused(307, Location="https://elsewhere.example/"), ONCE, FAILS, stops=True),
    # the provider's own trouble: the same key once more, then the next
    Fault("500", refused(500), TWICE, FAILS),
    Fault("502 of a proxy", refused(502, HTML), TWICE, FAILS),
    Fault("503", refused(503), TWICE, FAILS),
    Fault("503, back in a moment", refused(503, Retry_After="1"), TWICE, FAILS),
    Fault("503, back much later", refused(503, Retry_After="90"), ONCE, FAILS),
    Fault("504", refused(504), TWICE, FAILS),
    Fault("524", refused(524, HTML), TWICE, FAILS),
    Fault("529", refused(529), TWICE, FAILS),
    Fault("500 under 200", refused(200, said("Provider returned error", 500)), TWICE, FAILS),
    # sent, and nobody knows: charged at the hold, and asked once more at most
    Fault("a reset", raw(RESET), LOST, FAILS, stops=True),
    Fault("a close", raw(CLOSE), LOST, FAILS, stops=True),
    Fault("half a head", raw(b"HTTP/1.1 200 OK\r\nContent-Ty", RESET), LOST, FAILS, stops=True),
    Fault("no HTTP", raw(b"SSH-2.0-OpenSSH_9.9\r\n", CLOSE), LOST, FAILS, stops=True),
    Fault("a reset in the answer", Pieces(b'{"id":', RESET, headers=JSON), LOST, FAILS, stops=True),
    Fault("a shorter answer", SHORT, LOST, FAILS, stops=True),
    Fault("a web page", Pieces.whole(body=HTML, content_type="text/html"), LOST, FAILS, stops=True),
    Fault("half a document", refused(200, b'{"id": "gen-1"'), LOST, FAILS, stops=True),
    Fault("nothing", Pieces.whole(body=b"", content_type="application/json"), LOST, FAILS, stops=True),
    Fault("204", raw(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"), LOST, FAILS, stops=True),
    Fault("silence", raw(SILENCE), LOST[:1], LATE, stops=True, slow=True),
    Fault("silence in it", Pieces(b'{"id":', SILENCE, headers=JSON), LOST[:1], LATE, stops=True, slow=True),
    Fault("a trickle", trickle, LOST[:1], LATE, stops=True, slow=True),
]  # fmt: skip
STREAMED_ONLY = [
    Fault("a limit after the role", THROTTLED_LATE, ONCE, COOLS, "COOLING"),
    Fault("an overload after a comment", Pieces(b": x\n\n", event(said("Overloaded", 503))), TWICE, FAILS),
    Fault("a reset after the role", Pieces(event(ROLE), RESET), LOST, FAILS, stops=True),
    Fault("an end after a comment", Pieces(b": x\n\n"), LOST, FAILS, stops=True),
    Fault("silence after the role", Pieces(event(ROLE), SILENCE), LOST[:1], LATE, stops=True, slow=True),
]  # fmt: skip
CASES = [pytest.param(fault, False, id=fault.name) for fault in FAULTS]
CASES += [pytest.param(fault, True, id=f"{fault.name}, streamed") for fault in (*FAULTS, *STREAMED_ONLY)]


def good(streamed: bool) -> Pieces:
    if streamed:
        return Pieces(chunk("a"), usage_chunk(cost=0.01), DONE)
    return Pieces.whole(json=completion(usage=usage(cost=0.01)))


def state_of(key: ApiKey) -> str:
    rests = Cooling.objects.filter(scope=f"key:{key.id}", until__gt=NOW).exists()
    return "COOLING" if rests else fresh(key).status_at(NOW)


def code_of(answer) -> str:
    return str(answer.json()["error"]["code"])


@pytest.fixture
def long_waits(monkeypatch, impatient):
    """Let every wait of the product that nothing ends last longer than the bounds here."""
    impatient(60)
    monkeypatch.setattr("llmkeys.keys.failures.CONFIRM_SECONDS", 60.0)


@pytest.mark.usefixtures("long_waits")
@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
@pytest.mark.parametrize(("fault", "streamed"), CASES)
def test_a_fault(client, provider, provider_server, pauses, settings, fault, streamed, place):
    """Keys before it are throttled, keys behind it are good."""
    provider_server.hang_up()  # so that a connection that ends is not one that rested
    if fault.slow:
        settings.ANSWER_TIMEOUT_SECONDS = settings.STREAM_IDLE_SECONDS = TIMEOUT_SECONDS
    provider.must_be_asked = False
    secrets = [new_secret() for _ in range(3)]
    keys = [make_key(secret=secret) for secret in secrets]
    throttled = refused(429, said("Rate limit exceeded", 429))
    for number, secret in enumerate(secrets):
        answer = throttled if number < place else fault.answer if number == place else good(streamed)
        made = answer() if callable(answer) and not isinstance(answer, Pieces) else answer
        provider.post(OPENROUTER, made, match=sent_with(secret))
    if fault.test:
        provider.get(KEY, fault.test)

    began = time.monotonic()
    answer = ask(client, model=MODEL, stream=streamed)
    body = answer.content
    assert time.monotonic() - began < (TIMEOUT_SECONDS if fault.slow else 0) + BUSY_SECONDS
    done()

    of_this_key = [row for row in rows() if row.key_id == keys[place].id]
    assert tuple(row.state for row in of_this_key) == fault.rows
    assert all(row.cost_nano == (row.hold_nano if row.state == "LOST" else 0) for row in of_this_key)
    assert {row.state for row in rows() if row not in of_this_key} <= {"RELEASED", "SETTLED"}
    assert state_of(keys[place]) == fault.key
    if place < 2 and not fault.stops:
        assert (answer.status_code, answer["X-LLM-Key-Id"]) == (200, keys[place + 1].id)
        assert body.endswith(DONE) if streamed else answer.json()["id"] == "gen-1"
        assert rows()[-1].state == "SETTLED"
        return
    hopeful = place > 0 and not fault.stops  # the throttled keys will serve again: that is the better news
    assert (answer.status_code, code_of(answer)) == (COOLS if hopeful else fault.then)
    if fault.is_lost or (fault.then[1] in ("all_keys_at_limit", "no_key_available") and not hopeful):
        assert answer["x-should-retry"] == "false"
    if fault.then[0] >= 500:
        error_of(answer)


@pytest.mark.usefixtures("long_waits")
def test_the_twentieth_key_serves_in_one_request(client, provider, pauses):
    """Nineteen refuse, each in a way of its own; no pause is made, and no test of a key is waited for."""
    answers = [
        fault.answer for fault in FAULTS if fault.rows == ONCE and not fault.stops and isinstance(fault.answer, Pieces)
    ]
    answers = [answer for answer in answers if answer.status not in (404, 503)]
    answers = (answers * 3)[:19]
    for answer in [*answers, good(False)]:
        make_key(secret=(secret := new_secret()))
        provider.post(OPENROUTER, answer, match=sent_with(secret))
    tests = Gate()
    provider.get(KEY, Pieces(tests, CLOSE, framing="raw"))
    provider.must_be_asked = False
    began = time.monotonic()
    answer = ask(client)
    took = time.monotonic() - began
    tests.open()
    assert (answer.status_code, answer["X-LLM-Attempts"]) == (200, "20")
    assert [row.state for row in rows()] == ["RELEASED"] * 19 + ["SETTLED"]
    assert pauses == []
    assert took < BUSY_SECONDS, "a test that confirms a rejection is not waited for"


def test_a_connection_that_rested_for_over_30_seconds_is_not_used_again(client, provider, provider_server, pool_clock):
    """Routers on the way forget it sooner than its two ends do: a request on it would be lost."""
    provider_server.hang_up()
    make_key()
    provider.post(OPENROUTER, good(False))
    for seconds in (0, 29, 31, 0):
        pool_clock(seconds)
        assert ask(client).status_code == 200
    first, after_29, after_31, at_once = (call.connection for call in provider.calls)
    assert first == after_29
    assert after_29 != after_31 == at_once
