"""The archive file: a compressed tar (0600) with a manifest that names every member with its length and SHA-256."""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any, cast

from llmkeys.backup.errors import BackupFailed, CannotRestore
from refactai_site import settings_file

FORMAT = 1
MANIFEST, KEY, SETTINGS = "manifest.json", "encryption.key", settings_file.NAME
DATABASES = {"sqlite": "llmkeys.sqlite3", "postgresql": "llmkeys.dump"}
_CONTENTS = {KEY, SETTINGS, *DATABASES.values()}
_LONGEST_MANIFEST = 1_000_000
_CHUNK = 1_048_576


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of an archive. `differences` is None if the database was not audited (an older schema)."""

    created_at: str
    version: str
    database: str  # sqlite or postgresql
    migrations: list[str]
    keys: int
    rows: int
    differences: int | None
    format: int = FORMAT
    members: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        return not self.differences

    @property
    def worth(self) -> int:
        """2 if it contains stored secrets, 1 if it contains usage alone, 0 if the database was empty."""
        return 2 if self.keys else int(self.rows > 0)

    @property
    def has_key(self) -> bool:
        return KEY in self.members

    @property
    def has_settings(self) -> bool:
        return SETTINGS in self.members

    @property
    def created(self) -> datetime:
        return datetime.fromisoformat(self.created_at)


@contextmanager
def private_directory(beside: Path) -> Iterator[Path]:
    """Yield a temporary private directory on the same disk as `beside`."""
    with _locked(beside.parent, fcntl.LOCK_SH):  # so that `remove_abandoned` leaves it alone
        directory = Path(tempfile.mkdtemp(prefix=f".{beside.name}.", dir=beside.parent))  # mkdtemp: 0700
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def remove_abandoned(directory: Path) -> None:
    """Remove what killed backups left in the directory of the automatic ones, unless one is being made there."""
    with _locked(directory, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_locked:
        for left in directory.glob(".llmkeys-*") if is_locked else ():
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _locked(directory: Path, kind: int) -> Iterator[bool]:
    """Lock the directory itself, until this process ends at the latest; yield whether that could be done.

    It cannot if others work there, or on a file system without locks.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, kind)
        except OSError:
            yield False
        else:
            yield True


def write(target: Path, manifest: Manifest, members: Mapping[str, Path], *, directory: Path) -> Manifest:
    """Write the archive in `directory` and move it to `target` atomically; return the manifest as written.

    Raises BackupFailed if the disk is full or `target` cannot be written.
    """
    draft = directory / "archive"
    described = {name: {"bytes": path.stat().st_size, "sha256": _digest(path)} for name, path in members.items()}
    manifest = Manifest(**(asdict(manifest) | {"members": described}))
    try:
        with draft.open("xb") as file:
            draft.chmod(0o600)
            with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
                _add(tar, MANIFEST, _manifest_file(directory, manifest))
                for name, path in members.items():
                    _add(tar, name, path)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        raise BackupFailed(f"The backup {target} could not be written: {error.strerror}.") from None
    return manifest


def _manifest_file(directory: Path, manifest: Manifest) -> Path:
    path = directory / MANIFEST
    path.write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    return path


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = path.stat().st_size, 0o600, int(path.stat().st_mtime)
    with path.open("rb") as file:
        tar.addfile(info, file)


def unpack(path: Path, into: Path) -> tuple[Manifest, dict[str, Path]]:
    """Unpack every member and check lengths and digests; return the manifest and the paths of the members.

    Raises CannotRestore if the archive is damaged or truncated, or contains what it should not.
    """
    files: dict[str, Path] = {}
    with _opened(path) as tar:
        manifest = _read_manifest(tar, path)
        for info in _members(tar, path):
            files[info.name] = into / info.name
            with private_file(files[info.name]) as file:
                shutil.copyfileobj(_reader(tar, info), file, _CHUNK)
    _check(path, manifest, {name: (file.stat().st_size, _digest(file)) for name, file in files.items()})
    return manifest, files


def peek(path: Path) -> Manifest:
    """Return the manifest of an archive without reading the rest. Raises CannotRestore, as `unpack` does."""
    with _opened(path) as tar:
        return _read_manifest(tar, path)


def verify(path: Path) -> Manifest:
    """Check the lengths and digests of a whole archive without unpacking it. Raises CannotRestore, as `unpack` does."""
    with _opened(path) as tar:
        manifest = _read_manifest(tar, path)
        parts = {info.name: (info.size, _digest_of(_reader(tar, info))) for info in _members(tar, path)}
    _check(path, manifest, parts)
    return manifest


def _reader(tar: tarfile.TarFile, info: tarfile.TarInfo) -> BufferedIOBase:
    """Return the content of a member that is known to be a file."""
    return cast(BufferedIOBase, tar.extractfile(info))


def _members(tar: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members after the manifest. Raises CannotRestore for any that does not belong in a backup."""
    seen: set[str] = set()
    while (info := tar.next()) is not None:
        if info.name not in _CONTENTS or not info.isfile() or info.name in seen:
            raise CannotRestore(f"{path} contains “{info.name}”, which does not belong in a backup of this product.")
        seen.add(info.name)
        yield info
    while tar.fileobj.read(_CHUNK):
        pass  # read the compressed stream to its end: only its checksum shows whether it was truncated


def _check(path: Path, manifest: Manifest, parts: Mapping[str, tuple[int, str]]) -> None:
    """Compare the length and digest of each part with the manifest."""
    for name, described in manifest.members.items():
        if parts.get(name) != (described["bytes"], described["sha256"]):
            raise CannotRestore(f"{path} is damaged: its part “{name}” is not what was written. Take another backup.")
    if set(parts) != set(manifest.members) or DATABASES.get(manifest.database) not in parts:
        raise CannotRestore(f"{path} is not a complete backup of this product.")


def _read_manifest(tar: tarfile.TarFile, path: Path) -> Manifest:
    first = tar.next()
    if first is None or first.name != MANIFEST or first.size > _LONGEST_MANIFEST or not first.isfile():
        raise CannotRestore(f"{path} is not a backup of this product.")
    try:
        manifest = Manifest(**json.load(_reader(tar, first)))
        datetime.fromisoformat(manifest.created_at)
    except (TypeError, ValueError):
        raise CannotRestore(f"{path} is damaged: its manifest cannot be read. Take another backup.") from None
    if manifest.format != FORMAT:
        raise CannotRestore(f"{path} was written by another version (format {manifest.format}); use that version.")
    return manifest


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, mode="r:gz") as tar:
            yield tar
    except EOFError:
        raise CannotRestore(f"{path} is damaged: its end is missing. Take another backup.") from None
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error):
        raise CannotRestore(f"{path} is damaged, or not a backup of this product. Take another backup.") from None
    except OSError as error:
        raise CannotRestore(f"{path} cannot be read: {error.strerror or error}.") from None


@contextmanager
def private_file(path: Path) -> Iterator[IO[bytes]]:
    """Create a file (0600) and flush it to the disk at the end."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return _digest_of(file)


def _digest_of(file: BufferedIOBase) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def sync_directory(path: Path) -> None:
    """Flush a directory to the disk, so that a rename survives a power cut."""
    with contextlib.suppress(OSError):  # some file systems do not support it
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
