"""Restores a backup: unpacks it, checks it and swaps it in; the old data is kept."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.loader import MigrationLoader

from llmkeys.backup import archive, postgresql, sqlite
from llmkeys.backup.archive import Manifest
from llmkeys.backup.errors import CannotRestore
from llmkeys.backup.kept import free_path
from llmkeys.backup.running import without_server
from llmkeys.database import sql
from llmkeys.database.outages import first_line
from llmkeys.ledger.audit import Report
from llmkeys.vault import keyring
from llmkeys.vault.crypto import DecryptionFailed, Keyring, MasterKey
from refactai_site import settings_file

_SECRETS = "SELECT id, name, secret FROM llmkeys_apikey WHERE deleted_at IS NULL AND length(secret) > 0"


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored, and where the previous data is now."""

    manifest: Manifest
    report: Report | None  # None for an older version, which is audited after its migration
    kept: str
    closed: list[str]  # names of keys whose secrets the archive's own encryption key does not decrypt
    has_settings: bool = False  # settings.env was restored too


@dataclass(frozen=True, slots=True)
class _Reader:
    """How to read the restored copy before it is swapped in."""

    rows: Callable[[str], list[tuple]]
    audit: Callable[[], Report]


def restore(path: Path, *, at: datetime) -> Restored:
    """Replace the database, the encryption key and settings.env by those of an archive.

    Everything is checked before anything is replaced. Raises CannotRestore if a server is running, if the archive is
    damaged, of another kind of database or of a newer version, or if its secrets could not be decrypted.
    """
    with without_server(settings.DATA_DIR), archive.private_directory(settings.DATA_DIR / "restore") as directory:
        manifest, files = archive.unpack(path.absolute(), directory)
        _check_kind(path, manifest)
        database = files[archive.DATABASES[manifest.database]]
        brought = _Brought.read(files)
        if sql.is_sqlite():
            return _restore_file(manifest, database, brought, at)
        return _restore_dump(manifest, database, brought, at)


def _check_kind(path: Path, manifest: Manifest) -> None:
    if manifest.database != sql.vendor():
        raise CannotRestore(
            f"{path} is a backup of {manifest.database}, and the product runs on {sql.vendor()}. Set or unset "
            "DATABASE_URL, or move the keys over with `export_keys --include-secrets` and `import_keys`."
        )
    known = {name for app, name in MigrationLoader(None).disk_migrations if app == "llmkeys"}
    newer = sorted(set(manifest.migrations) - known)
    if newer:
        raise CannotRestore(f"{path} comes from a newer version of the product ({newer[-1]}). Update first.")


def _restore_file(manifest: Manifest, file: Path, brought: _Brought, at: datetime) -> Restored:
    problem = sqlite.integrity_problem(file)
    if problem:
        raise CannotRestore(f"The database in the archive is not intact: {problem}")
    reader = _Reader(lambda query: sqlite.rows_of(file, query), lambda: sqlite.audited(file))
    closed, report = _prove(manifest, reader, brought)
    keep = _keep_directory(at)
    connection.close()
    with _Swap(brought, keep):
        sqlite.swap_in(file, keep)
    return Restored(manifest, report, str(keep), closed, brought.settings is not None)


def _restore_dump(manifest: Manifest, file: Path, brought: _Brought, at: datetime) -> Restored:
    name = connection.settings_dict["NAME"]
    new, kept = f"{name}_restored_{secrets.token_hex(4)}", f"{name}_before_restore_{at:%Y%m%d_%H%M%S}"
    connection.close()
    try:
        with postgresql.server() as cursor:
            postgresql.refuse_while_used(cursor)
        postgresql.load(file, new)
    except DatabaseError as error:
        raise CannotRestore(f"The backup could not be loaded into the database server: {first_line(error)}.") from None
    reader = _Reader(lambda query: postgresql.rows_of(new, query), lambda: postgresql.audited(new))
    try:
        closed, report = _prove(manifest, reader, brought)
        with _Swap(brought, _keep_directory(at)):
            postgresql.swap_in(new, kept)
    except BaseException:
        postgresql.drop(new)
        raise
    return Restored(manifest, report, f"database {kept}", closed, brought.settings is not None)


@dataclass(frozen=True, slots=True)
class _Brought:
    """What the archive contains besides the database, and the master keys that will be used with it."""

    key: Path | None
    settings: Path | None
    given: tuple[str, ...]  # REFACTAI_ENCRYPTION_KEYS after the restore; empty if the key file is used

    @classmethod
    def read(cls, files: dict[str, Path]) -> _Brought:
        file = files.get(archive.SETTINGS)
        brought = settings_file.parse(file.read_text("utf-8-sig")) if file else {}
        if file and _other_database(brought):
            file, brought = None, {}
        name = "REFACTAI_ENCRYPTION_KEYS"
        if file and (name in settings_file.FROM_FILE or not settings.REFACTAI_ENCRYPTION_KEYS):
            given = keyring.split_keys(brought.get(name, ""))
        else:
            given = tuple(settings.REFACTAI_ENCRYPTION_KEYS)
        return cls(files.get(archive.KEY), file, given)

    @property
    def new_key(self) -> str:
        """The content of the key file after the restore; "" if the file stays as it is."""
        return "" if self.key is None or self.given else self.key.read_text()

    def keyring(self) -> Keyring | None:
        """Return the master keys that will be used after the restore; None if there are none."""
        texts = self.given or keyring.keys_of(self.key or keyring.key_file())
        return Keyring(tuple(MasterKey(text) for text in texts)) if texts else None


def _other_database(brought: dict[str, str]) -> bool:
    """Return whether the settings name another database than the one being restored; then they are not restored."""
    return brought.get("DATABASE_URL", "") != os.environ.get("DATABASE_URL", "").strip()


def _prove(manifest: Manifest, reader: _Reader, brought: _Brought) -> tuple[list[str], Report | None]:
    """Check that the secrets can be decrypted, and audit the copy. Raises CannotRestore."""
    closed = _closed(reader, brought.keyring())
    if closed and brought.key is None:
        names = ", ".join(f"“{name}”" for name in closed[:3]) + (" and others" if len(closed) > 3 else "")
        where = "REFACTAI_ENCRYPTION_KEYS" if brought.given else str(keyring.key_file())
        raise CannotRestore(
            f"The current encryption key does not decrypt the secrets of this backup ({names}). First put the key that "
            f"was used when it was made into {where}."
        )
    on_disk = {name for app, name in MigrationLoader(None).disk_migrations if app == "llmkeys"}
    return closed, reader.audit() if set(manifest.migrations) == on_disk else None


def _closed(reader: _Reader, ring: Keyring | None) -> list[str]:
    """Return the names of the stored keys whose secrets `ring` does not decrypt."""
    closed = []
    for key_id, name, secret in reader.rows(_SECRETS):
        try:
            if ring is None:
                raise DecryptionFailed
            ring.decrypt(bytes(secret), row_id=key_id)
        except DecryptionFailed:
            closed.append(name)
    return closed


def _keep_directory(at: datetime) -> Path:
    keep = free_path(settings.DATA_DIR, f"before-restore-{at:%Y%m%d-%H%M%S}")
    keep.mkdir(mode=0o700)
    return keep


@dataclass
class _Swap:
    """Puts the archive's encryption key and settings in place while the database is swapped.

    During the swap the key file contains both the new key and the old ones, so that the secrets of either database can
    be decrypted if the process is killed; afterwards only the archive's.
    """

    brought: _Brought
    keep: Path

    def __enter__(self) -> None:
        if not self.brought.new_key:
            return
        old = keyring.key_file()
        if old.exists():
            (self.keep / old.name).hardlink_to(old)
        keyring.replace_key_file("\n".join([self.brought.new_key.strip(), *keyring.keys_of(old)]))

    def __exit__(self, kind: type | None, *_: object) -> None:
        kept = self.keep / keyring.key_file().name
        if kind is None:
            if self.brought.new_key:
                keyring.replace_key_file(self.brought.new_key)
            self._replace_settings()
            return
        if self.brought.new_key and kept.exists():
            kept.replace(keyring.key_file())
        with suppress(OSError):
            self.keep.rmdir()  # if nothing was put into it

    def _replace_settings(self) -> None:
        file = settings.DATA_DIR / settings_file.NAME
        if self.brought.settings is None:
            return
        if file.exists():
            (self.keep / file.name).hardlink_to(file)
        self.brought.settings.replace(file)  # unpacked with mode 0600, on the same disk
