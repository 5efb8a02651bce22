"""What an installation holds, as values that can be compared before and after."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest_of_files(directory: Path) -> dict[str, str]:
    """Return every file below a directory with its digest; SQLite's shared memory and locks are not content."""
    return {
        str(file.relative_to(directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.stat().st_size and not file.name.endswith(("-shm", ".lock"))
    }
