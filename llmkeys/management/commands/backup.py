"""`manage.py backup`: an archive of the database and the encryption key; works while the product serves."""

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
    help = "Write an archive (0600) of the database, the encryption key and settings.env. Works while `serve` runs."
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
        # tqdm is silent if stderr is not a terminal
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
                f"The archive is intact, but its audit found {count(made.manifest.differences, 'difference')}: "
                "run `./manage.py audit`."
            )

    def _tell(self, made: Made, without_key: bool) -> None:
        manifest = made.manifest
        audited = "" if manifest.differences else ", audit passed"
        size = f"{made.bytes / 1_000_000:,.1f} MB"
        content = f"{count(manifest.keys, 'stored key')}, {count(manifest.rows, 'usage row')}, {size}"
        self.stdout.write(f"{made.path}: {content}; integrity check passed{audited}.")
        self.stdout.write(_key_words(manifest, without_key))


def _key_words(manifest: Manifest, without_key: bool) -> str:
    given = bool(settings.REFACTAI_ENCRYPTION_KEYS)
    if manifest.has_key or (given and manifest.has_settings and "REFACTAI_ENCRYPTION_KEYS" in settings_file.FROM_FILE):
        return "It contains the encryption key: whoever has this file has all stored API keys. Keep it as safe as them."
    if given and not without_key:
        return "The encryption key comes from REFACTAI_ENCRYPTION_KEYS and is not in it: keep that value safe too."
    return "It does not contain the encryption key, without which its secrets cannot be read."


def _as_json(made: Made) -> dict[str, Any]:
    manifest = made.manifest
    return {
        "file": str(made.path),
        "createdAt": manifest.created_at,
        "database": manifest.database,
        "keys": manifest.keys,
        "usageRows": manifest.rows,
        "bytes": made.bytes,
        "hasEncryptionKey": manifest.has_key,
        "differences": manifest.differences,
    }
