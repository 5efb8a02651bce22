"""`reset_costs`: a person sets costs back to zero."""

from __future__ import annotations

import builtins
import json

import pytest

from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, Adjustment, ApiKey, KeyEvent
from tests.helpers import NOW, make_account, make_key

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

SPENT = {"spent_day_nano": NANO, "spent_month_nano": 2 * NANO, "spent_total_nano": 3 * NANO}


@pytest.fixture
def answered(monkeypatch):
    """Let the person at the terminal say this; return what was asked."""

    def answer(text: str) -> list[str]:
        asked: list[str] = []
        monkeypatch.setattr(builtins, "input", lambda question: asked.append(question) or text)
        return asked

    return answer


def costs(name: str = "Production") -> tuple[int, int, int]:
    return ApiKey.objects.values_list("spent_day_nano", "spent_month_nano", "spent_total_nano").get(name=name)


class TestResetCosts:
    def test_it_resets_the_chosen_windows_of_all_keys(self, run):
        make_key(name="Production", **SPENT)
        make_key(name="Spare", **SPENT)
        ran = run("reset_costs", "--daily", "--total", "--yes")
        assert ran.code == 0
        assert ran.out.splitlines() == [
            "The costs of “Production” were reset: daily $1.00, total $3.00.",
            "The costs of “Spare” were reset: daily $1.00, total $3.00.",
        ]
        assert costs() == costs("Spare") == (0, 2 * NANO, 0)

    def test_it_resets_one_key_by_its_name_or_id(self, run):
        key = make_key(name="Production", **SPENT)
        make_key(name="Spare", **SPENT)
        run("reset_costs", "--key", "Production", "--key", key.id, "--monthly", "--yes")
        assert (costs()[1], costs("Spare")[1]) == (0, 2 * NANO)
        assert Adjustment.objects.count() == 1

    def test_it_resets_tokens_and_then_no_key_that_is_not_named(self, run, administrator):
        make_key(name="Production", **SPENT)
        token, _ = make_account(administrator, name="shop")
        AccessToken.objects.filter(pk=token.pk).update(day=NOW.date(), month=NOW.date().replace(day=1), **SPENT)
        ran = run("reset_costs", "--token", "shop", "--daily", "--yes")
        assert ran.out.splitlines() == ["The costs of “shop” were reset: daily $1.00."]
        token.refresh_from_db()
        assert (token.spent_day_nano, costs()[0]) == (0, NANO)
        assert KeyEvent.objects.get(kind="cost_reset").token_id == token.pk
        shown = json.loads(run("reset_costs", "--token", str(token.pk), "--monthly", "--yes", "--json").out)
        assert shown == [{"tokenId": token.pk, "tokenName": "shop", "daily": 0.0, "monthly": 2.0, "total": 0.0}]

    def test_it_asks_for_keys_and_tokens_together(self, run, answered, administrator):
        make_key(name="Production", **SPENT)
        token, _ = make_account(administrator, name="shop")
        AccessToken.objects.filter(pk=token.pk).update(day=NOW.date(), month=NOW.date().replace(day=1), **SPENT)
        asked = answered("y")
        run("reset_costs", "--key", "Production", "--token", "shop", "--daily", stdin=None)
        assert asked and "Reset these costs of 1 key and 1 token to zero?" in asked[0]
        assert costs()[0] == 0

    def test_it_leaves_an_event_that_names_who_did_it(self, run):
        make_key(name="Production", **SPENT)
        run("reset_costs", "--daily", "--yes")
        event = KeyEvent.objects.get(kind="cost_reset")
        assert event.actor.startswith("manage.py")
        assert event.message.startswith("The costs of “Production” were reset by manage.py")

    def test_it_wants_at_least_one_window(self, run):
        make_key(name="Production", **SPENT)
        ran = run("reset_costs", "--yes")
        assert (ran.code, ran.err) == (1, "Choose at least one of --daily, --monthly and --total.")
        assert costs() == (NANO, 2 * NANO, 3 * NANO)

    def test_it_asks_first_and_shows_the_figures(self, run, answered):
        make_key(name="Production", **SPENT)
        asked = answered("no")
        ran = run("reset_costs", "--daily", "--total", stdin=None)
        assert asked == ["Reset these costs of 1 key to zero? [y/N] "]
        assert ["Production", "$1.00", "-", "$3.00"] in [line.split() for line in ran.err.splitlines()]
        assert ran.code == 1 and ran.err.endswith("Nothing was reset.")
        assert costs() == (NANO, 2 * NANO, 3 * NANO)

    def test_it_goes_on_after_a_yes(self, run, answered):
        make_key(name="Production", **SPENT)
        answered("Y")
        assert run("reset_costs", "--daily", stdin=None).code == 0
        assert costs()[0] == 0

    def test_it_does_not_ask_where_nobody_answers(self, run):
        make_key(name="Production", **SPENT)
        ran = run("reset_costs", "--daily")
        assert ran.code == 1 and ran.err.endswith("There is no terminal to ask on: repeat with --yes.")
        assert costs()[0] == NANO

    def test_it_has_nothing_to_do_where_nothing_was_spent(self, run):
        make_key(name="Production")
        assert run("reset_costs", "--daily").out == "Nothing to reset: these costs are zero.\n"

    def test_it_prints_json(self, run):
        key = make_key(name="Production", **SPENT)
        assert json.loads(run("reset_costs", "--daily", "--yes", "--json").out) == [
            {"keyId": key.id, "keyName": "Production", "daily": 1.0, "monthly": 0.0, "total": 0.0}
        ]

    def test_it_names_a_key_that_is_unknown(self, run):
        ran = run("reset_costs", "--key", "Nobody", "--daily", "--yes")
        assert ran.code == 1 and ran.err.startswith("There is no key “Nobody”.")
