"""`manage.py serve`: the whole product in one process tree, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import IO

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, connections

from llmkeys import checks, scheduling
from llmkeys.database import preparation
from llmkeys.exceptions import LLMKeysError
from llmkeys.keys.environment import register_environment_keys
from llmkeys.management.base import settings_words
from llmkeys.supervisor import address, engines, prepare, processes, scheduler, web
from llmkeys.supervisor.shared import Shared
from llmkeys.supervisor.tree import Service, Tree
from llmkeys.vault import keyring, keys_in_use

EXAMPLE = "Example: ./manage.py serve --bind 127.0.0.1:8080"


class StopRequested(BaseException):
    """A stop signal during the start; a BaseException, so that no `except Exception` swallows it."""


def _stop(*_: object) -> None:
    raise StopRequested


class Command(BaseCommand):
    help = "Migrate, then run the web server and the scheduler until Ctrl-C or SIGTERM. " + EXAMPLE
    requires_system_checks = []  # run below, as sentences

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--bind", default="127.0.0.1:8080", help="address and port (default: %(default)s)")
        parser.add_argument("--workers", type=int, default=2, help="web processes (default: %(default)s)")
        parser.add_argument(
            "--threads",
            type=int,
            default=8,
            help="threads per web process for pages and the REST API; streams need none (default: %(default)s)",
        )
        parser.add_argument("--no-scheduler", action="store_true", help="web server only")
        parser.add_argument(
            "--new-database", action="store_true", help="start with an empty database although there was one before"
        )

    def handle(
        self, *, bind: str, workers: int, threads: int, no_scheduler: bool, new_database: bool, **_: object
    ) -> None:
        for number in processes.STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _stop)
        engines.choose_start_method()
        os.umask(0o077)  # only this user may read files written from here on
        try:
            where, listeners = self._prepare(bind, workers, threads, new_database)
            lock = None if no_scheduler else self._claim_scheduler()
            self._announce(where)
            sys.exit(_tree(listeners, lock, threads=threads).run())
        except StopRequested:
            sys.exit(0)
        except DatabaseError as error:
            self._refuse(prepare.explain(error))
        except ImproperlyConfigured as error:
            self._refuse(settings_words(error))
        except LLMKeysError as error:
            self._refuse(str(error))

    def _prepare(
        self, bind: str, workers: int, threads: int, new_database: bool
    ) -> tuple[address.Address, list[socket.socket]]:
        if workers < 1 or threads < 1:
            raise prepare.CannotServe("--workers and --threads must be at least 1.")
        where = address.parse(bind)
        prepare.check_settings()
        for line in checks.warnings():
            self.stderr.write(line)
        prepare.check_providers(str(where))
        listeners = address.listen(where, workers)
        prepare.keep_restores_out()
        with preparation.one_at_a_time(self._wait_for_another):
            prepare.open_database(may_be_new=new_database)
            prepare.migrate()
            keyring.verify()
            keys_in_use.announce()
            scheduling.ensure_schedules()
            register_environment_keys()
            self.stdout.write(prepare.offer_import(), ending="")
            self.stdout.write(prepare.ensure_first_administrator(f"{where.url}/llm-settings"), ending="")
        web.preload()
        connections.close_all()
        return where, listeners

    def _wait_for_another(self) -> None:
        self.stderr.write("Another server is preparing this database; waiting until it is done.")

    def _claim_scheduler(self) -> IO[str] | None:
        lock = scheduler.claim(settings.DATA_DIR)
        if lock is None:
            self.stderr.write("Another server already runs the scheduler of this data directory; this one is web only.")
        return lock

    def _announce(self, where: address.Address) -> None:
        self.stdout.write(f"Dashboard: {where.url}/llm-settings")
        self.stdout.write(f"Programs:  {where.url}/v1 (with an access token of this product as the API key)")
        if not where.is_loopback:
            hosts = ", ".join(settings.ALLOWED_HOSTS)
            self.stdout.write(f"Browsers may open it as {hosts}; other names and addresses: REFACTAI_ALLOWED_HOSTS")
        self.stdout.write("Stop with Ctrl-C.")
        self.stdout.flush()

    def _refuse(self, sentence: str) -> None:
        self.stderr.write(sentence)
        sys.exit(1)


def _tree(listeners: list[socket.socket], lock: IO[str] | None, *, threads: int) -> Tree:
    shared = Shared(len(listeners))

    def run_web() -> int:
        if lock:
            lock.close()  # only the scheduler and `serve` hold it
        return web.run(listeners, threads=threads, shared=shared)

    def run_scheduler() -> int:
        for listener in listeners:
            listener.close()
        return scheduler.run()

    processes.leave_no_orphans()
    return Tree(
        web=Service("web server", run_web, essential=True),
        scheduler=Service("scheduler", run_scheduler, essential=False) if lock else None,
        shared=shared,
    )
