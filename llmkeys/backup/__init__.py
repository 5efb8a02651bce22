"""Backups: one archive of the database and the encryption key, taken while the product serves, proven before it counts.

`making` writes archives and keeps the newest of the automatic ones, `restoring` puts one back. `sqlite` and
`postgresql` know how each database is copied out of one snapshot and swapped in; `archive` knows the file itself.
"""

from __future__ import annotations

from llmkeys.backup.making import automatic_backup, backup_before_migration, make_backup
from llmkeys.backup.restoring import newest_good_backup, restore

__all__ = ["automatic_backup", "backup_before_migration", "make_backup", "newest_good_backup", "restore"]
