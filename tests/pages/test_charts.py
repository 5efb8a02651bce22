"""The stacked bars of the pages: what stands on which height, in which words."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest
from django.template.loader import render_to_string

from llmkeys.dashboard.charts import Chart, Series, days_until, stacked
from llmkeys.lib.money import NANO

TODAY = date(2026, 11, 23)
DAYS = days_until(TODAY, 30)


def chart(*series: Series, days: list[date] = DAYS, **options) -> Chart:
    return stacked(days, series, **{"title": "Spend per day", "what": "key", "today": TODAY} | options)


def drawn(one: Chart) -> str:
    return render_to_string("dashboard/_chart.html", {"chart": one})


def heights(one: Chart, at: int = -1) -> list[float]:
    return [float(part.height) for part in one.bars[at].parts]


def test_it_stacks_the_dearest_at_the_bottom_to_the_scale_of_the_axis():
    one = chart(Series("small", {TODAY: NANO}), Series("large", {TODAY: 3 * NANO}))
    assert [tick.word for tick in one.ticks] == ["$0", "$1", "$2", "$3", "$4"]
    lower, upper = one.bars[-1].parts
    assert (lower.css, upper.css) == ("series-1", "series-2") and float(lower.y) > float(upper.y)
    assert float(lower.height) == pytest.approx(135) and float(upper.height) == pytest.approx(44)
    assert [row.name for row in one.legend] == ["large", "small"]
    assert [row.share for row in one.legend] == ["75 %", "25 %"]


def test_it_says_in_words_what_a_bar_is():
    one = chart(Series("A", {TODAY: NANO}), Series("B", {TODAY: NANO // 2}), held=NANO // 4)
    assert one.bars[-1].words == "Mon 23 Nov 2026: $1.50 (A $1.00 · B $0.50), $0.25 held"
    assert one.summary == (
        "Spend per day, Sun 25 Oct 2026 to Mon 23 Nov 2026, stacked by key: $1.50 in all, $0.25 held now."
    )
    assert one.bars[-1].held is not None and one.bars[-2].held is None
    assert one.rows == (("Mon 23 Nov 2026", (NANO, NANO // 2), NANO * 3 // 2),)


def test_it_sums_the_least_dear_into_others():
    series = [Series(f"key {number}", {TODAY: number * NANO}) for number in range(1, 12)]
    one = chart(*series)
    assert [row.name for row in one.legend][:2] == ["key 11", "key 10"]
    assert (one.legend[-1].name, one.legend[-1].total, one.legend[-1].css) == ("3 others", 6 * NANO, "series-other")
    assert len(one.legend) == 9 and sum(row.total for row in one.legend) == one.total == 66 * NANO


@pytest.mark.parametrize(
    ("spent", "words"),
    [
        (0, ["$0"]),
        (1, ["$0", "$0.000000001"]),
        (NANO // 100, ["$0", "$0.0025", "$0.0050", "$0.0075", "$0.01"]),
        (37 * NANO, ["$0", "$10", "$20", "$30", "$40"]),
        (99_999 * NANO, ["$0", "$25k", "$50k", "$75k", "$100k"]),
    ],
)
def test_it_has_round_figures_at_the_axis(spent, words):
    assert [tick.word for tick in chart(Series("A", {TODAY: spent})).ticks] == words


def test_it_draws_no_bar_outside_the_picture():
    amounts = {day: (number**5 + 1) * 7 for number, day in enumerate(DAYS)}
    one = chart(Series("A", amounts), Series("B", dict.fromkeys(DAYS, 1)), held=10**9)
    for bar in one.bars:
        assert all(0 <= float(part.y) <= float(one.base) for part in bar.parts)
        assert all(float(part.y) + float(part.height) <= float(one.base) + 0.11 for part in bar.parts)
    assert float(one.bars[-1].held.y) >= 0


def test_it_shows_a_little_spending_beside_much():
    one = chart(Series("A", {TODAY: 10**15, DAYS[0]: 1}))
    assert heights(one, 0) == [0.8]


def test_it_draws_a_correction_below_zero_as_nothing_and_counts_it():
    one = chart(Series("A", {TODAY: -NANO, DAYS[0]: 3 * NANO}))
    assert heights(one) == [] and one.total == 2 * NANO


def test_it_draws_a_daily_limit_that_is_in_sight():
    one = chart(Series("A", {TODAY: 5 * NANO}), limit=10 * NANO, what="")
    assert (one.limit_words, one.limit_y) == ("Daily limit $10.00", "26.0")
    assert not chart(Series("A", {TODAY: NANO}), limit=100 * NANO).limit_y


@pytest.mark.parametrize(("number", "bars"), [(1, 1), (7, 7), (90, 90), (200, 30), (1000, 34)])
def test_it_folds_long_times_into_weeks_and_months(number, bars):
    days = days_until(TODAY, number)
    one = chart(Series("A", dict.fromkeys(days, NANO)), days=days)
    assert len(one.bars) == bars and one.total == number * NANO
    assert len(one.names) <= 8 and sum(amount for _, _, amount in one.rows) == number * NANO


def test_it_names_today_and_some_days_before():
    names = chart(Series("A", {TODAY: NANO})).names
    assert [name.word for name in names] == [
        "Today", "19 Nov", "15 Nov", "11 Nov", "7 Nov", "3 Nov", "30 Oct", "26 Oct",
    ]  # fmt: skip
    assert names[0].css == "today" and names[1].css == "minor"


def test_it_draws_nothing_spent_and_no_days_at_all():
    assert "Nothing spent in this period" in drawn(chart())
    assert "no days" in drawn(chart(days=[]))


def test_it_is_drawn_without_a_style_and_with_names_as_text():
    page = drawn(chart(Series('<script>alert("x")</script>', {TODAY: NANO, TODAY - timedelta(days=1): 2 * NANO})))
    assert "style=" not in page and "<script" not in page and "&lt;script" in page
    assert re.search(r'<svg x="97\.20%" width="2\.27%"><rect class="series-1" y="[\d.]+" width="100%"', page)
