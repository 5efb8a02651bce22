"""`manage.py reencrypt`: encrypt every stored secret with the first encryption key."""

from __future__ import annotations

import shlex
import sys
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import connection
from django.utils import timezone
from tqdm import tqdm

from llmkeys.backup import postgresql, running
from llmkeys.database import sql
from llmkeys.keys import lost_secrets
from llmkeys.management import asking, printing
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import actor, add_json_option
from llmkeys.vault import keyring, keys_in_use, reencryption


class Command(BaseCommand):
    help = (
        "Encrypt every stored secret, and its fingerprint, with the first of the encryption keys, while the product "
        "serves. First put the new key before the old one (REFACTAI_ENCRYPTION_KEYS=NEW,OLD on every server, and "
        "restart them; or as the first line of the file encryption.key, which running servers notice). "
        "Then run this with the same keys. Then remove the old key. If it is killed, run it again: it continues where "
        "it stopped. Secrets that none of the keys decrypts are listed and left alone (exit code 1)."
    )
    example = "reencrypt"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--discard-unreadable",
            action="store_true",
            help="the encryption key is lost for good: wipe the secrets that none of the keys decrypts, and keep "
            "names, budgets, costs and usage; `keys edit KEY --new-secret` then enters each secret again",
        )
        parser.add_argument("--yes", action="store_true", help="do not ask")
        add_json_option(parser)

    def handle(self, *, discard_unreadable: bool, yes: bool, json: bool, **_: Any) -> None:
        if discard_unreadable:
            self._discard(yes, json)
            return
        keys_in_use.require_first_key_known()
        with tqdm(
            total=reencryption.stored_secrets(),
            unit="key",
            file=sys.stderr,
            disable=json or not sys.stderr.isatty(),
            leave=False,
        ) as bar:
            report = reencryption.reencrypt(on_each=bar.update)
        self.write_json(_as_json(report)) if json else self._tell(report)
        if report.left_alone:
            raise CommandError(_verdict(report))

    def _discard(self, yes: bool, json: bool) -> None:
        with running.without_server(settings.DATA_DIR):  # a server may have a key that is unknown here
            if not sql.is_sqlite():  # so may one on another machine
                with connection.cursor() as cursor:
                    postgresql.refuse_while_used(cursor)
            lost = lost_secrets.unreadable_keys()
            if lost and not yes:
                self.write_error(printing.table(["ID", "NAME"], [[key.id, key.name] for key in lost]))
                asking.confirm(f"Wipe the unreadable secrets of {_keys(len(lost))} for good?", "Nothing was changed.")
            lost_secrets.discard(lost, at=timezone.now(), actor=actor())
            aside = keyring.set_unusable_file_aside()
        if json:
            self.write_json({"ok": True, "discarded": [{"keyId": key.id, "keyName": key.name} for key in lost]})
        elif lost:
            self.write_lines([f"“{key.name}” needs a new secret: {_edit(key.name)}" for key in lost])
        elif not aside:
            self.stdout.write("Every stored secret can be read; nothing was changed.")
        if aside:
            self.write_error([f"No key could be read from {keyring.key_file()}; it was renamed to {aside.name}."])

    def _tell(self, report: reencryption.Report) -> None:
        if report.left_alone:
            rows = [[one.key_id, one.name, one.problem] for one in report.left_alone]
            self.write_lines(printing.table(["ID", "NAME", "LEFT ALONE, BECAUSE"], rows))
        done = f"{_count(report.changed)} re-encrypted, {report.current} already under the first key."
        self.stdout.write(self.paint.SUCCESS(done) if not report.left_alone else done)
        if not report.left_alone and len(keyring.keyring().keys) > 1:
            self.stdout.write(
                "The older encryption keys are no longer needed for what is stored; "
                "backups made before still need them."
            )


def _edit(name: str) -> str:
    return f"./manage.py keys edit {shlex.quote(name)} --new-secret"


def _keys(number: int) -> str:
    return f"{number} key" + ("" if number == 1 else "s")


def _count(number: int) -> str:
    return f"{number} secret" + ("" if number == 1 else "s")


def _verdict(report: reencryption.Report) -> str:
    number = len(report.left_alone)
    until = "it has" if number == 1 else "they have"
    return f"{_count(number)} could not be re-encrypted; keep the older encryption keys until {until} been."


def _as_json(report: reencryption.Report) -> dict[str, Any]:
    return {
        "ok": not report.left_alone,
        "changed": report.changed,
        "current": report.current,
        "leftAlone": [{"keyId": one.key_id, "keyName": one.name, "problem": one.problem} for one in report.left_alone],
    }
