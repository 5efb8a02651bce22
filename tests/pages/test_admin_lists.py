"""Long lists in the admin: bounded, searched literally, handed out as CSV; a lost charge is taken back from there."""

from __future__ import annotations

import csv
import html
import io

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext

from llmkeys.admin import lists, usage
from llmkeys.lib.money import NANO
from llmkeys.models import Adjustment, Alert, KeyEvent, UsageRecord
from llmkeys.presentation import USAGE_COLUMNS
from tests.helpers import NOW, make_account, make_key, make_usage, make_user
from tests.pages.helpers import messages_of

pytestmark = pytest.mark.django_db
USAGE, KEYS, EVENTS = "/admin/llmkeys/usagerecord/", "/admin/llmkeys/apikey/", "/admin/llmkeys/keyevent/"


def shown(client, address: str = USAGE, **query: str) -> set[int]:
    answer = client.get(address, query)
    assert answer.status_code == 200
    return {row.pk for row in answer.context["cl"].result_list}


def act(client, address: str, action: str, *rows, **more: str):
    return client.post(address, {"action": action, "_selected_action": [row.pk for row in rows], **more}, follow=True)


def csv_of(answer) -> list[dict[str, str]]:
    assert answer.headers["Content-Type"].startswith("text/csv") and ".csv" in answer.headers["Content-Disposition"]
    return list(csv.DictReader(io.StringIO(b"".join(answer).decode())))


class TestBounds:
    def test_it_never_counts_or_reads_a_whole_table(self, operator, monkeypatch):
        monkeypatch.setattr(lists, "LISTED", 3)
        monkeypatch.setattr(usage.UsageRecordAdmin, "list_per_page", 2)
        key = make_key()
        for _ in range(5):
            make_usage(key)
        with CaptureQueriesContext(connection) as queries:
            answer = operator.get(USAGE)
        assert answer.context["cl"].result_count == 3
        about_rows = [query["sql"] for query in queries if "llmkeys_usagerecord" in query["sql"]]
        assert about_rows and all("LIMIT" in sql for sql in about_rows)

    def test_it_says_where_the_list_ends(self, operator, monkeypatch):
        assert "newest 2,000 rows are listed" not in operator.get(USAGE).content.decode()
        monkeypatch.setattr(lists.BoundedPaginator, "count", 2000)
        assert "newest 2,000 rows are listed" in operator.get(USAGE).content.decode()

    @pytest.mark.parametrize("what", ["failed", "fallback", "estimated", "overrun"])
    def test_it_filters_among_the_newest_rows_alone(self, operator, monkeypatch, what):
        monkeypatch.setattr(usage, "SEARCHED", 2)
        key = make_key()
        told = {"success": False, "cost_source": "estimated" if what == "estimated" else "fallback", "overrun": True}
        old, *new = (make_usage(key, **told) for _ in range(3))
        assert shown(operator, what=what) == {row.pk for row in new} and old.pk not in shown(operator, what=what)

    @pytest.mark.parametrize(
        ("what", "state", "index"), [("lost", "LOST", "usage_lost"), ("held", "HELD", "usage_open_holds")]
    )
    def test_it_finds_every_lost_and_open_row_by_its_index(self, operator, monkeypatch, what, state, index):
        monkeypatch.setattr(usage, "SEARCHED", 1)
        key = make_key()
        old = make_usage(key, state=state, cost_nano=0, lease_until=NOW)
        make_usage(key), make_usage(key)
        with CaptureQueriesContext(connection) as queries:
            assert shown(operator, what=what) == {old.pk}
        sql = next(q["sql"] for q in queries if "COUNT" not in q["sql"] and f"'{state}'" in q["sql"])
        assert f"('{state}')" in sql, "as a literal, so that the partial index can be used"
        if connection.vendor == "sqlite":
            with connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN QUERY PLAN {sql}")
                plan = " ".join(str(line) for line in cursor.fetchall())
            assert index in plan, plan

    def test_it_offers_the_providers_without_looking_through_the_table(self, operator):
        make_usage(make_key(provider="openai"))
        other = make_usage(make_key())
        assert shown(operator, provider="openrouter") == {other.pk}
        assert shown(operator, provider="nobody") == set()

    def test_it_asks_the_database_a_fixed_number_of_times(self, operator, django_assert_max_num_queries):
        for _ in range(20):
            make_usage(make_key())
        for query in ({}, {"what": "failed"}, {"q": "Key"}):
            with django_assert_max_num_queries(8):
                shown(operator, **query)


class TestSearch:
    def test_it_finds_a_request_by_its_id_and_rows_by_the_name_of_their_key(self, operator):
        first = make_usage(make_key(name="Production"))
        second = make_usage(make_key(name="Staging"))
        assert shown(operator, q=first.request_id) == {first.pk}
        assert shown(operator, q="stag") == {second.pk}
        assert shown(operator, q="nothing") == set()

    @pytest.mark.parametrize("character", ["%", "_", "\\", "<"])
    def test_it_takes_every_character_literally(self, operator, character):
        plain, special = make_key(name="plain"), make_key(name=f"a{character}b")
        row = make_usage(special)
        make_usage(plain)
        KeyEvent.objects.all().delete()
        event = KeyEvent.objects.create(kind="changed", message=f"x{character}y", created_at=NOW)
        KeyEvent.objects.create(kind="changed", message="xzy", created_at=NOW)
        assert shown(operator, KEYS, q=character) == {special.pk}
        assert shown(operator, USAGE, q=character) == {row.pk}
        assert shown(operator, EVENTS, q=character) == {event.pk}


def test_it_shows_that_the_output_limit_was_lowered(operator):
    row = make_usage(make_key(), max_tokens=4096)
    page = operator.get(f"{USAGE}{row.pk}/change/").content.decode()
    assert ">4096<" in page and "The output limit, lowered to fit a budget." in page


class TestCsv:
    def test_it_hands_out_the_selected_keys_without_secrets(self, operator):
        key, other = make_key(name="=cmd()|x"), make_key()
        (row,) = csv_of(act(operator, KEYS, "as_csv", key))
        assert row["id"] == key.pk and row["name"] == "'=cmd()|x" and row["maskedApiKey"] == key.masked_secret
        assert "secret" not in " ".join(row).lower() and other.pk not in str(row)

    def test_it_hands_out_rows_and_events(self, operator):
        row = make_usage(make_key(name="Production"))
        (line,) = csv_of(act(operator, USAGE, "as_csv", row))
        assert (line["requestId"], line["cost"], line["keyName"]) == (row.request_id, "0.25", "Production")
        event = KeyEvent.objects.first()
        assert csv_of(act(operator, EVENTS, "as_csv", event))[0]["kind"] == event.kind

    def test_it_hands_out_whole_rows_of_a_token_whose_user_was_deleted(self, operator):
        user = make_user("anna")
        token, _ = make_account(user, name="shop")
        rows = [make_usage(make_key(name="Production"), token=token, token_name="shop") for _ in range(2)]
        assert [line["user"] for line in csv_of(act(operator, USAGE, "as_csv", *rows))] == ["anna", "anna"]
        user.delete()
        lines = csv_of(act(operator, USAGE, "as_csv", *rows))
        assert [(line["token"], line["tokenId"], line["user"]) for line in lines] == [("shop", str(token.pk), "")] * 2
        assert all(list(line) == list(USAGE_COLUMNS) for line in lines)

    def test_it_asks_the_database_as_often_for_fifty_rows_as_for_one(self, operator):
        def asked(rows: int) -> int:
            for number in range(rows):
                token, _ = make_account(make_user(f"user {rows} {number}"))
                make_usage(make_key(), token=token)
            with CaptureQueriesContext(connection) as queries:
                answer = operator.post(USAGE, {"action": "as_csv", "_selected_action": [1], "select_across": "1"})
                assert len(csv_of(answer)) >= rows
            return len(queries)

        one = asked(1)
        assert asked(49) == one

    def test_it_hands_out_no_more_than_the_list_leads_to(self, operator, monkeypatch):
        monkeypatch.setattr(lists, "LISTED", 2)
        key = make_key()
        rows = [make_usage(key) for _ in range(4)]
        assert len(csv_of(act(operator, USAGE, "as_csv", rows[0], select_across="1"))) == 2


@pytest.mark.usefixtures("frozen")
class TestVoid:
    def lost(self, **columns) -> UsageRecord:
        key = make_key(name="Production", spent_day_nano=NANO, spent_month_nano=NANO, spent_total_nano=NANO)
        return make_usage(key, state="LOST", success=False, cost_nano=NANO // 2, cost_source="estimated", **columns)

    def test_it_asks_first_and_names_who_does_it(self, operator):
        row, other = self.lost(), make_usage(make_key())
        page = html.unescape(act(operator, USAGE, "void", row, other).content.decode())
        assert "$0.50" in page and "<strong>admin</strong>" in page and "1 of the selected row is not LOST" in page
        assert not Adjustment.objects.exists()

    def test_it_takes_the_charge_back_once(self, operator):
        row = self.lost()
        page = act(operator, USAGE, "void", row, post="yes", reason="Not on the bill.").content.decode()
        assert "1 charge taken back, $0.50 in total." in page
        adjustment = Adjustment.objects.get()
        assert (adjustment.created_by, adjustment.reason) == ("admin", "Not on the bill.")
        assert adjustment.total_nano == -NANO // 2 and LogEntry.objects.count() == 1
        row.refresh_from_db()
        assert row.state == "LOST" and row.cost_nano == NANO // 2, "history stays"
        assert "has already been taken back" in act(operator, USAGE, "void", row, post="yes").content.decode()
        assert Adjustment.objects.count() == 1

    def test_it_leaves_out_what_was_taken_back_or_corrected_before(self, operator):
        voided, late, row = self.lost(), self.lost(), self.lost()
        UsageRecord.objects.filter(pk=voided.pk).update(cost_nano=5 * NANO)
        operator.post(f"/llm-settings/usage/{voided.pk}/void")
        Adjustment.objects.create(
            kind="late", key=late.key, usage=late, cost_nano=-NANO // 4, total_nano=-NANO // 4, cost_source="provider",
            day=late.day, month=late.month,
        )  # fmt: skip
        page = act(operator, USAGE, "void", voided, late, row).content.decode()
        assert 'value="Take back $0.50"' in page and "2 of the selected rows are not LOST, or no longer" in page
        page = act(operator, USAGE, "void", voided, late, row, post="yes")
        assert messages_of(page) == ["1 charge taken back, $0.50 in total."]

    def test_it_takes_back_as_many_as_the_list_can_select(self, operator):
        first = self.lost()
        columns = UsageRecord.objects.filter(pk=first.pk).values().get() | {"id": None}
        rows = [UsageRecord(**columns | {"request_id": f"req-lost-{number}"}) for number in range(1_100)]
        UsageRecord.objects.bulk_create(rows)
        rows = UsageRecord.objects.filter(state="LOST")
        page = act(operator, USAGE, "void", first, select_across="1").content.decode()
        assert page.count('name="_selected_action"') == len(rows) == 1_101
        rows = list(rows)
        UsageRecord.objects.exclude(pk=first.pk).update(state="SETTLED")  # taking all of them back would take seconds
        page = act(operator, USAGE, "void", *rows, post="yes")
        assert messages_of(page) == ["1 charge taken back, $0.50 in total."]

    def test_it_refuses_rows_that_are_not_lost_and_users_without_the_right(self, operator, with_rights):
        assert (
            "None of the selected rows is LOST"
            in act(operator, USAGE, "void", make_usage(make_key()), post="yes").content.decode()
        )
        row = self.lost()
        act(with_rights("view_usagerecord", is_staff=True), USAGE, "void", row, post="yes")
        assert not Adjustment.objects.exists()


def test_it_dismisses_alerts(operator):
    alert = Alert.objects.create(kind="key_rejected", message="Rejected.")
    address = "/admin/llmkeys/alert/"
    assert shown(operator, address, seen="no") == {alert.pk} and shown(operator, address, seen="yes") == set()
    assert "1 alert dismissed." in act(operator, address, "dismiss", alert).content.decode()
    assert shown(operator, address, seen="no") == set()
