"""The demo's three keys, and days of plausible usage, written through the ledger at past times so that it adds up.

Money is in nano-dollars.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from django.conf import settings
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from llmkeys import ledger, providers
from llmkeys.alerts import outbox
from llmkeys.key_state import current_windows
from llmkeys.keys import resets
from llmkeys.keys.adding import add_key
from llmkeys.lib.money import usd_to_nano
from llmkeys.lib.windows import day_start
from llmkeys.models import Alert, ApiKey

PROGRAMS = ("web app", "nightly batch", "notebook")
REQUESTS_A_DAY = 150

# The end of a secret determines how the simulator behaves: the second key is rate-limited at first.
KEYS = (
    ("Production (simulated)", "openrouter", "sk-or-v1-simulated-production-{}-ok", 3, 100),
    ("Backup (simulated)", "openrouter", "sk-or-v1-simulated-backup-{}-429x6", 8, 200),
    ("Reserve (simulated)", "openai", "sk-proj-simulated-reserve-{}-ok", 40, 400),
)


@dataclass(frozen=True, slots=True)
class Habit:
    """How a model is used: its share of the requests, and USD per thousand output tokens."""

    model: str
    share: int
    usd_per_thousand: Decimal


HABITS = (
    Habit("openai/gpt-6.1-sol", 45, Decimal("0.010")),
    Habit("openai/gpt-6.1-terra", 30, Decimal("0.005")),
    Habit("anthropic/claude-sonnet-5.5", 17, Decimal("0.010")),
    Habit("google/gemini-3.8-flash", 8, Decimal("0.00375")),
)


def choose_habit(chance: random.Random) -> Habit:
    return chance.choices(HABITS, [habit.share for habit in HABITS])[0]


def fill(
    *, days: int, at: datetime, seed: int = 1, on_each_day: Callable[[], object] = lambda: None
) -> dict[str, ApiKey]:
    """Store the three keys and `days` days of usage, in one transaction per day; return the keys by name."""
    chance = random.Random(seed)  # noqa: S311  (not for security)
    today = current_windows(at).day
    first = today - timedelta(days=days)
    keys = _add_keys(day_start(first, settings.TIME_ZONE) if days else at, chance)
    for number in range(days):
        with transaction.atomic():
            _one_day(first + timedelta(days=number), list(keys.values()), chance)
        on_each_day()
    if days:
        resets.close_windows(day_start(today, settings.TIME_ZONE))
    _dismiss_alerts()
    return keys


def _add_keys(at: datetime, chance: random.Random) -> dict[str, ApiKey]:
    found = {}
    for name, provider, secret, daily, monthly in KEYS:
        values = {
            "provider": provider,
            "name": name,
            "apiKey": secret.format(f"{chance.getrandbits(64):016x}"),
            "description": "Answered by the simulator: no real provider, no real money.",
            "dailyLimit": daily,
            "monthlyLimit": monthly,
            "totalLimit": 5000,
        }
        found[name] = add_key(values=values, at=at)
    return found


def _dismiss_alerts() -> None:
    """Dismiss the alerts of the past."""
    newest = Alert.objects.order_by("-id").values_list("id", flat=True).first()
    if newest:
        outbox.dismiss_all(Alert.objects.get(pk=newest).created_at, up_to=newest)


def _one_day(day: date, keys: list[ApiKey], chance: random.Random) -> None:
    begin = day_start(day, settings.TIME_ZONE)
    resets.close_windows(begin)
    with connection.cursor() as cursor:
        for number, instant in enumerate(_instants(day, begin, chance)):
            _one_request(cursor, f"req-demo-{day:%Y%m%d}-{number}", instant, keys, chance)


def _instants(day: date, begin: datetime, chance: random.Random) -> Iterator[datetime]:
    """Yield the times of a day's requests, in order: mostly in office hours, fewer on weekends."""
    usual = REQUESTS_A_DAY if day.weekday() < 5 else REQUESTS_A_DAY // 4
    count = int(usual * chance.uniform(0.6, 1.4))
    hours = sorted(min(23.9, max(0.0, chance.gauss(13.5, 3.5))) for _ in range(count))
    return (begin + timedelta(hours=hour) for hour in hours)


def _one_request(
    cursor: CursorWrapper, request_id: str, at: datetime, keys: list[ApiKey], chance: random.Random
) -> None:
    """Hold and settle as the relay does, including failures: the first key with room serves."""
    habit = choose_habit(chance)
    output = int(chance.lognormvariate(8.6, 0.6))
    cost = usd_to_nano(habit.usd_per_thousand * output / 1000)
    names = [(key, providers.get(key.provider).model_name(habit.model)) for key in keys]
    bids = [ledger.Bid(key.id, key.provider, name, cost * 2) for key, name in names if name]
    attempt = ledger.Attempt(
        request_id, 1, at, "openai-chat", habit.model, chance.choice(PROGRAMS), chance.random() < 0.4, "demo"
    )
    placed = ledger.place_hold(cursor, bids, attempt)
    if placed.hold is None:
        return
    ledger.note_serving_keys(cursor, {habit.model: (placed.hold.key_id, at)})
    ledger.finish(cursor, placed.hold.usage_id, _outcome(at, output, cost, chance))


def _outcome(at: datetime, output: int, cost: int, chance: random.Random) -> ledger.Outcome:
    first_byte = int(chance.lognormvariate(6.3, 0.4))
    latency = first_byte + output * 4
    end = at + timedelta(milliseconds=latency)
    if chance.random() < 0.03:
        return ledger.Outcome(
            state="RELEASED", at=end, success=False, http_status=503, error="Provider returned error",
            latency_ms=first_byte,
        )  # fmt: skip
    return ledger.Outcome(
        state="SETTLED", at=end, success=True, cost_nano=cost, cost_source="provider", http_status=200,
        input_tokens=chance.randint(200, 6000), output_tokens=output, latency_ms=latency, first_byte_ms=first_byte,
    )  # fmt: skip
