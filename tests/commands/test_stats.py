from __future__ import annotations

import json

import pytest

from llmkeys.keys.adding import delete_key
from llmkeys.lib.money import NANO
from llmkeys.usage.sums import statistics
from tests.helpers import NOW, make_key

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]


class TestStats:
    def test_it_shows_the_sums_and_a_line_for_each_key(self, run):
        costs = {"spent_day_nano": NANO // 2, "spent_month_nano": NANO, "spent_total_nano": NANO}
        make_key(name="Production", daily_limit_nano=NANO, total_requests=3, successful_requests=3, **costs)
        make_key(name="Open", daily_limit_nano=0, total_limit_nano=1)
        lines = run("stats").out.splitlines()
        assert "Keys          2, 2 active" in lines
        assert (
            "Today         $0.50; the keys with a limit have spent 50.0 % of their $1.00; resets 2026-11-24 00:00 UTC"
            in lines
        )
        assert "Requests      3 (3 succeeded, 0 failed)" in lines
        assert next(line for line in lines if line.startswith("Production")).split()[2:6] == [
            "ACTIVE", "$0.50", "of", "$1.00",
        ]  # fmt: skip
        assert lines[-1].startswith("Open")

    def test_it_prints_the_statistics_of_the_api(self, run):
        make_key(name="Production", spent_total_nano=NANO)
        shown = json.loads(run("stats", "--json").out)
        assert [key["name"] for key in shown.pop("keys")] == ["Production"]
        assert shown == json.loads(json.dumps(statistics(at=NOW)))

    def test_its_sums_add_up(self, run):
        """What a program got wrong itself is neither a success nor a failure of the key."""
        make_key(total_requests=13, successful_requests=12, spent_total_nano=NANO)
        gone = make_key(name="Gone", total_requests=2, failed_requests=2, spent_total_nano=2 * NANO)
        delete_key(gone, at=NOW)
        lines = run("stats").out.splitlines()
        neither = "1 neither: the program's own mistake, or still in progress"
        assert f"Requests      15 (12 succeeded, 2 failed, {neither})" in lines
        assert "Total cost    $3.00" in lines
        assert lines[-1].split() == ["1", "deleted", "key", "$0.00", "$0.00", "$2.00", "2", "0.0", "%"]

    def test_it_works_without_a_key(self, run):
        assert "0, 0 active" in run("stats").out
