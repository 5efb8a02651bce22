"""GET /llm-settings/tokens/{id}, and what may be done to a token there."""

from __future__ import annotations

import csv
import html
import io
import re
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, Adjustment, DailyUsage, KeyEvent, UsageRecord
from llmkeys.usage.rows import lost_rows
from llmkeys.usage.statements import COLUMNS
from tests.helpers import NOW, JsonClient, make_account, make_key, make_usage, make_user
from tests.pages.helpers import logged_in, messages_of, text_of

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]
PATH = "/llm-settings/tokens"
TODAY = NOW.date()


@pytest.fixture
def token(administrator):
    return make_account(administrator, "gateway", "read", name="shop", at=NOW - timedelta(days=60))[0]


def page_of(client, token: AccessToken, more: str = "") -> str:
    answer = client.get(f"{PATH}/{token.pk}{more}")
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", answer.content.decode())


def spend(token: AccessToken, model: str, cost: int, *, days_ago: int = 0, requests: int = 1, key=None) -> None:
    DailyUsage.objects.create(
        day=TODAY - timedelta(days=days_ago), key=key or make_key(), model=model, token=token, token_name=token.name,
        requests=requests, successful=requests, cost_nano=cost, input_tokens=10, output_tokens=5,
    )  # fmt: skip


def edited(client, token: AccessToken, **fields):
    """Send the form of the page as it was shown, with changes."""
    return client.post(f"{PATH}/{token.pk}/edit", {**form_of(client, token), **fields}, follow=True)


def form_of(client, token: AccessToken) -> dict[str, Any]:
    """Return what a browser sends of the form as it stands."""
    page = client.get(f"{PATH}/{token.pk}").content.decode()
    inside = page[page.index('id="limits"') :]
    texts = re.findall(r'<input type="(?:text|hidden)" name="(\w+)" value="([^"]*)"', inside)
    shown: dict[str, Any] = {name: html.unescape(value) for name, value in texts}
    checked = re.findall(r'name="(\w+)"[^>]* value="([^"]*)" checked', inside)
    for name in ("scopes", "keyIds"):
        shown[name] = [value for found, value in checked if found == name]
    shown["expiry"] = next(value for found, value in checked if found == "expiry")
    shown["expiresAt"] = next(iter(re.findall(r'name="expiresAt" value="([^"]*)"', inside)), "")
    models = html.unescape(re.search(r"<textarea[^>]*>\s*(.*?)</textarea>", inside, re.S)[1])
    shown["models"] = models.replace("\n", "\r\n")
    shown["budgetMode"] = next(iter(re.findall(r'<option value="(\w*)" selected', inside)), "")
    return shown


class TestPage:
    def test_it_shows_the_three_budgets_with_what_is_left_and_held(self, operator, token):
        AccessToken.objects.filter(pk=token.pk).update(
            daily_limit_nano=10 * NANO, day=TODAY, month=TODAY.replace(day=1), spent_day_nano=4 * NANO,
            spent_month_nano=5 * NANO, spent_total_nano=6 * NANO, held_nano=NANO,
        )  # fmt: skip
        text = text_of(page_of(operator, token))
        assert "Daily Budget $4.00 of $10.00 $5.00 left, $1.00 held Resets tomorrow at 00:00 UTC" in text
        assert "Monthly Budget $5.00 no limit No limit, $1.00 held" in text
        assert "Ready. $5.00 left today." in text and "shop ACTIVE Belongs to admin. Scopes: gateway, read." in text

    def test_it_shows_what_it_cost_by_day_and_by_model(self, operator, token, administrator):
        other = make_account(administrator, name="shop")[0]
        spend(token, "gpt", 3 * NANO, requests=7), spend(token, "claude", NANO, days_ago=29)
        spend(token, "old", 50 * NANO, days_ago=30), spend(other, "gpt", 90 * NANO)
        page = page_of(operator, token)
        assert "$4.00 in 30 days" in page and "Mon 23 Nov 2026: $3.00" in page and "$50" not in page
        assert "gpt 7 $3.00 75 % claude 1 $1.00 25 %" in text_of(page)
        assert f'href="/llm-settings/usage?token={token.pk}&amp;model=gpt"' in page

    def test_it_shows_its_requests_and_its_lost_ones(self, operator, token):
        key = make_key(name="Production")
        make_usage(key, token=token, token_name="shop", model="gpt-lost", state="LOST", success=False)
        make_usage(key, model="of-nobody", token_name="shop")
        make_usage(key, token=token, token_name="shop", model="gpt-new")
        text = text_of(page_of(operator, token))
        assert "gpt-new Production" in text and "of-nobody" not in text and "A request was lost" in text

    def test_it_shows_events_facts_and_the_pace(self, operator, token):
        AccessToken.objects.filter(pk=token.pk).update(
            allowed_models=["openai/*"],
            requests_per_minute=1,
            last_used_at=NOW - timedelta(hours=2),
            budget_mode="soft",
        )
        KeyEvent.objects.create(kind="changed", token=token, message="Changed.", created_at=NOW, actor="somebody")
        text = text_of(page_of(operator, token))
        assert "Changed. by somebody" in text
        assert "Models openai/* Keys every key Rate limit 1 request per minute Budget mode soft" in text
        assert "Last used 2 h ago" in text

    def test_it_says_where_nothing_is_known_yet(self, operator, administrator):
        text = text_of(page_of(operator, make_account(administrator)[0]))
        assert "No requests with this token yet." in text and "No requests in the last 30 days." in text

    def test_it_says_why_it_cannot_serve(self, operator, administrator):
        key = make_key()
        token = make_account(administrator, keyIds=[key.id])[0]
        operator.post(f"/llm-settings/keys/{key.id}/delete")
        text = text_of(page_of(operator, token))
        assert "No key serves it. Its keys are deleted. Choose others" in text and "Let every key serve it" in text

    def test_only_its_user_and_administrators_see_it(self, token, with_rights):
        assert Client().get(f"{PATH}/{token.pk}").headers["Location"].startswith("/login")
        assert with_rights("view_apikey").get(f"{PATH}/{token.pk}").status_code == 403
        stranger = with_rights("view_accesstoken", "change_accesstoken", "delete_accesstoken", is_staff=True)
        for action in ("", "/rotate", "/reset", "/revoke", "/statement", "/statement.csv"):
            assert stranger.get(f"{PATH}/{token.pk}{action}").status_code == 404
        for action in ("/edit", "/rotate", "/reset", "/revoke"):
            assert stranger.post(f"{PATH}/{token.pk}{action}").status_code == 404
        token.refresh_from_db()
        assert token.revoked_at is None

    @pytest.mark.parametrize("number", [0, 2**62, 2**64])
    def test_it_knows_no_other_token(self, operator, number):
        assert operator.get(f"{PATH}/{number}").status_code == 404

    def test_it_writes_every_text_as_text(self, operator, token):
        bad = "<script>alert(1)</script>\"'<img src=x onerror=alert(1)>"
        AccessToken.objects.filter(pk=token.pk).update(name=bad, allowed_models=[bad])
        token.refresh_from_db()
        spend(token, bad, NANO)
        make_usage(make_key(name=bad), token=token, model=bad, error=bad)
        for more in ("", "/rotate", "/reset", "/revoke", "/statement"):
            page = page_of(operator, token, more)
            assert "<script>alert" not in page and "<img" not in page and "&lt;script&gt;" in page

    def test_it_asks_as_often_for_many_rows_as_for_few_and_sums_no_rows(self, operator, token):
        key = make_key()
        make_usage(key, token=token), spend(token, "first", NANO, key=key)

        def asked(more: str):
            page_of(operator, token, more)
            with CaptureQueriesContext(connection) as queries:
                page_of(operator, token, more)
            sums = [one["sql"] for one in queries if re.search(r"\b(SUM|COUNT)\(", one["sql"])]
            assert not [sql for sql in sums if 'FROM "llmkeys_usagerecord"' in sql]
            return len(queries)

        few = asked(""), asked("/statement")
        for number in range(20):
            make_usage(make_key(), token=token, skipped=[{"keyId": key.pk, "reason": "cooling"}])
            spend(token, f"model {number}", NANO, days_ago=number, key=key)
        many = asked(""), asked("/statement")
        assert many[0] <= few[0] + 3 and many[0] <= 19 and many[1] <= few[1] + 2

    @pytest.mark.only_on("sqlite")  # reads its plan
    def test_it_finds_its_lost_requests_without_reading_the_others(self, token):
        query, params = lost_rows(token_id=token.pk).order_by("-id")[:5].query.sql_with_params()
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {query}", params)
            plan = " ".join(row[3] for row in cursor.fetchall())
        assert "usage_lost" in plan and "usage_by_token_id" not in plan

    def test_it_keeps_itself_fresh(self, operator, token, with_rights):
        page = page_of(operator, token)
        seen = re.search(r'"seen": "([^"]+)"', html.unescape(page))[1]
        live = f"{PATH}/{token.pk}/live"
        assert operator.get(live, {"seen": seen}).status_code == 204
        AccessToken.objects.filter(pk=token.pk).update(total_requests=4711)
        assert "4,711" in operator.get(live, {"seen": seen}).content.decode()
        assert with_rights("view_apikey").get(live).headers["HX-Refresh"] == "true"


class TestEdit:
    def test_it_changes_limits_in_place(self, operator, token):
        answer = edited(
            operator, token, dailyLimit="2.5", monthlyLimit="30", requestsPerMinute="60", models="openai/*\ngpt-6*"
        )
        assert messages_of(answer) == ["“shop” was saved."] and answer.redirect_chain[-1][0] == f"{PATH}/{token.pk}"
        token.refresh_from_db()
        assert (token.daily_limit_nano, token.monthly_limit_nano) == (25 * NANO // 10, 30 * NANO)
        assert (token.requests_per_minute, token.allowed_models) == (60, ["openai/*", "gpt-6*"])
        assert KeyEvent.objects.latest("pk").actor == "admin"

    def test_what_is_left_as_it_was_stays_to_the_last_digit(self, operator, token):
        key = make_key()
        AccessToken.objects.filter(pk=token.pk).update(
            daily_limit_nano=1, expires_at=NOW + timedelta(days=3, microseconds=7), allowed_models=["a", "b"],
            budget_mode="soft", limited_to_keys=True,
        )  # fmt: skip
        token.keys.set([key])
        before = AccessToken.objects.filter(pk=token.pk).values().get()
        edited(operator, token)
        assert AccessToken.objects.filter(pk=token.pk).values().get() == before
        assert not KeyEvent.objects.filter(kind="changed").exists()
        edited(operator, token, totalLimit="7", name="till")
        after = AccessToken.objects.filter(pk=token.pk).values().get()
        assert after == before | {"total_limit_nano": 7 * NANO, "name": "till"} and list(token.keys.all()) == [key]

    def test_it_keeps_what_others_have_changed_since_the_page_was_opened(self, operator, token, api):
        key = make_key()
        AccessToken.objects.filter(pk=token.pk).update(allowed_models=["a", "b"], daily_limit_nano=10 * NANO)
        opened = form_of(operator, token)
        changes = {
            "dailyLimit": 5, "expiresAt": "2027-01-31T12:00:00Z", "models": ["c", "d"], "keyIds": [key.pk],
            "scopes": ["read"], "requestsPerMinute": 60, "budgetMode": "soft",
        }  # fmt: skip
        assert api.patch(f"/api/llm/tokens/{token.pk}", changes).status_code == 200
        before = AccessToken.objects.filter(pk=token.pk).values().get()
        operator.post(f"{PATH}/{token.pk}/edit", {**opened, "name": "till"})
        assert AccessToken.objects.filter(pk=token.pk).values().get() == before | {"name": "till"}
        assert list(token.keys.all()) == [key]

    @pytest.mark.parametrize("shown", ["", "x", "%00", "&&=", "keyIds=1&keyIds=&expiresAt=x&scopes=%FF", "a=" * 9999])
    def test_it_takes_any_word_for_what_was_shown(self, operator, token, shown):
        answer = edited(operator, token, shown=shown, name="till")
        assert answer.status_code == 200
        token.refresh_from_db()
        assert (token.name, token.scopes, token.limited_to_keys) == ("till", ["gateway", "read"], False)

    def test_it_moves_the_end_and_the_keys(self, operator, token):
        key = make_key()
        edited(operator, token, expiry="30", keyIds=[key.id])
        token.refresh_from_db()
        assert token.expires_at == NOW + timedelta(days=30) and token.limited_to_keys
        edited(operator, token, expiry="never", keyIds=[])
        token.refresh_from_db()
        assert token.expires_at is None and not token.limited_to_keys

    def test_a_token_whose_keys_are_deleted_is_opened_again(self, operator, administrator):
        key = make_key()
        token = make_account(administrator, keyIds=[key.id])[0]
        operator.post(f"/llm-settings/keys/{key.id}/delete")
        edited(operator, token, name="still closed")
        token.refresh_from_db()
        assert token.limited_to_keys
        edited(operator, token, everyKey="on")
        token.refresh_from_db()
        assert not token.limited_to_keys

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"dailyLimit": "-3"}, "Must not be negative"), ({"name": ""}, "May not be empty."),
            ({"scopes": []}, "Choose from"),
            ({"expiry": "date", "expiresAt": "2020-01-01"}, "The expiry is in the past."),
            ({"requestsPerMinute": "x"}, "Must be a whole number"), ({"models": "x" * 300}, "1 to 200"),
        ],
    )  # fmt: skip
    def test_it_says_what_is_wrong_and_keeps_what_was_typed(self, operator, token, fields, words):
        answer = edited(operator, token, totalLimit="77", **fields)
        page = answer.content.decode()
        assert answer.status_code == 200 and words in text_of(page) and 'value="77"' in page
        token.refresh_from_db()
        assert token.total_limit_nano == 0 and token.name == "shop"

    def test_a_revoked_token_is_not_edited(self, operator, token):
        operator.post(f"{PATH}/{token.pk}/revoke")
        page = page_of(operator, token)
        assert 'id="limits"' not in page and "/rotate" not in page and "Requests with it are refused, for good." in page
        operator.post(f"{PATH}/{token.pk}/edit", {"name": "again", "scopes": ["gateway"]})
        token.refresh_from_db()
        assert token.name == "shop"

    def test_it_needs_its_right_and_a_post(self, token, with_rights):
        user = make_user("reader", "view_accesstoken")
        AccessToken.objects.filter(pk=token.pk).update(user=user)
        client = logged_in(user)
        page = page_of(client, token)
        assert 'id="limits"' not in page and "Rotate" not in page and "Revoke" not in page and "Statement" in page
        for action in ("edit", "rotate", "reset", "revoke"):
            assert client.post(f"{PATH}/{token.pk}/{action}").status_code == 403
        user = make_user("owner", "view_accesstoken", "change_accesstoken")
        AccessToken.objects.filter(pk=token.pk).update(user=user)
        assert logged_in(user).get(f"{PATH}/{token.pk}/edit").headers["Location"] == f"{PATH}/{token.pk}"
        assert logged_in(user, enforce_csrf_checks=True).post(f"{PATH}/{token.pk}/edit").status_code == 403


class TestRotate:
    def test_it_shows_a_new_secret_once_and_ends_the_old_one(self, operator, administrator):
        token, old = make_account(administrator, "read", name="shop")
        assert "Limits, costs, usage and rights stay" in page_of(operator, token, "/rotate")
        answer = operator.post(f"{PATH}/{token.pk}/rotate", {"overlap": "0"})
        new = re.search(r'value="(rfk_[^"]+)"', answer.content.decode())[1]
        assert "no-store" in answer.headers["Cache-Control"] and "has a new secret" in answer.content.decode()
        assert JsonClient(new).get("/api/llm/keys").status_code == 200
        assert JsonClient(old).get("/api/llm/keys").status_code == 401
        assert new not in page_of(operator, token)

    def test_the_old_secret_may_hold_a_while(self, operator, administrator, frozen):
        token, old = make_account(administrator, "read", name="shop")
        text = text_of(operator.post(f"{PATH}/{token.pk}/rotate", {"overlap": "3600"}).content.decode())
        assert "The old one stays valid until" in text and "Old secret valid until" in text_of(page_of(operator, token))
        assert JsonClient(old).get("/api/llm/keys").status_code == 200
        frozen.move_to(NOW + timedelta(hours=1))
        assert JsonClient(old).get("/api/llm/keys").status_code == 401

    def test_a_page_that_is_loaded_again_does_not_rotate_again(self, operator, administrator):
        token, _ = make_account(administrator, "read", name="shop")
        page = operator.get(f"{PATH}/{token.pk}/rotate").content.decode()
        form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page)) | {"overlap": "0"}
        first = operator.post(f"{PATH}/{token.pk}/rotate", form).content.decode()
        new = re.search(r'value="(rfk_[^"]+)"', first)[1]
        again = operator.post(f"{PATH}/{token.pk}/rotate", form, follow=True)
        (said,) = messages_of(again)
        assert said.startswith("This form has already been submitted") and "nothing was changed" in said
        assert again.redirect_chain == [(f"{PATH}/{token.pk}", 302)] and "rfk_" not in again.content.decode()
        assert JsonClient(new).get("/api/llm/keys").status_code == 200

    def test_it_refuses_in_words(self, operator, token):
        for overlap in ("-1", "x", "99999999999"):
            answer = operator.post(f"{PATH}/{token.pk}/rotate", {"overlap": overlap})
            assert answer.status_code == 200 and "Choose from: at once" in answer.content.decode()
        operator.post(f"{PATH}/{token.pk}/revoke")
        answer = operator.post(f"{PATH}/{token.pk}/rotate", {"overlap": "0"})
        assert "was revoked, for good" in answer.content.decode() and "rfk_" not in answer.content.decode()


class TestReset:
    def test_it_resets_the_chosen_costs_and_keeps_the_history(self, operator, token):
        AccessToken.objects.filter(pk=token.pk).update(
            day=TODAY, month=TODAY.replace(day=1), spent_day_nano=2 * NANO, spent_month_nano=3 * NANO,
            spent_total_nano=4 * NANO,
        )  # fmt: skip
        spend(token, "gpt", 2 * NANO)
        assert "Daily – $2.00 spent, no limit" in text_of(page_of(operator, token, "/reset"))
        answer = operator.post(f"{PATH}/{token.pk}/reset", {"daily": "on", "total": "on"}, follow=True)
        assert messages_of(answer) == ["The daily, total costs of “shop” were reset: up to $4.00."]
        token.refresh_from_db()
        assert (token.spent_day_nano, token.spent_month_nano, token.spent_total_nano) == (0, 3 * NANO, 0)
        assert Adjustment.objects.get().created_by == "admin" and "$2.00 in 30 days" in page_of(operator, token)

    def test_it_says_what_is_missing(self, operator, token):
        assert "Choose at least one." in operator.post(f"{PATH}/{token.pk}/reset").content.decode()
        answer = operator.post(f"{PATH}/{token.pk}/reset", {"daily": "on"}, follow=True)
        assert messages_of(answer) == ["There was nothing to reset: these costs are already 0."]


class TestStatement:
    @pytest.fixture
    def used(self, token, administrator):
        key, other = make_key(), make_key()
        spend(token, "gpt", 3 * NANO, requests=7, key=key), spend(token, "gpt", NANO, key=other)
        spend(token, "claude", NANO, days_ago=3, key=key), spend(token, "gpt", 9 * NANO, days_ago=40, key=key)
        spend(make_account(administrator, name="shop")[0], "gpt", 90 * NANO)
        return token

    def test_it_sums_a_month_by_model_and_by_day(self, operator, used):
        text = text_of(page_of(operator, used, "/statement"))
        assert f"Access token “shop” (id {used.pk}) of admin." in text and "Statement for November 2026" in text
        assert "gpt 8 0 20 10 $4.00 claude 1 0 10 5 $1.00 Total 9 0 30 15 $5.00" in text
        assert "2026-11-20 claude 1 0 10 5 $1.00 2026-11-23 gpt 8 0 20 10 $4.00" in text
        assert "October 2026" in text and "$90" not in text
        assert "gpt 1 0 10 5 $9.00" in text_of(page_of(operator, used, "/statement?month=2026-10"))

    def test_the_same_as_csv(self, operator, used):
        answer = operator.get(f"{PATH}/{used.pk}/statement.csv?month=2026-11")
        assert answer.headers["Content-Disposition"] == f'attachment; filename="statement-{used.pk}-2026-11.csv"'
        rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode())))
        assert tuple(rows[0]) == COLUMNS
        assert [(row["day"], row["model"], row["requests"], row["cost"]) for row in rows] == [
            ("2026-11-20", "claude", "1", "1.0"), ("2026-11-23", "gpt", "8", "4.0"),
        ]  # fmt: skip
        assert {(row["month"], row["tokenId"], row["token"], row["user"]) for row in rows} == {
            ("2026-11", str(used.pk), "shop", "admin")
        }

    def test_a_month_without_usage_says_so(self, operator, token):
        assert "No request was made with this token in November 2026." in page_of(operator, token, "/statement")

    @pytest.mark.parametrize("month", ["2026-12", "2026-09", "9999-12", "0001-01", "x", "2026-13", "2026-11-01"])
    def test_it_knows_no_other_month(self, operator, used, month):
        for path in ("statement", "statement.csv"):
            assert operator.get(f"{PATH}/{used.pk}/{path}?month={month}").status_code == 404

    def test_it_outlives_the_single_rows(self, operator, used):
        UsageRecord.objects.all().delete()
        assert "$5.00" in page_of(operator, used, "/statement")

    def test_a_formula_is_no_formula(self, operator, used):
        AccessToken.objects.filter(pk=used.pk).update(name="=1+1")
        assert "'=1+1" in operator.get(f"{PATH}/{used.pk}/statement.csv").getvalue().decode()
