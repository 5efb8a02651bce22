"""`hints`: durations, instants and the ends of windows."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from llmkeys.providers import hints
from tests.providers.helpers import NOW


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8.64s", 8.64),
        ("132ms", 0.132),
        ("6m0s", 360),
        ("1h16m0.667s", 4560.667),
        ("1d2h", 93600),
        ("57.238747106s", 57.238747),
        ("0s", 0),
        ("999999999d", 31 * 86400),
    ],
)
def test_it_reads_durations(text: str, seconds: float) -> None:
    assert hints.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "s", "5", "soon", "-5s", "5s5s", "1e9s", None, 5, [], "9" * 5000 + "s"])
def test_it_reads_nothing_into_what_is_no_duration(value: Any) -> None:
    assert hints.duration(value) is None


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-24T00:00:00Z",
        "2026-11-24T01:00:00+01:00",
        "1795478400000",
        "1795478400",
        1795478400,
        Decimal("1795478400000"),
    ],
)
def test_it_reads_instants(value: Any) -> None:
    assert hints.instant(value) == datetime(2026, 11, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    ["", "never", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z", 0, -1, True, None, [], "1" * 30, float("nan")],
)
def test_it_reads_nothing_into_what_is_no_instant(value: Any) -> None:
    assert hints.instant(value) is None


def test_it_knows_when_windows_end() -> None:
    assert hints.next_reset("daily", at=NOW) == datetime(2026, 11, 24, tzinfo=UTC)
    assert hints.next_reset("weekly", at=NOW) == datetime(2026, 11, 30, tzinfo=UTC)
    assert hints.next_reset("monthly", at=NOW) == datetime(2026, 12, 1, tzinfo=UTC)
    assert hints.next_reset("yearly", at=NOW) is None
    assert hints.next_month(datetime(2026, 12, 31, 23, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e5", "", "Mon, 99 Nov 2026 99:99:99 GMT", "0x10"])
def test_it_reads_nothing_into_a_strange_retry_after(value: str) -> None:
    assert hints.retry_after({"retry-after": value}, at=NOW) is None
