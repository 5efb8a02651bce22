"""The data directory: space on its disk, who can read it, and which backups there are."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from django.conf import settings

from llmkeys import scheduling
from llmkeys.backup.kept import archives, backups_directory
from llmkeys.database import sql, sqlite
from llmkeys.doctor.finding import FAIL, WARN, About, Finding, count, good, listed
from llmkeys.models import ApiKey
from refactai_site import data_dir

SHORT_BYTES, FULL_BYTES = 1_000_000_000, 100_000_000
OLD_BACKUP = timedelta(hours=50)


def data_directory(about: About) -> Iterable[Finding]:
    if settings.DATA_DIR_PROBLEM:
        problem = settings.DATA_DIR_PROBLEM
        yield Finding(FAIL, "Data directory", problem, data_dir.remedy(problem))
    else:
        yield good("Data directory", f"{settings.DATA_DIR} can be read and written.")


def disk_space(about: About) -> Iterable[Finding]:
    free = shutil.disk_usage(settings.DATA_DIR).free
    words = f"{free / 1_000_000_000:,.1f} GB free on the disk of {settings.DATA_DIR}."
    remedy = "Free some space: on a full disk nothing can be recorded, so nothing is served."
    if free < SHORT_BYTES:
        yield Finding(FAIL if free < FULL_BYTES else WARN, "Disk space", words, remedy)
    else:
        yield good("Disk space", words)


def file_modes(about: About) -> Iterable[Finding]:
    """Check who can read the encryption key and the database, which together give access to every stored secret."""
    wide = [path for path in _private_files() if _mode(path) & 0o077]
    if wide:
        names = [f"{path.name} ({_mode(path):04o})" for path in wide]
        remedy = f"Run: chmod go= {' '.join(str(path) for path in wide[:10])}"
        words = f"Other users of this machine can read or list: {listed(names)}."
        yield Finding(FAIL if any(path.is_file() for path in wide) else WARN, "File modes", words, remedy)
    else:
        yield good("File modes", "Only their owner can read the database, the keys and the backups.")


_SECRETS = ("encryption.key", "secret_key", "first-login", "llm_api_keys.json")


def _private_files() -> Iterator[Path]:
    yield settings.DATA_DIR
    if database := sqlite.file():
        yield from (path for path in (database, *_beside(database)) if path.exists())
    yield from (settings.DATA_DIR / name for name in _SECRETS if (settings.DATA_DIR / name).exists())
    if backups_directory().is_dir():
        yield backups_directory()
        yield from backups_directory().iterdir()


def _beside(database: Path) -> Iterator[Path]:
    return (database.with_name(f"{database.name}-{ending}") for ending in ("wal", "shm"))


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:  # deleted in the meantime
        return 0


def owner(about: About) -> Iterable[Finding]:
    stranger = [path.name for path in _private_files() if path.exists() and path.stat().st_uid != os.geteuid()]
    if stranger and os.geteuid() != 0:
        words = f"These files belong to another user: {listed(stranger)}."
        yield Finding(WARN, "Owner", words, "Run server and commands as the user who owns the directory.")


def first_password(about: About) -> Iterable[Finding]:
    file = settings.DATA_DIR / "first-login"
    if file.exists():
        words = f"The file {file} still contains the first administrator's password."
        yield Finding(WARN, "First login", words, "Log in, change the password, then delete the file.")


def old_key_file(about: About) -> Iterable[Finding]:
    file = settings.DATA_DIR / "llm_api_keys.json"
    if file.exists():
        words = f"The older product's file {file} contains its keys in plaintext."
        remedy = f"Import its keys (./manage.py import_keys {file}), then delete it."
        yield Finding(WARN, "Old key file", words, remedy)


def backups(about: About) -> Iterable[Finding]:
    """Check that there is a recent backup: archives of any name count, but not those of an empty database."""
    found = [manifest for manifest in archives().values() if manifest.worth]
    newest = max((manifest.created for manifest in found), default=None)
    words = "There is no backup of these keys yet."
    if newest is not None:
        words = f"{count(len(found), 'backup')} kept, the newest from {newest.astimezone(UTC):%Y-%m-%d %H:%M} UTC."
    if newest is not None and about.at - newest <= OLD_BACKUP:
        yield good("Backups", words)
    elif elsewhere := _made_elsewhere(about):
        when = f"{elsewhere:%Y-%m-%d %H:%M} UTC"
        yield good("Backups", f"The last daily backup was made {when}, on the machine that runs the scheduler.")
    elif newest is not None:
        yield Finding(WARN, "Backups", words, "The daily backup is not running; see the schedules below.")
    elif ApiKey.objects.stored().exists():
        yield Finding(WARN, "Backups", words, "`serve` makes one a day; to make one now: ./manage.py backup FILE")


def _made_elsewhere(about: About) -> datetime | None:
    """Return when the daily backup last succeeded, if that was lately and may have been on another machine."""
    if sql.is_sqlite():
        return None
    states = scheduling.schedule_states(about.at)
    last = next((state.last_success for state in states if state.name == "backup_database"), None)
    return last if last and about.at - last <= OLD_BACKUP else None


def empty_database(about: About) -> Iterable[Finding]:
    """Warn if no key is stored but a backup has some, because the database may be a new one."""
    if ApiKey.objects.stored().exclude(secret=b"").exists():
        return
    kept = next(((file, manifest) for file, manifest in archives().items() if manifest.keys), None)
    if kept is not None:
        words = f"No key is stored, but the backup {kept[0]} contains {count(kept[1].keys, 'key')}."
        yield Finding(
            WARN, "Database", words, f"If they were lost, stop the server; then: ./manage.py restore {kept[0]}"
        )


CHECKS = (data_directory, disk_space, file_modes, owner, first_password, old_key_file, backups, empty_database)
