"""GET /llm-settings/usage and its CSV."""

from __future__ import annotations

import csv
import html
import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from llmkeys.key_state import current_windows
from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, Adjustment, ApiKey, DailyUsage
from tests.helpers import NOW, make_account, make_key, make_token, make_usage, make_user
from tests.pages.helpers import text_of
from tests.pages.usage import make_counted

pytestmark = pytest.mark.django_db
PATH = "/llm-settings/usage"


@pytest.fixture(autouse=True)
def _present(frozen):
    """Every page of this file is asked for at `NOW`."""


def page_of(client, query: str = "") -> str:
    answer = client.get(f"{PATH}{query}")
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", answer.content.decode())


def rows_of(client, query: str = "") -> list[str]:
    """Return the ids of the requests in the table, in its order."""
    return re.findall(r'<a class="model" href="/llm-settings/usage/([^"]+)"', page_of(client, query))


def make_day(
    key: ApiKey, *, days_ago: int = 0, model: str = "openai/gpt-6.1-terra", token: str = "worker", **sums: int
):
    day = current_windows(NOW).day - timedelta(days=days_ago)
    defaults = {
        "requests": 10, "successful": 9, "failed": 1, "input_tokens": 4000, "output_tokens": 700, "cost_nano": NANO,
    }  # fmt: skip
    return DailyUsage.objects.create(key=key, day=day, model=model, token_name=token, **defaults | sums)


class TestRights:
    def test_it_needs_the_right_to_see_usage(self, with_rights):
        for path in (PATH, f"{PATH}.csv"):
            assert with_rights("view_apikey").get(path).status_code == 403
            assert with_rights("view_usagerecord").get(path).status_code == 200
            assert Client().get(path).headers["Location"].startswith("/login")

    def test_it_only_shows(self, operator):
        assert operator.post(PATH).status_code == operator.post(f"{PATH}.csv").status_code == 405


class TestTable:
    def test_it_tells_everything_of_an_attempt(self, operator):
        other = make_key(name="Research")
        make_usage(
            make_key(name="Production"), token_name="support-bot", input_tokens=3412, cached_input_tokens=2816,
            output_tokens=618, cost_nano=13_100_000, cost_source="computed", latency_ms=2410, first_byte_ms=380,
            skipped=[{"keyId": other.id, "reason": "cooling"}],
        )  # fmt: skip
        page = text_of(page_of(operator))
        for words in (
            "20:30:00", "openai/gpt-6.1-terra", "Production · support-bot", "Settled", "3,412", "2,816 cached", "618",
            "0.0131", "computed", "2.41 s", "first byte 0.38 s", "Research was cooling down",
        ):  # fmt: skip
            assert words in page, words

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"state": "HELD", "success": None, "cost_nano": 0, "lease_until": NOW, "cost_source": "",
              "hold_nano": 245_800_000, "latency_ms": None}, ("Held", "0.2458", "in progress")),
            ({"state": "RELEASED", "success": False, "cost_nano": 0, "http_status": 429}, ("Released", "status 429")),
            ({"state": "LOST", "success": False, "cost_source": "estimated"}, ("Lost", "estimated")),
            ({"success": False}, ("Settled, failed",)),
            ({"overrun": True}, ("above its hold",)),
            ({"cost_nano": 1200}, ("0.0000012",)),
            ({"input_tokens": None, "output_tokens": None}, ("–",)),
        ],
    )  # fmt: skip
    def test_it_has_a_word_for_every_state(self, operator, columns, words):
        make_usage(make_key(), **columns)
        page = text_of(page_of(operator))
        assert all(word in page for word in words)

    def test_it_shows_what_was_corrected(self, operator):
        row = make_usage(make_key(), state="LOST", success=False, cost_nano=NANO)
        Adjustment.objects.create(
            kind="void", key=row.key, usage=row, day_nano=-NANO, month_nano=-NANO, total_nano=-NANO, cost_nano=-NANO,
            day=row.day, month=row.month,
        )  # fmt: skip
        assert "-1.0000 corrected" in text_of(page_of(operator))

    def test_it_shows_a_correction_once_whoever_pays(self, operator):
        """The access token has an adjustment of its own, and a reset may leave less to give back than the row cost."""
        make_token(make_user("anna"), name="worker")
        token = AccessToken.objects.get(name="worker")
        row = make_usage(make_key(), state="LOST", success=False, cost_nano=NANO, token=token)
        for account in ({"key": row.key}, {"token": token}):
            Adjustment.objects.create(
                kind="void", usage=row, cost_nano=-NANO, total_nano=-NANO // 2, day=row.day, month=row.month, **account
            )
        assert "-1.0000 corrected" in text_of(page_of(operator))
        assert "Cost $0.00" in text_of(operator.get(f"/llm-settings/usage/{row.request_id}").content.decode())

    @pytest.mark.parametrize(
        ("columns", "told", "badge"),
        [
            ({"cost_source": "computed"}, None, 'known known" title="computed from tokens'),
            ({"cost_source": "estimated"}, None, 'known estimated" title="estimated:'),
            ({"cost_source": "fallback"}, None, 'known estimated" title="fallback price'),
            ({"cost_source": "estimated", "state": "LOST"}, None, 'known lost" title="lost: charged at the hold'),
            ({"cost_source": "estimated", "state": "LOST"}, ("void", ""), 'known known" title="the charge of a lost'),
            (
                {"cost_source": "estimated", "state": "LOST"},
                ("late", "computed"),
                'known known" title="corrected later',
            ),
            ({"cost_source": "estimated", "state": "LOST"}, ("late", "estimated"), 'known estimated" title="corrected'),
            ({"cost_source": "estimated"}, ("reconcile", "provider"), 'known known" title="corrected later: reported'),
        ],
    )
    def test_it_tells_how_each_cost_is_known_by_now(self, operator, columns, told, badge):
        row = make_usage(make_key(), **columns)
        if told:
            kind, source = told
            Adjustment.objects.create(
                kind=kind, cost_source=source, key=row.key, usage=row, day=row.day, month=row.month
            )
        assert f'class="{badge}' in html.unescape(page_of(operator))

    def test_it_counts_the_attempts_of_a_request(self, operator):
        key = make_key()
        make_usage(key, request_id="req-two")
        make_usage(key, request_id="req-two", attempt=2)
        page = text_of(page_of(operator))
        assert "1 of 2" in page and "2 of 2" in page

    def test_it_says_that_nothing_is_there(self, operator):
        assert "No requests in this period." in page_of(operator)
        assert "No requests match these filters." in page_of(operator, "?state=LOST")


class TestFilters:
    @pytest.fixture(autouse=True)
    def _rows(self, administrator):
        self.first = make_key(name="First")
        self.second = make_key(name="Second", provider="anthropic")
        make_counted(self.second, request_id="d", at=NOW - timedelta(days=60))
        make_counted(self.first, request_id="a", at=NOW - timedelta(days=3))
        make_counted(self.second, request_id="c", state="LOST", success=False, at=NOW - timedelta(hours=21))
        make_counted(self.first, request_id="b", model="rare_model", token_name="100%", success=False)

    @pytest.mark.parametrize(
        ("query", "found"),
        [
            ("", "cba"), ("?range=90", "dcba"), ("?range=today", "b"), ("?range=7", "cba"), ("?range=month", "cba"),
            ("?provider=anthropic&range=90", "dc"), ("?model=rare_model", "b"), ("?model=rare-model", ""),
            ("?token=100%25", "b"), ("?token=1_0%25", ""), ("?state=LOST", "c"), ("?success=false", "cb"),
            ("?success=true&range=90", "da"), ("?since=2026-11-20&until=2026-11-20", "a"), ("?until=2026-11-22", "dca"),
            ("?since=2026-11-22&state=LOST&provider=anthropic", "c"), ("?key=key-unknown", ""),
            ("?cost=lost", "c"), ("?cost=known", "ba"), ("?cost=estimated", ""),
        ],
    )  # fmt: skip
    def test_it_leaves_what_fits(self, operator, query, found):
        assert "".join(sorted(rows_of(operator, query))) == "".join(sorted(found))

    def test_it_filters_by_key(self, operator):
        assert rows_of(operator, f"?key={self.first.id}") == ["b", "a"]

    def test_it_suggests_ids_where_a_name_is_not_enough(self, operator, administrator):
        tokens = [make_account(administrator, name=name)[0] for name in ("shop", "shop", "bot", "digits")]
        AccessToken.objects.filter(name="digits").update(name="7")
        options = re.search(r'<datalist id="known-token">(.*?)</datalist>', page_of(operator))[1]
        found = re.findall(r'<option value="([^"]*)"(?: label="([^"]*)")?>', options)
        one, other, _, digits = (f"{token.pk}" for token in tokens)
        assert found == [
            ("100%", ""), ("bot", ""), ("worker", ""),
            (digits, f"7 ({digits})"), (other, f"shop ({other})"), (one, f"shop ({one})"),
        ]  # fmt: skip

    def test_each_filter_is_a_chip_that_takes_it_off(self, operator):
        page = page_of(operator, f"?key={self.second.id}&state=LOST&token=worker")
        assert ">Second</b>" in page and ">Lost</b>" in page
        chips = {html.unescape(link) for link in re.findall(r'class="chip on" href="([^"]*)"', page)}
        assert chips == {
            f"?key={self.second.id}&state=LOST", f"?key={self.second.id}&token=worker", "?token=worker&state=LOST",
        }  # fmt: skip

    def test_it_calls_the_state_so_in_the_table_the_form_and_the_chips(self, operator):
        text = text_of(page_of(operator, "?state=LOST"))
        assert text.count("State") == 3 and "Status" not in text, "“status” is the word for keys and tokens"

    def test_the_form_keeps_what_is_on(self, operator):
        page = page_of(operator, f"?key={self.second.id}&provider=anthropic&since=2026-11-01")
        assert f'<option value="{self.second.id}" selected>' in page
        assert '<option value="anthropic" selected>' in page and 'type="date" value="2026-11-01"' in page
        assert '<option value="key-gone" selected>' in page_of(operator, "?key=key-gone")

    @pytest.mark.parametrize(
        ("query", "words"),
        [
            ("?provider=acme", "“provider” was ignored: choose from: openrouter"),
            ("?state=held", "“state” was ignored: choose from: HELD"),
            ("?since=yesterday", "must be a day such as"), ("?since=20261122", "must be a day such as"),
            ("?until=0001-01-01", "must be a day such as"), ("?until=9999-12-31", "must be a day such as"),
            ("?since=2026-11-20&until=2026-11-10", "is after the last"), ("?model=a%00b", "printable characters"),
            ("?token=" + "x" * 300, "at most 200"), ("?range=13", "“range” was ignored: choose from: today"),
            ("?by=colour", "“by” was ignored: choose from: model"),
            ("?cost=free", "“cost” was ignored: choose from: known"),
        ],
    )  # fmt: skip
    def test_it_names_what_it_does_not_understand_and_shows_the_rest(self, operator, query, words):
        assert words in html.unescape(page_of(operator, query))
        assert sorted(rows_of(operator, query)) == ["a", "b", "c"]

    @pytest.mark.parametrize("cursor", ["x", "-1", "9" * 40, "٣", "%00"])
    def test_a_cursor_that_is_none_shows_the_first_page(self, operator, cursor):
        assert rows_of(operator, f"?before={cursor}") == rows_of(operator, f"?after={cursor}") == ["b", "c", "a"]


class TestPages:
    def test_it_goes_older_and_back(self, operator):
        key = make_key()
        made = [make_usage(key, request_id=f"r{number:03}").request_id for number in range(120)][::-1]
        found, query, pages = [], "", 0
        while query is not None:
            page = page_of(operator, query)
            found += rows_of(operator, query)
            older = re.search(r'href="([^"#]*)#rows" rel="next"', page)
            newer = re.search(r'href="([^"#]*)#rows" rel="prev"', page)
            query, pages = html.unescape(older[1]) if older else None, pages + 1
        assert found == made and pages == 3
        assert rows_of(operator, html.unescape(newer[1])) == made[50:100]

    def test_a_page_of_newer_rows_that_is_not_full_is_the_first(self, operator):
        key = make_key()
        made = [make_usage(key, request_id=f"r{number}") for number in range(5)]
        assert len(rows_of(operator, f"?after={made[2].pk}")) == 5

    def test_the_filters_stay(self, operator):
        key = make_key()
        for number in range(60):
            make_counted(key, request_id=f"r{number}", token_name="a&b")
        assert "?token=a%26b&amp;before=" in page_of(operator, "?token=a%26b")


class TestNumbersAndChart:
    def test_it_sums_the_daily_totals_and_compares_with_the_time_before(self, operator):
        key = make_key()
        make_day(key, cost_nano=3 * NANO, requests=100, successful=95, failed=5)
        make_day(key, days_ago=29, cost_nano=NANO, requests=20, successful=20, failed=0)
        make_day(key, days_ago=30, cost_nano=2 * NANO, requests=240, successful=240, failed=0)
        page = text_of(page_of(operator))
        assert "Spend $4.00 up against $2.00 in the 30 days before" in page
        assert "Requests 120 down against 240 in the 30 days before" in page
        assert "Failed 4.2 % up against 0 % before" in page and "Per request $0.03" in page

    def test_it_follows_time_key_provider_model_and_token(self, operator):
        first, second = make_key(name="First"), make_key(name="Second", provider="anthropic")
        make_day(first, cost_nano=1 * NANO)
        make_day(first, cost_nano=2 * NANO, model="rare")
        make_day(second, cost_nano=4 * NANO, token="other")
        make_day(second, cost_nano=8 * NANO, days_ago=10)
        for query, sum_ in [
            ("", 15), ("?range=today", 7), ("?range=7", 7), (f"?key={first.id}", 3), ("?provider=anthropic", 12),
            ("?model=rare", 2), ("?token=other", 4), ("?until=2026-11-20", 8), ("?since=2026-11-23", 7),
            ("?by=key", 15), (f"?by=key&key={second.id}", 12), ("?by=provider&range=7", 7),
            ("?by=token&token=other", 4),
        ]:  # fmt: skip
            assert f"Spend ${sum_}.00" in text_of(page_of(operator, query)), query

    @pytest.mark.parametrize("query", ["", "by=key", "range=90&by=token"])
    def test_it_tells_apart_what_is_known_what_is_estimated_and_what_is_lost(self, operator, query):
        key = make_key()
        make_day(key, cost_nano=5 * NANO, estimated_nano=NANO)
        make_day(key, cost_nano=4 * NANO, lost_nano=2 * NANO, days_ago=9)
        page = page_of(operator, f"?{query}")
        assert "$6.00 reported or computed · $1.00 estimated · $2.00 lost" in text_of(page)
        lost = re.search(r'class="part lost" href="[^"?]*([^"#]*)#rows"', page)
        assert html.unescape(lost[1]) in (f"?{query}&cost=lost".replace("?&", "?"), "?range=90&by=token&cost=lost")
        assert "apply only to this table" in page_of(operator, html.unescape(lost[1]))

    def test_it_follows_corrections_of_days_that_are_over(self, operator):
        day = make_day(make_key(), days_ago=9, cost_nano=5 * NANO)
        assert "Spend $5.00" in text_of(page_of(operator))
        DailyUsage.objects.filter(pk=day.pk).update(cost_nano=4 * NANO)
        assert "Spend $4.00" in text_of(page_of(operator))

    def test_it_tells_tokens_of_one_name_apart(self, operator, administrator):
        key = make_key()
        for number in range(2):
            make_token(administrator, name="shop")
            make_day(key, token="shop", token_id=AccessToken.objects.latest("pk").pk, cost_nano=(number + 1) * NANO)
        make_day(key, token="", cost_nano=NANO // 2), make_day(key, token="²", cost_nano=NANO // 4)
        first, second = AccessToken.objects.order_by("pk")
        page = page_of(operator, "?by=token")
        assert f"shop ({second.pk}) $2.00" in text_of(page) and f"shop ({first.pk}) $1.00" in text_of(page)
        assert "no token $0.50" in text_of(page) and f"token={second.pk}" in page
        assert "Spend $2.00" in text_of(page_of(operator, f"?token={second.pk}"))
        assert "Token shop" in text_of(page_of(operator, f"?token={second.pk}"))

    def test_it_takes_a_name_of_digits_for_no_tokens_id(self, operator, administrator):
        key = make_key()
        token, _ = make_account(administrator, name="shop")
        make_day(key, token="shop", token_id=token.pk, cost_nano=2 * NANO)
        make_day(key, token=f"{token.pk}", cost_nano=NANO)  # a person of that name in the playground
        page = page_of(operator, "?by=token")
        assert "shop $2.00" in text_of(page) and f" {token.pk} $1.00" in text_of(page)
        assert page.count(f"token={token.pk}") == 1, "the person's usage has no filter"

    def test_it_names_the_dearest_keys_and_sums_the_rest(self, operator):
        for number in range(11):
            make_day(make_key(name=f"Key number {number}"), cost_nano=(number + 1) * NANO)
        page = text_of(page_of(operator, "?by=key"))
        assert "Spend $66.00" in page and "3 others" in page and "Key number 10" in page

    def test_the_legend_leads_to_one_group_alone(self, operator):
        key = make_key(name="Production")
        make_day(key)
        assert f'href="?by=key&amp;key={key.id}"' in page_of(operator, "?by=key")
        assert "?provider=openrouter" in html.unescape(page_of(operator, "?by=provider")).replace("by=provider&", "")

    def test_it_says_that_the_state_narrows_the_table_alone(self, operator):
        assert "The filters for state, result and cost apply only to this table" in page_of(operator, "?state=LOST")
        assert "apply only to this table" not in page_of(operator, "?model=x")


class TestSpeed:
    def test_its_queries_do_not_grow(self, operator, django_assert_max_num_queries):
        def fill(number: int) -> None:
            for at in range(number):
                key = make_key()
                make_day(key, days_ago=at % 40)
                make_usage(key, request_id=f"r{key.id}", skipped=[{"keyId": key.id, "reason": "cooling"}])

        counts = []
        for number in (12, 20):
            fill(number)
            page_of(operator, "?by=key")  # closes the days that are over, which is remembered
            with CaptureQueriesContext(connection) as queries:
                page_of(operator, "?by=key")
            counts.append(len(queries))
        assert counts[0] == counts[1] <= 24
        page_of(operator)
        with django_assert_max_num_queries(20):
            page_of(operator)

    def test_it_never_counts_the_rows(self, operator):
        make_usage(make_key())
        with CaptureQueriesContext(connection) as queries:
            page_of(operator, "?state=LOST&range=90")
        of_rows = [query["sql"] for query in queries if 'FROM "llmkeys_usagerecord"' in query["sql"]]
        assert of_rows and not [sql for sql in of_rows if "COUNT(" in sql or "OFFSET" in sql]


class TestCsv:
    def read(self, client, query: str = "") -> list[dict[str, str]]:
        answer = client.get(f"{PATH}.csv{query}")
        assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/csv")
        assert 'filename="usage.csv"' in answer.headers["Content-Disposition"]
        assert "no-store" in answer.headers["Cache-Control"]
        return list(csv.DictReader(b"".join(answer.streaming_content).decode().splitlines()))

    def test_it_has_the_filtered_rows_in_the_columns_of_the_api(self, operator):
        key = make_key(name="=1+1")
        make_usage(key, request_id="old", at=NOW - timedelta(days=40))
        make_usage(key, request_id="new", cost_nano=1200)
        (row,) = self.read(operator)
        assert row["requestId"] == "new" and row["cost"] == "0.0000012" and row["keyName"] == "'=1+1"
        assert [row["requestId"] for row in self.read(operator, "?range=90")] == ["new", "old"]
        assert self.read(operator, "?state=LOST") == []

    def test_the_page_links_to_it_with_its_filters(self, operator):
        assert 'href="/llm-settings/usage.csv?range=7&amp;state=LOST"' in page_of(operator, "?range=7&state=LOST")
