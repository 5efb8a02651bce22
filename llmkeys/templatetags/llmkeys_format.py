"""Template filters and tags for amounts, times, icons and fields. Formatting only, no logic."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache

from django import template
from django.conf import settings
from django.forms import BoundField
from django.utils import timezone
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe

from llmkeys.lib.money import NANO, format_usd
from llmkeys.lib.windows import local_time

register = template.Library()


@register.filter
def usd(nano: int | None) -> str:
    """Return nano-dollars in cents; below one cent with two significant digits, so that it never looks like zero."""
    if nano is None:
        return "–"
    cents = round(nano / 10_000_000)
    if nano and abs(nano) < NANO // 100:
        decimals = 9 - len(str(abs(nano))) + 2
        return f"{'-' if nano < 0 else ''}${abs(nano) / NANO:.{min(9, decimals)}f}"
    return f"{'-' if cents < 0 else ''}${abs(cents) // 100:,}.{abs(cents) % 100:02d}"


@register.filter
def usd_short(nano: int) -> str:
    """Return a limit, from 1,000 USD on without zero cents, to keep columns narrow."""
    return f"${nano // NANO:,}" if nano >= 1000 * NANO and nano % NANO == 0 else usd(nano)


@register.filter
def usd_exact(nano: int) -> str:
    return format_usd(nano)


@register.filter
def whole(number: int) -> str:
    return f"{number:,}"


@register.filter
def codes(text: str) -> SafeString:
    """Return a terminal message as HTML: escaped, with text in backticks as code."""
    return mark_safe(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))  # noqa: S308  (escaped first)


@register.filter
def percent(value: float) -> str:
    """Return a percentage with one decimal, never rounded up to 100 or down to 0, which would be misleading."""
    shown = round(value, 1)
    if value < 100 <= shown:
        shown = 99.9
    if value > 0 and shown == 0:
        return "< 0.1 %"
    return f"{shown:,.1f} %".replace(".0 %", " %")


@register.filter
def span(delta: timedelta) -> str:
    """Return a duration in one or two units: `9 h 54 min`, `7 days`, `4 s`."""
    seconds = max(0, int(delta.total_seconds()))
    if seconds >= 86_400:
        days = seconds // 86_400
        return f"{days:,} day{'s' if days > 1 else ''}"
    if seconds >= 3_600:
        hours, minutes = seconds // 3_600, seconds % 3_600 // 60
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


@register.filter
def relative(at: datetime | None) -> SafeString | str:
    """Return how long ago, or in how long, as a `<time>` whose title is the exact time."""
    if at is None:
        return "never"
    now = timezone.now()
    if abs((now - at).total_seconds()) < 1:
        return _time(at, "just now")
    return _time(at, f"{_coarse(now - at)} ago" if at < now else f"in {span(at - now)}")


def _coarse(delta: timedelta) -> str:
    """Return a duration in its largest unit; past times need no minutes."""
    words = span(delta)
    return words.partition(" h ")[0] + " h" if " h " in words else words


_NEAR_DAYS = {-1: "yesterday at ", 0: "", 1: "tomorrow at "}


@register.filter
def moment(at: datetime) -> SafeString:
    """Return a time in the operator's time zone, shorter if near: `14:06 UTC`, `tomorrow at 00:00 UTC`, `1 May`."""
    now, local = timezone.localtime(), local_time(at, settings.TIME_ZONE)
    time = f"{local:%H:%M} {local.tzname()}"
    if (days := _days_away(at)) in _NEAR_DAYS:
        return _time(at, f"{_NEAR_DAYS[days]}{time}")
    day = f"{local.day} {local:%B}" if local.year == now.year else f"{local.day} {local:%B %Y}"
    midnight = (local.hour, local.minute) == (0, 0)
    return _time(at, day if midnight else f"{day}, {time}")


@register.filter
def when(at: datetime) -> SafeString:
    """Return a time with its preposition, for a sentence: `at 14:06 UTC`, `tomorrow at 00:00 UTC`, `on 1 December`."""
    preposition = {-1: "", 0: "at ", 1: ""}.get(_days_away(at), "on ")
    return format_html("{}{}", preposition, moment(at))


@register.filter
def row_time(at: datetime) -> SafeString:
    """Return the time of day for a row of a table, with the date below it."""
    local = local_time(at, settings.TIME_ZONE)
    return _time(at, format_html("{}<small>{}</small>", f"{local:%H:%M:%S}", f"{local.day} {local:%b}"))


def _days_away(at: datetime) -> int:
    """Return in how many local days a time is; negative if it has passed."""
    return (local_time(at, settings.TIME_ZONE).date() - timezone.localtime().date()).days


def _time(at: datetime, words: SafeString | str) -> SafeString:
    local = local_time(at, settings.TIME_ZONE)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        at.isoformat(timespec="seconds"), f"{local:%Y-%m-%d %H:%M:%S} {local.tzname()}", words,
    )  # fmt: skip


@register.simple_tag
def after(delta: timedelta | None) -> datetime | None:
    """Return the time `delta` from now, or None."""
    return timezone.now() + delta if delta else None


@register.simple_tag
@lru_cache(maxsize=256)
def icon(name: str, size: int = 16, css: str = "icon") -> SafeString:
    """Return an icon of the sprite, hidden from screen readers, because it always has a text next to it."""
    return format_html(
        '<svg class="{}" viewBox="0 0 {} {}" aria-hidden="true"><use href="#{}"/></svg>', css, size, size, name
    )


@register.inclusion_tag("dashboard/_field.html")
def field(bound: BoundField, label: str = "", optional: bool = False, css: str = "") -> dict:
    """Render a form field with its label, hint and errors."""
    return {"field": bound, "label": label or bound.label, "optional": optional, "css": css}
