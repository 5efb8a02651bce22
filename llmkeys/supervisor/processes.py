"""A child process: forked from the loaded parent, in its own session, and never outliving its parent.

It is forked and not spawned, so that the loaded code is shared memory (measured: 11 MB per process instead of 56 MB).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from django.db import connections

from llmkeys.database import reader, writer

PR_SET_PDEATHSIG = 1
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}

_libc = ctypes.CDLL(None)
_forking_pid = 0


def leave_no_orphans() -> None:
    """Let every process that is forked below this one from now on die with its parent, however the parent dies.

    This includes grandchildren (web workers, scheduler workers), which are forked by Python and inherit the hook. It
    only works on Linux; elsewhere a clean stop is the same, but a `kill -9` of `serve` leaves its children running.
    """
    if hasattr(_libc, "prctl"):
        os.register_at_fork(before=_remember_parent, after_in_child=_die_with_parent)


def _remember_parent() -> None:
    global _forking_pid
    _forking_pid = os.getpid()


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != _forking_pid:  # the parent died before the call
        os._exit(1)


class Child:
    """A main process and, in the same session below it, its workers."""

    def __init__(self, target: Callable[[], int]) -> None:
        self.started = time.monotonic()
        self.exit_status: int | None = None
        self.pid = _fork(target)

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self.started

    def alive(self) -> bool:
        if self.exit_status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.exit_status = os.waitstatus_to_exitcode(status)
        return self.exit_status is None

    def ask_to_stop(self) -> None:
        """Signal the main process only: django-q2 hangs when its whole process group is signalled."""
        if self.alive():
            os.kill(self.pid, signal.SIGTERM)

    def kill_all(self) -> None:
        """Kill what is left of the session, even if the main process has ended."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.exit_status is None:
            _, status = os.waitpid(self.pid, 0)
            self.exit_status = os.waitstatus_to_exitcode(status)


def _fork(target: Callable[[], int]) -> int:
    connections.close_all()  # processes must not share a database connection
    writer.forget()
    reader.forget()
    sys.stdout.flush()
    sys.stderr.flush()
    held_back = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(target, held_back)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held_back)


def _run_child(target: Callable[[], int], mask: set[int | signal.Signals]) -> None:
    """Run the target and leave by `_exit`, so that the parent's clean-up handlers do not run in the child."""
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = target()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
