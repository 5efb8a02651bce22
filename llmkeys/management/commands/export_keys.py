"""`manage.py export_keys`: write all keys with their costs to a file that `import_keys` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone

from llmkeys.keys.transfer.exporting import export_file
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import in_home


class Command(BaseCommand):
    help = (
        "Write all stored keys with their costs and counters to a file that import_keys reads. Without "
        "--include-secrets the keys are masked and cannot be imported again. Only you can read the file."
    )
    example = "export_keys keys.json --include-secrets"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path, metavar="FILE")
        parser.add_argument(
            "--include-secrets", action="store_true", help="write the API keys themselves; keep the file safe"
        )
        parser.add_argument("--force", action="store_true", help="replace an existing file")

    def handle(self, *, file: Path, include_secrets: bool, force: bool, **_: Any) -> None:
        path = in_home(file)
        count = export_file(path, at=timezone.now(), include_secrets=include_secrets, overwrite=force)
        what = "with their secrets: whoever reads it can spend your money" if include_secrets else "without secrets"
        self.stdout.write(self.paint.SUCCESS(f"{count} key{'' if count == 1 else 's'} written to {path}, {what}."))
