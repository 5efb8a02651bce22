"""`usage`: the usage rows on the terminal."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta

import pytest

from llmkeys.keys.adding import delete_key
from llmkeys.models import DailyUsage
from llmkeys.presentation import USAGE_COLUMNS, usage_json
from tests.helpers import NOW, make_key, make_usage

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]


def ids(run, *arguments: str) -> list[int]:
    return [row["id"] for row in json.loads(run("usage", "--json", *arguments).out)]


class TestUsage:
    def test_it_lists_the_newest_first_in_a_table(self, run):
        key = make_key(name="Production")
        make_usage(key, state="LOST", success=False, http_status=None, input_tokens=None, output_tokens=None)
        make_usage(key, model="m", latency_ms=41)
        header, newest, oldest = run("usage").out.splitlines()
        assert header.split()[:4] == ["ID", "TIME", "KEY", "MODEL"]
        assert newest.split()[4:] == [
            "Production",
            "m",
            "worker",
            "SETTLED",
            "200",
            "100",
            "20",
            "$0.25",
            "provider",
            "41",
        ]
        assert oldest.split()[7:11] == ["LOST", "-", "-", "-"]

    def test_it_prints_the_json_of_the_api(self, run):
        row = make_usage(make_key())
        assert json.loads(run("usage", "--json").out) == json.loads(json.dumps([usage_json(row)]))

    def test_it_prints_csv_that_is_safe_in_a_spreadsheet(self, run):
        make_usage(make_key(name="=1+1"), token_name="+x")
        header, row = csv.reader(io.StringIO(run("usage", "--csv").out))
        assert tuple(header) == USAGE_COLUMNS
        cells = dict(zip(header, row, strict=True))
        assert (cells["keyName"], cells["token"], cells["cost"], cells["success"]) == ("'=1+1", "'+x", "0.25", "true")

    def test_it_filters_as_the_api_does(self, run):
        one, two = make_key(name="One"), make_key(name="Two", provider="openai")
        a = make_usage(one, model="a", token_name="x").id
        b = make_usage(two, success=False, state="RELEASED", cost_nano=0).id
        c = make_usage(two, at=NOW - timedelta(days=2)).id
        assert ids(run) == [c, b, a]
        assert ids(run, "--key", "One") == ids(run, "--key", one.id) == ids(run, "--provider", "openrouter") == [a]
        assert ids(run, "--model", "a") == ids(run, "--token", "x") == [a]
        assert ids(run, "--state", "RELEASED") == ids(run, "--success", "false") == [b]
        assert ids(run, "--until", "2026-11-21") == [c]
        assert ids(run, "--since", "2026-11-22", "--success", "true") == [a]
        assert ids(run, "--since", "2026-11-23T20:30:00Z") == [b, a]
        assert ids(run, "--model", "%") == []

    def test_it_lists_the_history_of_a_deleted_key(self, run):
        key = make_key(name="Gone")
        row = make_usage(key).id
        delete_key(key, at=NOW)
        assert ids(run, "--key", key.id) == ids(run, "--key", "Gone") == [row]
        later = make_usage(make_key(name="Gone")).id
        assert ids(run, "--key", "Gone") == [later], "a stored key goes before a deleted one"
        assert ids(run, "--key", key.id) == [row]

    def test_it_asks_for_the_id_where_deleted_keys_had_one_name(self, run):
        keys = [make_key(name="Gone"), make_key(name="Gone")]
        for key in keys:
            delete_key(key, at=NOW)
        ran = run("usage", "--key", "Gone")
        assert ran.code == 1 and all(key.id in ran.err for key in keys)

    def test_it_shows_fifty_and_says_that_there_are_more(self, run):
        key = make_key()
        for _ in range(51):
            make_usage(key)
        lines = run("usage").out.splitlines()
        assert len(lines) == 1 + 50 + 1
        assert lines[-1] == "These are the newest 50; there are more: --limit N, or --csv for all."
        assert len(ids(run, "--limit", "51")) == 51
        assert len(run("usage", "--csv").out.splitlines()) == 52

    def test_it_reads_page_by_page(self, run, monkeypatch):
        monkeypatch.setattr("llmkeys.usage.rows._CHUNK_ROWS", 2)
        key = make_key()
        expected = sorted((make_usage(key).id for _ in range(5)), reverse=True)
        assert ids(run) == expected

    def test_it_takes_the_end_of_the_calendar_where_there_are_many_rows(self, run, monkeypatch):
        monkeypatch.setattr("llmkeys.usage.rows._FEW", 0)
        row = make_usage(make_key(), model="rare")
        DailyUsage.objects.create(day=row.day, key=row.key, model="rare", token_name="worker", successful=1)
        assert ids(run, "--model", "rare", "--until", "9999-12-30") == [row.id]

    def test_it_says_when_there_is_none(self, run):
        assert run("usage").out == "No usage row found.\n"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--since", "yesterday"), "Must be a date and time"),
            (("--since", "2026-02-30"), "Must be a date and time"),
            (("--limit", "0"), "must be a whole number of at least 1"),
            (("--state", "GONE"), "invalid choice"),
            (("--key", "Nobody"), "There is no key “Nobody”"),
            (("--json", "--csv"), "Choose one of --json and --csv."),
        ],
    )
    def test_it_refuses_what_it_cannot_read(self, run, arguments, words):
        ran = run("usage", *arguments)
        assert ran.code == 1 and words in ran.err
