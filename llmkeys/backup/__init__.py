"""Backups: archives of the database and the encryption key, made while the product serves, and checked when written.

`making` writes archives, `kept` lists those in the data directory and deletes the oldest, `restoring` restores one,
`lost` says what to do if the database is gone. `sqlite` and `postgresql` copy a database from one snapshot and swap a
restored one in; `archive` reads and writes the file itself.
"""

from __future__ import annotations

from llmkeys.backup.lost import how_to_restore, lost_database
from llmkeys.backup.making import automatic_backup, backup_before_migration, make_backup
from llmkeys.backup.restoring import restore

__all__ = [
    "automatic_backup", "backup_before_migration", "how_to_restore", "lost_database", "make_backup", "restore",
]  # fmt: skip
