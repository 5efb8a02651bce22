"""`manage.py alert`: the latest alerts, and whether the notification targets can be reached."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone

from llmkeys.alerts import outbox
from llmkeys.alerts.outbox import Delivery
from llmkeys.management.base import Command as BaseCommand
from llmkeys.management.base import actor, add_json_option
from llmkeys.management.printing import table, when
from llmkeys.models import Alert
from llmkeys.presentation import instant_json

NO_TARGET = f"No notification target is set, so alerts appear only on the dashboard. For example {outbox.EXAMPLE}"

MOST = 999_999_999  # as many as `usage` takes; SQLite cannot take a number above 2⁶³


class Command(BaseCommand):
    help = (
        "List the newest alerts and whether they were delivered. With --test, send a test alert to every target of "
        "REFACTAI_ALERT_URLS and report each result; the exit code is 1 if one failed or no target is set."
    )
    example = "alert --test"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--test", action="store_true", help="send a test alert to every target now")
        parser.add_argument("--limit", type=int, default=20, help="how many are listed (default: %(default)s)")
        add_json_option(parser)

    def handle(self, *, test: bool, limit: int, json: bool, **_: Any) -> None:
        if not 1 <= limit <= MOST:
            raise CommandError(f"--limit must be between 1 and {MOST:,}.")
        if test:
            self._test(json)
        elif json:
            self.write_json([_alert_json(alert) for alert in outbox.recent_alerts(limit)])
        else:
            self._list(outbox.recent_alerts(limit))

    def _test(self, json: bool) -> None:
        deliveries = outbox.send_test_alert(timezone.now(), by=actor())
        failed = [delivery for delivery in deliveries if not delivery.delivered]
        if json:
            self.write_json({"ok": bool(deliveries) and not failed, "targets": [_delivery_json(d) for d in deliveries]})
        else:
            self.write_lines([_delivery_line(self.paint, delivery) for delivery in deliveries])
        if not deliveries:
            raise CommandError(NO_TARGET)
        if failed:
            raise CommandError(
                f"{len(failed)} of {len(deliveries)} targets did not receive the test alert. Check the address in "
                "REFACTAI_ALERT_URLS, and whether this machine can reach it."
            )

    def _list(self, listed: list[Alert]) -> None:
        if not listed:
            self.stdout.write("No alerts yet.")
            return
        rows = [[when(alert.created_at), alert.title, outbox.delivery_words(alert), alert.message] for alert in listed]
        self.write_lines(table(["When", "Kind", "Delivery", "Message"], rows))


def _delivery_line(paint: Any, delivery: Delivery) -> str:
    verdict = paint.SUCCESS("delivered") if delivery.delivered else paint.ERROR(f"failed: {delivery.words}")
    return f"{delivery.target}  {verdict}"


def _delivery_json(delivery: Delivery) -> dict[str, Any]:
    return {"target": delivery.target, "delivered": delivery.delivered, "error": delivery.words}


def _alert_json(alert: Alert) -> dict[str, Any]:
    return {
        "id": alert.pk,
        "kind": alert.kind,
        "keyId": alert.key_id,
        "message": alert.message,
        "createdAt": instant_json(alert.created_at),
        "deliveredAt": instant_json(alert.sent_at) if alert.tries else None,
        "delivery": outbox.delivery_words(alert),
        "seen": alert.seen_at is not None,
    }
