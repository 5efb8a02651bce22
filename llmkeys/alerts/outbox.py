"""Alerts: what the operator is notified of, written together with its cause and delivered separately.

`ledger.add_alert` puts an alert into the outbox in the transaction of its cause, so that it is sent exactly once per
key, kind and window however many processes see the cause. Delivery claims what is due by a conditional UPDATE and sends
it outside any transaction, so that only the sending process waits for a dead target. The sender marks each row

    delivered      sent_at set; with tries 0 there was no target, and only the dashboard shows it
    due again      sent_at empty, `claimed_until` says when; delivery_error has a line for each target that failed
    given up       sent_at empty and no tries left; the health page shows it
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.db.backends.utils import CursorWrapper
from django.db.models import Q, QuerySet

from llmkeys import ledger
from llmkeys.alerts import delivery
from llmkeys.alerts.delivery import Message
from llmkeys.database import writer
from llmkeys.database.sql import as_instant, instant
from llmkeys.exceptions import NoKey, RecordingUnavailable
from llmkeys.models import Alert

# A claim lasts longer than any delivery, so that a sender that died is replaced but a slow one is not.
CLAIM = timedelta(seconds=delivery.DEADLINE_SECONDS + delivery.START_SECONDS + 30)
BACK_OFF = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 240))
TRIES = len(BACK_OFF) + 1
AT_ONCE = 100  # alerts in one delivery
LINES = 20  # in one message; the rest are only counted
_LINE_LENGTH = 300

EXAMPLE = "REFACTAI_ALERT_URLS=mailtos://user:password@example.com,slack://TokenA/TokenB/TokenC"


@dataclass(frozen=True, slots=True)
class Delivery:
    """The result of sending to one target, named without secrets; `words` is empty if it was delivered."""

    target: str
    delivered: bool
    words: str = ""


# --- alerts without an event ------------------------------------------------------------------------------------------

_reported: dict[str, str] = {}  # what this process has reported, so that requests need not query the database
_MOST_REPORTED = 1000


def no_key_left(error: NoKey, *, model: str, at: datetime, token_id: int | None = None) -> None:
    """Report, once per hour and reason, that a request found no key. Never raises: the request gets its own answer.

    `token_id` is that of a token which may not use every key: what it lacks, others may have, so it is reported by
    itself.
    """
    kind = type(error).__name__ + (f" {token_id}" if token_id else "")
    hour = f"{at:%Y-%m-%dT%H}"
    if _reported.get(kind) == hour:
        return
    message = f"A request for “{model}” found no key: {error}"
    try:
        writer.run_now(
            lambda cursor: ledger.add_alert(
                cursor, "no_key_left", None, message, at, token_id=token_id, once=f"no key {kind} {hour}"
            )
        )
    except RecordingUnavailable:
        return
    _remember(kind, hour)


def fallback_price_used(provider: str, model: str, *, at: datetime) -> None:
    """Report, once per model, that its price is not known and the fallback price is charged. Never raises."""
    name = f"fallback price {provider} {model}"
    if name in _reported:
        return
    message = (
        f"No price is known for “{model}” at {provider}: it is charged at the fallback price of "
        f"{settings.FALLBACK_USD_PER_TOKEN.normalize():f} USD per token. Enter its price in the admin (model prices)."
    )
    try:
        writer.run_now(lambda cursor: ledger.add_alert(cursor, "fallback_price", None, message, at, once=name[:160]))
    except RecordingUnavailable:
        return
    _remember(name, "")


def scheduler_stalled(reason: str, *, stall: str, at: datetime) -> bool:
    """Report a stall, identified by `stall` in every process that sees it; return False if it was reported before."""
    message = f"The scheduler is making no progress ({reason}); it is being restarted. Budgets do not depend on it."
    return _write("scheduler_stalled", message, at, once=f"scheduler {stall}")


def backup_failed(reason: str, *, at: datetime) -> bool:
    """Report, once a day, that the database could not be backed up; return False if it was reported before."""
    message = f"The backup of the database failed: {reason}"
    return _write("backup_failed", message, at, once=f"backup {at:%Y-%m-%d}")


def _write(kind: str, message: str, at: datetime, *, once: str) -> bool:
    return writer.run_now(lambda cursor: ledger.add_alert(cursor, kind, None, message, at, once=once[:160]))


def _remember(name: str, when: str) -> None:
    if len(_reported) >= _MOST_REPORTED:
        _reported.clear()
    _reported[name] = when


# --- delivery ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Claimed:
    """An alert that this process is delivering; `failed` names the targets that an earlier try did not reach."""

    id: int
    kind: str
    token_id: int | None
    message: str
    created_at: datetime
    tries: int
    failed: frozenset[str]


def send_due_alerts(at: datetime) -> int:
    """Deliver the due alerts, in one message per target; return how many reached all targets.

    Any number of processes may call this: each alert is claimed by one. A target that fails is tried again, separately,
    after 1, 5, 15, 60 and 240 minutes; then the alert is given up and keeps the reason.
    """
    if not settings.ALERT_URLS:
        writer.run_now(lambda cursor: _keep_for_the_dashboard(cursor, at))
        return 0
    claimed = writer.run_now(lambda cursor: _claim(cursor, at))
    if not claimed:
        return 0
    faults = _deliver(claimed)
    writer.run_now(lambda cursor: _record(cursor, claimed, faults, at))
    return sum(not faults[alert.id] for alert in claimed)


def _keep_for_the_dashboard(cursor: CursorWrapper, at: datetime) -> None:
    """Mark the alerts as sent, so that targets that are set later do not receive what is only on the dashboard."""
    cursor.execute("UPDATE llmkeys_alert SET sent_at = %s, tries = 0 WHERE sent_at IS NULL", [instant(at)])


def _claim(cursor: CursorWrapper, at: datetime) -> list[_Claimed]:
    """Claim the oldest alerts that are due. A claim too far in the future comes from a wrong clock and is ignored."""
    now, sane = instant(at), instant(at + BACK_OFF[-1] + CLAIM)
    due = "sent_at IS NULL AND tries < %s AND (claimed_until IS NULL OR claimed_until <= %s OR claimed_until > %s)"
    cursor.execute(
        f"""UPDATE llmkeys_alert SET claimed_until = %s, tries = tries + 1
             WHERE id IN (SELECT id FROM llmkeys_alert WHERE {due} ORDER BY id LIMIT {AT_ONCE}) AND {due}
         RETURNING id, kind, token_id, message, created_at, tries, delivery_error""",  # noqa: S608  (constants alone)
        [instant(at + CLAIM), TRIES, now, sane, TRIES, now, sane],
    )
    rows = sorted(cursor.fetchall(), key=itemgetter(0))
    return [
        _Claimed(number, kind, token_id, message, as_instant(created_at), tries, _failed_targets(error))
        for number, kind, token_id, message, created_at, tries, error in rows
    ]


def _failed_targets(delivery_error: str) -> frozenset[str]:
    return frozenset(line.partition(": ")[0] for line in delivery_error.splitlines() if ": " in line)


def _deliver(claimed: Sequence[_Claimed]) -> dict[int, list[str]]:
    """Send each target the alerts that it lacks; return, for each alert, a line for each target that failed."""
    targets = _targets()
    waiting = {name: [alert for alert in claimed if _lacks(alert, name, targets)] for name in targets}
    waiting = {name: alerts for name, alerts in waiting.items() if alerts}
    results = delivery.send([_message(targets[name], alerts) for name, alerts in waiting.items()])
    faults: dict[int, list[str]] = defaultdict(list)
    for (name, alerts), result in zip(waiting.items(), results, strict=True):
        for alert in alerts:
            if not result.delivered:
                faults[alert.id].append(f"{name}: {result.words}")
    return faults


def _targets() -> dict[str, str]:
    """Return the addresses of the targets by names without secrets; equal names are numbered."""
    targets: dict[str, str] = {}
    for url in settings.ALERT_URLS:
        name = delivery.label(url)
        twins = sum(1 for other in targets if other == name or other.startswith(f"{name} ("))
        targets[f"{name} ({twins + 1})" if twins else name] = url
    return targets


def _lacks(alert: _Claimed, name: str, targets: dict[str, str]) -> bool:
    """Return whether the target has not received the alert yet, because it is new or failed there.

    If none of the failed targets exists any more, the targets were changed, and all of them get it.
    """
    return name in alert.failed or not alert.failed & targets.keys()


def _message(url: str, alerts: Sequence[_Claimed]) -> Message:
    lines = [f"{alert.created_at:%Y-%m-%d %H:%M} UTC  {alert.message[:_LINE_LENGTH]}" for alert in alerts[:LINES]]
    if len(alerts) > LINES:
        lines.append(f"… and {len(alerts) - LINES} more: see the dashboard.")
    about = Alert(kind=alerts[0].kind, token_id=alerts[0].token_id).title.lower()
    title = f"RefactAI: {about}" if len(alerts) == 1 else f"RefactAI: {len(alerts)} alerts"
    return Message(url, title, "\n".join(lines))


def _record(cursor: CursorWrapper, claimed: Sequence[_Claimed], faults: dict[int, list[str]], at: datetime) -> None:
    """Record the results, except for alerts whose claim has expired and that another process has claimed."""
    for alert in claimed:
        lines = faults.get(alert.id)
        again = at + BACK_OFF[min(alert.tries, len(BACK_OFF)) - 1]
        cursor.execute(
            "UPDATE llmkeys_alert SET sent_at = %s, claimed_until = %s, delivery_error = %s "
            "WHERE id = %s AND sent_at IS NULL AND tries = %s",
            [
                None if lines else instant(at), instant(again) if lines else None, _error_text(lines or []), alert.id,
                alert.tries,
            ],
        )  # fmt: skip


def _error_text(lines: list[str]) -> str:
    """Return a line for each target; if they are too long, none, and the next try goes to all targets."""
    text = "\n".join(lines)
    return text if len(text) <= 500 else f"{len(lines)} targets failed"


# --- for people -------------------------------------------------------------------------------------------------------


def send_test_alert(at: datetime, *, by: str = "") -> list[Delivery]:
    """Send a test alert to every target now; return the results, an empty list if there are no targets."""
    targets = _targets()
    message = f"This is a test{f' by {by}' if by else ''}: alerts of RefactAI LLM key management arrive here."
    results = delivery.send([Message(url, "RefactAI: test alert", message) for url in targets.values()])
    deliveries = [Delivery(name, result.delivered, result.words) for name, result in zip(targets, results, strict=True)]
    faults = [f"{delivery.target}: {delivery.words}" for delivery in deliveries if not delivery.delivered]
    Alert.objects.create(
        kind=Alert.Kind.TEST, message=message, created_at=at, seen_at=at, sent_at=at, tries=min(1, len(targets)),
        delivery_error=_error_text(faults),
    )  # fmt: skip
    return deliveries


def target_names() -> list[str]:
    """Return the names of the targets, without secrets."""
    return list(_targets())


def open_alerts(limit: int = 20) -> list[Alert]:
    """Return the newest alerts that were not dismissed, with their keys and tokens (without secrets)."""
    return list(_with_accounts().filter(seen_at__isnull=True)[:limit])


def recent_alerts(limit: int = 50) -> list[Alert]:
    """Return the newest alerts, dismissed or not, with their keys and tokens."""
    return list(_with_accounts()[:limit])


def undelivered_alerts(limit: int = 20) -> list[Alert]:
    """Return the newest alerts that a target did not receive, whether they will be retried or were given up."""
    return list(_with_accounts().filter(sent_at__isnull=True).exclude(delivery_error="")[:limit])


def _with_accounts() -> QuerySet[Alert]:
    hidden = ("key__secret", "token__digest", "token__previous_digest")
    return Alert.objects.select_related("key", "token").defer(*hidden).order_by("-id")


def given_up(alert: Alert) -> bool:
    """Return whether an alert will not be retried although a target did not receive it."""
    return alert.sent_at is None and alert.tries >= TRIES


def delivery_words(alert: Alert) -> str:
    """Return what became of an alert, in words."""
    if alert.sent_at is not None:
        if not alert.tries:
            return "dashboard only"
        return f"not delivered: {_in_line(alert)}" if alert.delivery_error else "delivered"
    if given_up(alert):
        return f"given up after {alert.tries} tries: {_in_line(alert)}"
    return f"will be retried: {_in_line(alert)}" if alert.delivery_error else "waiting to be sent"


def _in_line(alert: Alert) -> str:
    return "; ".join(alert.delivery_error.splitlines())


def dismiss(alert_id: int, at: datetime) -> bool:
    """Take an alert off the dashboard; return False if it is unknown or was dismissed before."""
    return Alert.objects.filter(pk=alert_id, seen_at__isnull=True).update(seen_at=at) == 1


def dismiss_with_older(alert_id: int, at: datetime) -> bool:
    """Take an alert and the older ones of its key or token off the dashboard; return False if none was left."""
    alert = Alert.objects.filter(pk=alert_id).first()
    wanted = Q(pk=alert_id)
    if alert is not None and alert.of:
        wanted |= Q(key_id=alert.key_id, token_id=alert.token_id, pk__lt=alert_id)
    return Alert.objects.filter(wanted, seen_at__isnull=True).update(seen_at=at) > 0


def dismiss_all(at: datetime, *, up_to: int) -> int:
    """Take every alert up to this id off the dashboard, but not those that were added since the page was shown."""
    return Alert.objects.filter(pk__lte=up_to, seen_at__isnull=True).update(seen_at=at)


# --- configuration ----------------------------------------------------------------------------------------------------


def check_targets(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """llmkeys.E005: a target that `apprise` cannot use, named by its position, because the address is a secret."""
    return [
        Error(
            f"REFACTAI_ALERT_URLS: target {position + 1} of {len(settings.ALERT_URLS)} is not an address that "
            "apprise can use.",
            hint=f"For example {EXAMPLE}",
            id="llmkeys.E005",
        )
        for position in delivery.unknown(settings.ALERT_URLS)
    ]
