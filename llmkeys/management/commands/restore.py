"""`manage.py restore`: restore a backup; the old data is kept."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.utils import timezone

from llmkeys import backup
from llmkeys.backup.restoring import Restored
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import add_json_option, count


class Command(BaseCommand):
    help = "Replace the database, encryption key and settings.env with those of a backup. Refused while `serve` runs."
    example = "restore llmkeys-backup.tar.gz"

    needs_database = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="an archive that `backup` wrote")
        add_json_option(parser)

    def handle(self, *, file: Path, json: bool, **_: Any) -> None:
        restored = backup.restore(file, at=timezone.now())
        if json:
            self.write_json(_as_json(restored))
        else:
            self._tell(restored)
        if restored.closed:
            names = ", ".join(f"“{name}”" for name in restored.closed)
            self._refuse(
                f"The database was restored, but these secrets were unreadable even when the backup was made: {names}. "
                "Put the right encryption key back, or enter those secrets again."
            )

    def _tell(self, restored: Restored) -> None:
        manifest, report = restored.manifest, restored.report
        self.stdout.write(f"Restored the state of {manifest.created_at}. The previous data is kept: {restored.kept}")
        if restored.has_settings:
            self.stdout.write("settings.env was restored as well.")
        elif manifest.has_settings:
            self.stdout.write(
                "settings.env was left as it is, because the one in the backup names another DATABASE_URL."
            )
        if report is None:
            self.stdout.write("It comes from an older version: `serve` will migrate it; run `audit` after that.")
        elif report.differences:
            self.stdout.write(
                f"Its audit found {count(len(report.differences), 'difference')}: run `./manage.py audit`."
            )
        else:
            self.stdout.write(
                f"{count(manifest.keys, 'stored key')}, {count(manifest.rows, 'usage row')}; "
                "integrity check and audit passed."
            )
        self.stdout.write("Start the product again with: make run (or ./manage.py serve)")


def _as_json(restored: Restored) -> dict[str, Any]:
    report = restored.report
    return {
        "createdAt": restored.manifest.created_at,
        "kept": restored.kept,
        "keys": report.keys if report else None,
        "usageRows": report.rows if report else None,
        "differences": len(report.differences) if report else None,
        "unreadableSecrets": restored.closed,
    }
