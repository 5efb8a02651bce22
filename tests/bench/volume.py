"""Ten million usage rows, a thousand keys and tokens: how long pages and API take (`python -m tests.bench.volume`).

Each address is measured beside itself: with few rows and as many keys in one process and with all rows in another, in
turns, once the sums of past days are stored. None may take 50 ms longer. What counts is the best of a few tries, in the
processor time of one process, for the machine may have other work as well.

The rows are made by SQL in a throw-away SQLite database: 90 days, every key on every day, with three models; each key
serves one of twenty programs, each with its token; the other tokens rest. The daily totals are their sums, and go back
a year, for they outlive the rows.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

DAYS = 90
OLDER_DAYS = 275  # of which there are daily totals alone
TOKENS = 20  # that are used
ALL_TOKENS = 1_000
OPEN_HOLDS = 40
KEYS = 1_000
MODELS = ("openai/gpt-6.1-terra", "anthropic/claude-sonnet-5.5", "google/gemini-3.8-flash")
REPEATS = 3
TURNS = 6
FEW_ROWS = 10_000
MOST_LONGER_MS = 50.0
_TABLES = ("usagerecord", "dailyusage", "daytotal", "runningtotal", "apikey", "accesstoken")

_KEYS = """
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {keys} - 1)
INSERT INTO llmkeys_apikey (id, provider, name, description, source, environment_variable, secret, fingerprint,
  masked_secret, secret_missing, enabled, is_default, priority, billing_group, workspace_id, last_error,
  daily_limit_nano, monthly_limit_nano, total_limit_nano, day, month, spent_day_nano, spent_month_nano,
  spent_total_nano, held_nano, refused_window, refused_need_nano, refused_room_nano, total_requests,
  successful_requests, failed_requests, created_at, updated_at, last_test)
SELECT printf('key-%013d-%04d', 1795478400000 + i, 1000 + i % 9000),
  CASE i % 4 WHEN 0 THEN 'openrouter' WHEN 1 THEN 'openai' WHEN 2 THEN 'anthropic' ELSE 'google' END,
  'Key ' || i, '', 'database', '', x'00', printf('%064d', i), '***', 0, 1, i = 0, 100, '', '', '',
  10000000000, 100000000000, 1000000000000, '{today}', '{month}', 0, 0, 0, 0, '', 0, 0, 0, 0, 0, '{now}', '{now}',
  '{{}}'
FROM n"""

# Rows in order of time: the day grows with the number, the key and the model change from row to row.
_ROWS = """
WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last} - 1)
INSERT INTO llmkeys_usagerecord (id, request_id, attempt, created_at, finished_at, key_id, provider, dialect,
  requested_model, model, token_name, token_id, state, success, http_status, error, input_tokens, output_tokens,
  hold_nano,
  cost_nano, cost_source, overrun, streamed, latency_ms, skipped, upstream_id, day, month, lease_owner)
SELECT i + 1, 'req-' || i, 1, d || ' ' || t, d || ' ' || t,
  printf('key-%013d-%04d', 1795478400000 + k, 1000 + k % 9000),
  CASE k % 4 WHEN 0 THEN 'openrouter' WHEN 1 THEN 'openai' WHEN 2 THEN 'anthropic' ELSE 'google' END,
  'openai_chat', 'auto', CASE m WHEN 0 THEN '{m0}' WHEN 1 THEN '{m1}' ELSE '{m2}' END, 'worker-' || (k % {tokens}),
  1 + k % {tokens}, CASE WHEN i % 1000003 = 7 THEN 'LOST' ELSE 'SETTLED' END, i % 50 <> 0,
  CASE WHEN i % 50 = 0 THEN 500 ELSE 200 END, '', 100, 20, 2000000, 1000000,
  CASE WHEN i % 1000003 = 7 OR i % 100 = 3 THEN 'estimated' ELSE 'provider' END, 0, 0, 900, '[]', '', d,
  substr(d, 1, 8) || '01', ''
FROM (SELECT i, i % {keys} AS k, (i / {keys}) % 3 AS m,
        date('{today}', '-' || ({days} - 1 - i * {days} / {rows}) || ' days') AS d,
        time((i * {days} % {rows}) * 86400 / {rows}, 'unixepoch') AS t FROM n)"""

_TOTALS = """
INSERT INTO llmkeys_dailyusage (day, key_id, model, token_name, token_id, requests, successful, failed, input_tokens,
  output_tokens, cost_nano, estimated_nano, lost_nano)
SELECT day, key_id, model, token_name, token_id, COUNT(*), SUM(success), SUM(1 - success), SUM(input_tokens),
  SUM(output_tokens), SUM(cost_nano),
  SUM(CASE WHEN state <> 'LOST' AND cost_source = 'estimated' THEN cost_nano ELSE 0 END),
  SUM(CASE WHEN state = 'LOST' THEN cost_nano ELSE 0 END)
FROM llmkeys_usagerecord GROUP BY day, key_id, model, token_name, token_id"""

_OLDER_TOTALS = """
WITH RECURSIVE n(i) AS (SELECT {older} UNION ALL SELECT i - 1 FROM n WHERE i > 1)
INSERT INTO llmkeys_dailyusage (day, key_id, model, token_name, token_id, requests, successful, failed, input_tokens,
  output_tokens, cost_nano, estimated_nano, lost_nano)
SELECT date('{today}', '-' || ({days} - 1 + i) || ' days'), key_id, model, token_name, token_id, requests, successful,
  failed, input_tokens, output_tokens, cost_nano, estimated_nano, lost_nano
FROM n CROSS JOIN (SELECT * FROM llmkeys_dailyusage WHERE day = date('{today}', '-40 days')) ORDER BY i DESC"""

_OPEN_HOLDS = """
INSERT INTO llmkeys_usagerecord (request_id, attempt, created_at, key_id, provider, dialect, requested_model, model,
  token_name, token_id, state, error, hold_nano, cost_nano, cost_source, overrun, streamed, skipped, upstream_id, day,
  month, lease_owner, lease_until)
SELECT 'held-' || id, 1, '{now}', key_id, provider, dialect, requested_model, model, token_name, token_id, 'HELD', '',
  2000000,
  0,
  '', 0, 0, '[]', '', '{today}', '{month}', 'bench', '2100-01-01 00:00:00'
FROM llmkeys_usagerecord WHERE id > {rows} - {holds}"""

_COUNTERS = """
UPDATE {table} SET (total_requests, successful_requests, failed_requests, spent_total_nano) =
  (SELECT COALESCE(SUM(requests), 0), COALESCE(SUM(successful), 0), COALESCE(SUM(failed), 0),
    COALESCE(SUM(cost_nano), 0) FROM llmkeys_dailyusage d
    WHERE d.{column} = {table}.id),
  spent_day_nano = (SELECT COALESCE(SUM(cost_nano), 0) FROM llmkeys_dailyusage d
    WHERE d.{column} = {table}.id AND d.day = '{today}'),
  spent_month_nano = (SELECT COALESCE(SUM(cost_nano), 0) FROM llmkeys_dailyusage d
    WHERE d.{column} = {table}.id AND d.day >= '{month}')"""

CHUNK = 500_000


def generate(rows: int) -> None:
    """Fill the empty database of the settings."""
    from django.db import connection

    now = datetime.now(UTC)
    today, month = now.date(), now.date().replace(day=1)
    words = {
        "keys": KEYS, "days": DAYS, "older": OLDER_DAYS, "tokens": TOKENS, "holds": OPEN_HOLDS, "rows": rows,
        "today": today, "month": month, "now": now.replace(tzinfo=None).isoformat(" "),
        **{f"m{number}": name for number, name in enumerate(MODELS)},
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous=OFF")
        cursor.execute("PRAGMA foreign_keys=OFF")
        cursor.execute("PRAGMA cache_size=-400000")
        cursor.execute(_KEYS.format(**words))
        _make_tokens(today)
        for first in range(0, rows, CHUNK):
            cursor.execute(_ROWS.format(**words, first=first, last=min(rows, first + CHUNK)))
            print(f"\r{min(rows, first + CHUNK):,} rows", end="", file=sys.stderr, flush=True)
        cursor.execute(_TOTALS)
        cursor.execute(_OLDER_TOTALS.format(**words))
        for table, column in (("llmkeys_apikey", "key_id"), ("llmkeys_accesstoken", "token_id")):
            cursor.execute(_COUNTERS.format(**words, table=table, column=column))
        cursor.execute(_OPEN_HOLDS.format(**words))
    connection.close()
    print(file=sys.stderr)


def _make_tokens(today: date) -> None:
    from llmkeys.lib.money import NANO
    from llmkeys.models import AccessToken
    from tests.helpers import make_user

    owner = make_user("owner")
    AccessToken.objects.bulk_create(
        AccessToken(
            pk=number + 1, name=f"worker-{number}", digest=f"{number:064}", user=owner, daily_limit_nano=10**6 * NANO,
            day=today, month=today.replace(day=1), held_nano=int(number == 7),
        )
        for number in range(ALL_TOKENS)
    )  # fmt: skip


def addresses() -> Iterator[str]:
    yield from (f"/llm-settings{page}" for page in _pages())
    yield "/llm-settings/health"
    yield "/api/llm/keys/statistics"
    yield from (f"/api/llm/usage/summary?{query}" for query in _summaries())
    yield "/api/llm/keys"
    yield "/api/llm/keys?provider=openai&status=LIMIT_REACHED"
    yield from (f"/api/llm/usage?{query}" for query in _lists())
    yield "/api/llm/events"


def _pages() -> Iterator[str]:
    yield from (
        "",
        "?by=model",
        "/live",
        f"/keys/{_KEY}",
        "/playground",
        "/tokens",
        "/tokens?q=worker-77",
        "/tokens?page=30",
    )
    yield from (f"/tokens/8{more}" for more in ("", "/live", "/statement", f"/statement?month={_last_month():%Y-%m}"))
    filters = (
        "",
        f"&key={_KEY}",
        "&provider=openai",
        f"&model={MODELS[0]}",
        "&token=worker-7",
        "&token=8",
        "&success=false",
        "&cost=lost",
    )
    for days in (7, 30, 90):
        for stack in ("model", "key", "provider", "token"):
            yield from (f"/usage?range={days}&by={stack}{wanted}" for wanted in filters)


def _days_ago(days: int) -> date:
    return datetime.now(UTC).date() - timedelta(days=days)


def _last_month() -> date:
    return _days_ago(0).replace(day=1) - timedelta(days=1)


_KEY = f"key-{1795478400000 + 77:013d}-{1000 + 77:04d}"
_DIMENSIONS = (
    "", f"&key={_KEY}", "&provider=openai", f"&model={MODELS[0]}", "&token=worker-7", "&model=unknown",
    "&token=unknown", "&token=8", f"&provider=openai&model={MODELS[0]}&token=worker-9",
)  # fmt: skip


def _summaries() -> Iterator[str]:
    spans = (
        "", f"&since={_days_ago(29)}", f"&since={_days_ago(89)}", f"&until={_days_ago(33)}",
        f"&since={_days_ago(203)}&until={_days_ago(78)}", f"&since={_days_ago(0)}",
    )  # fmt: skip
    for group in ("day", "month", "model", "key", "provider", "token", "user"):
        yield from (f"group_by={group}{filters}{span}" for filters in _DIMENSIONS for span in spans)


def _lists() -> Iterator[str]:
    outcomes = (
        "",
        "&success=true",
        "&success=false",
        *(f"&state={s}" for s in ("HELD", "SETTLED", "RELEASED", "LOST")),
        *(f"&cost={known}" for known in ("known", "estimated", "lost")),
    )
    spans = ("", f"&since={_days_ago(7)}", f"&until={_days_ago(24)}", f"&since={_days_ago(50)}&until={_days_ago(50)}")
    for filters in (*_DIMENSIONS, "&key=key-unknown", "&provider=google&token=worker-4", f"&key={_KEY}&token=worker-4"):
        yield from (f"{filters}{outcome}{span}"[1:] for outcome in outcomes for span in spans)
    yield f"since={_days_ago(-3)}"
    yield f"until={_days_ago(400)}"
    yield f"since={_days_ago(0)}&until={_days_ago(0)}&token=unknown"


class FewRows:
    """A process that measures each address with few rows, when it is asked to."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", __spec__.name, "--few"]
        environment = {name: value for name, value in os.environ.items() if name != "REFACTAI_DATA_DIR"}
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def best(self, address: str) -> float:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(address + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.communicate()


def measure(client: Any, few: FewRows, *, only: str, verbose: bool) -> bool:
    """Print the times and the plans; True where none is more than 50 ms above that with few rows.

    Plans are shown once for each set of them, unless `verbose`.
    """
    good, seen = True, set()
    for address in addresses():
        if only not in address:
            continue
        best = beside = float("inf")
        for _ in range(TURNS):  # both once more where it was too slow: the processor's speed changes as well
            beside, best = min(beside, few.best(address)), min(best, _best(client, address))
            late = best > beside + MOST_LONGER_MS
            if not late:
                break
        with _plans(plans := []):
            client.get(address)
        scan = any(plan.startswith("SCAN llmkeys_usagerecord") and "USING" not in plan for plan in plans)
        # Newest first by number is a scan that ends with the page: slow only where few rows fit, and then it shows.
        good &= not late
        times = f"{best:8.1f} ms, with few rows {beside:8.1f} ms"
        print(f"{'SLOW' if late else 'ok  '} {times}  {address}{'  (by number)' if scan else ''}", flush=True)
        shown = tuple(dict.fromkeys(plans))
        if verbose or shown not in seen:
            print("".join(f"                  {plan}\n" for plan in shown), end="")
        seen.add(shown)
    return good


def _close_days(client: Any) -> None:
    """Ask for a page until it has closed every day: a few with each request, which is over within a minute of use."""
    from django.db import connection

    written: list[str] = []

    def watch(execute: Any, sql: str, *others: Any) -> Any:
        if sql.startswith(("INSERT INTO llmkeys_daytotal", "INSERT INTO llmkeys_runningtotal")):
            written.append(sql)
        return execute(sql, *others)

    with connection.execute_wrapper(watch):
        while True:
            written.clear()
            for address in ("/llm-settings", "/llm-settings/usage?range=90&by=key"):
                client.get(address)
            if not written:
                return


def _best(client: Any, address: str) -> float:
    times = []
    client.get(address)  # templates are read once in a process
    for _ in range(REPEATS):
        gc.collect()  # what other requests left behind is not counted
        begun = time.process_time()
        answer = client.get(address)
        times.append((time.process_time() - begun) * 1000)
        assert answer.status_code == 200, (address, answer.content)
    return min(times)


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
    parser.add_argument("--verbose", action="store_true", help="every query plan")
    parser.add_argument("--few", action="store_true", help="measure, with few rows, the addresses read from stdin")
    parser.add_argument("--only", default="", help="addresses that contain this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmkeys-volume-") as temporary:
        directory = options.keep or Path(temporary)
        os.environ["REFACTAI_DATA_DIR"] = str(directory)
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "refactai_site.settings")
        if options.few:
            return _run(directory, FEW_ROWS, None)
        return _run(directory, options.rows, FewRows(), only=options.only, verbose=options.verbose)


def _run(directory: Path, rows: int, few: FewRows | None, *, only: str = "", verbose: bool = False) -> int:
    import django

    there = (directory / "llmkeys.sqlite3").exists()
    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from tests.helpers import JsonClient, make_token, make_user

    settings.ALLOWED_HOSTS = ["testserver"]
    call_command("migrate", verbosity=0)
    if not there:
        begun = time.monotonic()
        generate(rows)
        print(f"{rows:,} rows, {KEYS:,} keys made in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    name = f"bench{time.time_ns()}"
    user = make_user(name, is_superuser=True)
    client = JsonClient(make_token(user, "read"))
    client.force_login(user)
    _close_days(client)
    if few is None:
        for address in sys.stdin:
            print(_best(client, address.strip()), flush=True)
        return 0
    try:
        return 0 if measure(client, few, only=only, verbose=verbose) else 1
    finally:
        few.stop()


if __name__ == "__main__":
    sys.exit(main())
