"""Spending over time as stacked bars, as plain data: horizontal percentages and vertical pixels, without any styles.

`templates/dashboard/_chart.html` renders it: `{% include "dashboard/_chart.html" with chart=chart only %}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby

from django.conf import settings

from llmkeys.lib.money import NANO
from llmkeys.templatetags.llmkeys_format import usd

MOST_SERIES = 8  # as many as there are colours
_MOST_BARS = 93  # longer spans are grouped into weeks, and beyond two years into months
_TOP, _PLOT, _FOOT = 26.0, 180.0, 26.0  # heights of the limit's label, the bars and the days' labels
_BASE = _TOP + _PLOT
_LEAST = 0.8  # pixels, so that even a little spending is visible
_GAP = 0.68  # the bar's share of a day's width


@dataclass(frozen=True, slots=True)
class Series:
    """Amounts in nano-dollars by day, 0 for missing days. `link` is the target of its name in the legend."""

    name: str
    amounts: Mapping[date, int]
    link: str = ""

    @property
    def total(self) -> int:
        return sum(self.amounts.values())


@dataclass(frozen=True, slots=True)
class Part:
    """A series' part of a bar; `css` is its class."""

    css: str
    y: str
    height: str


@dataclass(frozen=True, slots=True)
class BarOfDays:
    """The stacked bar of a day (or week, or month), with its tooltip."""

    words: str
    left: str
    width: str
    x: str
    bar_width: str
    parts: tuple[Part, ...]
    held: Part | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """A figure on the vertical axis, with its position in pixels."""

    word: str
    y: str
    text_y: str


@dataclass(frozen=True, slots=True)
class Name:
    """A label under a bar. `css`: `minor` labels are hidden on phones, `today` is bold."""

    word: str
    x: str
    css: str = ""


@dataclass(frozen=True, slots=True)
class LegendRow:
    css: str
    name: str
    total: int
    share: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything that `_chart.html` needs. `summary` is a description in a sentence; `rows` is the same as a table."""

    title: str
    summary: str
    total: int
    total_word: str
    held: int
    bars: tuple[BarOfDays, ...]
    ticks: tuple[Tick, ...]
    names: tuple[Name, ...]
    legend: tuple[LegendRow, ...]
    rows: tuple[tuple[str, tuple[int, ...], int], ...]
    limit_y: str = ""
    limit_words: str = ""
    limit_text_y: str = ""
    has_legend: bool = True

    height = f"{_BASE + _FOOT:.0f}"
    base = f"{_BASE:.1f}"
    names_y = f"{_BASE + 19:.0f}"
    plot_height = f"{_BASE:.0f}"

    @property
    def is_empty(self) -> bool:
        return not self.total and not self.held


@dataclass(frozen=True, slots=True)
class _Bucket:
    """The days that one bar stands for."""

    days: tuple[date, ...]
    long: str
    short: str


def days_until(last: date, number: int) -> list[date]:
    """Return `number` consecutive days, ending with `last`."""
    return [last - timedelta(days=back) for back in range(number - 1, -1, -1)]


def stacked(
    days: Sequence[date],
    series: Iterable[Series],
    *,
    title: str,
    what: str = "",
    today: date | None = None,
    held: int = 0,
    limit: int = 0,
    most: int = MOST_SERIES,
    others: int = 0,
) -> Chart:
    """Return the stacked bars of `series` over `days` (consecutive, in order), the most expensive series at the bottom.

    `title` is for screen readers (`Spend per day`), `what` names the stacks (`key`, `model`; empty: one series, no
    legend). `today` is labelled as such; `held` (nano-dollars of open holds) is hatched on top of its bar. `limit`
    draws a daily limit as a line. Of more than `most` series, the least expensive are combined. Amounts are in
    nano-dollars; negative ones (corrections) are not drawn, but counted. Does not read the database.

    A caller that has already summed the rest passes it as a series without a name, and their number as `others`.

        days = days_until(today, 30)
        chart = stacked(days, [Series("Production", {day: nano, …})], title="Spend per day", what="key", today=today)
    """
    shown = _most_expensive(series, most, others)
    buckets = _buckets(days, today)
    amounts = [[sum(one.amounts.get(day, 0) for day in bucket.days) for one in shown] for bucket in buckets]
    held_in = len(buckets) - 1 if held and buckets and today in buckets[-1].days else None
    limit = limit if buckets and len(buckets) == len(days) else 0  # a daily limit does not apply to a week
    tops = [sum(max(0, nano) for nano in row) + (held if at == held_in else 0) for at, row in enumerate(amounts)]
    scale = _Scale(max([*tops, _limit_in_sight(limit, tops)], default=0))
    total = sum(one.total for one in shown)
    return Chart(
        title=title,
        summary=_summary(title, what, buckets, total, held),
        total=total,
        total_word=f"{len(days)} days" if len(days) != 1 else "1 day",
        held=held,
        bars=tuple(
            _bar(bucket, at, len(buckets), shown, row, scale, held if at == held_in else 0)
            for at, (bucket, row) in enumerate(zip(buckets, amounts, strict=True))
        ),
        ticks=scale.ticks,
        names=_names(buckets, today),
        legend=tuple(_legend_row(css, one, total) for css, one in _classed(shown)),
        rows=tuple(
            (bucket.long, tuple(row), sum(row)) for bucket, row in zip(buckets, amounts, strict=True) if any(row)
        ),
        has_legend=bool(what) and bool(total or held),
        **_limit(limit, scale),
    )


def _most_expensive(series: Iterable[Series], most: int, others: int) -> list[Series]:
    """Return the series that cost something, the most expensive first, with the rest summed into one."""
    found = [one for one in series if any(one.amounts.values())]
    ranked = sorted((one for one in found if one.name), key=lambda one: (-one.total, one.name))
    kept, rest = ranked[:most], ranked[most:] + [one for one in found if not one.name]
    if not rest:
        return kept
    sums: dict[date, int] = {}
    for one in rest:
        for day, nano in one.amounts.items():
            sums[day] = sums.get(day, 0) + nano
    number = len(ranked) - len(kept) + others
    return [*kept, _Others(f"{number} other{'s' if number > 1 else ''}", sums)]


class _Others(Series):
    """The sum of the series that are not shown separately; always grey."""


def _classed(shown: Sequence[Series]) -> list[tuple[str, Series]]:
    return [
        ("series-other" if isinstance(one, _Others) else f"series-{at}", one) for at, one in enumerate(shown, start=1)
    ]


def _legend_row(css: str, one: Series, total: int) -> LegendRow:
    share = 100 * one.total / total if total > 0 else 0
    return LegendRow(css, one.name, one.total, "< 1 %" if 0 < share < 1 else f"{share:.0f} %", one.link)


# --- grouping of days -------------------------------------------------------------------------------------------------


def _buckets(days: Sequence[date], today: date | None) -> list[_Bucket]:
    if len(days) <= _MOST_BARS:
        return [_Bucket((day,), _long(day), "Today" if day == today else _short(day)) for day in days]
    by_week = len(days) <= 7 * 106
    grouped = groupby(days, key=lambda day: day - timedelta(days=day.weekday()) if by_week else day.replace(day=1))
    return [_folded(tuple(inside), by_week) for _, inside in grouped]


def _folded(days: tuple[date, ...], by_week: bool) -> _Bucket:
    first = days[0]
    if by_week:
        return _Bucket(days, f"Week of {_long(first)}", _short(first))
    return _Bucket(days, f"{first:%B %Y}", f"{first:%b %y}")


def _short(day: date) -> str:
    return f"{day.day} {day:%b}"


def _long(day: date) -> str:
    return f"{day:%a} {day.day} {day:%b %Y}"


def _names(buckets: Sequence[_Bucket], today: date | None) -> tuple[Name, ...]:
    """Return labels for about seven bars, counted back from the last; every second one is `minor`."""
    step = max(1, -(-len(buckets) // 7))
    if step in (5, 6) and len(buckets) <= 31:
        step = 4  # steps of four days suit a month best
    named = range(len(buckets) - 1, -1, -step)
    return tuple(
        Name(
            buckets[at].short,
            _percent((at + 0.5) / len(buckets)),
            "today" if today in buckets[at].days and buckets[at].short == "Today" else "minor" if number % 2 else "",
        )
        for number, at in enumerate(named)
    )


# --- the vertical axis ------------------------------------------------------------------------------------------------


class _Scale:
    """A vertical axis with at most four steps of a round figure, up to the highest amount."""

    def __init__(self, highest: int):
        self.highest = highest
        self.step = _round_step(highest)
        self.steps = max(1, -(-highest // self.step)) if highest else 1
        self.top = self.step * self.steps

    def pixels(self, nano: int) -> float:
        return _PLOT * max(0, nano) / self.top

    @property
    def ticks(self) -> tuple[Tick, ...]:
        figures = range(self.steps + 1) if self.highest else range(1)
        return tuple(self._tick(number) for number in figures)

    def _tick(self, number: int) -> Tick:
        y = _BASE - _PLOT * number / self.steps
        return Tick(_axis_words(number * self.step), f"{y:.1f}", f"{y + 4:.0f}")


def _round_step(highest: int) -> int:
    """Return the smallest step of 1, 2, 2.5 or 5 times a power of ten that needs at most four steps; nano-dollars."""
    power = 1
    while True:
        for factor in (10, 20, 25, 50):
            if factor * power // 10 * 4 >= highest:
                return max(1, factor * power // 10)
        power *= 10


def _axis_words(nano: int) -> str:
    if nano >= 10_000 * NANO and nano % (100 * NANO) == 0:
        return f"${nano / NANO / 1000:,.1f}k".replace(".0k", "k")
    return f"${nano // NANO:,}" if nano % NANO == 0 else usd(nano)


def _limit_in_sight(limit: int, tops: Sequence[int]) -> int:
    """Return the limit, or 0 if it is so far above the spending that showing it would flatten the bars."""
    return limit if limit and limit <= 4 * max(tops, default=0) else 0


def _limit(limit: int, scale: _Scale) -> dict[str, str]:
    if not limit or limit > scale.top:
        return {}
    y = _BASE - scale.pixels(limit)
    return {"limit_y": f"{y:.1f}", "limit_text_y": f"{y - 7:.0f}", "limit_words": f"Daily limit {usd(limit)}"}


# --- one bar --------------------------------------------------------------------------------------------------------


def _bar(
    bucket: _Bucket, at: int, number: int, shown: Sequence[Series], row: Sequence[int], scale: _Scale, held: int
) -> BarOfDays:
    width = 1 / number
    parts, y = _parts(shown, row, scale)
    return BarOfDays(
        words=_bar_words(bucket, shown, row, held),
        left=_percent(at * width),
        width=_percent(width),
        x=_percent((at + (1 - _GAP) / 2) * width),
        bar_width=_percent(_GAP * width),
        parts=parts,
        held=_part("held", y, scale.pixels(held))[0] if held else None,
    )


def _parts(shown: Sequence[Series], row: Sequence[int], scale: _Scale) -> tuple[tuple[Part, ...], float]:
    """Return the parts from the bottom up, a pixel apart, and where the next one would begin."""
    parts, y = [], _BASE
    for (css, _), nano in zip(_classed(shown), row, strict=True):
        if nano > 0:
            part, y = _part(css, y, scale.pixels(nano))
            parts.append(part)
    return tuple(parts), y


def _part(css: str, foot: float, pixels: float) -> tuple[Part, float]:
    """Return a part whose bottom is at `foot`, and the bottom of the next one."""
    drawn = max(_LEAST, pixels - (1 if foot < _BASE and pixels > 2 else 0))
    return Part(css, f"{foot - pixels if pixels >= _LEAST else foot - _LEAST:.1f}", f"{drawn:.1f}"), foot - pixels


def _bar_words(bucket: _Bucket, shown: Sequence[Series], row: Sequence[int], held: int) -> str:
    parts = [f"{one.name} {usd(nano)}" for one, nano in zip(shown, row, strict=True) if nano]
    words = f"{bucket.long}: {usd(sum(row))}"
    if len(shown) > 1 and parts:
        words += f" ({' · '.join(parts)})"
    return f"{words}, {usd(held)} held" if held else words


def _summary(title: str, what: str, buckets: Sequence[_Bucket], total: int, held: int) -> str:
    if not buckets:
        return f"{title}: no days."
    span = f"{_long(buckets[0].days[0])} to {_long(buckets[-1].days[-1])}"
    stacks = f", stacked by {what}" if what else ""
    return f"{title}, {span}{stacks}: {usd(total)} in all{f', {usd(held)} held now' if held else ''}."


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


# --- the bars of budgets ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar, in percent of its width, with a text alternative."""

    words: str
    spent: float = 0.0
    held: float = 0.0
    tone: str = ""  # "full", "idle" or none
    tick: bool = False  # marks the share of a budget at which the operator is warned

    @property
    def spent_width(self) -> str:
        return _css_percent(self.spent)

    @property
    def held_width(self) -> str:
        return _css_percent(self.held)

    @property
    def tick_at(self) -> str:
        return _css_percent(float(settings.WARNING_THRESHOLD) * 100)


def _css_percent(value: float) -> str:
    return f"{value:.2f}%"


def budget_bar(words: str, *, spent: int, held: int, limit: int, idle: bool = False) -> Bar:
    """Return the bar of amounts (nano-dollars) against a limit; holds never make the spent part look larger."""
    if not limit:
        return Bar(words, tone="idle")
    spent_share = min(100.0, max(0.0, 100 * spent / limit))
    held_share = min(100.0 - spent_share, 100 * held / limit)
    tone = "idle" if idle else "full" if spent >= limit * settings.WARNING_THRESHOLD else ""
    return Bar(words, spent_share, held_share, tone, tick=True)
