"""Ten million usage rows and a thousand keys: how long the API takes, by which plans (`python -m tests.bench.volume`).

The rows are made by SQL in a throw-away SQLite database: 90 days, every key on every day, with three models. The
daily totals are their sums.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

DAYS = 90
KEYS = 1_000
MODELS = ("openai/gpt-6.1-terra", "anthropic/claude-sonnet-5.5", "google/gemini-3.8-flash")
REPEATS = 7
_TABLES = ("usagerecord", "dailyusage", "apikey")

_KEYS = """
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {keys} - 1)
INSERT INTO llmkeys_apikey (id, provider, name, description, source, environment_variable, secret, fingerprint,
  masked_secret, secret_missing, enabled, is_default, priority, billing_group, workspace_id, last_error,
  daily_limit_nano, monthly_limit_nano, total_limit_nano, day, month, spent_day_nano, spent_month_nano,
  spent_total_nano, held_nano, refused_window, refused_need_nano, refused_room_nano, total_requests,
  successful_requests, failed_requests, created_at, updated_at)
SELECT printf('key-%013d-%04d', 1795478400000 + i, 1000 + i % 9000),
  CASE i % 4 WHEN 0 THEN 'openrouter' WHEN 1 THEN 'openai' WHEN 2 THEN 'anthropic' ELSE 'google' END,
  'Key ' || i, '', 'database', '', x'00', printf('%064d', i), '***', 0, 1, i = 0, 100, '', '', '',
  10000000000, 100000000000, 1000000000000, '{today}', '{month}', 0, 0, 0, 0, '', 0, 0, 0, 0, 0, '{now}', '{now}'
FROM n"""

# Rows in order of time: the day grows with the number, the key and the model change from row to row.
_ROWS = """
WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last} - 1)
INSERT INTO llmkeys_usagerecord (id, request_id, attempt, created_at, finished_at, key_id, provider, dialect,
  requested_model, model, token_name, state, success, http_status, error, input_tokens, output_tokens, hold_nano,
  cost_nano, cost_source, overrun, streamed, latency_ms, skipped, upstream_id, day, month, lease_owner)
SELECT i + 1, 'req-' || i, 1, d || ' 12:00:00', d || ' 12:00:01',
  printf('key-%013d-%04d', 1795478400000 + k, 1000 + k % 9000),
  CASE k % 4 WHEN 0 THEN 'openrouter' WHEN 1 THEN 'openai' WHEN 2 THEN 'anthropic' ELSE 'google' END,
  'openai_chat', 'auto', CASE m WHEN 0 THEN '{m0}' WHEN 1 THEN '{m1}' ELSE '{m2}' END, 'worker',
  CASE WHEN i % 1000003 = 7 THEN 'LOST' ELSE 'SETTLED' END, i % 50 <> 0,
  CASE WHEN i % 50 = 0 THEN 500 ELSE 200 END, '', 100, 20, 2000000, 1000000, 'provider', 0, 0, 900, '[]', '', d,
  substr(d, 1, 8) || '01', ''
FROM (SELECT i, i % {keys} AS k, (i / {keys}) % 3 AS m,
        date('{today}', '-' || ({days} - 1 - i * {days} / {rows}) || ' days') AS d FROM n)"""

_TOTALS = """
INSERT INTO llmkeys_dailyusage (day, key_id, model, token_name, requests, successful, failed, input_tokens,
  output_tokens, cost_nano)
SELECT day, key_id, model, token_name, COUNT(*), SUM(success), SUM(1 - success), SUM(input_tokens), SUM(output_tokens),
  SUM(cost_nano) FROM llmkeys_usagerecord GROUP BY key_id, day, model, token_name"""

_COUNTERS = """
UPDATE llmkeys_apikey SET (total_requests, successful_requests, failed_requests, spent_total_nano) =
  (SELECT SUM(requests), SUM(successful), SUM(failed), SUM(cost_nano) FROM llmkeys_dailyusage d
    WHERE d.key_id = llmkeys_apikey.id),
  spent_day_nano = (SELECT COALESCE(SUM(cost_nano), 0) FROM llmkeys_dailyusage d
    WHERE d.key_id = llmkeys_apikey.id AND d.day = '{today}'),
  spent_month_nano = (SELECT COALESCE(SUM(cost_nano), 0) FROM llmkeys_dailyusage d
    WHERE d.key_id = llmkeys_apikey.id AND d.day >= '{month}')"""

CHUNK = 500_000


def generate(rows: int) -> None:
    """Fill the empty database of the settings."""
    from django.db import connection

    now = datetime.now(UTC)
    today, month = now.date(), now.date().replace(day=1)
    words = {
        "keys": KEYS, "days": DAYS, "rows": rows, "today": today, "month": month,
        "now": now.replace(tzinfo=None).isoformat(" "), **{f"m{number}": name for number, name in enumerate(MODELS)},
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.execute("PRAGMA foreign_keys=OFF")
        cursor.execute("PRAGMA cache_size=-400000")
        cursor.execute(_KEYS.format(**words))
        for first in range(0, rows, CHUNK):
            cursor.execute(_ROWS.format(**words, first=first, last=min(rows, first + CHUNK)))
            print(f"\r{min(rows, first + CHUNK):,} rows", end="", file=sys.stderr, flush=True)
        cursor.execute(_TOTALS)
        cursor.execute(_COUNTERS.format(**words))
        cursor.execute("PRAGMA optimize")
    connection.close()
    print(file=sys.stderr)


def addresses() -> Iterator[tuple[str, int]]:
    """Yield what is asked, and within how many milliseconds it must be answered."""
    month = datetime.now(UTC).date().replace(day=1)
    week = datetime.now(UTC).date() - timedelta(days=7)
    key = f"key-{1795478400000 + 77:013d}-{1000 + 77:04d}"
    yield "keys/statistics", 50
    for group in ("day", "month", "model", "key", "provider", "token"):
        yield f"usage/summary?group_by={group}", 50
        yield f"usage/summary?group_by={group}&since={month}", 50
    yield f"usage/summary?group_by=day&key={key}", 50
    yield "usage/summary?group_by=day&provider=openai", 50
    yield f"usage/summary?group_by=day&model={MODELS[0]}", 50
    yield "usage/summary?group_by=key&token=worker", 50
    yield "keys", 100
    yield "keys?provider=openai&status=ACTIVE", 100
    for query in (
        "", "key=" + key, "key=key-unknown", "provider=openai", f"model={MODELS[2]}", "model=unknown", "success=false",
        "state=LOST", "state=HELD", "token=worker", "token=unknown", f"since={week}", f"until={month}",
        f"since={week}&until={week}", f"key={key}&success=false",
    ):  # fmt: skip
        yield f"usage?{query}", 100
    yield "events", 100


def measure(client: Any) -> bool:
    """Print median times and the plans; True where all are in time."""
    good = True
    for address, allowed in addresses():
        times, plans = [], []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            answer = client.get(f"/api/llm/{address}")
            times.append((time.perf_counter() - begun) * 1000)
            assert answer.status_code == 200, (address, answer.content)
        with _plans(plans):
            client.get(f"/api/llm/{address}")
        median = statistics.median(times)
        good &= median < allowed
        print(f"{'ok  ' if median < allowed else 'SLOW'} {median:8.1f} ms  {address}")
        for plan in dict.fromkeys(plans):
            print(f"                  {plan}")
    return good


@contextmanager
def _plans(found: list[str]) -> Iterator[None]:
    """Collect the plan of every SELECT on keys, usage rows and daily totals."""
    from django.db import connection

    def explain(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith("SELECT") and any(f'FROM "llmkeys_{table}"' in sql for table in _TABLES):
            raw = context["connection"].connection.cursor()
            raw.execute("EXPLAIN QUERY PLAN " + sql.replace("%s", "?"), params)
            found.extend(row[3] for row in raw.fetchall())
        return execute(sql, params, many, context)

    with connection.execute_wrapper(explain):
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--keep", type=Path, help="directory of the database; used again where it is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmkeys-volume-") as temporary:
        directory = options.keep or Path(temporary)
        os.environ["REFACTAI_DATA_DIR"] = str(directory)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "refactai_site.settings")
        return _run(directory, options.rows)


def _run(directory: Path, rows: int) -> int:
    import django

    there = (directory / "llmkeys.sqlite3").exists()
    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from tests.helpers import JsonClient, make_token, make_user

    settings.ALLOWED_HOSTS = ["testserver"]
    if not there:
        call_command("migrate", verbosity=0)
        begun = time.monotonic()
        generate(rows)
        print(f"{rows:,} rows, {KEYS:,} keys made in {time.monotonic() - begun:.0f} s")
    name = f"bench{time.time_ns()}"
    user = make_user(name, is_superuser=True)
    return 0 if measure(JsonClient(make_token(user, "read"))) else 1


if __name__ == "__main__":
    sys.exit(main())
