"""The threads of a worker share a few connections to PostgreSQL: none keeps one while it is idle or waits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connections

from llmkeys.models import ApiKey
from llmkeys.relay import background, inside
from llmkeys.relay.requests import Answer

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.only_on("postgresql")]


@pytest.fixture(autouse=True)
def _pooled(monkeypatch) -> Iterator[None]:
    """Connections as in a web worker: pooled from its start, so that no thread has one from before."""
    for threads in ("_threads", "_askers"):
        monkeypatch.setattr(background, threads, ThreadPoolExecutor(max_workers=1))
    settings = connections["default"].settings_dict
    connections["default"].close()
    monkeypatch.setitem(settings, "CONN_MAX_AGE", 0)
    monkeypatch.setitem(settings["OPTIONS"], "pool", {"min_size": 0, "max_size": 2, "timeout": 3.0})
    yield
    connections["default"].close_pool()


def connection_after_a_query():
    ApiKey.objects.count()
    mine = connections["default"]
    assert mine.connection is not None
    return mine


@pytest.mark.parametrize("kind", [background.in_thread, background.in_asker])
def test_an_idle_thread_of_the_relay_has_none(kind):
    assert asyncio.run(kind(connection_after_a_query)).connection is None


def test_a_person_who_waits_for_a_provider_has_none(monkeypatch):
    """The playground and the chat command wait in a thread for what the event loop does."""
    mine, seen = connection_after_a_query(), []

    async def relay(*_):
        seen.append(mine.connection)
        return Answer(200, "application/json", b"{}", "req-1", "key-1", 1)

    monkeypatch.setattr(inside, "relay", relay)
    assert inside.Conversation(None).answer().content == b"{}"
    inside.finish(1)
    assert seen == [None]
