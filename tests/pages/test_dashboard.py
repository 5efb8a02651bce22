"""GET /llm-settings."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
import responses
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_q.models import Schedule

from llmkeys.keys import resets
from llmkeys.lib.money import NANO
from llmkeys.models import Alert, ApiKey, Cooling, DailyUsage, RunningTotal
from llmkeys.relay.serving import serving_order
from llmkeys.usage.sums import statistics
from llmkeys.vault.crypto import MasterKey
from tests.helpers import NOW, make_account, make_key, make_usage, make_user, new_secret
from tests.pages.helpers import logged_in

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _present(frozen):
    """Every page of this file is asked for at `NOW`."""


def page_of(client, query: str = "") -> str:
    answer = client.get(f"/llm-settings{query}")
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", answer.content.decode())


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def card_of(page: str, key: ApiKey) -> str:
    start = page.index(f'id="{key.id}"')
    return page[start : page.index("</article>", start)]


class TestRights:
    def test_it_needs_the_right_to_see_keys(self, with_rights):
        answer = with_rights().get("/llm-settings")
        assert answer.status_code == 403
        assert "An administrator can grant it" in answer.content.decode()

    def test_it_offers_only_what_the_user_may_do(self, with_rights):
        key = make_key()
        page = page_of(with_rights("view_apikey"))
        assert "Add API Key" not in page
        assert not re.search(r"/keys/key-[^/]+/(test|toggle|default|delete)", card_of(page, key))
        page = page_of(with_rights("view_apikey", "change_apikey"))
        assert f"/keys/{key.id}/test" in page and f"/keys/{key.id}/delete" not in page
        assert "/admin/" not in page

    def test_it_takes_no_post(self, operator):
        assert operator.post("/llm-settings").status_code == 405


class TestEmpty:
    def test_it_leads_to_the_first_key_and_shows_how_a_program_gets_here(self, operator):
        page = page_of(operator)
        assert 'href="/llm-settings/keys/add"' in page and "Add API Key" in page
        assert "http://testserver/v1" in page and "rfk_" in page
        assert all(words in page for words in ("Total Cost", "Daily Budget", "Monthly Budget", "Total Requests"))
        assert "No key can serve" not in page


class TestFigures:
    def test_it_shows_the_four_cards_with_their_figures(self, operator):
        make_key(
            spent_day_nano=NANO * 5 // 2, spent_month_nano=NANO * 63 // 4, spent_total_nano=NANO * 63 // 4,
            held_nano=NANO // 2, total_requests=1142, successful_requests=1138, failed_requests=4,
        )  # fmt: skip
        text = text_of(page_of(operator))
        assert "Total Cost $15.75 of $1,000" in text
        assert "Daily Budget 25 % $2.50 of $10.00" in text
        assert "Monthly Budget 15.8 % $15.75 of $100.00" in text
        assert "Total Requests 1,142 99.6 % succeeded" in text
        assert "Resets tomorrow at 00:00 UTC , in 3 h 30 min" in text
        assert "Resets on 1 December , in 7 days" in text
        assert "$0.50 held" in text

    def test_it_says_what_was_spent_outside_the_limits(self, operator):
        make_key(spent_day_nano=NANO)
        make_key(spent_day_nano=2 * NANO, daily_limit_nano=0)
        assert "and $2.00 by keys without this limit" in text_of(page_of(operator))

    def test_it_tells_what_deleted_keys_spent_apart_from_that(self, operator):
        make_key(spent_day_nano=NANO), make_key(spent_day_nano=2 * NANO, daily_limit_nano=0)
        gone = make_key(spent_day_nano=3 * NANO, spent_month_nano=3 * NANO)
        operator.post(f"/llm-settings/keys/{gone.pk}/delete")
        text = text_of(page_of(operator))
        assert "Daily Budget 10 % $1.00 of $10.00" in text
        assert "and $2.00 by keys without this limit and $3.00 by deleted keys" in text
        assert text.count("by keys without this limit") == 1 and text.count("and $3.00 by deleted keys") == 2

    def test_it_shows_amounts_instead_of_shares_where_no_key_has_a_limit(self, operator):
        make_key(spent_day_nano=NANO, daily_limit_nano=0, monthly_limit_nano=0, total_limit_nano=0)
        assert "Daily Budget $1.00 today, no limit" in text_of(page_of(operator))


class TestChanges:
    def spend(self, key: ApiKey, days_ago: int, nano: int, requests: int = 1) -> None:
        DailyUsage.objects.create(
            day=NOW.date() - timedelta(days=days_ago), key=key, model="gpt", requests=requests, cost_nano=nano
        )

    def test_it_tells_how_much_of_each_cost_is_a_guess(self, operator):
        key = make_key()
        for days_ago, nano in ((0, 1), (3, 2), (400, 4)):
            self.spend(key, days_ago, 10 * nano * NANO)
            day = NOW.date() - timedelta(days=days_ago)
            DailyUsage.objects.filter(day=day).update(estimated_nano=nano * NANO, lost_nano=2 * nano * NANO)
        page = page_of(operator)
        for title, estimated, since in (
            ("Total Cost", 7, f"since={NOW.date() - timedelta(days=400)}"),
            ("Daily Budget", 1, "range=today"),
            ("Monthly Budget", 3, "range=month"),
        ):
            card = page[page.index(f"<h2>{title}</h2>") :].partition("</article>")[0]
            assert f"of which ${estimated}.00 estimated · ${2 * estimated}.00 lost" in text_of(card)
            assert f"?{since}&amp;cost=lost#rows" in card
        DailyUsage.objects.update(estimated_nano=0, lost_nano=0)
        assert "of it" not in text_of(page_of(operator))

    def test_it_counts_every_day_there_ever_was_once(self, operator):
        """Of the days before the chart, those up to the last running total come from it, and the others one by one."""
        key = make_key()
        for days in (0, 1, *range(57, 70), 700):
            self.spend(key, days, NANO)
        DailyUsage.objects.update(lost_nano=NANO)
        for _ in ("before the days are closed", "after"):
            assert "of which $16.00 lost" in text_of(page_of(operator)).partition("Daily Budget")[0]
        assert RunningTotal.objects.exists()

    def test_it_tells_what_was_reset_from_what_was_never_spent(self, operator):
        make_key()
        assert "Total Cost $0.00 of $1,000 Nothing spent yet" in text_of(page_of(operator))
        key = make_key(spent_day_nano=10 * NANO, spent_month_nano=10 * NANO, spent_total_nano=10 * NANO)
        self.spend(key, 0, 10 * NANO)
        DailyUsage.objects.update(lost_nano=4 * NANO)
        assert "what was reset" not in text_of(page_of(operator))
        resets.reset_costs([key], daily=True, monthly=False, total=True, at=NOW, actor="admin")
        text = text_of(page_of(operator))
        assert "Total Cost $0.00 of $2,000 $10.00 including what was reset of which $4.00 lost" in text
        assert "Nothing spent yet" not in text
        assert "Daily Budget 0 % $0.00 of $20.00 Resets tomorrow at 00:00 UTC , in 3 h 30 min $10.00 including" in text
        assert text.count("what was reset") == 2, "the month was not reset"

    def test_it_takes_nothing_for_reset_that_is_charged_while_the_page_is_made(self, operator, monkeypatch):
        key = make_key()

        def meanwhile(*args, **options):
            self.spend(key, 0, NANO)
            ApiKey.objects.update(spent_day_nano=NANO, spent_month_nano=NANO, spent_total_nano=NANO)
            return serving_order(*args, **options)

        monkeypatch.setattr("llmkeys.dashboard.overview.serving_order", meanwhile)
        assert "what was reset" not in text_of(page_of(operator))
        assert DailyUsage.objects.exists()

    def test_it_compares_each_figure_with_the_period_before(self, operator):
        key = make_key()
        self.spend(key, 0, 3 * NANO, 30), self.spend(key, 1, 2 * NANO, 10)  # today, yesterday
        self.spend(key, 31, 8 * NANO, 20)  # 23 October: in the month before, by the same day
        text = text_of(page_of(operator))
        assert "Down $5.00 in 30 days against $8.00 in the 30 before" in text
        assert "Up $3.00 so far against $2.00 in all of yesterday" in text
        assert "Down $5.00 so far against $8.00 by 23 October" in text
        assert "Up 40 in 30 days against 20 in the 30 before" in text

    def test_it_warns_where_the_keys_with_a_monthly_limit_will_exceed_it(self, operator):
        """Seven days at $2 are $2 a day, and a week is left."""
        key, unlimited = make_key(monthly_limit_nano=10 * NANO), make_key(monthly_limit_nano=0)
        ApiKey.objects.update(created_at=NOW - timedelta(days=40))
        for days_ago in range(1, 8):
            self.spend(key, days_ago, 2 * NANO), self.spend(unlimited, days_ago, 5 * NANO)

        def monthly() -> str:
            return page_of(operator).partition("<h2>Monthly Budget</h2>")[2].partition("</article>")[0]

        assert re.search(r'class="pace high">.*\$50.02 by the end of the month, above the limit<', monthly())
        ApiKey.objects.filter(pk=key.pk).update(monthly_limit_nano=15 * NANO)
        assert 'class="pace">At this pace $50.02 by the end of the month<' in monthly(), "what the other spends"
        ApiKey.objects.filter(pk=key.pk).update(monthly_limit_nano=10 * NANO, enabled=False)
        assert "above the limit" not in monthly(), "it spends nothing more"

    def test_its_projection_is_the_sum_of_those_of_the_keys(self, operator):
        """A young key is not measured by the age of the oldest; a deleted one counts with what it has cost."""
        old, young, new, gone = (make_key(spent_month_nano=NANO) for _ in range(4))
        made = NOW - timedelta(days=40)
        ApiKey.objects.filter(pk__in=[old.pk, gone.pk]).update(created_at=made)
        ApiKey.objects.filter(pk=young.pk).update(created_at=NOW - timedelta(days=1))
        for key in (old, young, gone):
            self.spend(key, 1, 70 * NANO)
        operator.post(f"/llm-settings/keys/{gone.pk}/delete")
        monthly = page_of(operator).partition("<h2>Monthly Budget</h2>")[2].partition("</article>")[0]
        left = 7 + 3.5 / 24
        assert f"${4 + (10 + 70) * left:.2f} by the end of the month, above the limit" in text_of(monthly)
        for key, rest in ((old, 10 * left), (young, 70 * left)):
            assert f"${1 + rest:.2f} this month" in text_of(card_of(page_of(operator), key))
        assert "this month" not in text_of(card_of(page_of(operator), new))

    def test_it_says_nothing_where_there_was_nothing_before(self, operator):
        self.spend(make_key(), 0, NANO)
        assert " against " not in text_of(page_of(operator))

    def test_its_sums_are_those_of_the_statistics(self, operator):
        make_key(spent_day_nano=NANO, spent_total_nano=5 * NANO, held_nano=NANO, total_requests=3)
        make_key(
            spent_total_nano=7 * NANO, total_requests=4, fingerprint=None, enabled=False, is_default=False,
            deleted_at=NOW,
        )  # fmt: skip
        sums, text = statistics(at=NOW), text_of(page_of(operator))
        assert f"Total Cost ${sums['totalCost']:.2f}" in text and f"Total Requests {sums['totalRequests']}" in text
        assert f"Daily Budget {sums['dailyBudgetUsed']:g} %" in text


class TestChart:
    def test_it_stacks_what_was_spent_by_key_or_by_model(self, operator):
        key = make_key(name="Alpha")
        DailyUsage.objects.create(day=NOW.date(), key=key, model="gpt", requests=1, cost_nano=3 * NANO)
        DailyUsage.objects.create(day=NOW.date(), key=key, model="claude", requests=1, cost_nano=NANO)
        assert "Mon 23 Nov 2026: $4.00" in page_of(operator)
        assert "Mon 23 Nov 2026: $4.00 (gpt $3.00 · claude $1.00)" in page_of(operator, "?by=model")

    def test_it_sums_the_least_dear_keys_into_one_and_names_deleted_ones(self, operator):
        for number in range(1, 12):
            key = make_key(name=f"Key number {number}")
            for back in (0, 1, 20):
                day = NOW.date() - timedelta(days=back)
                DailyUsage.objects.create(day=day, key=key, model="gpt", requests=1, cost_nano=number * NANO)
        ApiKey.objects.filter(pk=key.pk).update(deleted_at=NOW, fingerprint=None, enabled=False, is_default=False)
        text = text_of(page_of(operator))
        assert "Key number 11 (deleted) $33.00" in text and "3 others $18.00" in text and "30 days $198.00" in text

    def test_it_sees_a_correction_of_a_day_long_ago(self, operator):
        key = make_key()
        row = make_usage(key, at=NOW - timedelta(days=9), state="LOST", success=False, cost_nano=5 * NANO)
        DailyUsage.objects.create(day=row.day, key=key, model=row.model, token_name="worker", requests=1,
                                  cost_nano=5 * NANO)  # fmt: skip
        assert "30 days $5.00" in text_of(page_of(operator))
        operator.post(f"/llm-settings/usage/{row.pk}/void")
        assert "Nothing spent in this period" in text_of(page_of(operator))


class TestTopTokens:
    @pytest.fixture
    def spenders(self, administrator):
        """Seven tokens of two people; number n has spent n dollars in the last 30 days, and more before."""
        key, anna = make_key(), make_user("anna", "view_apikey", "view_accesstoken")
        tokens = []
        for number in range(7):
            token, _ = make_account(administrator if number % 2 else anna, name=f"program {number}", dailyLimit="2")
            for days_ago, cost in ((0, number * NANO), (45, 100 * NANO)):
                DailyUsage.objects.create(
                    day=NOW.date() - timedelta(days=days_ago), key=key, model="m", token=token, token_name=token.name,
                    requests=number, successful=number, cost_nano=cost,
                )  # fmt: skip
            tokens.append(token)
        return tokens

    def test_it_shows_the_dearest_tokens_with_what_is_left(self, operator, spenders):
        page = page_of(operator)
        text = text_of(page)
        assert "Top tokens Last 30 days" in text and f'href="/llm-settings/tokens/{spenders[6].pk}"' in page
        assert "program 6 anna 6 $6.00 28.6 % $2.00 left today program 5 admin 5 $5.00 23.8 % $2.00 left today" in text
        assert "program 2" in text and "program 1" not in text and "$106" not in text

    def test_others_see_their_own_alone(self, spenders, with_rights):
        text = text_of(page_of(logged_in(spenders[0].user)))
        assert "program 6 anna 6 $6.00 50 %" in text and "program 5" not in text and "program 0" not in text
        assert "Top tokens" not in page_of(with_rights("view_apikey"))
        assert "Top tokens" not in page_of(with_rights("view_apikey", "view_accesstoken"))

    def test_one_token_is_no_list(self, operator, administrator):
        make_account(administrator)
        assert "Top tokens" not in page_of(operator)
        make_account(administrator)
        assert "Top tokens" not in page_of(operator)

    def test_it_asks_as_often_for_many_tokens(self, operator, spenders, administrator):
        def asked():
            page_of(operator)
            with CaptureQueriesContext(connection) as queries:
                page_of(operator)
            return len(queries)

        few = asked()
        for number in range(20):
            token, _ = make_account(administrator)
            DailyUsage.objects.create(
                day=NOW.date(), key=ApiKey.objects.first(), model="m", token=token, cost_nano=number, requests=1
            )
        assert asked() == few


class TestBanners:
    def test_it_joins_what_is_about_one_key(self, operator):
        key, other = make_key(name="Production"), make_key(name="Other")
        for of, message in (
            (key, "81 % of the daily limit is spent."), (other, "Rejected."), (key, "The daily limit is reached."),
        ):  # fmt: skip
            last = Alert.objects.create(kind="limit_reached", key=of, message=f"“{of.name}”: {message}")
        page = operator.get("/llm-settings").content.decode()
        assert page.count("Dismiss<") == 2
        assert "The daily limit is reached." in page and "81 % of the daily limit is spent." in page
        newer = Alert.objects.create(kind="limit_reached", key=key, message="“Production”: it came meanwhile.")
        operator.post(f"/llm-settings/alerts/{last.pk}/away")
        left = set(Alert.objects.filter(seen_at=None).values_list("pk", "key__name"))
        assert {name for _, name in left} == {"Production", "Other"} and newer.pk in dict(left)
        assert "81 %" not in text_of(page_of(operator))

    def test_it_leads_to_the_token_that_it_is_about_who_may_see_it(self, operator, administrator):
        owner, other = (make_user(name, "view_apikey", "view_accesstoken") for name in ("owner", "other"))
        token, _ = make_account(owner, name="shop")
        Alert.objects.create(kind="limit_reached", token=token, message="“shop”: The daily limit is reached.")
        link = f'<a href="/llm-settings/tokens/{token.pk}">See “shop”</a>'
        assert link in page_of(operator) and link in page_of(logged_in(owner))
        for client in (logged_in(other), logged_in(make_user("reader", "view_apikey"))):
            assert "The daily limit is reached." in page_of(client) and "See “shop”" not in page_of(client)

    def test_it_shows_alerts_until_they_are_dismissed(self, operator, with_rights):
        alert = Alert.objects.create(kind="fallback_price", message="No price is known for “x”: enter it.")
        page = page_of(operator)
        assert "<strong>No price is known for “x”.</strong> Enter it." in page and "favicon-alert" in page
        viewer = with_rights("view_apikey")
        assert viewer.post(f"/llm-settings/alerts/{alert.pk}/away").status_code == 403
        assert operator.get(f"/llm-settings/alerts/{alert.pk}/away").headers["Location"] == "/llm-settings"
        assert f"/alerts/{alert.pk}/away?q=a%26b" in operator.get("/llm-settings?q=a%26b").content.decode()
        answer = operator.post(f"/llm-settings/alerts/{alert.pk}/away?q=a%26b")
        assert answer.headers["Location"] == "/llm-settings?q=a%26b"
        assert "No price is known" not in page_of(operator)

    @pytest.mark.parametrize("name", ["prod: eu", "v1. prod; eu", "the ”new: one”"])
    def test_it_keeps_a_name_whole_whatever_is_in_it(self, operator, administrator, name):
        key, (token, _) = make_key(name=name), make_account(administrator, name=f"{name} token")
        Alert.objects.create(kind="limit_reached", key=key, message=f"“{name}”: The daily limit is reached: $10.00.")
        Alert.objects.create(
            kind="key_expired", token=token, message=f"The access token “{name} token” expired. Change its date."
        )
        Alert.objects.create(kind="no_key_left", message="A request for “a: b” found no key: none is stored.")
        page = page_of(operator)
        assert f"<strong>“{name}”.</strong> The daily limit is reached: $10.00." in page
        assert f"<strong>The access token “{name} token” expired.</strong> Change its date." in page
        assert "<strong>A request for “a: b” found no key.</strong> None is stored." in page

    def test_it_says_when_the_scheduler_stands_still(self, operator):
        Schedule.objects.create(name="check_keys", func="llmkeys.tasks.x", next_run=NOW - timedelta(minutes=9))
        assert "The scheduler has stopped." in page_of(operator)


class TestManyKeys:
    def test_it_shows_a_page_of_them_and_finds_the_others(self, operator, frozen):
        for number in range(32):
            frozen.shift(timedelta(milliseconds=1))
            make_key(name=f"Key {number:02}", provider="openai" if number == 31 else "openrouter")
        first = page_of(operator)
        assert first.count('<article class="panel card') == 30 and "1 to 30 of 32" in first
        assert "Key 31" in page_of(operator, "?page=2") and "31 to 32 of 32" in page_of(operator, "?page=99")
        found = page_of(operator, "?q=key+17")
        assert found.count('<article class="panel card') == 1 and 'value="key 17"' in found
        assert page_of(operator, "?provider=openai&status=ACTIVE").count('<article class="panel card') == 1
        assert "No key matches." in page_of(operator, "?q=nothing+of+this+name")

    @pytest.mark.parametrize("query", ["?page=x", "?page=-1", "?page=0", "?page=" + "9" * 99, "?show=x&by=y&status=z"])
    def test_it_stands_any_question(self, operator, query):
        make_key()
        assert "1 of 1 key available" in page_of(operator, query)


class TestServing:
    def test_it_tells_who_serves_and_who_is_next(self, operator):
        first, second = make_key(name="Alpha", held_nano=NANO), make_key(name="Beta")
        spent = make_key(name="Gamma", spent_day_nano=10 * NANO)
        off = make_key(name="Delta", enabled=False)
        text = text_of(page_of(operator))
        assert "Serving now Alpha openai/gpt-6.1-terra , $9.00 left today" in text
        assert "Next Beta $10.00 left today" in text
        assert "Passed over Gamma Daily budget spent" in text
        assert "Out of service Delta Switched off manually" in text
        assert {first.id, second.id, spent.id, off.id} <= set(
            re.findall(r'article class="[^"]*" id="([^"]+)"', page_of(operator))
        )

    def test_it_warns_when_no_key_can_serve(self, operator):
        make_key(enabled=False)
        make_key(rejected_at=NOW)
        page = page_of(operator)
        assert "No key can serve right now." in page and "1 switched off, 1 rejected" in page
        assert "favicon-alert" in page and "<title>No key can serve" in page

    def test_it_tells_a_missing_model_from_a_missing_key(self, operator, settings, provider):
        provider.add(responses.GET, re.compile("https://api.anthropic.com/v1/models.*"), json={"data": []})
        settings.PRIMARY_MODEL, settings.FALLBACK_MODELS = "gpt-5", []
        make_key(provider="anthropic", spent_day_nano=0)
        page = page_of(operator)
        assert "No stored key can serve the primary model" in page and "gpt-5" in page

    def test_it_says_when_the_secrets_are_sealed(self, operator, settings):
        settings.REFACTAI_ENCRYPTION_KEYS = [MasterKey("the first master key").text]
        make_key()
        settings.REFACTAI_ENCRYPTION_KEYS = [MasterKey("another master key").text]
        assert "Sealed: nothing can be sent." in page_of(operator)


class TestCards:
    def test_it_shows_a_key_with_its_budgets_and_figures(self, operator):
        key = make_key(
            name="Production", secret="sk-or-v1-12345678" + "e" * 40 + "abcd", spent_day_nano=NANO * 382 // 100,
            held_nano=NANO * 94 // 100, total_requests=9412, successful_requests=9308, failed_requests=104,
            last_used_at=NOW - timedelta(minutes=35), expires_at=NOW + timedelta(days=28, hours=1),
        )  # fmt: skip
        make_usage(key, state="HELD", success=None, cost_nano=0, cost_source="", lease_until=NOW + timedelta(minutes=1))
        card = card_of(page_of(operator), key)
        text = text_of(card)
        assert "sk-or-v1-12345678...abcd" in text
        assert "ACTIVE" in text and "Default" in text and "OpenRouter" in text
        assert "$3.82 of $10.00" in text and "of $100.00" in text and "of $1,000" in text
        assert "$0.94 held by 1 open request" in text
        assert "Requests 9,412 Succeeded 98.9 % Last used 35 min ago Expires in 28 days" in text
        assert 'title="2026-11-23 19:55:00 UTC">35 min ago</time>' in card
        assert 'class="spent" width="38.20%"' in card and 'x="38.20%" width="9.40%"' in card
        assert 'aria-label="Day budget: $3.82 spent, $0.94 held, of $10.00"' in card

    def test_it_shows_a_key_whose_times_do_not_exist_in_the_time_zone(self, operator, settings):
        settings.TIME_ZONE = "Asia/Tokyo"
        last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
        key = make_key(expires_at=last, created_at=last, last_used_at=last)
        assert 'title="9999-12-31 23:59:59 UTC"' in card_of(page_of(operator), key)
        assert operator.get(f"/llm-settings/keys/{key.id}").status_code == 200

    @pytest.mark.parametrize(
        ("columns", "status", "words"),
        [
            ({"enabled": False}, "DISABLED", "Switched off manually."),
            ({"rejected_at": NOW, "last_error": "User not found."}, "DISABLED", "User not found. Create a new key"),
            ({"expires_at": NOW - timedelta(days=1)}, "EXPIRED", "Expired yesterday at 20:30 UTC"),
            (
                {"spent_day_nano": 10 * NANO},
                "LIMIT_REACHED",
                "Daily budget spent. $10.00 of $10.00. Serves again tomorrow at 00:00 UTC",
            ),
            ({"spent_month_nano": 100 * NANO}, "LIMIT_REACHED", "Serves again on 1 December"),
            ({"spent_total_nano": 1000 * NANO}, "LIMIT_REACHED", "when its limit is raised"),
            (
                {
                    "refused_window": "day",
                    "refused_day": NOW.date(),
                    "refused_need_nano": NANO,
                    "refused_room_nano": NANO // 5,
                },
                "LIMIT_REACHED",
                "The last request needed up to $1.00; $0.20 was left. Serves again tomorrow at 00:00 UTC",
            ),
            ({"last_error": "No access from this address."}, "ACTIVE", "No access from this address."),
        ],
    )
    def test_it_says_what_is_the_matter_and_what_to_do(self, operator, columns, status, words):
        make_key()
        key = make_key(**columns)
        text = text_of(card_of(page_of(operator), key))
        assert status in text
        assert words in re.sub(r" ([.,])", r"\1", text)

    def test_it_tells_a_key_that_rests_for_one_model_from_one_that_is_exhausted(self, operator):
        one, group = make_key(), make_key(billing_group="team")
        Cooling.objects.create(
            scope=f"key:{one.id}",
            model="gpt-5",
            kind="rate_limited",
            until=NOW + timedelta(hours=1),
            reason="Slow down",
        )
        Cooling.objects.create(
            scope="group:openrouter:team", kind="exhausted", until=NOW + timedelta(days=3), reason="No credit left."
        )
        Cooling.objects.create(
            scope=f"key:{group.id}", model="gpt-5", kind="rate_limited", until=NOW - timedelta(hours=1)
        )
        page = page_of(operator)
        assert "Cooling for gpt-5." in page and "Other models are served." in page and "“Slow down.”" in page
        card = card_of(page, group)
        assert "Exhausted at OpenRouter, for every model." in card and "“No credit left.”" in card
        assert ">Cooling</span>" in card and "ACTIVE" in card

    def test_it_does_not_offer_to_delete_a_key_of_the_environment(self, operator):
        key = make_key(source="environment", environment_variable="OPENROUTER_API_KEY")
        card = card_of(page_of(operator), key)
        assert "from OPENROUTER_API_KEY" in card and "/delete" not in card

    def test_it_never_rounds_a_small_amount_to_nothing(self, operator):
        key = make_key(spent_day_nano=123_456)
        assert "$0.00012" in card_of(page_of(operator), key)

    def test_it_shows_the_keys_that_are_asked_for(self, operator):
        good, bad = make_key(), make_key(rejected_at=NOW)
        assert good.id not in re.findall(r'article class="[^"]*" id="([^"]+)"', page_of(operator, "?show=attention"))
        assert bad.id not in re.findall(r'article class="[^"]*" id="([^"]+)"', page_of(operator, "?show=available"))
        assert "<title>1 key needs attention" in page_of(operator)


class TestSafety:
    def test_it_never_shows_a_secret_or_a_fingerprint(self, operator):
        secret = new_secret()
        key = make_key(secret=secret)
        page = page_of(operator)
        assert secret not in page and key.fingerprint not in page and secret[20:40] not in page

    def test_it_writes_names_as_text(self, operator):
        payload = "<script>alert(1)</script>\"'<img src=x onerror=alert(1)>"
        key = make_key(name=payload, description=payload, last_error=payload)
        for address in ("/llm-settings", f"/llm-settings/keys/{key.id}/delete"):
            page = operator.get(address).content.decode()
            assert "<script>" not in page and "<img" not in page and "&lt;script&gt;" in page

    def test_it_leaves_out_deleted_keys_but_not_their_cost(self, operator):
        make_key()
        gone = make_key(
            name="Gone for good", spent_total_nano=7 * NANO, fingerprint=None, enabled=False, deleted_at=NOW
        )
        page = page_of(operator)
        assert gone.name not in page and "$7.00" in page

    def test_it_asks_the_database_as_often_for_fifty_keys_as_for_two(self, operator, frozen):
        make_key(), make_key()
        page_of(operator)  # from here on the aliases are remembered
        with CaptureQueriesContext(connection) as few:
            page_of(operator)
        for _ in range(48):
            frozen.shift(timedelta(milliseconds=1))  # an id is made of the millisecond and a few random digits
            make_key()
        with CaptureQueriesContext(connection) as many:
            page_of(operator)
        assert len(many) == len(few) <= 16, [query["sql"][:100] for query in many.captured_queries]

    def test_it_has_no_inline_script_and_no_inline_style(self, operator):
        make_key()
        for address in ("/llm-settings", "/llm-settings/keys/add", "/login"):
            page = operator.get(address).content.decode()
            assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son[a-z]+=|javascript:", page)
            assert page.count("<h1") == 1 and '<html lang="en">' in page
