"""The database: is it reachable, intact, of this version, and set up so that no committed data is lost?"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import CharField, Q, Value

from llmkeys.database.sql import is_sqlite
from llmkeys.doctor.finding import FAIL, WARN, About, Finding, count, good, listed
from llmkeys.models import AccessToken, ApiKey, Budgeted
from llmkeys.supervisor.prepare import explain

OLDEST_SQLITE = (3, 35)  # RETURNING
BIG_LOG_BYTES = 256 * 1024 * 1024
_WANTED = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}  # 2 is FULL


def database(about: About) -> Iterable[Finding]:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        yield Finding(FAIL, "Database", explain(error), "No request is served until it answers.")
        return
    yield good("Database", _which())


def _which() -> str:
    if is_sqlite():
        file = Path(connection.settings_dict["NAME"])
        size = file.stat().st_size / 1_000_000 if file.exists() else 0
        return f"SQLite {sqlite3.sqlite_version}, {file}, {size:,.1f} MB."
    name = connection.settings_dict["NAME"]
    return f"{connection.display_name} {'.'.join(str(part) for part in connection.get_database_version())}, “{name}”."


def migrations(about: About) -> Iterable[Finding]:
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if plan:
        names = [f"{migration.app_label} {migration.name}" for migration, _ in plan]
        words = f"{count(len(plan), 'migration')} not applied yet: {listed(names)}."
        yield Finding(FAIL, "Migrations", words, "Run: ./manage.py migrate (`serve` does so at its start)")
    else:
        yield good("Migrations", "The tables are those of this version.")


def integrity(about: About) -> Iterable[Finding]:
    if not about.thorough or not is_sqlite():
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA quick_check(1)")
        answer = cursor.fetchone()[0]
        cursor.execute("PRAGMA foreign_key_check")
        orphan = cursor.fetchone()
    if answer != "ok" or orphan:
        words = f"SQLite finds the file damaged: {answer if answer != 'ok' else f'an orphaned row in {orphan[0]}'}"
        yield Finding(FAIL, "Integrity", words, "Stop the server, then restore a backup: ./manage.py restore FILE")
    else:
        yield good("Integrity", "Every page of the file is intact.")


def sqlite(about: About) -> Iterable[Finding]:
    if not is_sqlite():
        return
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        yield Finding(
            FAIL, "SQLite", f"Version {sqlite3.sqlite_version} is too old.", "Use a Python with SQLite 3.35 or newer."
        )
    wrong = _wrong_pragmas()
    if wrong:
        words = f"These settings put recorded data at risk: {', '.join(wrong)}."
        yield Finding(FAIL, "SQLite", words, "Remove what overrides them; the file must be on a local disk.")
    else:
        yield good("SQLite", "Write-ahead log, every commit flushed to the disk, foreign keys checked.")


def _wrong_pragmas() -> list[str]:
    wrong = []
    with connection.cursor() as cursor:
        for name, wanted in _WANTED.items():
            cursor.execute(f"PRAGMA {name}")
            found = cursor.fetchone()[0]
            if found != wanted:
                wrong.append(f"{name} is {found} instead of {wanted}")
    return wrong


def write_ahead_log(about: About) -> Iterable[Finding]:
    log = Path(f"{connection.settings_dict['NAME']}-wal")
    if not is_sqlite() or not log.exists() or log.stat().st_size < BIG_LOG_BYTES:
        return
    words = f"It has grown to {log.stat().st_size / 1_000_000:,.0f} MB: some program has been reading for a long time."
    remedy = "Close the programs that have the file open (a shell, a database browser): then the log is truncated."
    yield Finding(WARN, "Write-ahead log", words, remedy)


def file_system(about: About) -> Iterable[Finding]:
    """Warn of a network file system, on which SQLite's locks and shared memory are not reliable."""
    if not is_sqlite():
        return
    kind = file_system_of(Path(connection.settings_dict["NAME"]))
    if kind.partition(".")[0] in NETWORK_FILE_SYSTEMS:
        words = f"The database is on a file system of type {kind}, where SQLite's locks cannot be relied on."
        yield Finding(WARN, "File system", words, "Move the data directory to a local disk, or use PostgreSQL.")


NETWORK_FILE_SYSTEMS = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse", "virtiofs", "afs", "ceph", "glusterfs"}


def file_system_of(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system that a path is on, or "" if it is unknown."""
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return ""
    place, found, length = path.resolve(), "", -1
    for words in lines:
        point = Path(words[4].encode().decode("unicode_escape"))  # a space is written as \040
        if place.is_relative_to(point) and len(point.parts) >= length:
            found, length = words[words.index("-") + 1], len(point.parts)
    return found


def cost_tracking(about: About) -> Iterable[Finding]:
    if not settings.COST_TRACKING:
        words = "Requests are counted, but costs are not, so no budget limit applies."
        yield Finding(WARN, "Cost tracking", words, "Unless that is intended, remove REFACTAI_COST_TRACKING=false.")
    elif settings.BUDGET_MODE == "soft":
        words = "A budget is checked before a request and charged after it, so it can be exceeded."
        yield Finding(WARN, "Budgets", words, "Unless that is intended, set REFACTAI_BUDGET_MODE=strict.")
    else:
        soft = soft_accounts()
        but = f" Set to soft, so that theirs can be exceeded: {soft}." if soft else ""
        yield good("Budgets", f"Strict: cost and open holds never exceed a limit.{but}")


def soft_accounts() -> str:
    """Return the keys and tokens that are soft whatever the setting says, by name; empty if there are none."""
    is_soft, kind = Q(budget_mode=Budgeted.BudgetMode.SOFT), {"output_field": CharField()}
    keys = ApiKey.objects.stored().filter(is_soft).order_by().annotate(kind=Value("key", **kind))
    tokens = AccessToken.objects.filter(is_soft, revoked_at__isnull=True).order_by()
    both = keys.values_list("kind", "name").union(
        tokens.annotate(kind=Value("token", **kind)).values_list("kind", "name"), all=True
    )
    return listed([f"the {kind} “{name}”" for kind, name in sorted(both)])


CHECKS = (database, migrations, integrity, sqlite, write_ahead_log, file_system, cost_tracking)
