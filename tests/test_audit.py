"""The books: counters are what rows and adjustments add up to, whatever happens; a tampered figure is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection, transaction
from django.db.models import Sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkeys import ledger
from llmkeys.key_state import current_windows
from llmkeys.keys import resets
from llmkeys.ledger import KEYS, Account, Attempt, Bid, Outcome, audit
from llmkeys.models import Adjustment, Alert, ApiKey, DailyUsage, KeyEvent, SealedDay, UsageRecord
from llmkeys.usage import pruning
from llmkeys.usage.sums import Sums, Wanted, daily_sums
from tests.serving import ROOT, START_SECONDS, environment

pytestmark = pytest.mark.django_db(transaction=True)  # the audit's own connection sees only what is committed

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DOLLAR = 10**9


def make_key(name: str = "Production", **fields) -> ApiKey:
    windows = current_windows(NOON)
    fields = {"provider": "openrouter", "day": windows.day, "month": windows.month} | fields
    return ApiKey.objects.create(name=name, **fields)


class Books:
    """The ledger's verbs at a clock that the test moves."""

    def __init__(self, keys: list[ApiKey]):
        self.keys, self.at, self.number = keys, NOON, 0
        self.rows: list[int] = []

    def hold(self, nano: int, key: int = 0) -> None:
        self.number += 1
        attempt = Attempt(f"req-{self.number}", 1, self.at, "openai-chat", "m", f"t{self.number % 2}", False, "me")
        chosen = self.keys[key % len(self.keys)]
        bid = Bid(chosen.id, chosen.provider, f"model-{self.number % 3}", nano)
        with transaction.atomic(), connection.cursor() as cursor:
            placed = ledger.place_hold(cursor, [bid], attempt)
        if placed.hold is not None:
            self.rows.append(placed.hold.usage_id)

    def end(
        self,
        row: int,
        state: str,
        nano: int = 0,
        source: str = "computed",
        *,
        sent: bool = True,
        success: bool | None = True,
    ) -> None:
        if not self.rows:
            return
        outcome = Outcome(
            state=state, at=self.at, success=success, sent=sent, cost_nano=nano, http_status=200 if sent else None,
            cost_source="estimated" if state == "LOST" else source, input_tokens=3, output_tokens=None,
        )  # fmt: skip
        with transaction.atomic(), connection.cursor() as cursor:
            ledger.finish(cursor, self.rows[row % len(self.rows)], outcome)

    def void(self, row: int) -> None:
        if self.rows:
            with transaction.atomic(), connection.cursor() as cursor:
                ledger.void_lost(cursor, self.rows[row % len(self.rows)], self.at, by="anna", reason="not on the bill")

    def tell_true_cost(self, row: int, nano: int) -> None:
        if self.rows:
            with transaction.atomic(), connection.cursor() as cursor:
                ledger.correct_cost(cursor, self.rows[row % len(self.rows)], nano, self.at, reason="the bill says so")

    def lose_dead_leases(self) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            for dead in ledger.dead_rows(cursor, self.at):
                ledger.lose(cursor, dead, self.at)

    def reset(self, key: int, daily: bool, monthly: bool, total: bool) -> None:
        chosen = [self.keys[key % len(self.keys)]]
        resets.reset_costs(chosen, daily=daily, monthly=monthly, total=total, at=self.at, actor="anna")

    def move_clock(self, hours: int) -> None:
        self.at += timedelta(hours=hours)

    def roll(self) -> None:
        resets.close_windows(self.at)

    def prune(self) -> None:
        """Prune as if half a year had passed: whatever comes after it falls on days that are sealed."""
        assert pruning.prune_usage(self.at + timedelta(days=180)).refused == []


@pytest.fixture
def books() -> Books:
    """A day with one row of each state, on one of two keys."""
    books = Books([make_key(), make_key("Spare")])
    for _ in range(4):
        books.hold(DOLLAR)
    books.end(0, "SETTLED", DOLLAR // 4)
    books.end(1, "RELEASED", sent=True, success=False)
    books.end(2, "LOST", DOLLAR, success=False)
    return books


row = st.integers(0, 30)
nano = st.integers(0, 3 * DOLLAR)
source = st.sampled_from(["provider", "computed", "estimated", "fallback"])
operations = st.one_of(
    st.tuples(st.just("hold"), nano, st.integers(0, 1)),
    st.tuples(st.just("end"), row, st.just("SETTLED"), nano, source),
    st.tuples(st.just("end"), row, st.just("LOST"), nano),
    st.tuples(st.just("release"), row, st.booleans(), st.sampled_from([None, False])),
    st.tuples(st.just("void"), row),
    st.tuples(st.just("tell_true_cost"), row, nano),
    st.tuples(st.just("lose_dead_leases")),
    st.tuples(st.just("reset"), st.integers(0, 1), st.booleans(), st.booleans(), st.booleans()),
    st.tuples(st.just("move_clock"), st.sampled_from([1, 7, 13, 24, 24 * 9, -1, -13])),
    st.tuples(st.just("roll")),
    st.tuples(st.just("prune")),
)
wild_clock = st.tuples(st.just("move_clock"), st.sampled_from([24 * 3, -24 * 3, 24 * 40, -24 * 40]))


def wipe() -> None:
    for model in (Adjustment, Alert, KeyEvent, DailyUsage, UsageRecord, SealedDay, ApiKey):
        model.objects.all().delete()


def play(sequence: list[tuple]) -> None:
    wipe()
    books = Books([make_key("Small", daily_limit_nano=5 * DOLLAR), make_key("Open")])
    for verb, *arguments in sequence:
        if verb == "release":
            which, sent, success = arguments
            books.end(which, "RELEASED", sent=sent, success=success)
        elif verb == "end" and arguments[1] == "LOST":
            books.end(*arguments, success=False)
        else:
            getattr(books, verb)(*arguments)
        assert audit.audit().differences == [], verb


class TestWhateverHappens:
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(operations, min_size=8, max_size=25))
    def test_it_adds_up(self, sequence):
        play(sequence)

    @settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.one_of(operations, wild_clock), min_size=8, max_size=25))
    def test_it_adds_up_under_a_clock_that_ran_far_ahead(self, sequence):
        play(sequence)

    @pytest.mark.parametrize("opened_by", [("hold", DOLLAR, 1), ("roll",), ("reset", 1, True, False, False)])
    def test_it_remembers_the_costs_of_a_day_that_a_wrong_clock_opened_early(self, opened_by):
        spent_early = [("move_clock", 72), ("hold", DOLLAR, 1), ("end", 0, "SETTLED", DOLLAR)]
        play([*spent_early, ("move_clock", -72), ("hold", DOLLAR, 1), ("move_clock", 72), opened_by])
        expected = 0 if opened_by[0] == "reset" else DOLLAR
        assert ApiKey.objects.get(name="Open").spent_day_nano == expected

    def test_it_adds_up_for_a_late_settle_and_a_void(self, books):
        books.end(2, "SETTLED", DOLLAR // 10)  # lost before: late
        books.end(3, "LOST", DOLLAR, success=False)
        books.void(3)
        report = audit.audit()
        assert report.differences == []
        assert (report.keys, report.rows) == (2, 4)
        assert sorted(Adjustment.objects.values_list("kind", flat=True)) == ["late", "void"]

    def test_it_charges_the_true_cost_of_a_row_that_was_voided_before(self, books):
        books.void(2)
        books.end(2, "SETTLED", DOLLAR // 10)
        assert ApiKey.objects.get(name="Production").spent_total_nano == DOLLAR // 4 + DOLLAR // 10
        assert audit.audit().differences == []


CORRUPTIONS = {
    "daily cost": "UPDATE llmkeys_apikey SET spent_day_nano = spent_day_nano + 1 WHERE name = 'Production'",
    "monthly cost": "UPDATE llmkeys_apikey SET spent_month_nano = spent_month_nano - 7 WHERE name = 'Production'",
    "total cost": "UPDATE llmkeys_apikey SET spent_total_nano = 0 WHERE name = 'Production'",
    "held amount": "UPDATE llmkeys_apikey SET held_nano = 0 WHERE name = 'Production'",
    "total requests": "UPDATE llmkeys_apikey SET total_requests = 99 WHERE name = 'Production'",
    "successful requests": "UPDATE llmkeys_apikey SET successful_requests = 0 WHERE name = 'Production'",
    "failed requests": "UPDATE llmkeys_apikey SET failed_requests = 1 WHERE name = 'Production'",
    "daily usage": "UPDATE llmkeys_dailyusage SET cost_nano = cost_nano + 5 WHERE model = 'model-1'",
    "estimated part of the daily usage": "UPDATE llmkeys_dailyusage SET estimated_nano = 5 WHERE model = 'model-1'",
    "lost part of the daily usage": "UPDATE llmkeys_dailyusage SET lost_nano = 0 WHERE model = 'model-0'",
}


def run_sql(text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(text)
        assert cursor.rowcount > 0


def run_audit(*arguments: str) -> tuple[int, str, str]:
    """Return exit code, stdout and the sentence."""
    out = StringIO()
    try:
        call_command("audit", *arguments, stdout=out)
    except CommandError as error:
        return error.returncode, out.getvalue(), str(error)
    return 0, out.getvalue(), ""


class TestHowCostsAreKnown:
    """Of 1.25 USD one dollar is lost; what of each day's cost nobody reported or computed is told apart."""

    def parts(self) -> tuple[int, int, int]:
        sums = DailyUsage.objects.aggregate(Sum("cost_nano"), Sum("estimated_nano"), Sum("lost_nano"))
        assert audit.audit().differences == []
        return tuple(int(value) for value in sums.values())

    def test_it_tells_apart_what_is_lost_and_what_is_estimated(self, books):
        books.end(3, "SETTLED", 7, "estimated")
        assert self.parts() == (DOLLAR * 5 // 4 + 7, 7, DOLLAR)
        books.hold(DOLLAR)
        books.end(4, "SETTLED", 5, "fallback")
        assert self.parts() == (DOLLAR * 5 // 4 + 12, 12, DOLLAR)

    def test_what_was_taken_back_is_not_lost_any_more(self, books):
        books.void(2)
        assert self.parts() == (DOLLAR // 4, 0, 0)

    @pytest.mark.parametrize(("source", "estimated"), [("computed", 0), ("provider", 0), ("estimated", 9)])
    def test_what_came_late_is_known_as_it_was_told(self, books, source, estimated):
        books.end(2, "SETTLED", 9, source)
        assert self.parts() == (DOLLAR // 4 + 9, estimated, 0)
        books.void(2)
        assert self.parts() == (DOLLAR // 4, 0, 0)

    def test_what_was_taken_back_may_come_late_all_the_same(self, books):
        books.void(2)
        books.end(2, "SETTLED", 9, "estimated")
        assert self.parts() == (DOLLAR // 4 + 9, 9, 0)

    def test_an_estimate_that_the_provider_corrects_is_known(self, books):
        books.end(3, "SETTLED", 7, "estimated")
        books.tell_true_cost(3, 8)
        assert self.parts() == (DOLLAR * 5 // 4 + 8, 0, DOLLAR)

    def test_days_that_are_over_keep_it(self, books):
        books.end(3, "SETTLED", 7, "estimated")
        books.prune()
        assert self.parts() == (DOLLAR * 5 // 4 + 7, 7, DOLLAR)
        later = NOON + timedelta(days=180)
        assert daily_sums(Wanted(), at=later)[()] == Sums(4, 2, 2, 12, 0, DOLLAR * 5 // 4 + 7, 7, DOLLAR)


class TestAuditCommand:
    def test_it_says_how_much_it_checked(self, books):
        assert run_audit() == (0, "The books are right: 2 keys and 4 usage rows checked.\n", "")

    @pytest.mark.parametrize("what", CORRUPTIONS)
    def test_it_names_a_tampered_figure(self, books, what):
        run_sql(CORRUPTIONS[what])
        code, out, sentence = run_audit()
        assert code == 1
        assert "“Production”" in out and f"the {what}" in out
        assert len(out.splitlines()) == 1
        assert sentence.startswith("1 difference found (2 keys and 4 usage rows checked). `./manage.py audit --fix` ")

    @pytest.mark.parametrize("what", CORRUPTIONS)
    def test_it_corrects_it_when_asked(self, books, what):
        run_sql(CORRUPTIONS[what])
        code, out, _ = run_audit("--fix")
        assert code == 0
        assert out.startswith("Corrected: “Production”") and "The books are right" in out
        assert run_audit()[0] == 0
        assert KeyEvent.objects.get(message__startswith="The audit corrected").actor.startswith("manage.py")

    def test_it_corrects_costs_by_an_adjustment_and_moves_no_budget(self, books):
        run_sql("UPDATE llmkeys_apikey SET spent_day_nano = 42, spent_total_nano = spent_total_nano + 8")
        costs = ApiKey.objects.order_by("id").values_list("spent_day_nano", "spent_month_nano", "spent_total_nano")
        before = list(costs)
        run_audit("--fix")
        after = list(costs.all())
        written = Adjustment.objects.get(key__name="Production")
        assert before == after
        assert (written.kind, written.month_nano, written.total_nano) == ("audit", 0, 8)
        assert written.day_nano == 42 - DOLLAR * 5 // 4
        assert written.created_by.startswith("manage.py")

    def test_it_finds_a_row_that_was_taken_away(self, books):
        run_sql("DELETE FROM llmkeys_usagerecord WHERE state = 'SETTLED'")
        code, out, _ = run_audit()
        assert code == 1
        assert {line.split(": the ")[1].split(" is stored")[0] for line in out.splitlines()} == {
            "daily cost of 2026-11-22", "monthly cost", "total cost", "total requests", "successful requests",
            "daily usage of 2026-11-22",
        }  # fmt: skip
        assert "is stored as $1.25, its rows and adjustments say $1.00 (difference $0.25)" in out

    def test_it_writes_json(self, books):
        run_sql(CORRUPTIONS["daily cost"])
        code, out, _ = run_audit("--json")
        assert code == 1
        found = json.loads(out)
        assert found["differences"] == [
            {
                "keyId": books.keys[0].id,
                "keyName": "Production",
                "what": "daily cost",
                "day": "2026-11-22",
                "stored": 1.250000001,
                "expected": 1.25,
            }
        ]
        assert (found["ok"], found["keys"], found["rows"], found["corrected"]) == (False, 2, 4, [])

    def test_it_leaves_out_requests_that_came_from_an_import(self, books):
        windows = current_windows(NOON)
        with transaction.atomic(), connection.cursor() as cursor:
            amounts = {"day": 5, "month": 5, "total": 5}
            ledger.adjust(cursor, "opening", Account(KEYS, books.keys[1].id), windows, amounts, NOON)
        run_sql("UPDATE llmkeys_apikey SET total_requests = 142 WHERE name = 'Spare'")
        code, out, _ = run_audit()
        assert code == 0
        assert "not checked: “Spare”." in out

    def test_it_counts_deleted_keys_too(self, books):
        ApiKey.objects.filter(name="Spare").update(deleted_at=NOON, enabled=False)
        run_sql("UPDATE llmkeys_apikey SET spent_total_nano = 1 WHERE name = 'Spare'")
        assert "“Spare”" in run_audit()[1]


# Runs on a database file of its own: the shared memory of a test database has no snapshots.
_WRITE_WHILE_IT_READS = """
import django; django.setup()
from django.core.management import call_command
from django.db import connection, transaction
call_command("migrate", verbosity=0, skip_checks=True)
from llmkeys.ledger import audit
from llmkeys.ledger import KEYS
from tests.test_audit import DOLLAR, Books, make_key

books = Books([make_key()])
books.hold(DOLLAR)
histories = audit._histories

def write_in_between(cursor, of, account, sealed):
    if of is KEYS:
        books.end(0, "SETTLED", DOLLAR // 2)  # a writer comes between two queries of the audit, and is not held up
    return histories(cursor, of, account, sealed)

audit._histories = write_in_between
print(audit.audit())
audit._histories = histories
print(audit.audit())
connection.close()
"""


class TestSnapshot:
    def test_it_reads_one_state_and_holds_no_writer_up(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-c", _WRITE_WHILE_IT_READS],
            cwd=ROOT,
            env=environment(tmp_path, DJANGO_SETTINGS_MODULE=os.environ["DJANGO_SETTINGS_MODULE"]),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
        assert done.stderr == ""
        clean = "Report(keys=1, rows=1, differences=[], uncounted=[])"
        assert done.stdout.splitlines() == [clean, clean]
