"""Keys and tokens shared crosswise by many clients: nobody hears of a deadlock, and no account is above its limit."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection, transaction

from llmkeys import ledger
from llmkeys.database import queues, writer
from llmkeys.exceptions import InvalidInput, KeyConflict
from llmkeys.keys.adding import set_default
from llmkeys.keys.resets import close_windows, reset_costs
from llmkeys.ledger import Attempt, Bid, End, Outcome, leases
from llmkeys.ledger.audit import audit
from llmkeys.models import AccessToken, ApiKey, UsageRecord
from llmkeys.tokens.making import change_token
from llmkeys.usage.voiding import void_usage
from tests.gateway.door import eventually
from tests.helpers import NOW, make_key, make_user

pytestmark = pytest.mark.django_db(transaction=True)  # the writers have connections of their own

COST = 1_000
CLIENTS, REQUESTS, ACCOUNTS = 64, 6, 8
PAUSE_SECONDS = 0.02  # between corrections: SQLite lets nobody pass who asks without end


@pytest.fixture
def patience(monkeypatch) -> Iterator[None]:
    """Wait a minute for a lock: two writers and six people without a pause may leave somebody out for seconds."""
    options = connection.settings_dict["OPTIONS"]
    if connection.vendor == "postgresql":
        monkeypatch.setitem(options, "options", "-c lock_timeout=60s")
    else:
        monkeypatch.setitem(options, "timeout", 60)
    monkeypatch.setattr(settings, "DATABASE_BUSY_SECONDS", 60)  # what is set anew after a shorter wait
    monkeypatch.setattr(queues, "PATIENCE_SECONDS", 60.0)
    writer.forget()  # a new connection, which has this timeout
    yield
    writer.forget()


@pytest.fixture
def writers(patience) -> Iterator[list[writer.Writer]]:
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


def deadlocks() -> int:
    """Return how many PostgreSQL has broken in this database; the writer tries again, so that nobody hears of one."""
    if connection.vendor != "postgresql":
        return 0
    with connection.cursor() as cursor:
        cursor.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return cursor.fetchone()[0]


def test_keys_and_tokens_shared_crosswise(writers):
    limit, broken_before = 60 * COST, deadlocks()
    keys = [make_key(name=f"k{n}", total_limit_nano=limit) for n in range(ACCOUNTS)]
    user = make_user("anna", "use_gateway")
    tokens = [
        AccessToken.objects.create(name=f"t{n}", user=user, digest=str(n), total_limit_nano=limit)
        for n in range(ACCOUNTS)
    ]
    AccessToken.objects.exclude(pk=tokens[0].pk).update(maker=tokens[0])
    failures: list[BaseException] = []
    served = threading.Event()

    def half(which: int) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(client(number, writers[which], keys, tokens) for number in range(which, CLIENTS, 2)))

        asyncio.run(all_of_them())

    def void() -> None:
        """Meanwhile a person voids what was lost."""
        while not served.wait(PAUSE_SECONDS):
            for row in UsageRecord.objects.filter(state="LOST").order_by("?")[:2]:
                with transaction.atomic(), contextlib.suppress(KeyConflict):
                    void_usage(row.pk, at=NOW, actor="anna")

    def reconcile() -> None:
        """The provider tells what the lost and the estimated ones truly cost."""
        while not served.wait(PAUSE_SECONDS):
            for row in UsageRecord.objects.exclude(state="HELD").order_by("?")[:2]:
                locks = [account.lock for account in ledger.payers_of(row.pk)]
                writer.run_now(
                    lambda cursor, row=row: ledger.correct_cost(cursor, row.pk, COST // 2, NOW, reason="It says so."),
                    accounts=locks,
                )

    def reset() -> None:
        """A person resets keys and tokens, in an order of his own."""
        chance = random.Random("reset")
        while not served.wait(PAUSE_SECONDS):
            some = chance.sample([*keys, *tokens], 4)
            reset_costs(some, daily=True, monthly=False, total=chance.random() < 0.5, at=NOW, actor="anna")

    def close() -> None:
        """The scheduler closes windows."""
        while not served.wait(PAUSE_SECONDS):
            close_windows(NOW)

    def choose() -> None:
        """A person makes one key after the other the default."""
        chance = random.Random("choose")
        while not served.wait(PAUSE_SECONDS):
            set_default(chance.choice(keys), at=NOW, actor="anna")

    def shorten() -> None:
        """A person lets a token end earlier and earlier, and with it those that it created."""
        end = NOW + timedelta(days=1000)
        while not served.wait(PAUSE_SECONDS):
            end -= timedelta(hours=1)
            change_token(tokens[0], values={"expiresAt": end.isoformat()}, at=NOW, actor="anna")

    clients = [in_a_thread(lambda n=n: half(n), failures) for n in range(2)]
    others = [in_a_thread(work, failures) for work in (void, reconcile, reset, close, choose, shorten)]
    for thread in clients:
        thread.join(120)
    served.set()
    for thread in others:
        thread.join(60)
    assert not failures, failures
    assert not any(thread.is_alive() for thread in [*clients, *others])
    for one in writers:
        one.close()  # what a connection counted is known when it has ended
    assert deadlocks() == broken_before
    for account in (*ApiKey.objects.all(), *AccessToken.objects.all()):
        assert account.held_nano == 0
        assert account.spent_total_nano <= limit
    assert UsageRecord.objects.filter(state="HELD").count() == 0
    assert audit().differences == []


def test_a_token_does_not_outlive_a_maker_that_is_just_being_shortened():
    """The change of the child begins before the change of its maker is committed."""
    early, late = NOW + timedelta(days=1), NOW + timedelta(days=2)
    user = make_user("anna", "use_gateway")
    maker = AccessToken.objects.create(name="maker", user=user, digest="1", expires_at=late)
    AccessToken.objects.create(name="child", user=user, digest="2", expires_at=early, maker=maker)
    child = AccessToken.objects.select_related("maker").get(name="child")
    failures: list[BaseException] = []

    def lengthen() -> None:
        change_token(child, values={"expiresAt": late.isoformat()}, at=NOW)

    with transaction.atomic():
        change_token(maker, values={"expiresAt": early.isoformat()}, at=NOW)
        thread = in_a_thread(lengthen, failures)
        if connection.vendor == "postgresql":  # SQLite lets nobody begin meanwhile
            eventually(is_somebody_waiting, "the change of the child did not wait")
    thread.join(20)
    assert [type(failure) for failure in failures] == [InvalidInput], failures
    child.refresh_from_db()
    assert child.expires_at == early


def is_somebody_waiting() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) "
            "WHERE NOT granted AND datname = current_database()"  # a server may have several
        )
        return cursor.fetchone()[0] > 0


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
