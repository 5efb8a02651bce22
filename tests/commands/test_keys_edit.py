from __future__ import annotations

import json

import pytest

from llmkeys.lib.money import NANO
from llmkeys.vault import keyring
from tests.helpers import make_key, new_secret

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]


class TestKeysEdit:
    def test_it_changes_what_is_named_and_nothing_else(self, run):
        key = make_key(name="Production", daily_limit_nano=NANO, billing_group="team")
        secret = keyring.open_secret(key)
        ran = run("keys", "edit", "Production", "--name", "Main", "--daily-limit", "20")
        key.refresh_from_db()
        assert (ran.code, ran.out) == (0, "“Main” was changed.\n")
        assert (key.name, key.daily_limit_nano, key.billing_group) == ("Main", 20 * NANO, "team")
        assert keyring.open_secret(key) == secret

    def test_it_sets_and_clears_the_expiry(self, run):
        key = make_key()
        shown = json.loads(run("keys", "edit", key.id, "--expires", "2027-06-01T10:00:00+02:00", "--json").out)
        assert shown["expiresAt"] == "2027-06-01T08:00:00Z"
        assert json.loads(run("keys", "edit", key.id, "--expires", "never", "--json").out)["expiresAt"] is None

    def test_it_gives_the_key_a_budget_mode_of_its_own_and_takes_it_back(self, run):
        make_key(name="Production")
        assert "Budget mode    default (REFACTAI_BUDGET_MODE)" in run("keys", "show", "Production").out.splitlines()
        assert run("keys", "edit", "Production", "--budget-mode", "soft").out == "“Production” was changed.\n"
        assert "Budget mode    soft" in run("keys", "show", "Production").out.splitlines()
        shown = run("keys", "edit", "Production", "--budget-mode", "default", "--json").out
        assert json.loads(shown)["budgetMode"] is None
        assert "--budget-mode: Must be strict or soft" in run("keys", "edit", "Production", "--budget-mode", "lax").err

    def test_it_replaces_the_secret_and_forgets_the_rejection(self, run):
        key, secret = make_key(last_error="Rejected"), new_secret()
        ran = run("keys", "edit", key.id, "--new-secret", stdin=secret)
        key.refresh_from_db()
        assert keyring.open_secret(key) == secret and key.last_error == ""
        assert secret not in ran.out + ran.err

    def test_it_wants_something_to_change(self, run):
        ran = run("keys", "edit", make_key().id)
        assert ran.code == 1 and ran.err.startswith("No change was given.")

    def test_it_asks_for_the_id_where_a_name_is_ambiguous(self, run):
        keys = [make_key(name="Same"), make_key(name="Same")]
        ran = run("keys", "edit", "Same", "--priority", "1")
        assert ran.code == 1
        assert "2 keys have the name “Same”" in ran.err and all(key.id in ran.err for key in keys)

    def test_it_knows_no_key_of_that_name(self, run):
        ran = run("keys", "edit", "Nobody", "--priority", "1")
        assert ran.code == 1 and ran.err.startswith("There is no key “Nobody”.")
