"""Programs that change the same thing at the same time, for real: threads, each with a connection of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from django.db import connection
from django.utils import timezone

from llmkeys import ledger
from llmkeys.database import queues, writer
from llmkeys.ledger import leases
from llmkeys.ledger.audit import audit
from llmkeys.models import ApiKey
from tests.helpers import JsonClient, make_key, make_token, new_secret

PATH = "/api/llm/keys"
COST, REQUESTS = 1_000, 40

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _patient_with_each_other(monkeypatch):
    """SQLite lets those who wait in at random: of threads that ask without end, one may wait long for its turn."""
    if connection.vendor == "sqlite":
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "timeout", 60)
        monkeypatch.setattr(queues, "PATIENCE_SECONDS", 60.0)
    writer.forget()  # it has a connection of its own, made with the timeout of its time
    yield
    writer.forget()


def together(*works: Callable[[], None]) -> None:
    """Run the works at once; the first failure of any is raised here."""
    failures: list[BaseException] = []
    begin = threading.Barrier(len(works))

    def call(work: Callable[[], None]) -> None:
        try:
            begin.wait(30)
            work()
        except BaseException as failure:  # an assertion too
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=call, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads)


@pytest.fixture
def token(administrator):
    return make_token(administrator, "manage")


def traffic(key: ApiKey, name: str) -> Callable[[], None]:
    """Requests on a key, as the gateway records them."""

    def send() -> None:
        bid = ledger.Bid(key.id, key.provider, "m", 2 * COST)
        for number in range(REQUESTS):
            at = timezone.now()
            attempt = ledger.Attempt(f"{name}-{number}", 1, at, "openai_chat", "m", "worker", False, "here")
            placed = asyncio.run(leases.place([bid], attempt))
            outcome = ledger.Outcome(state="SETTLED", at=at, success=True, cost_nano=COST, cost_source="provider")
            asyncio.run(leases.finish(ledger.End(placed.hold, outcome)))

    return send


def test_changes_that_race_with_traffic_lose_no_cost(token):
    key = make_key(name="raced")
    path = f"{PATH}/{key.id}"

    def edit(limit: int) -> Callable[[], None]:
        def put() -> None:
            api = JsonClient(token)
            for number in range(15):
                shown = api.get(path).json()
                answer = api.put(path, shown | {"dailyLimit": limit, "description": f"{limit} {number}"})
                assert answer.status_code == 200, answer.content

        return put

    together(edit(500), edit(700), traffic(key, "one"), traffic(key, "two"))
    key.refresh_from_db()
    assert (key.spent_total_nano, key.held_nano, key.total_requests) == (2 * REQUESTS * COST, 0, 2 * REQUESTS)
    assert key.daily_limit_nano in (500 * 10**9, 700 * 10**9)
    assert audit().differences == []


def test_one_default_is_left_by_those_who_choose_one_at_once(token):
    keys = [make_key() for _ in range(4)]

    def choose(key: ApiKey) -> Callable[[], None]:
        def post() -> None:
            api = JsonClient(token)
            for _ in range(8):
                answer = api.post(f"{PATH}/{key.id}/set-default")
                assert answer.status_code == 200, answer.content
                assert sum(shown["isDefault"] for shown in api.get(PATH).json()) == 1

        return post

    together(*map(choose, keys))
    assert ApiKey.objects.filter(is_default=True).count() == 1


def test_a_default_that_is_deleted_while_others_choose_leaves_one(token):
    keys = [make_key() for _ in range(6)]

    def delete() -> None:
        api = JsonClient(token)
        for key in keys[:3]:
            assert api.post(f"{PATH}/{key.id}/set-default").status_code == 200
            assert api.delete(f"{PATH}/{key.id}").status_code == 200

    def choose() -> None:
        api = JsonClient(token)
        for _ in range(5):
            assert api.post(f"{PATH}/{keys[4].id}/set-default").status_code == 200

    together(delete, choose)
    (default,) = ApiKey.objects.filter(is_default=True)
    assert default.deleted_at is None and default.enabled


def test_a_secret_that_comes_twice_at_once_is_stored_once(token):
    body = {"provider": "openrouter", "name": "Twin", "apiKey": new_secret()}
    statuses = []

    def add() -> None:
        statuses.append(JsonClient(token).post(PATH, body).status_code)

    together(*[add] * 6)
    assert sorted(statuses) == [201] + [409] * 5
    assert ApiKey.objects.filter(is_default=True).count() == 1


def test_a_lost_charge_that_two_take_back_at_once_is_taken_back_once(token):
    key = make_key()
    at = timezone.now()
    attempt = ledger.Attempt("lost", 1, at, "openai_chat", "m", "worker", False, "here")
    placed = asyncio.run(leases.place([ledger.Bid(key.id, "openrouter", "m", COST)], attempt))
    lost = ledger.Outcome(state="LOST", at=at, success=False, cost_nano=COST, cost_source="estimated", http_status=502)
    asyncio.run(leases.finish(ledger.End(placed.hold, lost)))
    statuses = []

    def void() -> None:
        answer = JsonClient(token).post(f"/api/llm/usage/{placed.hold.usage_id}/void")
        statuses.append(answer.status_code)

    together(*[void] * 4)
    assert sorted(statuses) == [200, 409, 409, 409]
    key.refresh_from_db()
    assert key.spent_total_nano == 0
    assert audit().differences == []
