from __future__ import annotations

import json

import pytest

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
        assert "Today         $0.50 of $1.00 (50.0 %); resets 2026-11-24 00:00 UTC" in lines
        assert "Requests      3 (3 good, 0 failed)" in lines
        assert next(line for line in lines if line.startswith("Production")).split()[2:6] == [
            "ACTIVE", "$0.50", "of", "$1.00",
        ]  # fmt: skip
        assert lines[-1].startswith("Open")

    def test_it_prints_the_contracts_statistics(self, run):
        make_key(name="Production", spent_total_nano=NANO)
        shown = json.loads(run("stats", "--json").out)
        assert [key["name"] for key in shown.pop("keys")] == ["Production"]
        assert shown == json.loads(json.dumps(statistics(at=NOW)))

    def test_it_works_without_a_key(self, run):
        assert "0, 0 active" in run("stats").out
