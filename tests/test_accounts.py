"""Keys and access tokens are accounts alike: a hold takes room on all that pay, or on none."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from django.db import IntegrityError, connection, transaction

from llmkeys import ledger
from llmkeys.keys import resets
from llmkeys.ledger import KEYS, TOKENS, Account, Attempt, Bid, Outcome, accounts, audit
from llmkeys.models import AccessToken, Adjustment, Alert, ApiKey, Budgeted, DailyUsage, KeyEvent, UsageRecord
from tests.helpers import NOW, make_user
from tests.test_ledger import DOLLAR, MONTH, TODAY, make, money

pytestmark = pytest.mark.django_db


def make_token(name: str = "worker", **columns) -> AccessToken:
    user = make_user(f"user of {name} {AccessToken.objects.count()}")
    columns = {"day": TODAY, "month": MONTH, "digest": f"{name} {AccessToken.objects.count()}"} | columns
    return AccessToken.objects.create(name=name, user=user, **columns)


class Books:
    """The ledger's verbs with a token that pays; `at` is the clock."""

    def __init__(self) -> None:
        self.at, self.number = NOW, 0

    def job(self, key: ApiKey, token: AccessToken | None, nano: int = DOLLAR, **others) -> ledger.PlaceHold:
        self.number += 1
        attempt = Attempt(
            f"req-{self.number}", 1, self.at, "openai-chat", "asked", token.name if token else "", False, "me",
            token_id=token.pk if token else None, others=others,
        )  # fmt: skip
        return ledger.PlaceHold([Bid(key.id, key.provider, "model", nano)], attempt)

    def place(self, key: ApiKey, token: AccessToken | None, nano: int = DOLLAR, **others) -> ledger.Placed:
        with transaction.atomic(), connection.cursor() as cursor:
            return self.job(key, token, nano, **others)(cursor)

    def hold(self, key: ApiKey, token: AccessToken | None, nano: int = DOLLAR) -> int:
        placed = self.place(key, token, nano)
        assert placed.hold is not None, placed.refusals
        return placed.hold.usage_id

    def end(self, row: int, state: str = "SETTLED", nano: int = 0, **values) -> None:
        self.at += timedelta(seconds=1)
        values = {"success": state == "SETTLED", "cost_source": "provider" if nano else "", "http_status": 200} | values
        with transaction.atomic(), connection.cursor() as cursor:
            ledger.finish(cursor, row, Outcome(state=state, at=self.at, cost_nano=nano, **values))

    def lost(self, key: ApiKey, token: AccessToken | None, nano: int = DOLLAR) -> int:
        row = self.hold(key, token, nano)
        self.end(row, "LOST", nano, cost_source="estimated")
        return row

    def void(self, row: int) -> int | None:
        self.at += timedelta(seconds=1)
        with transaction.atomic(), connection.cursor() as cursor:
            return ledger.void_lost(cursor, row, self.at, by="anna", reason="not on the bill")

    def correct(self, row: int, nano: int) -> int | None:
        self.at += timedelta(seconds=1)
        with transaction.atomic(), connection.cursor() as cursor:
            return ledger.correct_cost(cursor, row, nano, self.at, reason="The bill.")

    def reset(self, account: ApiKey | AccessToken, *windows: str) -> None:
        self.at += timedelta(seconds=1)
        chosen = {name: name in windows for name in ("daily", "monthly", "total")}
        assert resets.reset_costs([account], **chosen, at=self.at, actor="anna")

    def balance(self) -> None:
        with connection.cursor() as cursor:
            assert audit.audit_through(cursor).differences == []


@pytest.fixture
def books():
    books = Books()
    yield books
    books.balance()


class TestToken:
    def test_a_hold_takes_key_and_token(self, books):
        key, token = make(), make_token()
        row = books.hold(key, token)
        assert money(key) == money(token) == (0, 0, 0, DOLLAR)
        assert UsageRecord.objects.get(pk=row).token_id == token.pk
        books.end(row, "SETTLED", DOLLAR // 4, input_tokens=3)
        assert money(key) == money(token) == (DOLLAR // 4,) * 3 + (0,)
        assert (token.total_requests, token.successful_requests, token.failed_requests) == (1, 1, 0)
        assert token.last_used_at == NOW
        assert DailyUsage.objects.get().token_id == token.pk

    @pytest.mark.parametrize("limit", ["daily_limit_nano", "monthly_limit_nano", "total_limit_nano"])
    def test_it_takes_the_tokens_last_nano_and_not_one_more(self, books, limit):
        key, token = make(), make_token(**{limit: 2 * DOLLAR})
        books.end(books.hold(key, token), "SETTLED", DOLLAR)
        refusal = books.place(key, token, DOLLAR + 1).refusals[0]
        assert (refusal.account, refusal.room_nano) == (Account(TOKENS, token.pk), DOLLAR)
        assert money(key)[3] == 0, "the key gave back what it had held"
        books.hold(key, token)
        assert books.place(key, token, 1).refusals[0].only_holds

    def test_a_full_key_leaves_the_token_as_it_was(self, books):
        key, token = make(daily_limit_nano=1), make_token()
        refusal = books.place(key, token).refusals[0]
        assert refusal.account == Account(KEYS, key.id)
        assert money(token) == (0, 0, 0, 0)

    @pytest.mark.parametrize(
        ("columns", "reason"),
        [
            ({"revoked_at": NOW}, "the access token was revoked"),
            ({"expires_at": NOW}, "the access token expired"),
        ],
    )
    def test_it_asks_again_whether_the_token_may_spend(self, books, columns, reason):
        refusal = books.place(make(), make_token(**columns)).refusals[0]
        assert refusal.reason == reason

    def test_two_tokens_of_one_name_stay_two(self, books):
        key, first, second = make(), make_token("same"), make_token("same")
        for token in (first, second, second):
            books.end(books.hold(key, token), "SETTLED", DOLLAR)
        assert money(first)[2] == DOLLAR and money(second)[2] == 2 * DOLLAR
        assert sorted(DailyUsage.objects.values_list("cost_nano", flat=True)) == [DOLLAR, 2 * DOLLAR]

    def test_its_windows_open_with_the_keys(self, books):
        key, token = make(), make_token(daily_limit_nano=DOLLAR, day=Budgeted.NEVER, month=Budgeted.NEVER)
        books.end(books.hold(key, token), "SETTLED", DOLLAR)
        assert money(token)[0] == DOLLAR and token.day == TODAY
        books.at += timedelta(days=1)
        books.hold(key, token)
        assert (money(token)[:3], token.day) == ((0, DOLLAR, DOLLAR), TODAY + timedelta(days=1))

    def test_both_are_charged_to_the_window_that_a_faster_clock_opened(self, books):
        """The token was never used by the machine that is ahead; its row and the key's have one day all the same."""
        key, token = make(), make_token()
        books.at += timedelta(days=1)
        books.end(books.hold(key, None), "SETTLED", 1)
        books.at -= timedelta(days=1, seconds=10)
        books.end(books.hold(key, token), "SETTLED", DOLLAR)
        assert money(token)[0] == DOLLAR and token.day == TODAY + timedelta(days=1)

    def test_its_limits_are_told_of_it(self, books):
        token = make_token(daily_limit_nano=DOLLAR)
        books.end(books.hold(make(), token), "SETTLED", DOLLAR)
        told = KeyEvent.objects.filter(token=token).values_list("kind", flat=True)
        assert sorted(told) == ["limit_reached", "warned"]
        assert not KeyEvent.objects.filter(key__isnull=False, kind="limit_reached")
        assert set(Alert.objects.values_list("token_id", flat=True)) == {token.pk}
        assert all(alert.message.startswith("The access token “worker”: ") for alert in Alert.objects.all())

    def test_a_refusal_is_remembered_on_it(self, books):
        token = make_token(daily_limit_nano=DOLLAR)
        books.place(make(), token, DOLLAR // 2)
        row = UsageRecord.objects.get()
        books.end(row.pk, "SETTLED", DOLLAR // 2)
        books.place(make(), token)
        token.refresh_from_db()
        assert (token.refused_window, token.refused_need_nano) == ("day", DOLLAR)
        assert token.is_refused(NOW)

    def test_only_the_first_hold_of_a_request_counts_in_its_minute(self, books):
        key, token = make(), make_token(requests_per_minute=1)
        books.hold(key, token)
        job = books.job(key, token)
        refused = books.place(key, token).refusals
        assert [(refusal.account, refusal.pace.requests_per_minute) for refusal in refused] == [
            (Account(TOKENS, token.pk), 1)
        ]
        later = replace(job, attempt=replace(job.attempt, request_id="req-1", number=2))
        with transaction.atomic(), connection.cursor() as cursor:
            assert later(cursor).hold is not None
        money(token)
        assert token.minute_requests == 1

    def test_voiding_gives_back_to_both(self, books):
        key, token = make(), make_token()
        row = books.lost(key, token)
        assert books.void(row) == DOLLAR and books.void(row) is None
        assert money(key) == money(token) == (0, 0, 0, 0)
        written = set(Adjustment.objects.values_list("kind", "key_id", "token_id"))
        assert written == {("void", None, token.pk), ("void", key.id, None)}

    def test_a_reset_is_the_accounts_own(self, books):
        key, token = make(), make_token()
        books.end(books.hold(key, token), "SETTLED", DOLLAR)
        books.reset(token, "daily", "total")
        assert money(token) == (0, DOLLAR, 0, 0) and money(key) == (DOLLAR, DOLLAR, DOLLAR, 0)
        assert KeyEvent.objects.get(kind="cost_reset").token_id == token.pk

    def test_the_audit_names_and_corrects_its_figures(self, books):
        token = make_token()
        books.end(books.hold(make(), token), "SETTLED", DOLLAR)
        AccessToken.objects.update(spent_total_nano=1, held_nano=5)
        with connection.cursor() as cursor:
            report = audit.audit_through(cursor)
        assert [difference.what for difference in report.differences] == ["total cost", "held amount"]
        assert str(report.differences[0]).startswith(f"The access token “worker” ({token.pk}): the total cost")
        audit.fix(report, at=books.at, actor="anna")
        assert money(token) == (DOLLAR, DOLLAR, 1, 0)
        assert Adjustment.objects.get().token_id == token.pk


class TestMode:
    def test_an_account_may_have_a_mode_of_its_own(self, books, settings):
        soft = make("soft", daily_limit_nano=1, budget_mode="soft")
        assert books.place(soft, None).hold is not None
        settings.BUDGET_MODE = "soft"
        strict = make("strict", daily_limit_nano=1, budget_mode="strict")
        assert books.place(strict, None).hold is None

    def test_a_strict_token_on_a_soft_key(self, books):
        key, token = make(daily_limit_nano=1, budget_mode="soft"), make_token(daily_limit_nano=1)
        assert books.place(key, token).refusals[0].account.of is TOKENS
        assert money(key)[3] == 0


class TestResetThenCorrect:
    """What a reset has taken out of a budget, a later correction does not take out again."""

    def test_a_void_after_a_reset_gives_nothing_twice(self, books):
        key = make(total_limit_nano=10 * DOLLAR)
        row = books.lost(key, None, 10 * DOLLAR)
        books.reset(key, "total")
        assert books.void(row) == 10 * DOLLAR
        assert money(key) == (0, 0, 0, 0)
        assert books.place(key, None, 10 * DOLLAR + 1).hold is None
        assert DailyUsage.objects.get().cost_nano == 0, "charts show the corrected spending"

    def test_only_in_the_windows_that_were_reset(self, books):
        key = make()
        row = books.lost(key, None)
        books.reset(key, "daily")
        assert money(key)[:3] == (0, DOLLAR, DOLLAR)
        books.void(row)
        assert money(key)[:3] == (0, 0, 0)

    def test_what_was_charged_after_the_reset_is_given_back(self, books):
        key = make()
        books.lost(key, None)
        books.reset(key, "daily", "monthly", "total")
        second = books.lost(key, None)
        books.void(second)
        assert money(key)[:3] == (0, 0, 0)

    def test_a_lower_true_cost_after_a_reset_gives_nothing_back(self, books):
        key = make()
        row = books.lost(key, None)
        books.reset(key, "daily", "monthly", "total")
        books.lost(key, None, 5)
        assert books.correct(row, DOLLAR // 10) == DOLLAR // 10 - DOLLAR
        assert money(key)[:3] == (5, 5, 5)

    def test_a_higher_one_is_charged_and_a_void_gives_that_back_alone(self, books):
        key = make()
        row = books.lost(key, None)
        books.reset(key, "daily", "monthly", "total")
        books.correct(row, 3 * DOLLAR)
        assert money(key)[:3] == (2 * DOLLAR,) * 3
        assert books.void(row) == 3 * DOLLAR
        assert money(key)[:3] == (0, 0, 0)

    def test_a_reset_of_the_key_leaves_the_tokens_share(self, books):
        key, token = make(), make_token()
        row = books.lost(key, token)
        books.reset(key, "daily", "monthly", "total")
        books.void(row)
        assert money(key)[:3] == money(token)[:3] == (0, 0, 0)

    def test_a_reset_of_another_day_does_not_count(self, books):
        key = make()
        books.end(books.hold(key, None), "SETTLED", 1)
        books.reset(key, "daily")
        books.at += timedelta(days=1)
        row = books.lost(key, None)
        books.void(row)
        assert money(key)[:3] == (0, 1, 1)


class TestGroups:
    """Many jobs at once come to the same as one by one."""

    def together(self, jobs: list[ledger.PlaceHold]) -> list[ledger.Placed]:
        with transaction.atomic(), connection.cursor() as cursor:
            return ledger.PlaceHold.together(cursor, jobs)

    def end_together(self, ends: list[ledger.End]) -> list[ledger.Finished | None]:
        with transaction.atomic(), connection.cursor() as cursor:
            return ledger.End.together(cursor, ends)

    def settled(self, placed: ledger.Placed, nano: int, at: datetime = NOW) -> ledger.End:
        outcome = Outcome(
            state="SETTLED", at=at, success=True, cost_nano=nano, cost_source="provider", http_status=200,
            input_tokens=1, output_tokens=2,
        )  # fmt: skip
        return ledger.End(placed.hold, outcome, serves="model")

    def test_holds_and_ends_of_a_group(self, books):
        keys, tokens = [make(f"k{n}") for n in range(3)], [make_token(f"t{n}") for n in range(3)]
        jobs = [books.job(keys[n % 3], tokens[n % 2], nano=n + 1) for n in range(13)]
        placed = self.together(jobs)
        assert [one.hold.amount_nano for one in placed] == list(range(1, 14))
        for job, one in zip(jobs, placed, strict=True):
            row = UsageRecord.objects.get(pk=one.hold.usage_id)
            assert (row.request_id, row.key_id) == (job.attempt.request_id, job.bids[0].key_id)
        books.balance()
        finished = self.end_together([self.settled(one, n) for n, one in enumerate(placed)])
        assert None not in finished
        assert sum(money(key)[2] for key in keys) == sum(range(13)) and not any(money(key)[3] for key in keys)
        assert sum(DailyUsage.objects.values_list("requests", flat=True)) == 13

    def test_it_takes_few_statements(self, books, django_assert_max_num_queries):
        key, token = make(), make_token()
        jobs = [books.job(key, token) for _ in range(32)]
        with django_assert_max_num_queries(6):  # SAVEPOINT, key, token, rows, RELEASE
            placed = self.together(jobs)
        ends = [self.settled(one, 1) for one in placed]
        with django_assert_max_num_queries(8):  # and the serving key's
            self.end_together(ends)

    def test_where_the_sum_does_not_fit_they_are_placed_one_by_one_in_order(self, books):
        key = make(daily_limit_nano=10)
        placed = self.together([books.job(key, None, nano) for nano in (6, 5, 4)])
        assert [one.hold is not None for one in placed] == [True, False, True]
        assert money(key)[3] == 10

    def test_a_token_without_room_for_the_sum_gives_back_the_keys(self, books):
        key, poor, rich = make(), make_token("poor", total_limit_nano=10), make_token("rich")
        placed = self.together([books.job(key, token, 6) for token in (poor, rich, poor)])
        assert [one.hold is not None for one in placed] == [True, True, False]
        assert (money(key)[3], money(poor)[3], money(rich)[3]) == (12, 6, 6)

    def test_a_pace_is_kept_within_a_group(self, books):
        key, paced, free = make(), make_token("paced", requests_per_minute=3), make_token("free")
        jobs = [books.job(key, paced if n % 2 else free) for n in range(10)]
        assert sum(one.hold is not None for one in self.together(jobs)) == 5 + 3
        assert (money(paced)[3], paced.minute_requests, money(key)[3]) == (3 * DOLLAR, 3, 8 * DOLLAR)
        assert not any(one.hold for one in self.together([books.job(key, paced) for _ in range(3)]))
        books.at += timedelta(minutes=1)
        assert all(one.hold for one in self.together([books.job(key, paced) for _ in range(3)]))
        assert not self.together([books.job(key, paced)])[0].hold
        assert money(key)[3] == 11 * DOLLAR

    def test_jobs_of_two_days_in_one_group(self, books):
        key = make()
        first = books.job(key, None)
        books.at += timedelta(days=1)
        second = books.job(key, None)
        placed = self.together([first, second])
        days = [UsageRecord.objects.get(pk=one.hold.usage_id).day for one in placed]
        assert days == [TODAY, TODAY + timedelta(days=1)]
        self.end_together([self.settled(one, DOLLAR, books.at) for one in placed])
        assert money(key)[:3] == (DOLLAR, 2 * DOLLAR, 2 * DOLLAR)

    def test_one_row_that_was_ended_before_does_not_disturb_the_others(self, books):
        key = make()
        placed = self.together([books.job(key, None) for _ in range(3)])
        books.end(placed[1].hold.usage_id, "RELEASED", success=False)
        finished = self.end_together([self.settled(one, 1) for one in placed])
        assert [one is not None for one in finished] == [True, False, True]


class TestFurtherTable:
    """A third table of accounts needs no SQL: its name, its column, and when it takes nothing."""

    PEOPLE = accounts.AccountTable("people", "person_id", "CASE WHEN %s IS NULL THEN 'gone' ELSE '' END")
    HISTORY = ("llmkeys_usagerecord", "llmkeys_dailyusage", "llmkeys_adjustment")

    @pytest.fixture
    def people(self, monkeypatch):
        columns = ", ".join(
            f"{field.column} BIGINT NOT NULL DEFAULT 0"
            for field in Budgeted._meta.get_fields()
            if field.get_internal_type() == "BigIntegerField"
        )
        with connection.cursor() as cursor:
            cursor.execute(
                f"""CREATE TABLE people (id INTEGER PRIMARY KEY, name VARCHAR(100), day DATE, month DATE, {columns},
                      budget_mode VARCHAR(10), refused_window VARCHAR(10) DEFAULT '', refused_day DATE,
                      last_used_at {"TIMESTAMPTZ" if connection.vendor == "postgresql" else "DATETIME"})"""
            )
            for table in self.HISTORY:
                cursor.execute(f"ALTER TABLE {table} ADD COLUMN person_id INTEGER")
            cursor.execute("DROP INDEX dailyusage_one_per_group")
            cursor.execute(
                "CREATE UNIQUE INDEX dailyusage_one_per_group ON llmkeys_dailyusage "
                "(key_id, day, model, token_name, COALESCE(token_id, 0), COALESCE(person_id, 0))"
            )
            cursor.execute(
                "INSERT INTO people (id, name, day, month, daily_limit_nano) VALUES (7, 'Anna', %s, %s, %s)",
                [TODAY, MONTH, 2 * DOLLAR],
            )
        monkeypatch.setattr(accounts, "TABLES", [*accounts.TABLES, self.PEOPLE])
        return Account(self.PEOPLE, 7)

    def standing(self, account: Account) -> accounts.Standing:
        with connection.cursor() as cursor:
            found = accounts.standing(cursor, account)
        assert found is not None
        return found

    def test_a_person_pays_beside_key_and_token(self, books, people):
        key, token = make(), make_token()
        placed = books.place(key, token, DOLLAR, person_id=7)
        assert self.standing(people).held == money(key)[3] == money(token)[3] == DOLLAR
        books.end(placed.hold.usage_id, "LOST", DOLLAR, cost_source="estimated")
        assert self.standing(people).spent["day"] == DOLLAR
        refusal = books.place(key, token, DOLLAR + 1, person_id=7).refusals[0]
        assert (refusal.account, refusal.window, refusal.room_nano) == (people, "day", DOLLAR)
        assert money(key)[3] == money(token)[3] == 0
        books.void(placed.hold.usage_id)
        assert self.standing(people).spent == {"day": 0, "month": 0, "total": 0}
        books.balance()


def test_the_database_refuses_a_token_with_nonsense():
    for columns in ({"held_nano": -1}, {"daily_limit_nano": -1}):
        with pytest.raises(IntegrityError, match="accesstoken_"), transaction.atomic():
            make_token(**columns)


def test_attempts_differ_by_their_accounts():
    attempt = Attempt("req", 1, NOW, "openai-chat", "m", "t", False, "me", token_id=3)
    bid = Bid("key-1", "openrouter", "m", 5)
    assert ledger.PlaceHold([bid], attempt).accounts == [("llmkeys_accesstoken", 3), ("llmkeys_apikey", "key-1")]
    assert ledger.PlaceHold([bid], replace(attempt, token_id=None)).accounts == [("llmkeys_apikey", "key-1")]
