from __future__ import annotations

import getpass
import json
from datetime import UTC, datetime

import pytest

from llmkeys.lib.money import NANO
from llmkeys.models import ApiKey, KeyEvent
from llmkeys.presentation import key_json
from llmkeys.vault import keyring
from tests.helpers import NOW, make_key

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

SECRET = "sk-or-v1-abcdefgh12345678verysecret9999"
ADD = ("keys", "add", "--provider", "openrouter", "--name", "Production")


class TestKeysAdd:
    def test_it_reads_the_secret_from_stdin(self, run):
        ran = run(*ADD, stdin=f"{SECRET}\n")
        key = ApiKey.objects.get()
        assert ran.code == 0
        assert ran.out == f"“Production” was added as {key.id} (sk-or-v1-abcdefgh...9999).\n"
        assert keyring.open_secret(key) == SECRET
        assert key.is_default

    def test_it_reads_the_secret_from_a_variable(self, run, monkeypatch):
        monkeypatch.setenv("MY_KEY", SECRET)
        assert run(*ADD, "--from-env", "MY_KEY").code == 0
        assert keyring.open_secret(ApiKey.objects.get()) == SECRET

    def test_it_asks_on_a_terminal_without_showing(self, run, monkeypatch):
        monkeypatch.setattr(getpass, "getpass", lambda prompt: SECRET)
        assert run(*ADD, stdin=None).code == 0
        assert keyring.open_secret(ApiKey.objects.get()) == SECRET

    def test_it_stores_every_field(self, run):
        options = {
            "--daily-limit": "2.5", "--monthly-limit": "20", "--total-limit": "0", "--expires": "2027-01-31",
            "--priority": "5", "--billing-group": "team", "--workspace-id": "wrk_1", "--description": "For the team",
            "--budget-mode": "soft",
        }  # fmt: skip
        make_key(name="First")
        ran = run(*ADD, "--default", "--json", *(part for option in options.items() for part in option), stdin=SECRET)
        key = ApiKey.objects.get(name="Production")
        assert json.loads(ran.out) == json.loads(json.dumps(key_json(key, at=NOW)))
        assert (key.daily_limit_nano, key.monthly_limit_nano, key.total_limit_nano) == (5 * NANO // 2, 20 * NANO, 0)
        assert (key.expires_at, key.budget_mode) == (datetime(2027, 1, 31, tzinfo=UTC), "soft")
        assert (key.priority, key.billing_group, key.workspace_id) == (5, "team", "wrk_1")
        assert (key.description, key.is_default) == ("For the team", True)

    def test_it_stores_one_that_is_switched_off(self, run):
        assert run(*ADD, "--disabled", stdin=SECRET).code == 0
        key = ApiKey.objects.get()
        assert (key.enabled, key.is_default) == (False, False)

    def test_one_that_is_switched_off_is_not_the_default(self, run):
        ran = run(*ADD, "--disabled", "--default", stdin=SECRET)
        assert ran.code != 0 and "not allowed with argument" in ran.err
        assert not ApiKey.objects.exists()

    def test_it_says_who_added_it(self, run):
        run(*ADD, stdin=SECRET)
        assert KeyEvent.objects.get(kind="added").actor.startswith("manage.py")

    @pytest.mark.parametrize(
        ("more", "stdin", "words"),
        [
            ((), "", "There was no API key on stdin"),
            (("--from-env", "NOT_SET"), "", "The environment variable NOT_SET is not set"),
            ((), "rfk_something-of-our-own", "access token of this product"),
            (("--daily-limit", "-1"), SECRET, "--daily-limit: must not be negative"),
            (("--total-limit", "NaN"), SECRET, "--total-limit: must be a number"),
            (("--expires", "2020-01-01"), SECRET, "--expires: The expiry is in the past"),
            (("--expires", "tomorrow"), SECRET, "--expires: Must be a date"),
            (("--expires", "9999-12-31"), SECRET, "--expires: Must be in the years 1970 to 2199"),
        ],
    )
    def test_it_refuses_in_words(self, run, more, stdin, words):
        ran = run(*ADD, *more, stdin=stdin)
        assert (ran.code, ran.out) == (1, "")
        assert words in ran.err
        assert SECRET not in ran.err
        assert not ApiKey.objects.exists()

    def test_it_refuses_an_unknown_provider(self, run):
        ran = run("keys", "add", "--provider", "acme", "--name", "X", stdin=SECRET)
        assert ran.code == 1 and "Unknown provider" in ran.err

    def test_it_refuses_the_same_secret_twice(self, run):
        run(*ADD, stdin=SECRET)
        ran = run("keys", "add", "--provider", "openrouter", "--name", "Again", stdin=SECRET)
        assert ran.code == 1
        assert "already stored as “Production”" in ran.err and SECRET not in ran.err
