"""The main loop: starts the children, restarts those that die, asks the watchdog, and stops everything at the end.

It has no threads (it forks) and holds no database connection while it waits.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from django.conf import settings

from llmkeys.supervisor import watchdog
from llmkeys.supervisor.processes import STOP_SIGNALS, Child
from llmkeys.supervisor.shared import Shared

TICK_SECONDS = 1.0
# On top of `REFACTAI_STOP_SECONDS`, for the web server to kill its workers (5 s) and to end.
GRACE_SECONDS = 8
QUIET_SECONDS = 3.0  # a stop that takes longer than this says what it is waiting for
YOUNG_SECONDS = 10  # a child that dies sooner than this "could not start"
LONGEST_BACK_OFF_SECONDS = 60
TRIES = 3
ALERT_SECONDS = 30.0  # how often alerts are sent from here while the scheduler is stalled

logger = logging.getLogger(__name__)


def say(sentence: str) -> None:
    """Write to stderr; a closed terminal must not stop the server."""
    with suppress(OSError, ValueError):
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - meant for the terminal


class CannotStart(Exception):
    """An essential child cannot be started."""


@dataclass
class Service:
    """A child that is kept running."""

    name: str
    target: Callable[[], int]
    essential: bool
    child: Child | None = None
    failures: int = 0
    start_at: float = 0.0

    def back_off(self) -> float:
        """Count a death and return the number of seconds until the next start: 0.5, 1, 2 … 60."""
        self.failures = self.failures + 1 if self.child and self.child.age_seconds < YOUNG_SECONDS else 1
        delay = min(0.5 * 2 ** (self.failures - 1), LONGEST_BACK_OFF_SECONDS)
        self.start_at = time.monotonic() + delay
        return delay


class Tree:
    def __init__(
        self,
        *,
        web: Service,
        scheduler: Service | None,
        shared: Shared,
    ) -> None:
        self.shared = shared
        self.scheduler = scheduler
        self.services = [service for service in (web, scheduler) if service]
        self.watchdog = watchdog.Watchdog()
        self.messenger: Child | None = None
        self.stalled_by = ""
        self.stop_requests = 0
        self._wake_reader, self._wake_writer = os.pipe()
        for end in (self._wake_reader, self._wake_writer):
            os.set_blocking(end, False)

    def run(self) -> int:
        """Keep the children running until a stop signal, then stop them all; return the exit code."""
        self._take_signals()
        try:
            while not self.stop_requests:
                for service in self.services:
                    self._tend(service)
                self._watch()
                self._alert_of_stall()
                self._wait(TICK_SECONDS)
        except CannotStart as problem:
            say(str(problem))
            return 1
        finally:
            self._stop_all()
        return 0

    def _take_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to wake up
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP
                signal.signal(number, self._request_stop)

    def _request_stop(self, *_: object) -> None:
        self.stop_requests += 1

    def _wait(self, seconds: float) -> None:
        select.select([self._wake_reader], [], [], seconds)
        with suppress(BlockingIOError):
            os.read(self._wake_reader, 4096)

    def _tend(self, service: Service) -> None:
        if service.child and not service.child.alive():
            self._plan_restart(service, service.child)
        if service.child is None and time.monotonic() >= service.start_at and not self.stop_requests:
            if service is self.scheduler:
                self._unlock_tasks()
            service.child = Child(service.target)

    def _plan_restart(self, service: Service, dead: Child) -> None:
        """Clean up after a child that ended, and schedule its restart. Raises CannotStart after too many failures."""
        dead.kill_all()
        delay = service.back_off()
        service.child = None
        if service.essential and service.failures >= TRIES:
            raise CannotStart(f"The {service.name} could not be started {TRIES} times in a row; giving up.")
        if service is self.scheduler and service.failures >= TRIES:
            self.stalled_by = f"it ended {service.failures} times right after it was started"
            self.watchdog.cannot_start()
        how = _in_words(dead.exit_status)
        logger.error("The %s ended unexpectedly (%s); starting it again in %g s.", service.name, how, delay)

    def _watch(self) -> None:
        service = self.scheduler
        if service is None or service.child is None:
            return
        fault = self.watchdog.fault(cluster_age_seconds=service.child.age_seconds)
        if fault:
            logger.error("The scheduler is making no progress (%s); restarting it.", fault)
            service.child.kill_all()
            service.child = None
            self.stalled_by = fault

    def _alert_of_stall(self) -> None:
        """Start a separate process that writes and delivers the alert, because the database or a target may be slow."""
        if self.messenger and not self.messenger.alive() and self.messenger.age_seconds > ALERT_SECONDS:
            self.messenger.kill_all()
            self.messenger = None
        if self.watchdog.stall and self.messenger is None:
            self.messenger = Child(partial(watchdog.alert, self.stalled_by, self.watchdog.stall))

    def _unlock_tasks(self) -> None:
        given_up = self.watchdog.unlock_tasks()
        if given_up:
            logger.error("%s.", given_up)

    def _stop_all(self) -> None:
        """Ask every main process to stop, wait until the deadline or a second request, then kill what is left."""
        asked_before = max(self.stop_requests, 1)
        children = [service.child for service in self.services if service.child]
        self.shared.stop()
        for child in children:
            child.ask_to_stop()
        began, has_said = time.monotonic(), False
        while self.stop_requests <= asked_before:
            seconds = time.monotonic() - began
            if seconds > settings.STOP_SECONDS + GRACE_SECONDS or not any(child.alive() for child in children):
                break
            if not has_said and (words := self._waited_for(seconds)):
                say(words)
                has_said = True
            self._wait(0.2)
        if count := self.shared.requests_in_progress:
            say(f"{_requests(count)} did not finish in time.")
        for left in [*children, *([self.messenger] if self.messenger else [])]:
            left.kill_all()

    def _waited_for(self, seconds: float) -> str:
        """Return what the stop is waiting for after `seconds`, or "" if it need not be mentioned."""
        count = self.shared.requests_in_progress
        if count and seconds > 0.1:
            return (
                f"{_requests(count)} in progress; waiting up to {settings.STOP_SECONDS} s. Ctrl-C again ends them now."
            )
        if not count and seconds > QUIET_SECONDS and self.scheduler and self.scheduler.child:
            return "The scheduler is finishing its task. Ctrl-C again ends it now."
        return ""


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"


def _in_words(status: int | None) -> str:
    if status is not None and status < 0:
        return f"killed by signal {-status}"
    return f"exit code {status}"
