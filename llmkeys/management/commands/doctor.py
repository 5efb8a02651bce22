"""`manage.py doctor`: what is wrong with this installation, and what to do about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from llmkeys import doctor
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import add_json_option, count


class Command(BaseCommand):
    help = (
        "Examine this installation: database, disk, file modes, encryption key, API keys, schedules, prices, settings, "
        "providers and clock. PASS, WARN and FAIL lines, each with its remedy; exit code 1 if anything failed. "
        "Nothing is changed, and no call to a provider costs money."
    )
    example = "doctor --offline"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--offline", action="store_true", help="do not contact any provider")
        parser.add_argument("--quick", action="store_true", help="do not check the integrity of the whole database")
        add_json_option(parser)

    def handle(self, *, offline: bool, quick: bool, json: bool, **_: Any) -> None:
        findings = doctor.examine(timezone.now(), offline=offline, thorough=not quick)
        levels = Counter(finding.level for finding in findings)
        if json:
            self.write_json({"ok": not levels[doctor.FAIL], "findings": [asdict(finding) for finding in findings]})
        else:
            self._tell(findings, levels)
        if levels[doctor.FAIL]:
            raise CommandError(f"{levels[doctor.FAIL]} of {len(findings)} checks failed.")

    def _tell(self, findings: list[doctor.Finding], levels: Counter[str]) -> None:
        paint = {doctor.PASS: self.paint.SUCCESS, doctor.WARN: self.paint.WARNING, doctor.FAIL: self.paint.ERROR}
        for finding in findings:
            self.stdout.write(f"{paint[finding.level](finding.level)}  {finding.title}: {finding.detail}")
            if finding.remedy:
                self.stdout.write(f"      {finding.remedy}")
        self.stdout.write(
            f"{levels[doctor.PASS]} passed, {count(levels[doctor.WARN], 'warning')}, {levels[doctor.FAIL]} failed."
        )
