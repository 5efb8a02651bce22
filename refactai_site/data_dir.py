"""The data directory (0700) and Django's secret key in it (0600), which are created on first use."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def find_data_dir(text: str) -> tuple[Path, str]:
    """Return the directory that a person named, created if necessary, and what is wrong with it or an empty string."""
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError:  # `~` of a user whom the system does not know
        return Path(text).absolute(), f"The data directory {text} is in a home directory that does not exist."
    return path, ensure_data_dir(path)


def ensure_data_dir(path: Path) -> str:
    """Create the directory; return what is wrong with it, as a sentence, or an empty string.

    It never raises, so that `manage.py help` and the system checks work without it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        return f"The data directory {path} is a file, not a directory."
    except OSError as error:
        return f"The data directory {path} cannot be created: {error.strerror}."
    _tighten(path)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return f"The data directory {path} {_NOT_ITS_OWNER}{why_not(path)}."
    for name, mode in _NEEDED.items():
        file = path / name
        if file.exists() and not os.access(file, mode):
            return f"The file {file} {_NOT_ITS_OWNER}{why_not(file)}."
    return ""


# Files that a command run as another user may have left. Problems with other files are reported when they are opened.
_NEEDED = {"secret_key": os.R_OK, "serving.lock": os.R_OK | os.W_OK, "scheduler.lock": os.R_OK | os.W_OK}
_NOT_ITS_OWNER = "cannot be read and written by this user"
_READ_ONLY = "it is on a file system that is mounted read-only"


def remedy(problem: str) -> str:
    """Return what to do about what `find_data_dir` found wrong."""
    if _NOT_ITS_OWNER in problem and _READ_ONLY not in problem:
        return "Make the user that runs `serve` its owner, or set REFACTAI_DATA_DIR to another directory."
    return "Set REFACTAI_DATA_DIR to another directory."


def why_not(path: Path) -> str:
    """Return why a file cannot be used, to be appended to a sentence: its owner, or that its disk is read-only."""
    try:
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            return f": {_READ_ONLY}"
        return f": it belongs to {path.owner()}"
    except (OSError, KeyError):  # the owner has no name
        return ""


# The contents of a data directory. One that contains anything else may be shared intentionally: `doctor` warns of it.
_OURS = (
    "llmkeys.sqlite3", "encryption.key", "secret_key", "settings.env", "first-login", "backups", "before-restore-",
    "server-", "serving.lock", "scheduler.lock", "llm_api_keys.json", "lost+found", ".",
)  # fmt: skip


def _tighten(path: Path) -> None:
    """Remove other users' access to the directory, if it is ours and contains only our files."""
    with contextlib.suppress(OSError):
        facts = path.stat()
        is_wide = path.is_dir() and facts.st_mode & 0o077 and facts.st_uid == os.geteuid()
        if is_wide and all(name.startswith(_OURS) for name in os.listdir(path)):  # noqa: PTH208  (names are enough)
            path.chmod(0o700)


def create_private_file(path: Path, content: str) -> bool:
    """Create a file that only its owner can read, atomically; return False if it exists already.

    It is written under another name and then linked, so that other processes never read half of it.
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
    with contextlib.suppress(OSError):  # the system check and SQLite itself report an unusable path
        os.close(os.open(database_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def read_or_create_secret_key(data_dir: Path) -> str:
    """Return the stored secret key, creating it on first use; a random one if the directory cannot be used."""
    path = data_dir / "secret_key"
    try:
        if not path.exists():
            create_private_file(path, secrets.token_urlsafe(64))
        return path.read_text().strip() or secrets.token_urlsafe(64)
    except OSError:
        return secrets.token_urlsafe(64)  # the system check llmkeys.E001 reports the directory
