"""`show`, `enable`, `disable`, `set-default` and `delete`."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from llmkeys.models import ApiKey
from llmkeys.presentation import key_json
from tests.helpers import NOW, make_key

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]


class TestKeysShow:
    def test_it_shows_a_card(self, run):
        make_key(name="Production", daily_limit_nano=0, spent_day_nano=250_000_000)
        lines = run("keys", "show", "Production").out.splitlines()
        assert "Name           Production" in lines
        assert "Status         ACTIVE, default" in lines
        assert "Today          $0.25 of no limit" in lines

    def test_it_prints_the_json_of_the_api(self, run):
        key = make_key()
        assert json.loads(run("keys", "show", key.id, "--json").out) == json.loads(json.dumps(key_json(key, at=NOW)))


class TestKeysEnableAndDisable:
    def test_it_switches_off_and_on(self, run):
        make_key(name="Production")
        assert run("keys", "disable", "Production").out == (
            "“Production” is switched off. No other key can be the default.\n"
        )
        assert not ApiKey.objects.get().enabled
        assert run("keys", "enable", "Production").out == "“Production” is switched on.\n"
        assert ApiKey.objects.get().enabled

    def test_it_says_why_a_key_that_is_on_does_not_serve(self, run):
        make_key(name="Production", rejected_at=NOW, last_error="Rejected by its provider.")
        assert "Its status is DISABLED: Rejected by its provider." in run("keys", "enable", "Production").out


class TestKeysSetDefault:
    def test_it_hands_the_mark_over(self, run):
        make_key(name="First")
        make_key(name="Second")
        assert run("keys", "set-default", "Second").code == 0
        assert ApiKey.objects.get(is_default=True).name == "Second"

    def test_it_refuses_an_expired_key(self, run):
        make_key(name="Old", expires_at=NOW - timedelta(days=1))
        ran = run("keys", "set-default", "Old")
        assert ran.code == 1 and "expired on 2026-11-22" in ran.err


class TestKeysDelete:
    def test_it_wipes_the_secret(self, run):
        make_key(name="Production")
        assert run("keys", "delete", "Production", "--yes").code == 0
        assert bytes(ApiKey.objects.get().secret) == b""

    def test_its_name_is_enough_where_nobody_can_be_asked(self, run):
        make_key(name="Production"), make_key(name="Other")
        ran = run("keys", "delete", "Production")
        words = "“Production” was deleted; its secret is wiped, its usage history stays.\n"
        assert (ran.code, ran.out, ran.err) == (0, words, "")
        assert ApiKey.objects.stored().get().name == "Other"

    @pytest.mark.parametrize(("answer", "stored"), [("y", False), ("", True), ("no", True)])
    def test_it_asks_on_a_terminal(self, run, monkeypatch, answer, stored):
        make_key(name="Production")
        monkeypatch.setattr("builtins.input", lambda question: answer)
        assert run("keys", "delete", "Production", stdin=None).code == int(stored)
        assert ApiKey.objects.stored().exists() is stored

    def test_it_refuses_a_key_of_the_environment(self, run):
        make_key(name="Default OpenRouter Key", environment_variable="OPENROUTER_API_KEY", source="environment")
        ran = run("keys", "delete", "Default OpenRouter Key", "--yes")
        assert ran.code == 1 and "unset the variable OPENROUTER_API_KEY" in ran.err
