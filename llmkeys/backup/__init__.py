"""Backups: one archive of the database and the encryption key, taken while the product serves, proven before it counts.

`making` writes archives, `kept` knows those of the data directory and lets the oldest go, `restoring` puts one back,
`lost` says what to do where the database is gone. `sqlite` and
`postgresql` know how each database is copied out of one snapshot and swapped in; `archive` knows the file itself.
"""

from __future__ import annotations

from llmkeys.backup.lost import how_to_restore, lost_database
from llmkeys.backup.making import automatic_backup, backup_before_migration, make_backup
from llmkeys.backup.restoring import restore

__all__ = [
    "automatic_backup", "backup_before_migration", "how_to_restore", "lost_database", "make_backup", "restore",
]  # fmt: skip
