"""`void`: the charge of lost requests taken back."""

from __future__ import annotations

import builtins
import json
import sys

import pytest

from llmkeys.lib.money import NANO
from llmkeys.models import Adjustment, ApiKey
from tests.helpers import make_key, make_usage

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

LOST = {"state": "LOST", "success": False, "cost_source": "estimated"}


@pytest.fixture
def key() -> ApiKey:
    return make_key(name="Production", spent_day_nano=NANO, spent_month_nano=NANO, spent_total_nano=NANO)


def spent() -> int:
    return ApiKey.objects.get().spent_total_nano


class TestVoid:
    def test_it_takes_back_the_charge_of_the_rows_named(self, run, key):
        rows = [make_usage(key, **LOST) for _ in range(3)]
        ran = run("void", str(rows[0].id), str(rows[1].id), str(rows[0].id), "--reason", "not on the bill", "--yes")
        assert ran.code == 0
        assert ran.out.splitlines() == [
            f"{rows[0].id}: $0.25 taken back on “Production”.",
            f"{rows[1].id}: $0.25 taken back on “Production”.",
            "$0.50 of 2 rows taken back.",
        ]
        assert spent() == NANO // 2
        written = Adjustment.objects.first()
        assert written.reason == "not on the bill" and written.created_by.startswith("manage.py")

    def test_it_takes_back_all_lost_rows_once(self, run, key):
        make_usage(key)
        for _ in range(2):
            make_usage(key, **LOST)
        assert run("void", "--lost", "--yes").out.endswith("$0.50 of 2 rows taken back.\n")
        assert run("void", "--lost").out == "There is no lost row to take back.\n"
        assert spent() == NANO // 2

    def test_it_leaves_lost_rows_alone_whose_true_cost_is_known(self, run, key):
        row = make_usage(key, **LOST)
        Adjustment.objects.create(kind="late", key=key, usage=row, day=row.day, month=row.month, total_nano=-1)
        assert run("void", "--lost", "--yes").out == "There is no lost row to take back.\n"

    def test_it_asks_first_and_shows_the_figures(self, run, key, monkeypatch):
        row = make_usage(key, **LOST)
        asked = []
        monkeypatch.setattr(builtins, "input", lambda question: asked.append(question) or "n")
        ran = run("void", "--lost", stdin=None)
        assert asked == ["Take back $0.25 of 1 row? [y/N] "]
        assert str(row.id) in ran.err and "$0.25" in ran.err and ran.err.endswith("Nothing was taken back.")
        assert (ran.code, spent()) == (1, NANO)

    @pytest.mark.parametrize("named", [True, False], ids=["ID", "--lost"])
    @pytest.mark.parametrize("piped", ["", "1044\n1045\n"])
    def test_it_does_not_ask_where_nobody_answers(self, run, key, named, piped):
        """What is piped in may be a script's list of the next ids: it is left there."""
        row = make_usage(key, **LOST)
        ran = run("void", str(row.id) if named else "--lost", stdin=piped)
        assert (ran.code, ran.out, ran.err) == (0, f"{row.id}: $0.25 taken back on “Production”.\n", "")
        assert sys.stdin.read() == piped
        assert spent() == NANO - NANO // 4

    def test_it_goes_on_past_a_row_that_was_never_lost(self, run, key):
        settled, lost = make_usage(key), make_usage(key, **LOST)
        ran = run("void", str(settled.id), str(lost.id), "--yes", "--json")
        assert ran.code == 1
        assert ran.err == f"{settled.id}: Only the charge of a LOST usage row can be taken back; this one is SETTLED."
        assert json.loads(ran.out) == {
            "success": False,
            "amount": 0.25,
            "voided": [{"id": lost.id, "keyId": key.id, "amount": 0.25}],
            "refused": [
                {
                    "id": settled.id,
                    "message": "Only the charge of a LOST usage row can be taken back; this one is SETTLED.",
                }
            ],
        }

    @pytest.mark.parametrize("unknown", ["999", "abc", "0", "9" * 19, "9" * 400])
    def test_it_changes_nothing_where_an_id_is_unknown(self, run, key, unknown):
        row = make_usage(key, **LOST)
        ran = run("void", str(row.id), unknown, "--yes")
        assert ran.code == 1 and f"There is no usage row {unknown}." in ran.err
        assert spent() == NANO

    @pytest.mark.parametrize("arguments", [(), ("1", "--lost")])
    def test_it_wants_either_ids_or_all(self, run, arguments):
        ran = run("void", *arguments, "--yes")
        assert (ran.code, ran.err) == (1, "Give the ids of usage rows, or --lost for all lost ones.")
