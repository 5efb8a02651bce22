"""64 programs with sound, pictures, lists of models, server tools and 64,000 output tokens: never above a limit.

Half of them share a key with a limit; the others an access token with one, on a key without. Every kind of request may
cost nearly its hold, some answers break off and are lost; at every look what was spent and held is within the limit.
In `make proof` with twenty times the money and ten times the turns.
"""

from __future__ import annotations

import base64
import http.client
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from llmkeys.lib.money import NANO, nano_to_usd
from tests.flows.product import Product, Program, Sampler, chat, run_together
from tests.flows.scale import SEED, size

pytestmark = pytest.mark.proof
PROGRAMS = size("PROGRAMS", short=64, long=64)
LIMIT_USD = size("MIXED_USD", short=10, long=200)
TURNS = size("MIXED_TURNS", short=4, long=40)
SHARES = (0.1, 0.5, 0.9, 0.98)  # of the hold; all of it where an answer breaks off
SOUND = base64.b64encode(random.Random(1).randbytes(24_000)).decode()
PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + random.Random(2).randbytes(24_000)).decode()
REFUSALS = {"budget_busy", "all_keys_at_limit", "token_at_limit"}


def parts(text: str, part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part, {"type": "text", "text": text}]}]


def sound(text: str) -> dict[str, Any]:
    part = {"type": "input_audio", "input_audio": {"data": SOUND, "format": "mp3"}}
    return chat(model="google/gemini-3.8-flash", max_tokens=500, messages=parts(text, part))


def picture(text: str) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    return chat(max_tokens=500, messages=parts(text, part))


def list_of_models(text: str) -> dict[str, Any]:
    return chat(text, max_tokens=3_000, models=["anthropic/claude-opus-5.5", "google/gemini-3.8-flash"])


def server_tools(text: str) -> dict[str, Any]:
    return chat(text, max_tokens=1_000, tools=[{"type": "openrouter:web_search"}])


def long_answer(text: str) -> dict[str, Any]:
    return chat(text, model="anthropic/claude-opus-5.5", max_tokens=64_000, stream=True)


KINDS: list[Callable[[str], dict[str, Any]]] = [sound, picture, list_of_models, server_tools, *[long_answer] * 3]


@pytest.fixture
def product(data_dir, simulator, database):
    with Product(data_dir, simulator, "--workers", "2", **database) as running:
        yield running


def told(cost_nano: int, *, behaviour: str = "ok") -> str:
    """Return directives of one length, whatever they say: the hold counts their bytes."""
    return f"[[cost={nano_to_usd(cost_nano):015.9f} delay_ms=30 behaviour={behaviour}]]"


def turn(kind: Callable[..., dict[str, Any]], holds: dict[Any, int], chance: random.Random) -> dict[str, Any]:
    if kind is long_answer:  # all that its limit allows, lowered or not: the simulator keeps to it
        return kind(f"[[completion_tokens={chance.choice([100, 20_000, 64_000])} delay_ms=30]]")
    if chance.random() < 0.1:
        return kind(told(0, behaviour="cut"))
    return kind(told(int(chance.choice(SHARES) * holds[kind])))


def send(program: Program, body: dict[str, Any], codes: Counter[str]) -> str:
    """Send a request; return "served", "broken off" or the code of the refusal."""
    try:
        reply = program.chat(body)
    except (http.client.HTTPException, OSError):
        return "broken off"
    code = "served" if reply.status == 200 else "broken off" if reply.status == 502 else reply.code
    assert code in REFUSALS | {"served", "broken off"}, (reply.status, reply.body[:300])
    return code


def test_it_stays_within_every_limit_whatever_is_asked(product, capsys):
    holds = {kind: product.probe(kind(told(0)))[0] for kind in KINDS}
    limited = product.add_key("Limited", dailyLimit=LIMIT_USD, monthlyLimit=0, totalLimit=0)
    open_key = product.add_key("Open", dailyLimit=0, monthlyLimit=0, totalLimit=0)
    tokens = [
        product.api("POST", "/tokens", {"name": "on a limited key", "scopes": ["gateway"], "keyIds": [limited]}),
        product.api(
            "POST", "/tokens", {"name": "limited", "scopes": ["gateway"], "keyIds": [open_key], "dailyLimit": LIMIT_USD}
        ),
    ]
    codes: Counter[str] = Counter()

    def work(number: int) -> None:
        chance = random.Random(f"{SEED} {number}")
        with closing(product.program(tokens[number % 2]["token"])) as program:
            for _ in range(TURNS):
                code = send(program, turn(chance.choice(KINDS), holds, chance), codes)
                codes[code] += 1
                if code == "budget_busy":
                    threading.Event().wait(chance.random())

    with Sampler(product) as sampler:
        run_together(PROGRAMS, work)
    with product.books as books:
        accounts = books.rows(
            "SELECT spent_day_nano, held_nano FROM llmkeys_apikey WHERE name IN ('Limited', 'Open') ORDER BY name"
        )
        lowered, lost, overruns = books.rows(
            """SELECT SUM(CASE WHEN max_tokens IS NOT NULL THEN 1 ELSE 0 END),
                      SUM(CASE WHEN state = 'LOST' THEN 1 ELSE 0 END), SUM(CASE WHEN overrun THEN 1 ELSE 0 END)
                 FROM llmkeys_usagerecord"""
        )[0]
    with capsys.disabled():
        print(f"\n{dict(codes)}; {sampler.looks} looks; lowered {lowered}, lost {lost}; spent {accounts} nano-dollars")
    assert sampler.broken == [] and sampler.looks > 50
    assert set(sampler.highest) == {limited, "token limited"}
    assert all(0.5 * LIMIT_USD * NANO < spent <= LIMIT_USD * NANO and held == 0 for spent, held in accounts)
    assert overruns == 0 and lost > 0 and codes["served"] > PROGRAMS / 2
    assert codes.keys() & {"all_keys_at_limit", "budget_busy"} and codes.keys() & {"token_at_limit", "budget_busy"}
    assert "The books are right" in product.command("audit")
