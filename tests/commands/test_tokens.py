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
            (["--user", "nobody"], "There is no active user “nobody”."),
            (["--key", "nothing"], "There is no key “nothing”."),
        ],
    )
    def test_it_refuses_in_words(self, run, administrator, options, words):
        ran = run("tokens", "create", "worker", *options)
        assert (ran.code, ran.out) == (1, "")
        assert words in ran.err
        assert not AccessToken.objects.exists()


class TestTokensList:
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
        assert run("tokens", "revoke", named).out == "The token “worker” is revoked.\n"
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
