"""What stands on top of the dashboard: whatever an operator must know before the figures, with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.html import format_html
from django.utils.text import capfirst

from llmkeys.alerts.outbox import open_alerts
from llmkeys.dashboard.overview import Overview
from llmkeys.exceptions import LLMKeysError
from llmkeys.models import Alert
from llmkeys.scheduling import scheduler_last_ran
from llmkeys.templatetags.llmkeys_format import moment, relative
from llmkeys.vault import keyring

_ALERTS_SHOWN = 3
_TONES: dict[str, str] = {
    Alert.Kind.NO_KEY_LEFT: "bad",
    Alert.Kind.KEY_REJECTED: "bad",
    Alert.Kind.BACKUP_FAILED: "bad",
    Alert.Kind.FALLBACK_PRICE: "",
}
_PAUSE = re.compile(r"[.:;] ")


@dataclass(frozen=True, slots=True)
class Banner:
    """A note over the whole width. `alert_id` is that of an alert which a person can put away."""

    tone: str
    title: str
    text: Any
    link: str = ""
    link_words: str = ""
    alert_id: int | None = None

    @property
    def is_urgent(self) -> bool:
        return self.tone == "bad" and self.alert_id is None


def banners(view: Overview) -> list[Banner]:
    """Return what is wrong with the whole, the worst first, then the newest alerts that nobody has put away."""
    return [*_sealed(), *_no_key(view), *_stalled(view), *_alerts()]


def _sealed() -> Iterator[Banner]:
    try:
        keyring.verify()
    except LLMKeysError as error:
        yield Banner("bad", "Sealed: nothing can be sent.", str(error))


def _no_key(view: Overview) -> Iterator[Banner]:
    if view.trouble:
        yield Banner("bad", "No key can serve right now.", view.trouble)


def _stalled(view: Overview) -> Iterator[Banner]:
    ran = scheduler_last_ran(view.at)
    if ran.is_stalled:
        when = format_html("It last ran {}.", relative(ran.at)) if ran.at else "It has never run."
        text = format_html(
            "{} Budgets are right without it; alerts, key tests and the clean-up wait until it is started again.", when
        )
        yield Banner("full", "The scheduler stands still.", text, reverse("health"), "See what is late")


def _alerts() -> Iterator[Banner]:
    found = open_alerts(_ALERTS_SHOWN + 1)
    for alert in found[:_ALERTS_SHOWN]:
        yield _of(alert)
    if len(found) > _ALERTS_SHOWN:
        yield Banner("", "There are more alerts.", "", reverse("health"), "See them all")


def _of(alert: Alert) -> Banner:
    """Return an alert with its first words as the title."""
    title, *rest = _PAUSE.split(alert.message, maxsplit=1)
    link, words = _remedy(alert)
    return Banner(
        tone=_TONES.get(alert.kind, "full"),
        title=f"{title.rstrip('.')}.",
        text=format_html("{} {}.", capfirst("".join(rest)), moment(alert.created_at)),
        link=link,
        link_words=words,
        alert_id=alert.pk,
    )


def _remedy(alert: Alert) -> tuple[str, str]:
    if alert.kind == Alert.Kind.FALLBACK_PRICE:
        return reverse("admin:llmkeys_modelprice_add"), "Enter its price"
    if alert.key is not None and alert.key.deleted_at is None:
        return reverse("key", args=[alert.key.pk]), f"See “{alert.key.name}”"
    return "", ""
