"""Keys and tokens shared crosswise by many clients: nobody hears of a deadlock, and no account is above its limit."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable

import pytest
from django.db import connection, transaction

from llmkeys import ledger
from llmkeys.database import writer
from llmkeys.exceptions import KeyConflict
from llmkeys.ledger import Attempt, Bid, End, Outcome, leases
from llmkeys.ledger.audit import audit
from llmkeys.models import AccessToken, ApiKey, UsageRecord
from llmkeys.usage.voiding import void_usage
from tests.helpers import NOW, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)  # the writers have connections of their own

COST = 1_000
CLIENTS, REQUESTS, ACCOUNTS = 64, 6, 8


@pytest.fixture
def writers(monkeypatch) -> list[writer.Writer]:
    """Two writers, as two processes have: each client uses one of them."""
    made = [writer.Writer(), writer.Writer()]
    yield made
    for one in made:
        one.close()


async def run_on(one: writer.Writer, job) -> object:
    return await one.run(writer.Job(job, None, job.accounts))


async def client(number: int, one: writer.Writer, keys: list[ApiKey], tokens: list[AccessToken]) -> None:
    """Hold on three keys in an order of its own, for a token of its own, and settle or lose."""
    chance = random.Random(number)
    for turn in range(REQUESTS):
        token, chosen = tokens[number % ACCOUNTS], chance.sample(keys, 3)
        attempt = Attempt(
            f"req-{number}-{turn}", 1, NOW, "openai-chat", "m", token.name, False, "me", token_id=token.pk
        )
        job = ledger.PlaceHold([Bid(key.id, key.provider, "m", 2 * COST) for key in chosen], attempt)
        placed = await run_on(one, job)
        if placed.hold is None:
            continue
        is_lost = chance.random() < 0.2
        outcome = Outcome(
            state="LOST" if is_lost else "SETTLED", at=NOW, success=not is_lost,
            cost_nano=2 * COST if is_lost else COST, cost_source="estimated" if is_lost else "provider",
            http_status=200,
        )  # fmt: skip
        await run_on(one, End(placed.hold, outcome))


def in_a_thread(work: Callable[[], None], failures: list[BaseException]) -> threading.Thread:
    def run() -> None:
        try:
            work()
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_keys_and_tokens_shared_crosswise(writers):
    limit = 60 * COST
    keys = [make_key(name=f"k{n}", total_limit_nano=limit) for n in range(ACCOUNTS)]
    user = make_user("anna", "use_gateway")
    tokens = [
        AccessToken.objects.create(name=f"t{n}", user=user, digest=str(n), total_limit_nano=limit)
        for n in range(ACCOUNTS)
    ]
    failures: list[BaseException] = []

    def half(which: int) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(client(number, writers[which], keys, tokens) for number in range(which, CLIENTS, 2)))

        asyncio.run(all_of_them())

    def correct() -> None:
        """Meanwhile a person voids what was lost."""
        for _ in range(20):
            for row in UsageRecord.objects.filter(state="LOST").order_by("?")[:2]:
                with transaction.atomic():
                    try:
                        void_usage(row.pk, at=NOW, actor="anna")
                    except KeyConflict:
                        continue

    threads = [in_a_thread(lambda n=n: half(n), failures) for n in range(2)] + [in_a_thread(correct, failures)]
    for thread in threads:
        thread.join(120)
    assert not failures, failures[0]
    assert not any(thread.is_alive() for thread in threads)
    for account in (*ApiKey.objects.all(), *AccessToken.objects.all()):
        assert account.held_nano == 0
        assert account.spent_total_nano <= limit
    assert UsageRecord.objects.filter(state="HELD").count() == 0
    assert audit().differences == []


def test_a_hard_cap_holds_over_many_coroutines(frozen):
    key = make_key(total_limit_nano=10 * COST, daily_limit_nano=0, monthly_limit_nano=0)

    async def one(number: int) -> bool:
        attempt = Attempt(f"req-{number}", 1, NOW, "openai-chat", "m", "", False, leases.owner())
        placed = await leases.place([Bid(key.id, key.provider, "m", COST)], attempt)
        return placed.hold is not None

    async def all_of_them() -> list[bool]:
        return await asyncio.gather(*(one(number) for number in range(64)))

    assert sum(asyncio.run(all_of_them())) == 10
    key.refresh_from_db()
    assert key.held_nano == 10 * COST
