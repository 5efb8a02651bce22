"""Reads of the event loop: one thread, one connection, and the same error as the writer's where nothing answers."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.db import OperationalError, ProgrammingError, connection

from llmkeys.database import outages, queues, reader, sqlite, writer
from llmkeys.exceptions import RecordingUnavailable
from llmkeys.models import KeyEvent

pytestmark = pytest.mark.django_db(transaction=True)  # the reader has a connection of its own


@pytest.fixture(autouse=True)
def _no_outage_noted(monkeypatch):
    monkeypatch.setattr(outages, "_current", outages._Outage())


def messages(cursor):
    cursor.execute("SELECT message FROM llmkeys_keyevent ORDER BY id")
    return [row[0] for row in cursor.fetchall()]


def test_it_sees_what_was_committed():
    for message in ("one", "two"):
        KeyEvent.objects.create(kind="changed", message=message)
        assert asyncio.run(reader.run(messages))[-1] == message


def test_many_readers_are_served_together():
    KeyEvent.objects.create(kind="changed", message="one")

    async def work():
        return await asyncio.gather(*(reader.run(messages) for _ in range(100)))

    assert asyncio.run(work()) == [["one"]] * 100


def test_it_waits_for_no_writer():
    KeyEvent.objects.create(kind="changed", message="one")
    reached, let_go = threading.Event(), threading.Event()

    def slow(cursor):
        cursor.execute("UPDATE llmkeys_keyevent SET message = 'two'")
        reached.set()
        assert let_go.wait(10)

    writing = threading.Thread(target=writer.run_now, args=[slow])
    writing.start()
    assert reached.wait(10)
    try:
        assert asyncio.run(reader.run(messages)) == ["one"]
    finally:
        let_go.set()
        writing.join(10)
    assert asyncio.run(reader.run(messages)) == ["two"]


def test_each_caller_gets_its_own_error():
    def bad(cursor):
        cursor.execute("SELECT no_such_column FROM llmkeys_keyevent")

    async def work():
        return await asyncio.gather(reader.run(messages), reader.run(bad), reader.run(messages), return_exceptions=True)

    first, error, second = asyncio.run(work())
    assert (first, second) == ([], [])
    assert isinstance(error, OperationalError | ProgrammingError | RecordingUnavailable)


def test_an_outage_is_told_as_such_and_ends():
    def broken(cursor):
        raise OperationalError("server closed the connection unexpectedly")

    with pytest.raises(RecordingUnavailable, match="nothing is sent"):
        asyncio.run(reader.run(broken))
    assert asyncio.run(reader.run(messages)) == []


def test_a_slow_read_holds_up_no_result_that_is_there(monkeypatch):
    """Three reads in one group; the last does not end before the caller of the second has its result."""
    monkeypatch.setattr(reader, "HAND_OVER_SECONDS", 0.0)
    queued, delivered = threading.Event(), threading.Event()

    async def work():
        first = asyncio.create_task(reader.run(lambda cursor: queued.wait(10)))
        await asyncio.sleep(0)
        second = asyncio.create_task(reader.run(messages))
        third = asyncio.create_task(reader.run(lambda cursor: delivered.wait(5)))
        await asyncio.sleep(0)
        queued.set()
        await second
        delivered.set()
        return await first, await third

    assert asyncio.run(work()) == (True, True)


def test_nothing_is_read_for_a_caller_that_has_given_up(monkeypatch):
    """It gives up while another read of its group goes on."""
    queued, begun, given_up, read = threading.Event(), threading.Event(), threading.Event(), []

    def slow(cursor):
        begun.set()
        return given_up.wait(10)

    async def work():
        first = asyncio.create_task(reader.run(lambda cursor: queued.wait(10)))
        await asyncio.sleep(0)
        second, third = asyncio.create_task(reader.run(slow)), asyncio.create_task(reader.run(read.append))
        await asyncio.sleep(0)
        queued.set()
        assert await asyncio.to_thread(begun.wait, 10)
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        given_up.set()
        assert await asyncio.gather(first, second) == [True, True]
        await reader.run(messages)

    asyncio.run(work())
    assert read == []


def test_who_waits_too_long_is_told(monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(queues, "PATIENCE_SECONDS", 0.05)
    with pytest.raises(RecordingUnavailable):
        asyncio.run(reader.run(lambda cursor: let_go.wait(10)))
    let_go.set()
    monkeypatch.setattr(queues, "PATIENCE_SECONDS", 8.0)
    assert asyncio.run(reader.run(messages)) == []


@pytest.mark.only_on("postgresql")
def test_a_server_that_was_restarted_meanwhile_costs_nobody_an_error():
    assert asyncio.run(reader.run(messages)) == []
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = %s",
            [connection.settings_dict["NAME"]],
        )
    assert asyncio.run(reader.run(messages)) == []


@pytest.mark.only_on("sqlite")
def test_it_reads_nothing_while_another_file_lies_in_the_place_of_the_database(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "_known_file", (0, 0))
        with pytest.raises(RecordingUnavailable):
            asyncio.run(reader.run(messages))
    assert asyncio.run(reader.run(messages)) == []


def test_a_job_must_not_call_the_writer():
    with pytest.raises(RuntimeError, match="only use the cursor that it is given"):
        asyncio.run(reader.run(lambda cursor: writer.run_now(messages)))
