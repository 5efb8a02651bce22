"""Reads how long to wait, in all known spellings, from headers, error fields and sentences, as seconds from now.

The functions accept any input, never raise, and return 1 second to 31 days, or None if there is no wait. Of several
waits the longest counts: retrying too early would only be refused again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from llmkeys.lib.reading import MOST_TEXT, finite, items, mapping

SHORTEST = timedelta(seconds=1)
LONGEST = timedelta(days=31)
PACIFIC = ZoneInfo("America/Los_Angeles")  # Google's daily quotas start at its midnight

_EPOCH_FROM = 10**9  # larger numbers are timestamps, smaller ones are numbers of seconds
_NUMBER = re.compile(r"\d{1,20}(?:\.\d{1,20})?")

_SECONDS = {"ms": 0.001, "mi": 60, "m": 60, "s": 1, "h": 3600, "d": 86_400, "w": 604_800}
_PIECE = (
    r"(?:\d{1,15}(?:\.\d{1,15})?|\ban?\b|\bone\b)\s?"
    r"(?:milliseconds?|msecs?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d|weeks?|w)(?![A-Za-z])"
)
_DURATION = rf"{_PIECE}(?:(?:,?\s?(?:and\s)?){_PIECE}){{0,6}}"
_PIECES = re.compile(r"(\d+(?:\.\d+)?|\ban?\b|\bone\b)\s?([a-z]+)", re.IGNORECASE)
_WHOLE_DURATION = re.compile(_DURATION, re.IGNORECASE)
_ISO_DURATION = re.compile(r"P(?:(\d{1,9})D)?(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9}(?:\.\d{1,9})?)S)?)?")

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTH = rf"(?P<name>{'|'.join(_MONTHS)})[a-z]*\.?"
_TIME = r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,]\d{1,9})?)?)?(?:\s?(?P<half>[ap])\.?m\b\.?)?"
_ZONE = (
    r"(?:\s?\(?(?P<zone>(?:UTC|GMT)\s?[+-]\d{1,2}(?::?\d\d)?|[+-]\d\d(?::?\d\d)?(?![\d:])|Z\b|UTC\b|GMT\b"
    r"|[PMCE][SD]?T\b)\)?)?"
)
_AT = rf"(?:(?:T|\s|,?\sat\s|,\s?){_TIME}{_ZONE})?"
_DATES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![\w./-])(?P<year>\d{{4}})[-/](?P<month>\d\d)[-/](?P<day>\d\d){_AT}(?![\w/-])",
        rf"\b{_MONTH}\s(?P<day>\d{{1,2}})(?:st|nd|rd|th)?,?\s(?P<year>\d{{4}}){_AT}(?![\w-])",
        rf"\b(?P<day>\d{{1,2}})(?:st|nd|rd|th)?[\s-]{_MONTH}[\s-](?P<year>\d{{4}}|\d\d){_AT}(?![\w-])",
    )
)
_CLOCK = re.compile(rf"{_TIME}{_ZONE}", re.IGNORECASE)
_ZONES = {"p": -8, "m": -7, "c": -6, "e": -5}  # standard time; an hour less behind UTC in summer

# In a sentence a wait counts only after words such as these, because model names and quoted text contain dates too.
_LEAD = (
    r"\b(?:reset(?:s|ting)?|retry[\s_-]?(?:after|delay)|retry(?:ing)?|retries|try(?:ing)?|again|wait(?:ing)?|until|"
    r"resumes?|resumed|regain(?:ed)?|available|renew(?:s|ed)?|refresh(?:es|ed)?|replenish(?:es|ed)?|restored?|lifted|"
    r"recovers?|back|limited|throttled|blocked|banned|locked|paused|suspended|cool(?:ing)?[\s-]?down)"
)
_SAID_DURATION = re.compile(
    rf"{_LEAD}(?![a-z])[^.;!?\n\d]{{0,40}}?(?:\b(?:in|after|for|within|wait)\b|[:=~])?\s*"
    rf"(?:(?:about|around|approximately|another|at least)\s)?(?P<wait>{_DURATION})",
    re.IGNORECASE,
)
_SAID_NUMBER = re.compile(
    rf"{_LEAD}[^.;!?\n\d]{{0,20}}?\b(?P<wait>\d{{1,20}}(?:\.\d{{1,9}})?)(?=\W*$|\W*[.,;)\]}}\"]\s)", re.I
)
_SAID_CLOCK = re.compile(rf"{_LEAD}(?![a-z])[^.!?\n\d]{{0,30}}?\b(?P<clock>{_TIME}{_ZONE})(?!\w)", re.IGNORECASE)
_SAID_MIDNIGHT = re.compile(
    rf"{_LEAD}(?![a-z])[^.!?\n]{{0,40}}?\bmidnight(?P<pacific>[\s(]+(?:US\s)?P(?:acific|[SD]?T\b))?", re.I
)
_LEADS = re.compile(rf"{_LEAD}(?![a-z])", re.IGNORECASE)
_NEAR = 70  # characters between such a word and its date

_ASKED_HEADER = re.compile(r"(?:x-)?(?:ms-)?(?:ratelimit-)?retry-after(-ms)?")
_RESET_HEADER = re.compile(r"(?:\w+-)?rate-?limit-(?:(?P<before>[\w-]+)-)?reset(?:-after)?(?:-(?P<after>[\w-]+))?")
_POLICY = re.compile(r"(?:^|[;,\s])(?:t|reset)\s*=\s*\"?(\d{1,20}(?:\.\d+)?)")
_POLICY_LEFT = re.compile(r"(?:^|[;,\s])(?:r|remaining)\s*=\s*\"?(\d{1,20})")
# Fields of error objects, in lower case without punctuation.
_FIELDS = frozenset(
    [
        *("retryafter", "retryafterseconds", "retryafterms", "retrydelay", "retryin", "retryinseconds"),
        *("resetsat", "resetat", "resettime", "resetsin", "resetsinseconds", "resetin", "resetinseconds"),
        *("resetafter", "resetafterseconds", "quotaresetdelay", "quotaresettimestamp", "resumesat", "availableat"),
    ]
)


def clamp(seconds: float) -> float:
    """Return the seconds limited to 1 second and 31 days, so that a provider's mistake cannot block a key for years."""
    return min(max(seconds, SHORTEST.total_seconds()), LONGEST.total_seconds())


def clamp_until(moment: datetime | None, *, at: datetime) -> datetime | None:
    """Return the time in UTC, limited to 1 second to 31 days after `at`, or None if it has passed."""
    if moment is None or moment <= at:
        return None
    return min(max(moment, at + SHORTEST), at + LONGEST).astimezone(UTC)


def seconds_until(moment: datetime | None, *, at: datetime) -> float | None:
    """Return the seconds from `at` to the given time, clamped, or None if it has passed."""
    return clamp((moment - at).total_seconds()) if moment is not None and moment > at else None


def longest(waits: Iterable[float | None]) -> float | None:
    """Return the longest of the known waits, or None."""
    return max((wait for wait in waits if wait is not None), default=None)


# --- one value -------------------------------------------------------------------------------------------------------


def wait(value: Any, *, at: datetime) -> float | None:
    """Read a value: seconds, a timestamp (in seconds to nanoseconds), a duration, a date, or a list of these.

    Dates and timestamps in the past are ignored.
    """
    if not isinstance(value, str):
        number = finite(value)
        return _of_number(float(number), at=at) if number is not None and 0 <= number < 10**30 else None
    text = value[:MOST_TEXT].strip().strip("\"'")
    moments = [] if _NUMBER.fullmatch(text) else _moments(text)
    if moments:
        return longest(seconds_until(moment, at=at) for moment in moments)
    whole = _of_text(text, at=at)
    return whole if whole is not None else longest(_of_text(piece, at=at) for piece in re.split("[,;]", text))


def duration(value: Any) -> float | None:
    """Return the seconds of `1h16m0.667s`, `8.64s`, `132ms`, `5 minutes` or `PT90S`, without clamping."""
    text = value.strip() if isinstance(value, str) else ""
    if _WHOLE_DURATION.fullmatch(text):
        pieces = [(_amount(number), _unit(unit)) for number, unit in _PIECES.findall(text)]
        falling = all(larger > smaller for (_, larger), (_, smaller) in pairwise(pieces))  # "30s, 90s" is a list
        return sum(amount * unit for amount, unit in pieces) if falling else None
    match = _ISO_DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    days, hours, minutes, seconds = (float(amount or 0) for amount in match.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + seconds


def _of_text(text: str, *, at: datetime) -> float | None:
    text = text.strip()
    return _of_number(float(text), at=at) if _NUMBER.fullmatch(text) else _clamped(duration(text))


def _clamped(seconds: float | None) -> float | None:
    return clamp(seconds) if seconds is not None else None


def _of_number(number: float, *, at: datetime) -> float | None:
    return clamp(number) if number < _EPOCH_FROM else seconds_until(_epoch(number), at=at)


def _epoch(number: float) -> datetime | None:
    """Return the datetime of a timestamp in seconds, milliseconds, microseconds or nanoseconds."""
    while number >= 10**11:
        number /= 1000
    try:
        return datetime.fromtimestamp(number, UTC)
    except (OverflowError, ValueError, OSError):
        return None


def _amount(number: str) -> float:
    return float(number) if number[0].isdigit() else 1.0


def _unit(unit: str) -> float:
    lower = unit.lower()
    return 0.001 if lower.startswith(("ms", "milli")) else _SECONDS[lower[0]]


# --- headers and fields ----------------------------------------------------------------------------------------------


def from_headers(
    headers: Mapping[str, str], *, at: datetime, resets: bool = True, met: Collection[str] = ()
) -> float | None:
    """Read the headers (names in lower case) that ask for a wait, and with `resets` those with the reset of limits.

    A limit with something left was not reached; if nothing else is known, those in `met` (`tokens`, …) count.
    """
    asked = longest(_asked(headers, at=at))
    if not resets:
        return asked
    found = list(_resets(headers, at=at))
    sure = [seconds for kind, seconds, left in found if left == "0" or (not kind and left is None)]
    if asked is not None:
        return longest([asked, *sure])
    named = [seconds for kind, seconds, _ in found if kind in met]
    return longest(named or sure or [seconds for _, seconds, _ in found])


def from_fields(error: Mapping[str, Any], *, at: datetime) -> float | None:
    """Read the fields of an error object, of its details and metadata, and of headers it contains."""
    metadata = mapping(error.get("metadata"))
    details = error.get("details")
    objects = [error, metadata, mapping(error.get("availability")), mapping(details), *items(details)]
    objects += [mapping(detail.get("metadata")) for detail in items(details)]
    inner = {str(name).lower(): str(value) for name, value in mapping(metadata.get("headers")).items()}
    return longest([from_headers(inner, at=at), *(_field(found, at=at) for found in objects)])


def _field(found: Mapping[str, Any], *, at: datetime) -> float | None:
    waits = []
    for name, value in found.items():
        plain = re.sub(r"[\s_-]", "", str(name)[:40]).lower()
        if plain in _FIELDS:
            waits.append(_milliseconds(value) if plain.endswith("ms") else wait(value, at=at))
    return longest(waits)


def _asked(headers: Mapping[str, str], *, at: datetime) -> Iterator[float | None]:
    exact = longest(_milliseconds(value) for name, value in headers.items() if _is_asked(name, in_milliseconds=True))
    yield exact
    for name, value in headers.items():
        if _is_asked(name, in_milliseconds=False):
            seconds = wait(value, at=at)
            if seconds is None and _moments(value):
                seconds = clamp(0)  # the time to retry has just passed
            # The same wait is often sent twice, in milliseconds and rounded up to seconds.
            yield None if exact is not None and seconds is not None and 0 <= seconds - exact < 1 else seconds


def _is_asked(name: str, *, in_milliseconds: bool) -> bool:
    match = _ASKED_HEADER.fullmatch(name)
    return match is not None and bool(match[1]) is in_milliseconds


def _milliseconds(value: Any) -> float | None:
    number = float(value) if isinstance(value, str) and _NUMBER.fullmatch(value.strip()) else finite(value)
    return clamp(float(number) / 1000) if number is not None and 0 <= number < 10**30 else None


def _resets(headers: Mapping[str, str], *, at: datetime) -> Iterator[tuple[str, float, str | None]]:
    """Yield the kind of each limit ("" for a server's only limit), the seconds until its reset, and what is left."""
    for name, value in headers.items():
        if name in {"ratelimit", "x-ratelimit"}:
            yield from _policies(value)
            continue
        match = _RESET_HEADER.fullmatch(name)
        seconds = wait(value, at=at) if match else None
        if match is None or seconds is None:
            continue
        left = headers.get(name.replace("reset-after", "reset").replace("reset", "remaining"))
        yield match["before"] or match["after"] or "", seconds, left.strip() if left is not None else None


def _policies(value: str) -> Iterator[tuple[str, float, str | None]]:
    """Read `RateLimit: "default";r=0;t=90, …` and the older `limit=100, remaining=0, reset=90`."""
    for policy in value[:MOST_TEXT].split(",") if ";" in value else [value[:MOST_TEXT]]:
        seconds, left = _POLICY.search(policy), _POLICY_LEFT.search(policy)
        if seconds:
            yield "", clamp(float(seconds[1])), left[1] if left else None


# --- sentences -------------------------------------------------------------------------------------------------------


def from_words(message: str, *, at: datetime) -> float | None:
    """Read a sentence: "reset at 2026-12-03 03:30:06" (UTC if no zone is named), "try again in 1h16m0.667s"."""
    text = message[:MOST_TEXT]
    waits = [_clamped(duration(match["wait"])) for match in _SAID_DURATION.finditer(text)]
    waits += [_of_number(float(match["wait"]), at=at) for match in _SAID_NUMBER.finditer(text)]
    waits += [seconds_until(moment, at=at) for moment in _dates_after_a_lead(text)]
    waits += [
        seconds_until(next_midnight(at, PACIFIC if match["pacific"] else None), at=at)
        for match in _SAID_MIDNIGHT.finditer(text)
    ]
    found = longest(waits)
    return (
        found if found is not None else longest(_next_clock(match["clock"], at) for match in _SAID_CLOCK.finditer(text))
    )


def _dates_after_a_lead(text: str) -> Iterator[datetime]:
    for pattern in _DATES:
        for match in pattern.finditer(text):
            before = re.split(r"[.!?]\s|\n", text[max(0, match.start() - _NEAR) : match.start()])[-1]
            moment = _moment(match) if _LEADS.search(before) else None
            if moment is not None:
                yield moment


def _moments(text: str) -> list[datetime]:
    """Return the times of all dates in a text, or of the obsolete form of an HTTP date that ends with the year."""
    found = [_moment(match) for pattern in _DATES for match in pattern.finditer(text)]
    return [moment for moment in found if moment is not None] or _asctime(text)


def _moment(match: re.Match[str]) -> datetime | None:
    """Return the time of a matched date, or None if there is no such day or time."""
    found = match.groupdict()
    month = _MONTHS.index(found["name"].lower()) + 1 if found.get("name") else int(found["month"])
    year = int(found["year"]) + (2000 if len(found["year"]) == 2 else 0)
    if not 2000 <= year <= 2200:  # distant years are mistakes, and arithmetic on them overflows
        return None
    clock = _clock_time(match)
    try:
        naive = datetime(year, month, int(found["day"]), *(clock or (0, 0, 0)))
    except ValueError:
        return None
    return (naive - _offset(found["zone"], naive)).replace(tzinfo=UTC)


def _clock_time(match: re.Match[str]) -> tuple[int, int, int] | None:
    if match["hour"] is None:
        return None
    hour = int(match["hour"])
    if match["half"]:
        hour = hour % 12 + (12 if match["half"].lower() == "p" else 0)
    return hour, int(match["minute"] or 0), int(match["second"] or 0)


def _offset(zone: str | None, naive: datetime) -> timedelta:
    sign = re.search(r"([+-])(\d{1,2}):?(\d\d)?", zone or "")
    if sign:
        ahead = timedelta(hours=min(int(sign[2]), 14), minutes=int(sign[3] or 0))
        return ahead if sign[1] == "+" else -ahead
    word = (zone or "").lower()
    if not word or word in {"z", "utc", "gmt"}:
        return timedelta()
    if len(word) == 2:  # "PT": the offset in force there on that day
        return naive.replace(tzinfo=PACIFIC).utcoffset() or timedelta() if word == "pt" else _standard(word)
    return _standard(word) + timedelta(hours=word[1] == "d")


def _standard(word: str) -> timedelta:
    return timedelta(hours=_ZONES[word[0]])


def _next_clock(text: str, at: datetime) -> float | None:
    """Return the seconds to the next time of day such as `3pm` or `14:30 UTC`."""
    match = _CLOCK.fullmatch(text)
    clock = _clock_time(match) if match and (match["minute"] or match["half"]) else None
    if match is None or clock is None or clock[0] > 23 or clock[1] > 59 or clock[2] > 59:
        return None
    today = datetime.combine(at.astimezone(UTC).date(), time(*clock))
    moment = (today - _offset(match["zone"], today)).replace(tzinfo=UTC)
    while moment <= at:
        moment += timedelta(days=1)
    return seconds_until(moment if moment - at <= timedelta(days=1) else moment - timedelta(days=1), at=at)


def _asctime(text: str) -> list[datetime]:
    """Read `Mon Nov 23 20:31:30 2026`, which is in UTC (RFC 9110, 5.6.7)."""
    try:
        moment = datetime.strptime(text.strip(), "%a %b %d %H:%M:%S %Y").replace(tzinfo=UTC)
    except ValueError:
        return []
    return [moment] if 2000 <= moment.year <= 2200 else []


# --- the providers' own windows --------------------------------------------------------------------------------------


def next_midnight(at: datetime, zone: ZoneInfo | None = None) -> datetime:
    """Return the next midnight in `zone` (default UTC)."""
    return _midnight(at, days=1, zone=zone)


def next_monday(at: datetime) -> datetime:
    """Return the next Monday 00:00 UTC."""
    return _midnight(at, days=7 - at.astimezone(UTC).weekday())


def next_month(at: datetime) -> datetime:
    """Return the first of the next month, 00:00 UTC."""
    today = at.astimezone(UTC).date()
    first = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return datetime.combine(first, time(), UTC)


def next_reset(interval: str, *, at: datetime) -> datetime | None:
    """Return when a daily, weekly or monthly limit resets (UTC), or None for any other interval."""
    resets = {"daily": next_midnight, "weekly": next_monday, "monthly": next_month}
    return resets[interval](at) if interval in resets else None


def _midnight(at: datetime, *, days: int, zone: ZoneInfo | None = None) -> datetime:
    day = at.astimezone(zone or UTC).date() + timedelta(days=days)
    return datetime.combine(day, time(), zone or UTC).astimezone(UTC)
