"""The data directory (0700) and Django's secret key in it (0600): made on first use, never made wider."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def ensure_data_dir(path: Path) -> str:
    """Create the directory; return what is wrong with it in words, or an empty string.

    It never raises, so that `manage.py help` and the system checks work where the directory does not.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        return f"The data directory {path} is a file, not a directory."
    except OSError as error:
        return f"The data directory {path} cannot be created: {error.strerror}."
    _tighten(path)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return f"The data directory {path} cannot be read and written by this user{why_not(path)}."
    for name, mode in _NEEDED.items():
        file = path / name
        if file.exists() and not os.access(file, mode):
            return f"The file {file} cannot be read and written by this user{why_not(file)}."
    return ""


# What a command that ran as another user leaves behind; whoever opens the other files says it of them.
_NEEDED = {"secret_key": os.R_OK, "serving.lock": os.R_OK | os.W_OK, "scheduler.lock": os.R_OK | os.W_OK}
REMEDY = "Give it to the user that runs `serve`, or set REFACTAI_DATA_DIR to a directory of your own."


def why_not(path: Path) -> str:
    """Return why a file cannot be used, to be put behind a sentence: whose it is, or that its disk is read-only."""
    try:
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return ": it is on a file system that is mounted read-only"
        return f": it belongs to {path.owner()}"
    except (OSError, KeyError):  # an owner without a name
        return ""


# What lies in a data directory. A directory that holds anything else may be shared on purpose: `doctor` warns of it.
_OURS = (
    "llmkeys.sqlite3", "encryption.key", "secret_key", "settings.env", "first-login", "backups", "before-restore-",
    "server-", "serving.lock", "scheduler.lock", "llm_api_keys.json", "lost+found", ".",
)  # fmt: skip


def _tighten(path: Path) -> None:
    """Take other users' rights to the directory away, where it is our own and nothing but ours lies in it."""
    with contextlib.suppress(OSError):
        facts = path.stat()
        is_wide = path.is_dir() and facts.st_mode & 0o077 and facts.st_uid == os.geteuid()
        if is_wide and all(name.startswith(_OURS) for name in os.listdir(path)):  # noqa: PTH208  (names are enough)
            path.chmod(0o700)


def create_private_file(path: Path, content: str) -> bool:
    """Write a new file that only its owner can read, all at once; False where it existed already.

    Written beside and then linked into place, so that another process never reads half of it.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return False
        return True
    finally:
        draft.unlink()


def make_private(database_file: str) -> None:
    """Create an empty database file that only its owner can read; SQLite gives its WAL the same mode."""
    with contextlib.suppress(OSError):  # an unusable place is told by the system check and by SQLite itself
        os.close(os.open(database_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def read_or_create_secret_key(data_dir: Path) -> str:
    """Return the stored secret key, creating it on first use; a random one where the directory cannot be used."""
    path = data_dir / "secret_key"
    try:
        if not path.exists():
            create_private_file(path, secrets.token_urlsafe(64))
        return path.read_text().strip() or secrets.token_urlsafe(64)
    except OSError:
        return secrets.token_urlsafe(64)  # the system check llmkeys.E001 tells of the directory
