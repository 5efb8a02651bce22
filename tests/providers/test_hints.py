"""`hints`: every spelling of a wait in values, headers, fields and sentences, and the ends of windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkeys.providers import hints
from tests.providers.helpers import NOW

EPOCH = int(NOW.timestamp())
DAYS_31 = 31 * 86_400.0
TO_DECEMBER_3 = (datetime(2026, 12, 3, 3, 30, 6, tzinfo=UTC) - NOW).total_seconds()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90", 90),
        (" 90 ", 90),
        ('"90"', 90),
        ("1.5", 1.5),
        (90, 90),
        (Decimal("90.5"), 90.5),
        ("90s", 90),
        ("8.64s", 8.64),
        ("57.238747106s", 57.238747106),
        ("6m0s", 360),
        ("1h16m0.667s", 4560.667),
        ("1d2h", 93_600),
        ("1500ms", 1.5),
        ("90 seconds", 90),
        ("1 minute, 30 seconds", 90),
        ("2 hours and 5 mins", 7500),
        ("PT1M30S", 90),
        ("P1D", 86_400),
        (str(EPOCH + 90), 90),
        (f"{EPOCH + 90}.25", 90.25),
        (str((EPOCH + 90) * 1000), 90),
        (str((EPOCH + 90) * 10**6), 90),
        (str((EPOCH + 90) * 10**9), 90),
        (EPOCH + 90, 90),
        ("Mon, 23 Nov 2026 20:31:30 GMT", 90),
        ("Monday, 23-Nov-26 20:31:30 GMT", 90),
        ("Mon Nov 23 20:31:30 2026", 90),
        ("2026-11-23T20:31:30Z", 90),
        ("2026-11-23T20:31:30.5Z", 90),
        ("2026-11-23T21:31:30+01:00", 90),
        ("2026-11-23T15:31:30-0500", 90),
        ("2026-11-23 20:31:30", 90),
        ("2026-11-23T20:31:30", 90),
        ("2026-11-24", 12_600),
        ("30, 90", 90),
        ("90;w=3600", 90),
        ("30s, 90s", 90),
        ("Mon, 23 Nov 2026 20:30:30 GMT, Mon, 23 Nov 2026 20:31:30 GMT", 90),
        # out of range
        ("0", 1),
        ("132ms", 1),
        ("999999999d", DAYS_31),
        ("99999999", DAYS_31),
        ("99999999999", DAYS_31),
        ("2031-01-01T00:00:00Z", DAYS_31),
    ],
)
def test_it_reads_a_value(value: Any, seconds: float) -> None:
    assert hints.wait(value, at=NOW) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        *("", "s", "soon", "-5", "-5s", "1e5", "1e9s", "nan", "inf", "0x10", "never", "9" * 5000 + "s", "1" * 30),
        *(None, True, [], {}, -1, float("nan"), float("inf"), Decimal("NaN"), 10**400),
        *("2026-99-99", "0001-01-01T00:00:00+23:59", "Mon, 99 Nov 2026 99:99:99 GMT"),
        *(str(EPOCH - 1), EPOCH - 90, "2026-11-23T20:30:00Z"),  # it has passed
    ],
)
def test_it_reads_nothing_into_other_values(value: Any) -> None:
    assert hints.wait(value, at=NOW) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "90"}, 90),
        ({"retry-after": str(EPOCH + 90)}, 90),
        ({"retry-after": "90s"}, 90),
        ({"retry-after": "Mon, 23 Nov 2026 20:31:30 GMT"}, 90),
        ({"retry-after": "Mon, 23 Nov 2026 20:00:00 GMT"}, 1),
        ({"retry-after": "30, 90"}, 90),
        ({"retry-after-ms": "90000"}, 90),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),  # the same wait, rounded up
        ({"retry-after-ms": "1500", "retry-after": "90"}, 90),
        ({"x-ms-retry-after-ms": "90000"}, 90),
        ({"x-ratelimit-retry-after": "90"}, 90),
        ({"ratelimit-reset": "90"}, 90),
        ({"x-ratelimit-reset": "90"}, 90),
        ({"x-ratelimit-reset": str(EPOCH + 90)}, 90),
        ({"x-ratelimit-reset": str((EPOCH + 90) * 1000)}, 90),
        ({"x-rate-limit-reset": "90"}, 90),
        ({"x-ratelimit-reset-after": "90"}, 90),
        ({"x-ratelimit-reset-requests": "1m30s"}, 90),
        ({"anthropic-ratelimit-tokens-reset": "2026-11-23T20:31:30Z"}, 90),
        ({"ratelimit": '"default";r=0;t=90'}, 90),
        ({"ratelimit": '"burst";r=0;t=90, "daily";r=900;t=3600'}, 90),
        ({"ratelimit": '"burst";r=0;t=30, "daily";r=0;t=90'}, 90),
        ({"ratelimit": "limit=100, remaining=0, reset=90"}, 90),
        # several: the longest, but not that of a limit of which some is left
        ({"retry-after": "20", "x-ratelimit-reset": str(EPOCH + 90)}, 90),
        ({"retry-after": "90", "x-ratelimit-reset": str(EPOCH + 20)}, 90),
        ({"retry-after": "90", "x-ratelimit-reset-tokens": "6m0s"}, 90),
        ({"retry-after": "20", "x-ratelimit-reset-tokens": "90s", "x-ratelimit-remaining-tokens": "0"}, 90),
        ({"x-ratelimit-reset-requests": "20s", "x-ratelimit-reset-tokens": "90s"}, 90),
        (
            {
                "x-ratelimit-reset-requests": "90s", "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "17",
            },
            90,
        ),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-5", "x-ratelimit-limit-requests": "90", "x-ratelimit-remaining-requests": "3"}, None),
        ({"date": "Mon, 23 Nov 2026 20:31:30 GMT"}, None),
    ],
)  # fmt: skip
def test_it_reads_headers(headers: dict[str, str], seconds: float | None) -> None:
    found = hints.from_headers(headers, at=NOW)
    assert found == (pytest.approx(seconds) if seconds is not None else None)


def test_it_leaves_out_the_renewal_of_limits_where_they_were_not_met() -> None:
    headers = {"x-ratelimit-reset-requests": "8.64s", "ratelimit": '"default";r=0;t=90'}
    assert hints.from_headers(headers, at=NOW, resets=False) is None
    assert hints.from_headers({**headers, "retry-after": "7"}, at=NOW, resets=False) == 7


@pytest.mark.parametrize(
    "error",
    [
        {"retry_after": 90},
        {"retryAfter": "90s"},
        {"retry_after_ms": 90_000},
        {"resets_at": EPOCH + 90},
        {"resets_in_seconds": 90},
        {"metadata": {"retry_after_seconds": 90}},
        {"metadata": {"resets_at": "2026-11-23T20:31:30Z"}},
        {"metadata": {"headers": {"Retry-After": "90"}}},
        {"metadata": {"headers": {"X-RateLimit-Reset": str((EPOCH + 90) * 1000)}}},
        {"availability": {"retry_after": 90}},
        {"details": [{"retryDelay": "36s"}, {"retryDelay": "90s"}]},
        {"details": [{"metadata": {"quotaResetDelay": "1m30s"}}]},
        {"details": [{"metadata": {"quotaResetTimeStamp": "2026-11-23T20:31:30Z"}}]},
    ],
)
def test_it_reads_fields_of_errors(error: dict[str, Any]) -> None:
    assert hints.from_fields(error, at=NOW) == 90


@pytest.mark.parametrize(
    ("message", "seconds"),
    [
        ("Weekly limit exhausted. Your limit will reset at 2026-12-03 03:30:06", TO_DECEMBER_3),
        ("Your limit will reset at 2026-12-03T03:30:06Z.", TO_DECEMBER_3),
        ("Your limit will reset at 2026-12-03 11:30:06 (UTC+8).", TO_DECEMBER_3),
        ("Your limit will reset at 2026-12-03 11:30:06+08:00", TO_DECEMBER_3),
        ("Your limit will reset at 2026-12-02 19:30:06 PST.", TO_DECEMBER_3),
        ("try again at Dec 3rd, 2026 3:30 AM.", TO_DECEMBER_3 - 6),
        ("try again at December 3, 2026 at 03:30:06 UTC", TO_DECEMBER_3),
        ("Access resumes on 3 December 2026", TO_DECEMBER_3 - 12_606),
        ("You will regain access on 2026-12-01 at 00:00 UTC.", 617_400),
        (f"Usage limit reached. Available again at {EPOCH + 90}.", 90),
        ("You exceeded your quota. (reset after 24h)", 86_400),
        ("Quota will reset after 4h12m5s.", 15_125),
        ("Please retry after 90 seconds", 90),
        ("Please retry your request after 90 seconds.", 90),
        ("Please try again in 1h16m0.667s.", 4560.667),
        ("Please try again in 1m30s. Visit https://platform.openai.com", 90),
        ("Please retry in 36.2s.", 36.2),
        ("Please wait 90 seconds and send it again", 90),
        ("Please wait for another 2 minutes", 120),
        ("Your limit resets in 3 hours and 5 minutes", 11_100),
        ("Retry in a minute.", 60),
        ("Retry-After: 90", 90),
        ("retryDelay: 90s", 90),
        ("You are temporarily blocked for 1.5 minutes", 90),
        ("cooldown 90s", 90),
        ("retry_after=90s", 90),
        ("Your limit resets at 3am (UTC)", 23_400),
        ("It resets at 22:30 UTC.", 7200),
        ("It resets at midnight Pacific time", 41_400),
        ("It resets at midnight UTC", 12_600),
        ("Try again in 20 s. Your daily limit resets in 90 s.", 90),
        # nothing: no time, or one that speaks of something else
        ("Please try again later.", None),
        ("You are limited to 100 requests per 24 hours", None),
        ("Please try again later. Rate limit: 100 requests per 24 hours", None),
        ("Rate limit reached for gpt-4o-2027-08-06 in organization x", None),
        ("The model claude-x-2026-12-01 is overloaded, try again", None),
        ("Your limit reset at 2026-11-01 00:00:00", None),
        ("Limit 30000, Used 29000, Requested 2000", None),
        ("", None),
    ],
)
def test_it_reads_sentences(message: str, seconds: float | None) -> None:
    found = hints.from_words(message, at=NOW)
    assert found == (pytest.approx(seconds) if seconds is not None else None)


PIECES = st.sampled_from(
    [
        *("retry", "after", "reset", "at", "in", "try again", "until", "wait", "midnight", "Pacific", "UTC", "GMT+25"),
        *("90", "90s", "1h", "a minute", "2026-12-03", "03:30:06", "T25:61:61Z", "+14:00", "-99:99", "Feb 30, 2026"),
        *("31 Dec 9999", "0000-00-00", "3am", "99pm", ",", ";", "=", '"', "r=0", "t=90", ".", "\n", "1" * 25, "٣", "²"),
    ]
)
texts = st.one_of(
    st.text(max_size=40), st.lists(PIECES, max_size=8).map(" ".join), st.lists(PIECES, max_size=6).map("".join)
)
values = st.one_of(
    texts, st.none(), st.booleans(), st.integers(), st.floats(), st.decimals(), st.lists(texts, max_size=2)
)
headers = st.dictionaries(
    st.sampled_from(
        [
            "retry-after",
            "retry-after-ms",
            "ratelimit",
            "ratelimit-reset",
            "x-ratelimit-reset-tokens",
            "x-ratelimit-remaining",
        ]
    ),
    texts,
    max_size=4,
)
names = st.sampled_from(
    ["retry_after", "retry_after_ms", "resets_at", "metadata", "details", "headers", "availability"]
)
errors = st.dictionaries(
    names,
    st.one_of(values, st.dictionaries(names, values, max_size=2), st.lists(st.dictionaries(names, values, max_size=2))),
)
moments = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def assert_in_range(found: float | None) -> None:
    assert found is None or 1 <= found <= DAYS_31


@settings(max_examples=500)
@given(value=values, message=texts, headers=headers, error=errors, at=moments)
def test_it_never_raises_and_never_leaves_its_range(
    value: Any, message: str, headers: dict[str, str], error: dict[str, Any], at: datetime
) -> None:
    assert_in_range(hints.wait(value, at=at))
    assert_in_range(hints.from_words(message, at=at))
    assert_in_range(hints.from_headers(headers, at=at))
    assert_in_range(hints.from_fields(error, at=at))


@given(seconds=st.integers(1, 30 * 86_400), at=moments)
def test_all_spellings_of_one_wait_agree(seconds: int, at: datetime) -> None:
    at = at.replace(microsecond=0)
    then = at + timedelta(seconds=seconds)
    spellings = [
        *(str(seconds), f"{seconds}s", f"{seconds * 1000}ms", f"{seconds // 60}m{seconds % 60}s", f"PT{seconds}S"),
        *(f"{then:%a, %d %b %Y %H:%M:%S} GMT", then.isoformat(), f"{then:%Y-%m-%d %H:%M:%S}"),
        *(str(int(then.timestamp())), str(int(then.timestamp()) * 1000)),
    ]
    assert [hints.wait(spelling, at=at) for spelling in spellings] == [seconds] * len(spellings)
    sentences = [f"Please retry after {seconds} seconds", f"It resets at {then:%Y-%m-%d %H:%M:%S}."]
    assert [hints.from_words(sentence, at=at) for sentence in sentences] == [seconds] * 2


def test_it_knows_when_windows_end() -> None:
    assert hints.next_reset("daily", at=NOW) == datetime(2026, 11, 24, tzinfo=UTC)
    assert hints.next_reset("weekly", at=NOW) == datetime(2026, 11, 30, tzinfo=UTC)
    assert hints.next_reset("monthly", at=NOW) == datetime(2026, 12, 1, tzinfo=UTC)
    assert hints.next_reset("yearly", at=NOW) is None
    assert hints.next_month(datetime(2026, 12, 31, 23, tzinfo=UTC)) == datetime(2027, 1, 1, tzinfo=UTC)
