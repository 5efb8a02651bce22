"""Short write transactions in groups: each caller gets its own result or its own error, whatever the others do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, OperationalError, connection, transaction

from llmkeys import ledger
from llmkeys.database import outages, queues, sqlite, writer
from llmkeys.database.outages import recording_errors
from llmkeys.database.sql import connection_of_our_own, lean_cursor
from llmkeys.exceptions import RecordingUnavailable
from llmkeys.models import KeyEvent
from tests.helpers import NOW

pytestmark = pytest.mark.django_db(transaction=True)  # the writer has a connection of its own


def note(message: str) -> Callable[[Any], str]:
    """Return a job that leaves an event and returns its message."""

    def work(cursor):
        ledger.add_event(cursor, "changed", None, message, NOW)
        return message

    return work


def noted() -> set[str]:
    return set(KeyEvent.objects.values_list("message", flat=True))


class Caller(threading.Thread):
    """One thread that has one job done and keeps what came of it."""

    def __init__(self, work, **options):
        super().__init__(daemon=True)
        self.work, self.options = work, options
        self.result = self.error = None
        self.start()

    def run(self):
        try:
            self.result = writer.run_now(self.work, **self.options)
        except Exception as error:
            self.error = error

    def finished(self) -> Caller:
        self.join(10)
        assert not self.is_alive()
        return self


class Gate:
    """A job that waits inside its transaction until it is let go."""

    def __init__(self, message: str = "gate"):
        self.message, self.reached, self.open = message, threading.Event(), threading.Event()

    def work(self, cursor):
        self.reached.set()
        assert self.open.wait(10)
        return note(self.message)(cursor)


def until(condition: Callable[[], Any]) -> None:
    deadline, pause = time.monotonic() + 10, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.002)


def queued(count: int) -> None:
    until(lambda: writer._of_this_process.get()._queue.qsize() >= count)


@pytest.fixture
def own_writer(monkeypatch):
    """A writer that nobody used before, and that has told of no outage yet."""
    monkeypatch.setattr(outages, "_current", outages._Outage())
    writer.forget()
    yield
    writer.forget()


@pytest.fixture
def groups(own_writer, monkeypatch) -> list[int]:
    """The sizes of the transactions, in order."""
    sizes: list[int] = []
    transact = writer.Writer._transact

    def counted(self, group):
        sizes.append(len(group))
        return transact(self, group)

    monkeypatch.setattr(writer.Writer, "_transact", counted)
    return sizes


def test_it_works():
    assert writer.run_now(note("one")) == "one"
    assert noted() == {"one"}


def test_it_joins_an_open_transaction():
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        assert writer.run_now(note("one")) == "one"
        raise ZeroDivisionError
    assert noted() == set()


def test_what_queues_up_is_committed_as_one_group(groups):
    gate = Gate()
    first = Caller(gate.work)
    assert gate.reached.wait(10)
    others = [Caller(note(f"n{number}")) for number in range(10)]
    queued(10)
    gate.open.set()
    assert [caller.finished().result for caller in others] == [f"n{number}" for number in range(10)]
    assert first.finished().result == "gate"
    assert groups == [1, 10]
    assert len(noted()) == 11


def test_one_bad_job_fails_alone(groups):
    def bad(cursor):
        note("bad")(cursor)
        raise ValueError("mine alone")

    def refused(cursor):
        note("refused")(cursor)
        cursor.execute("UPDATE llmkeys_keyevent SET message = NULL")

    gate = Gate()
    first = Caller(gate.work)
    assert gate.reached.wait(10)
    jobs = [note("a"), bad, note("b"), refused, note("c")]
    callers = []
    for number, job in enumerate(jobs, 1):
        callers.append(Caller(job))
        queued(number)
    gate.open.set()
    first.finished()
    outcomes = [caller.finished() for caller in callers]
    assert [caller.result for caller in outcomes] == ["a", None, "b", None, "c"]
    assert str(outcomes[1].error) == "mine alone" and isinstance(outcomes[3].error, IntegrityError)
    assert noted() == {"gate", "a", "b", "c"}


def test_who_waits_too_long_is_told_and_nothing_happens(own_writer, monkeypatch):
    gate = Gate()
    first = Caller(gate.work)
    assert gate.reached.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr(queues, "PATIENCE_SECONDS", 0.1)
        late = Caller(note("late")).finished()
    assert isinstance(late.error, RecordingUnavailable)
    gate.open.set()
    first.finished()
    assert writer.run_now(note("next")) == "next"
    assert noted() == {"gate", "next"}


def test_who_has_less_patience_than_others_is_told_earlier(own_writer, monkeypatch):
    monkeypatch.setattr(queues, "PATIENCE_SECONDS", 3600.0)
    gate = Gate()
    first = Caller(gate.work)
    assert gate.reached.wait(10)
    hasty = Caller(note("hasty"), patience=0.1).finished()
    assert isinstance(hasty.error, RecordingUnavailable) and not first.error
    gate.open.set()
    first.finished()
    assert writer.run_now(note("next")) == "next"
    assert noted() == {"gate", "next"}


def test_a_commit_that_came_too_late_is_undone(own_writer, monkeypatch):
    """The job was in its group already when its caller gave up."""

    def undo(cursor, result):
        cursor.execute("DELETE FROM llmkeys_keyevent WHERE message = %s", [result])
        note("undone")(cursor)

    first_gate, second_gate = Gate("one"), Gate("two")
    first = Caller(first_gate.work)
    assert first_gate.reached.wait(10)
    second = Caller(second_gate.work)
    queued(1)
    monkeypatch.setattr(queues, "PATIENCE_SECONDS", 5.0)
    late = Caller(note("late"), undo=undo)
    queued(2)
    first_gate.open.set()
    assert second_gate.reached.wait(10)
    assert isinstance(late.finished().error, RecordingUnavailable)
    second_gate.open.set()
    first.finished(), second.finished()
    until(lambda: noted() == {"one", "two", "undone"})


def test_many_abandoned_jobs_do_not_stop_it(own_writer, monkeypatch):
    """More than a group of them stand before the next one that somebody waits for."""
    monkeypatch.setattr(queues, "GROUP_SIZE", 4)
    gate = Gate()
    first = Caller(gate.work)
    assert gate.reached.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr(queues, "PATIENCE_SECONDS", 0.1)
        late = [Caller(note("late")) for _ in range(9)]
        assert all(isinstance(caller.finished().error, RecordingUnavailable) for caller in late)
    following = Caller(note("following"))
    queued(10)
    gate.open.set()
    first.finished()
    assert following.finished().result == "following"
    assert writer.run_now(note("next")) == "next"
    assert noted() == {"gate", "following", "next"}


def test_it_works_again_after_the_connection_broke():
    def broken(cursor):
        raise OperationalError("server closed the connection unexpectedly")

    with pytest.raises(RecordingUnavailable, match="nothing is sent"):
        writer.run_now(broken)
    assert writer.run_now(note("next")) == "next"
    assert noted() == {"next"}


class Breaking:
    """A cursor on which every statement of one kind breaks, before the database has seen it or after."""

    def __init__(self, cursor, kind: str, *, after: bool):
        self._cursor, self._kind, self._after = cursor, kind, after

    def __getattr__(self, name):
        return getattr(self._cursor, name)

    def execute(self, sql, params=()):
        if not sql.startswith(self._kind):
            return self._cursor.execute(sql, params)
        if self._after:
            self._cursor.execute(sql, params)
        raise OperationalError("server closed the connection unexpectedly")


@pytest.fixture
def break_once(own_writer, monkeypatch):
    """Return what makes the next transaction break at its COMMIT."""

    def arm(kind: str, *, after: bool, times: int = 1) -> None:
        left = iter(range(times))

        @contextlib.contextmanager
        def breaking(on=None):
            with lean_cursor(on) as cursor:
                yield cursor if next(left, None) is None else Breaking(cursor, kind, after=after)

        monkeypatch.setattr(writer, "lean_cursor", breaking)

    return arm


def take_back(cursor, message):
    cursor.execute("DELETE FROM llmkeys_keyevent WHERE message = %s", [message])
    note(f"{message} taken back")(cursor)


@pytest.mark.parametrize("after", [True, False], ids=["committed", "not committed"])
def test_a_commit_whose_end_nobody_saw_is_undone(break_once, after):
    """The caller is told that nothing was done, so that nothing may be left."""
    break_once("COMMIT", after=after)
    with pytest.raises(RecordingUnavailable):
        writer.run_now(note("maybe"), undo=take_back)
    until(lambda: noted() == {"maybe taken back"})


def test_what_must_be_undone_is_tried_until_it_is(break_once, monkeypatch):
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.02)
    break_once("COMMIT", after=False, times=4)
    with pytest.raises(RecordingUnavailable):
        writer.run_now(note("maybe"), undo=take_back)
    until(lambda: noted() == {"maybe taken back"})
    assert KeyEvent.objects.count() == 1


def test_it_is_undone_with_the_next_group_too(break_once):
    break_once("COMMIT", after=False, times=2)
    with pytest.raises(RecordingUnavailable):
        writer.run_now(note("maybe"), undo=take_back)
    until(lambda: writer._of_this_process.get()._again)
    assert writer.run_now(note("next")) == "next"
    until(lambda: noted() == {"next", "maybe taken back"})


@pytest.mark.only_on("postgresql")
def test_a_server_that_was_restarted_meanwhile_costs_nobody_an_error(own_writer):
    assert writer.run_now(note("one")) == "one"
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = %s",
            [connection.settings_dict["NAME"]],
        )
    assert writer.run_now(note("next")) == "next"
    assert noted() == {"one", "next"}


@pytest.mark.only_on("sqlite")
def test_it_writes_nothing_while_another_file_lies_in_the_place_of_the_database(own_writer, monkeypatch, caplog):
    assert writer.run_now(note("one")) == "one"
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "_known_file", (0, 0))
        with pytest.raises(RecordingUnavailable):
            writer.run_now(note("lost"))
        with pytest.raises(RecordingUnavailable), recording_errors():
            pytest.fail("it is not asked either")
    assert writer.run_now(note("next")) == "next"
    assert noted() == {"one", "next"}
    assert "was replaced or removed while the server was running; put that file back" in caplog.text


def test_the_operator_hears_of_an_outage_once_and_of_its_end(own_writer, caplog):
    def broken(cursor):
        raise OperationalError("database or disk is full")

    for _ in range(3):
        with pytest.raises(RecordingUnavailable):
            writer.run_now(broken)
    writer.run_now(note("next"))
    writer.run_now(note("after"))
    told = [record.getMessage() for record in caplog.records if record.name == "llmkeys.database.outages"]
    assert [words.split(",")[0] for words in told] == [
        "No request can be recorded",
        "The database can be written again",
    ]


@pytest.mark.only_on("sqlite")
def test_what_changes_no_row_is_no_proof_that_the_disk_has_room(own_writer, caplog):
    def broken(cursor):
        raise OperationalError("database or disk is full")

    def change_nothing(cursor):
        cursor.execute("UPDATE llmkeys_keyevent SET message = '' WHERE id < 0")

    for _ in range(3):
        with pytest.raises(RecordingUnavailable):
            writer.run_now(broken)
        writer.run_now(change_nothing)
    told = [record.getMessage() for record in caplog.records if record.name == "llmkeys.database.outages"]
    assert len(told) == 1
    writer.run_now(note("next"))
    assert "The database can be written again" in caplog.text


def test_a_failed_job_leaves_nothing_open():
    with pytest.raises(ZeroDivisionError):
        writer.run_now(lambda cursor: (note("lost")(cursor), 1 / 0))
    with transaction.atomic():  # nobody holds the database
        assert noted() == set()
        KeyEvent.objects.create(kind="changed", message="free")


def test_many_threads_are_all_served():
    def count(cursor):
        cursor.execute("SELECT COUNT(*) FROM llmkeys_keyevent")
        (before,) = cursor.fetchone()
        note(str(before))(cursor)
        return before

    seen: list[int] = []
    lock = threading.Lock()

    def work():
        for _ in range(10):
            before = writer.run_now(count)
            with lock:
                seen.append(before)

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(seen) == list(range(200))
    assert KeyEvent.objects.count() == 200


def test_reads_that_decide_turn_into_the_same_error():
    with pytest.raises(RecordingUnavailable), recording_errors():
        raise OperationalError("database is locked")
    with connection.cursor() as cursor:  # closed above, opened anew
        cursor.execute("SELECT 1")


# --- on an event loop -----------------------------------------------------------------------------------------------


def test_coroutines_are_served_in_groups(groups):
    async def work():
        return await asyncio.gather(*(writer.run(note(f"n{number}")) for number in range(20)))

    assert asyncio.run(work()) == [f"n{number}" for number in range(20)]
    assert len(noted()) == 20
    assert len(groups) <= 3  # the first may go alone


def test_the_loop_is_woken_once_for_a_group(own_writer):
    """A call from a thread writes to the loop's pipe: one for each caller would be dear."""
    wakes = []

    async def work():
        loop, gate = asyncio.get_running_loop(), Gate()
        waking = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *call: (wakes.append(call), waking(*call))
        first = asyncio.create_task(writer.run(gate.work))
        await loop.run_in_executor(None, gate.reached.wait, 10)
        others = [asyncio.create_task(writer.run(note(f"n{number}"))) for number in range(10)]
        await loop.run_in_executor(None, queued, 10)
        wakes.clear()
        gate.open.set()
        await asyncio.gather(first, *others)

    asyncio.run(work())
    assert len([call for call in wakes if call[0] is queues._resolve]) == 2


def test_a_coroutine_gets_its_own_error():
    def bad(cursor):
        note("bad")(cursor)
        raise ValueError("mine alone")

    async def work():
        return await asyncio.gather(writer.run(note("good")), writer.run(bad), return_exceptions=True)

    good, error = asyncio.run(work())
    assert good == "good" and str(error) == "mine alone"
    assert noted() == {"good"}


def test_a_coroutine_that_waits_too_long_is_told_and_nothing_happens(own_writer, monkeypatch):
    gate = Gate()
    first = Caller(gate.work)
    assert gate.reached.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr(queues, "PATIENCE_SECONDS", 0.05)
        with pytest.raises(RecordingUnavailable):
            asyncio.run(writer.run(note("late")))
    gate.open.set()
    first.finished()
    assert writer.run_now(note("next")) == "next"
    assert noted() == {"gate", "next"}


@pytest.mark.parametrize("when", ["queued", "in progress", "committed"])
def test_what_a_cancelled_coroutine_wanted_is_undone(own_writer, when):
    async def work():
        loop, gate = asyncio.get_running_loop(), Gate()
        blocking = loop.run_in_executor(None, writer.run_now, gate.work)
        await loop.run_in_executor(None, gate.reached.wait, 10)
        wanted_gate = Gate("wanted")
        wanted = asyncio.create_task(writer.run(wanted_gate.work, undo=take_back))
        await loop.run_in_executor(None, queued, 1)
        if when == "queued":
            wanted.cancel()
        gate.open.set()
        await blocking
        if when != "queued":
            assert await loop.run_in_executor(None, wanted_gate.reached.wait, 10)
        if when == "in progress":
            wanted.cancel()
            await asyncio.sleep(0)
        wanted_gate.open.set()
        if when == "committed":
            wait_for("wanted")  # the loop is blocked meanwhile, and does not hear of it
            wanted.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wanted

    asyncio.run(work())
    until(lambda: "wanted" not in noted())
    if when != "queued":
        until(lambda: "wanted taken back" in noted())
    assert noted() <= {"gate", "wanted taken back"}


def wait_for(message: str) -> None:
    """Wait in another thread, where Django's connection may be used, and block this one."""

    def look():
        until(lambda: message in noted())
        connection.close()

    looking = threading.Thread(target=look)
    looking.start()
    looking.join(10)


def test_what_a_closed_loop_wanted_is_undone(own_writer):
    gate = Gate("wanted")

    async def work():
        task = asyncio.ensure_future(writer.run(gate.work, undo=take_back))
        while not gate.reached.is_set():
            await asyncio.sleep(0.001)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(work())
    loop.close()
    gate.open.set()
    until(lambda: noted() == {"wanted taken back"})
    assert not task.done()
    task._log_destroy_pending = False


# --- what a job must not do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nested",
    [
        lambda cursor: writer.run_now(note("inner")),
        lambda cursor: asyncio.run(writer.run(note("inner"))),
        lambda cursor: KeyEvent.objects.create(kind="changed", message="inner"),
    ],
    ids=["writer.run_now", "writer.run", "ORM"],
)
def test_a_job_must_not_go_past_its_cursor(nested):
    with pytest.raises(RuntimeError, match="only use the cursor that it is given"):
        writer.run_now(nested)
    assert noted() == set()


# --- processes ------------------------------------------------------------------------------------------------------


def test_a_writer_that_was_forgotten_does_what_is_queued_first(own_writer):
    gate = Gate()
    first = Caller(gate.work)
    assert gate.reached.wait(10)
    second = Caller(note("second"))
    queued(1)
    old = writer._of_this_process.get()
    closing = threading.Thread(target=writer.forget)
    closing.start()
    gate.open.set()
    closing.join(10)
    assert first.finished().result == "gate" and second.finished().result == "second"
    assert not old.thread.is_alive()
    assert writer.run_now(note("next")) == "next"


def test_a_forked_process_has_a_writer_of_its_own(own_writer):
    assert writer.run_now(note("parent")) == "parent"
    connection.close()
    writer.forget()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if writer.run_now(note("child")) == "child" else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert writer.run_now(note("again")) == "again"
    assert noted() == {"parent", "child", "again"}


@pytest.mark.only_on("sqlite")
def test_the_write_ahead_log_shrinks_when_a_long_reader_has_gone(own_writer, monkeypatch):
    monkeypatch.setattr(writer, "TIDY_SECONDS", 0.02)
    monkeypatch.setattr(sqlite, "LOG_BYTES", 500_000)
    log = Path(f"{connection.settings_dict['NAME']}-wal")
    reader = connection_of_our_own()
    with lean_cursor(reader) as cursor:
        cursor.execute("BEGIN DEFERRED")
        cursor.execute("SELECT COUNT(*) FROM llmkeys_keyevent")
        cursor.fetchall()
        for _ in range(60):
            writer.run_now(lambda cursor: [note("x" * 1000)(cursor) for _ in range(50)])
        assert log.stat().st_size > 2_000_000
        cursor.execute("ROLLBACK")
    reader.close()
    until(lambda: log.stat().st_size == 0)
    assert writer.run_now(note("next")) == "next"
