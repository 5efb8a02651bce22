from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from llmkeys.models import AccessToken
from llmkeys.tokens.rights import caller_of
from tests.helpers import NOW, make_key, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]


class TestTokensCreate:
    def test_it_prints_the_token_alone(self, run, administrator):
        ran = run("tokens", "create", "worker")
        text = ran.out.removesuffix("\n")
        assert (ran.code, ran.err) == (0, "")
        assert text.startswith("rfk_") and text.split() == [text]
        assert caller_of(text, NOW).name == "worker"
        token = AccessToken.objects.get()
        assert (token.scopes, token.user) == (["gateway"], administrator)

    def test_it_prints_all_of_it_as_json(self, run, administrator):
        shown = json.loads(run("tokens", "create", "worker", "--json").out)
        assert caller_of(shown["token"], NOW).name == shown["name"] == "worker"
        assert (shown["scopes"], shown["user"]) == (["gateway"], "admin")

    def test_it_takes_scopes_expiry_user_and_keys(self, run, administrator):
        anna, key = make_user("anna"), make_key(name="Development")
        options = ["--scope", "read", "--scope", "gateway", "--expires", "2027-01-31", "--user", "anna"]
        assert run("tokens", "create", "worker", *options, "--key", key.id).code == 0
        token = AccessToken.objects.get()
        assert (token.scopes, token.user) == (["gateway", "read"], anna)
        assert token.expires_at == datetime(2027, 1, 31, tzinfo=UTC)
        assert token.limited_to_keys and list(token.keys.all()) == [key]

    def test_it_tells_of_a_user_who_may_not_send(self, run, administrator):
        make_user("anna"), make_user("bob", "use_gateway")
        ran = run("tokens", "create", "worker", "--user", "anna")
        assert ran.code == 0 and ran.out.startswith("rfk_") and "llmkeys.use_gateway" in ran.err
        assert not run("tokens", "create", "worker", "--user", "bob").err
        assert not run("tokens", "create", "reader", "--user", "anna", "--scope", "read").err

    def test_it_wants_an_administrator(self, run):
        ran = run("tokens", "create", "worker")
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("There is no administrator yet")

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (["--scope", "everything"], "--scope: Choose from: gateway, read, manage."),
            (["--expires", "2020-01-01"], "--expires: The expiry is in the past."),
            (["--expires", "soon"], "--expires: Must be a date"),
            (["--expires", "9999-12-31"], "--expires: Must be in the years 1970 to 2199; it is in the year 9999."),
            (["--user", "nobody"], "There is no active user “nobody”."),
            (["--key", "nothing"], "There is no key “nothing”."),
            (["--daily-limit", "-1"], "--daily-limit: must not be negative"),
            (["--model", "a b"], "--model: Each must be the name of a model"),
            (["--rpm", "-1"], "--rpm: Must be a whole number"),
            (["--budget-mode", "lax"], "--budget-mode: Must be strict or soft"),
        ],
    )
    def test_it_refuses_in_words(self, run, administrator, options, words):
        ran = run("tokens", "create", "worker", *options)
        assert (ran.code, ran.out) == (1, "")
        assert words in ran.err
        assert not AccessToken.objects.exists()

    @pytest.mark.parametrize("name", ["", "x" * 101])
    def test_it_calls_the_name_as_its_help_does(self, run, administrator, name):
        ran = run("tokens", "create", name)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("NAME: May ") and "--name" not in ran.err

    def test_it_takes_every_limit(self, run, administrator):
        options = ["--daily-limit", "1", "--monthly-limit", "20.5", "--total-limit", "300", "--budget-mode", "soft"]
        more = ["--model", "openai/*", "--model", "claude-sonnet-5.5", "--rpm", "60", "--json"]
        shown = json.loads(run("tokens", "create", "worker", *options, *more).out)
        assert (shown["dailyLimit"], shown["monthlyLimit"], shown["totalLimit"]) == (1.0, 20.5, 300.0)
        assert (shown["models"], shown["requestsPerMinute"]) == (["openai/*", "claude-sonnet-5.5"], 60)
        assert (shown["budgetMode"], shown["status"]) == ("soft", "ACTIVE")

    def test_its_limits_come_from_the_settings(self, run, administrator, settings):
        settings.TOKEN_DAILY_LIMIT_USD = "2"
        assert json.loads(run("tokens", "create", "worker", "--json").out)["dailyLimit"] == 2.0


class TestTokensShow:
    def test_it_shows_an_expiry_that_does_not_exist_in_the_time_zone(self, run, administrator, settings):
        settings.TIME_ZONE = "Asia/Tokyo"
        run("tokens", "create", "worker")
        AccessToken.objects.update(expires_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        for verb in (["list"], ["show", "worker"]):
            assert "9999-12-31 23:59 UTC" in run("tokens", *verb).out

    def test_it_shows_budgets_and_no_secret(self, run, administrator):
        text = run("tokens", "create", "worker", "--daily-limit", "5", "--model", "gpt-6*").out.strip()
        shown = run("tokens", "show", "worker").out
        assert "Today                $0.00 of $5.00" in shown and "gpt-6*" in shown and text not in shown
        assert json.loads(run("tokens", "show", "worker", "--json").out)["dailyLimit"] == 5.0


class TestTokensEdit:
    def test_it_changes_what_is_given(self, run, administrator):
        key = make_key(name="Production")
        run("tokens", "create", "worker", "--rpm", "5", "--model", "gpt-6*")
        ran = run("tokens", "edit", "worker", "--daily-limit", "10", "--key", "Production", "--scope", "read")
        assert ran.out == "The token “worker” was changed.\n"
        token = AccessToken.objects.get()
        assert (token.daily_limit_nano, token.requests_per_minute) == (10 * 10**9, 5)
        assert (list(token.keys.all()), token.scopes, token.allowed_models) == ([key], ["read"], ["gpt-6*"])
        run("tokens", "edit", "worker", "--any-key", "--any-model", "--rpm", "0", "--expires", "2027-01-31")
        token.refresh_from_db()
        assert (token.limited_to_keys, token.allowed_models, token.requests_per_minute) == (False, None, 0)
        run("tokens", "edit", "worker", "--expires", "never", "--name", "shop")
        token.refresh_from_db()
        assert (token.expires_at, token.name) == (None, "shop")

    def test_it_wants_something_to_change(self, run, administrator):
        run("tokens", "create", "worker")
        ran = run("tokens", "edit", "worker")
        assert ran.code == 1 and ran.err.startswith("No change was given.")

    def test_a_revoked_one_stays(self, run, administrator):
        run("tokens", "create", "worker")
        run("tokens", "revoke", "worker")
        for verb in (["edit", "worker", "--rpm", "1"], ["rotate", "worker"]):
            ran = run("tokens", *verb)
            assert ran.code == 1 and "was revoked, for good" in ran.err


class TestTokensRotate:
    def test_it_prints_the_new_secret_alone(self, run, administrator, frozen):
        old = run("tokens", "create", "worker").out.strip()
        new = run("tokens", "rotate", "worker").out.strip()
        assert new.startswith("rfk_") and new.split() == [new]
        assert caller_of(old, NOW) is None and caller_of(new, NOW).name == "worker"

    def test_the_old_one_may_hold_a_while(self, run, administrator):
        old = run("tokens", "create", "worker").out.strip()
        shown = json.loads(run("tokens", "rotate", "worker", "--overlap", "60", "--json").out)
        assert caller_of(old, NOW).token_id == caller_of(shown["token"], NOW).token_id == shown["id"]
        assert "--overlap: Must be" in run("tokens", "rotate", "worker", "--overlap", "-1").err


class TestTokensList:
    def test_a_status_filters(self, run, administrator):
        run("tokens", "create", "worker")
        run("tokens", "create", "other")
        run("tokens", "revoke", "other")
        shown = json.loads(run("tokens", "list", "--status", "REVOKED", "--json").out)
        assert [token["name"] for token in shown] == ["other"]

    def test_it_shows_all_and_never_their_text(self, run, administrator):
        text = run("tokens", "create", "worker").out.strip()
        table, shown = run("tokens", "list").out, run("tokens", "list", "--json").out
        assert "worker" in table and "ACTIVE" in table
        assert json.loads(shown)[0]["name"] == "worker"
        assert text not in table + shown

    def test_it_says_how_to_make_the_first_one(self, run):
        assert "./manage.py tokens create" in run("tokens", "list").out
        assert json.loads(run("tokens", "list", "--json").out) == []


class TestTokensRevoke:
    @pytest.mark.parametrize("by", ["name", "id"])
    def test_it_ends_a_token(self, run, administrator, by):
        text = run("tokens", "create", "worker").out.strip()
        named = "worker" if by == "name" else str(AccessToken.objects.get().id)
        assert run("tokens", "revoke", named).out == "The token “worker” was revoked.\n"
        assert caller_of(text, NOW) is None
        assert "REVOKED" in run("tokens", "list").out

    def test_it_asks_for_the_id_where_a_name_is_ambiguous(self, run, administrator):
        run("tokens", "create", "worker")
        run("tokens", "create", "worker")
        ran = run("tokens", "revoke", "worker")
        assert ran.code == 1 and "2 tokens have the name “worker”" in ran.err

    def test_it_knows_no_such_token(self, run):
        ran = run("tokens", "revoke", "worker")
        assert ran.code == 1 and ran.err.startswith("There is no token “worker”.")
