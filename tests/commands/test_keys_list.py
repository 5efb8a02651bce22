from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from llmkeys.lib.money import NANO
from llmkeys.models import ApiKey
from llmkeys.presentation import keys_json
from tests.helpers import NOW, make_key

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]


class TestKeysList:
    def test_it_says_how_to_add_the_first_one(self, run):
        assert "./manage.py keys add" in run("keys", "list").out

    def test_it_aligns_a_table_in_serving_order(self, run):
        make_key(name="Spare", priority=200)
        make_key(name="日本", spent_day_nano=1_500_000_000)
        make_key(name="First", priority=1)
        header, *lines = run("keys", "list").out.splitlines()
        assert header.split() == [
            "ID", "NAME", "PROVIDER", "STATUS", "DEFAULT", "KEY", "TODAY", "MONTH", "TOTAL", "REQUESTS",
        ]  # fmt: skip
        assert [line.split()[1] for line in lines] == ["Spare", "First", "日本"]
        assert "default" in lines[0] and "$1.50" in lines[2]
        assert len({line.index("openrouter") for line in lines[:2]}) == 1
        assert lines[2].index("openrouter") == lines[0].index("openrouter") - 2  # two wide characters

    def test_it_prints_the_json_of_the_api(self, run):
        make_key(name="Production")
        make_key(provider="openai", name="Other")
        shown = json.loads(run("keys", "list", "--json").out)
        assert shown == json.loads(json.dumps(keys_json(ApiKey.objects.in_serving_order(), at=NOW)))

    def test_it_filters_by_provider_and_status(self, run):
        make_key(name="Production")
        make_key(name="Spent", daily_limit_nano=NANO, spent_day_nano=NANO)
        make_key(provider="openai", name="Other")
        named = [key["name"] for key in json.loads(run("keys", "list", "--json", "--provider", "openai").out)]
        spent = [key["name"] for key in json.loads(run("keys", "list", "--json", "--status", "LIMIT_REACHED").out)]
        assert (named, spent) == (["Other"], ["Spent"])

    def test_it_shows_neither_deleted_keys_nor_secrets(self, run):
        secret = "sk-or-v1-abcdefgh12345678verysecret9999"
        key = make_key(name="Production", secret=secret)
        make_key(name="Gone")
        run("keys", "delete", "Gone", "--yes")
        out = run("keys", "list").out + run("keys", "list", "--json").out + run("keys", "show", key.id).out
        assert "Gone" not in out
        assert "verysecret" not in out and "sk-or-v1-abcdefgh...9999" in out

    def test_it_uses_no_colours_away_from_a_terminal(self, run):
        make_key(enabled=False)
        assert "\x1b" not in run("keys", "list").out

    def test_it_lets_no_name_steer_the_terminal(self, run):
        make_key(name="plain")
        ApiKey.objects.update(name="red\x1b[31m")
        assert "\x1b" not in run("keys", "list").out

    def test_it_shows_times_that_do_not_exist_in_the_time_zone(self, run, settings):
        settings.TIME_ZONE = "Asia/Tokyo"
        key = make_key(expires_at=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        ran = run("keys", "show", key.id)
        assert ran.code == 0 and "9999-12-31 23:59 UTC" in ran.out
