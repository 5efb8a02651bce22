"""`manage.py backup`: one archive of the database and the encryption key, safe while the product serves."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.utils import timezone
from tqdm import tqdm

from llmkeys import backup
from llmkeys.backup.archive import Manifest
from llmkeys.backup.making import Made
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import add_json_option, count
from refactai_site import settings_file


class Command(BaseCommand):
    help = "Write one archive (0600) of the database, the encryption key and settings.env. Safe while `serve` runs."
    example = "backup llmkeys-backup.tar.gz"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path, help="the archive to write; it must not exist yet")
        parser.add_argument(
            "--without-key",
            action="store_true",
            help="leave the encryption key and settings.env out; keep them elsewhere",
        )
        add_json_option(parser)

    def handle(self, *, file: Path, without_key: bool, json: bool, **_: Any) -> None:
        # tqdm stays silent where stderr is not a terminal
        with tqdm(total=None, desc="copying", unit=" pages", disable=None, leave=False) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            made = backup.make_backup(file, at=timezone.now(), with_key=not without_key, progress=progress)
        if json:
            self.write_json(_as_json(made))
        else:
            self._tell(made, without_key)
        if made.manifest.differences:
            self._refuse(
                f"The archive is intact, but its books differ in {count(made.manifest.differences, 'place')}: "
                "run `./manage.py audit`."
            )

    def _tell(self, made: Made, without_key: bool) -> None:
        told = made.manifest
        books = "" if told.differences else ", books audited and clean"
        holds = f"{count(told.keys, 'stored key')}, {count(told.rows, 'usage row')}, {made.bytes / 1_000_000:,.1f} MB"
        self.stdout.write(f"{made.path}: {holds}; integrity check passed{books}.")
        self.stdout.write(_key_words(told, without_key))


def _key_words(told: Manifest, without_key: bool) -> str:
    given = bool(settings.REFACTAI_ENCRYPTION_KEYS)
    if told.has_key or (given and told.has_settings and "REFACTAI_ENCRYPTION_KEYS" in settings_file.FROM_FILE):
        return "It holds the encryption key: whoever has this file has every stored API key. Keep it as safe as those."
    if given and not without_key:
        return "The encryption key comes from REFACTAI_ENCRYPTION_KEYS and is not in it: keep that value safe too."
    return "It does not hold the encryption key, without which its secrets cannot be read."


def _as_json(made: Made) -> dict[str, Any]:
    told = made.manifest
    return {
        "file": str(made.path),
        "createdAt": told.created_at,
        "database": told.database,
        "keys": told.keys,
        "usageRows": told.rows,
        "bytes": made.bytes,
        "hasEncryptionKey": told.has_key,
        "differences": told.differences,
    }
