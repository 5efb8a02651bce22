"""What the end of a day, a month or a year does to budgets, seen by a client; no job runs in any of these tests."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from llmkeys import tasks
from llmkeys.models import DailyUsage
from tests.gateway.door import (
    DONE,
    OPENROUTER,
    Pieces,
    ask,
    books_balance,
    chunk,
    completion,
    fresh,
    is_refused,
    limits,
    only_row,
    rows,
    spend,
    usage,
    usage_chunk,
)
from tests.helpers import NOW, make_key

LAST_SECOND = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
SIX_SECONDS_LATER = datetime(2026, 12, 1, 0, 0, 5, tzinfo=UTC)
CENT = 10_000_000


@pytest.fixture
def free(provider):
    provider.post(OPENROUTER, json=completion(usage=usage(cost=0)))
    return provider


class TestAcrossMidnight:
    """Admitted at 23:59:59 and finished at 00:00:05: charged to the first day, and to the first month."""

    def is_charged_to_november(self, key) -> None:
        row = only_row()
        assert (str(row.day), str(row.month), row.cost_nano) == ("2026-11-30", "2026-11-01", CENT)
        assert (row.created_at, row.finished_at) == (LAST_SECOND, SIX_SECONDS_LATER)
        key = fresh(key)
        assert (str(key.day), key.spent_day_nano, key.spent_month_nano) == ("2026-11-30", CENT, CENT)
        day, month, total = key.budgets(SIX_SECONDS_LATER)
        assert (day.spent, month.spent, total.spent, key.held_nano) == (0, 0, CENT, 0)
        assert list(DailyUsage.objects.values_list("day", "cost_nano")) == [(LAST_SECOND.date(), CENT)]
        books_balance()

    def test_a_complete_answer(self, client, frozen, sends):
        key = make_key(**limits(daily="1", monthly="1"))
        frozen.move_to(LAST_SECOND)
        body = json.dumps(completion(usage=usage(cost=0.01))).encode()
        sends(Pieces(lambda: frozen.move_to(SIX_SECONDS_LATER), body))
        assert ask(client).status_code == 200
        self.is_charged_to_november(key)

    def test_a_stream(self, client, frozen, sends):
        key = make_key(**limits(daily="1", monthly="1"))
        frozen.move_to(LAST_SECOND)
        sends(Pieces(chunk("a"), lambda: frozen.move_to(SIX_SECONDS_LATER), usage_chunk(cost=0.01), DONE))
        assert ask(client, stream=True).content.endswith(DONE)
        self.is_charged_to_november(key)

    def test_a_request_of_the_new_day_that_comes_in_between(self, client, frozen, sends):
        key = make_key(**limits(daily="0.02"))
        frozen.move_to(LAST_SECOND)
        body = json.dumps(completion(usage=usage(cost=0.01))).encode()

        def midnight() -> None:
            frozen.move_to(SIX_SECONDS_LATER)
            assert ask(client).status_code == 200

        sends(Pieces(midnight, body), Pieces(body))
        assert ask(client).status_code == 200
        assert [str(row.day) for row in rows()] == ["2026-11-30", "2026-12-01"]
        key = fresh(key)
        assert (str(key.day), key.spent_day_nano, key.spent_total_nano) == ("2026-12-01", CENT, 2 * CENT)


class TestFullKeys:
    def refused(self, client, frozen, at: datetime) -> None:
        frozen.move_to(at)
        is_refused(ask(client), 429, "all_keys_at_limit", "All keys have reached their limits")

    def served(self, client, frozen, at: datetime) -> None:
        frozen.move_to(at)
        assert ask(client).status_code == 200

    def test_one_full_for_the_day_serves_again_at_midnight(self, client, frozen, free):
        key = make_key(**limits(daily="1"))
        spend(key, "1")
        self.refused(client, frozen, datetime(2026, 11, 23, 23, 59, 59, 999_999, tzinfo=UTC))
        assert fresh(key).status_at(datetime(2026, 11, 23, 23, 59, 59, tzinfo=UTC)) == "LIMIT_REACHED"
        self.served(client, frozen, datetime(2026, 11, 24, tzinfo=UTC))

    def test_one_full_for_the_month_serves_again_on_the_first(self, client, frozen, free):
        key = make_key(**limits(monthly="1"))
        spend(key, "1")
        for day in range(24, 31):
            self.refused(client, frozen, datetime(2026, 11, day, tzinfo=UTC))
        self.refused(client, frozen, LAST_SECOND)
        self.served(client, frozen, datetime(2026, 12, 1, tzinfo=UTC))

    def test_one_full_in_total_never_serves_by_itself(self, client, frozen, free, api):
        key = make_key(**limits(total="1"))
        spend(key, "1")
        for at in ("2026-11-24", "2026-12-01", "2027-01-01", "2028-02-29", "2035-06-01"):
            self.refused(client, frozen, datetime.fromisoformat(at).replace(tzinfo=UTC))
        assert fresh(key).status_at(datetime(2035, 6, 1, tzinfo=UTC)) == "LIMIT_REACHED"
        assert api.patch(f"/api/llm/keys/{key.id}", '{"totalLimit": 2}').status_code == 200
        self.served(client, frozen, datetime(2035, 6, 1, tzinfo=UTC))


class TestWithoutTheScheduler:
    """Nothing ran for three days: the first request of the new day is admitted, and every figure is today's."""

    THREE_DAYS_LATER = NOW + timedelta(days=3)

    @pytest.fixture
    def key(self, frozen):
        key = make_key(**limits(daily="1", monthly="5"))
        spend(key, "1")
        frozen.move_to(self.THREE_DAYS_LATER)
        return key

    def test_the_api_shows_today(self, client, api, provider, key):
        before = api.get(f"/api/llm/keys/{key.id}").json()
        assert (before["status"], before["currentDailyCost"], before["currentMonthlyCost"]) == ("ACTIVE", 0, 1)
        assert (before["remainingDailyBudget"], before["remainingMonthlyBudget"]) == (1, 4)
        figures = api.get("/api/llm/keys/statistics").json()
        assert (figures["dailyCost"], figures["monthlyCost"], figures["totalCost"]) == (0, 1, 1)
        assert figures["dailyResetsAt"] == "2026-11-27T00:00:00Z"
        provider.post(OPENROUTER, json=completion(usage=usage(cost=0.01)))
        assert ask(client)["X-LLM-Remaining-Daily-USD"].startswith("0.99")
        after = api.get(f"/api/llm/keys/{key.id}").json()
        assert (after["currentDailyCost"], after["currentMonthlyCost"], after["totalCost"]) == (0.01, 1.01, 1.01)

    def test_the_dashboard_shows_today(self, administrator, key):
        person = Client()
        person.force_login(administrator)
        page = person.get("/llm-settings").content.decode()
        assert "ACTIVE" in page and "LIMIT_REACHED" not in page

    def test_the_jobs_that_come_late_change_no_figure(self, client, key, free):
        assert ask(client).status_code == 200
        before = fresh(key).budgets(self.THREE_DAYS_LATER)
        for _ in range(2):
            tasks.reset_daily_costs(), tasks.reset_monthly_costs(), tasks.settle_lost_holds()
        assert fresh(key).budgets(self.THREE_DAYS_LATER) == before
