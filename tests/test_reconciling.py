"""The true cost of estimated OpenRouter requests arrives afterwards, and the books follow it once."""

from __future__ import annotations

import threading
from datetime import timedelta
from decimal import Decimal

import pytest
import responses
from django.db import connection, transaction
from responses import matchers

from llmkeys import ledger, tasks
from llmkeys.lib.money import NANO, usd_to_nano
from llmkeys.models import Adjustment, ApiKey, DailyUsage, KeyEvent, UsageRecord
from llmkeys.usage import reconciling
from llmkeys.usage.voiding import void_usage
from tests.gateway import door
from tests.helpers import NOW, make_key, make_token, make_usage, make_user, parts_of
from tests.web import Program

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

GENERATION = "https://openrouter.ai/api/v1/generation?id=gen-1"


@pytest.fixture
def openrouter():
    with responses.RequestsMock() as mock:
        yield mock


def estimated(key: ApiKey, **columns):
    """A row whose cost of 0.25 USD was estimated, in the books of its day."""
    columns = {"cost_source": "estimated", "upstream_id": "gen-1", "created_at": NOW} | columns
    row = make_usage(key, **columns)
    ApiKey.objects.filter(pk=key.pk).update(
        spent_day_nano=row.cost_nano, spent_month_nano=row.cost_nano, spent_total_nano=row.cost_nano, total_requests=1,
        successful_requests=int(row.success), failed_requests=int(not row.success),
    )  # fmt: skip
    DailyUsage.objects.create(
        day=row.day, key=key, model=row.model, token_name=row.token_name, requests=1, successful=int(row.success),
        failed=int(not row.success), input_tokens=100, output_tokens=20, cost_nano=row.cost_nano,
        **parts_of(row),
    )  # fmt: skip
    return row


def true_cost(openrouter, cost: object, **data) -> None:
    openrouter.get(GENERATION, json={"data": {"id": "gen-1", "total_cost": cost, "is_byok": False} | data})


def charged() -> int:
    return ApiKey.objects.get().spent_day_nano


@pytest.mark.django_db(transaction=True)
class TestBySimulator:
    """Requests through the gateway, over real sockets: what is charged in the end is what the simulator billed."""

    @pytest.mark.parametrize(
        ("ending", "state", "kind"),
        [("nousage", "SETTLED", "reconcile"), ("html", "LOST", "late"), ("malformed", "LOST", "late")],
    )
    def test_it_charges_what_the_provider_billed(self, simulator, ending, state, kind):
        key = make_key(secret=f"sk-or-v1-{'a1' * 24}-{ending}")
        door.ask(Program(make_token(make_user("worker", "use_gateway"), "gateway")))
        rows = UsageRecord.objects.all()
        assert {(row.state, row.cost_source) for row in rows} == {(state, "estimated")}
        attempts = 2 if state == "LOST" else 1  # what cannot be read is asked once more
        billed = usd_to_nano(Decimal(simulator.summary()["cost"]))
        assert billed and len(rows) == attempts and sum(row.cost_nano for row in rows) != billed
        done = tasks.reconcile_costs()
        assert (done["asked"], done["corrected"], done["pending"]) == (attempts, attempts, 0)
        assert {adjustment.kind for adjustment in Adjustment.objects.all()} == {kind}
        key.refresh_from_db()
        assert key.spent_day_nano == key.spent_month_nano == key.spent_total_nano == billed
        total = DailyUsage.objects.get()
        assert (total.cost_nano, total.estimated_nano, total.lost_nano) == (billed, 0, 0)  # told: no estimate any more
        door.books_balance()
        assert tasks.reconcile_costs()["asked"] == 0


class TestTwoAtOnce:
    @pytest.mark.django_db(transaction=True)
    def test_it_and_a_person_who_voids_see_each_other(self):
        """Whoever comes second corrects what the first has left: the charge ends at nothing, or at the true cost."""
        for _ in range(10):
            key = make_key()
            row = estimated(key, state="LOST", success=False)
            start = threading.Barrier(2)

            def correct(cursor, row=row):
                return ledger.correct_cost(cursor, row.id, NANO // 10, NOW, reason="the true cost")

            def at_once(work, start=start):
                start.wait()
                try:
                    with transaction.atomic(), connection.cursor() as cursor:
                        work(cursor)
                finally:
                    connection.close()

            def void(cursor, row=row):
                return ledger.void_lost(cursor, row.id, NOW, by="anna", reason="not on the bill")

            threads = [threading.Thread(target=at_once, args=(work,)) for work in (correct, void)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            key.refresh_from_db()
            assert key.spent_total_nano in (0, NANO // 10)
        door.books_balance()


class TestReconcileCosts:
    def test_it_corrects_the_charge_and_says_so(self, openrouter):
        row = estimated(make_key(name="Production"))
        true_cost(openrouter, 0.2)
        assert reconciling.reconcile_costs(NOW).corrected == 1
        event = KeyEvent.objects.get(kind="reconciled")
        assert event.message == (
            f"The true cost of the request {row.request_id} of “Production” is $0.20, by OpenRouter's own record: "
            "$0.05 was taken back."
        )
        assert charged() == NANO // 5
        door.books_balance()

    def test_it_charges_more_where_the_estimate_was_low(self, openrouter):
        estimated(make_key())
        true_cost(openrouter, 0.5)
        reconciling.reconcile_costs(NOW)
        assert charged() == NANO // 2
        assert KeyEvent.objects.get(kind="reconciled").message.endswith("$0.25 was charged in addition.")
        door.books_balance()

    def test_it_asks_once_where_the_estimate_was_right(self, openrouter):
        estimated(make_key())
        true_cost(openrouter, 0.25)
        assert reconciling.reconcile_costs(NOW).confirmed == 1
        assert Adjustment.objects.get().total_nano == 0
        assert not KeyEvent.objects.filter(kind="reconciled").exists()
        assert reconciling.reconcile_costs(NOW).asked == 0

    def test_it_asks_again_while_the_provider_does_not_know(self, openrouter):
        estimated(make_key())
        openrouter.get(GENERATION, status=404, json={"error": {"code": 404, "message": "not found"}})
        assert reconciling.reconcile_costs(NOW).pending == 1
        openrouter.reset()
        true_cost(openrouter, None)
        assert reconciling.reconcile_costs(NOW).pending == 1
        openrouter.reset()
        true_cost(openrouter, 0)
        assert reconciling.reconcile_costs(NOW).corrected == 1
        assert charged() == 0

    def test_it_adds_the_upstream_bill_of_the_owners_own_key(self, openrouter):
        estimated(make_key())
        true_cost(openrouter, 0.01, is_byok=True, upstream_inference_cost=0.3)
        reconciling.reconcile_costs(NOW)
        assert charged() == usd_to_nano("0.31")

    def test_it_reads_amounts_written_as_texts(self, openrouter):
        estimated(make_key())
        true_cost(openrouter, "0.01", is_byok=True, upstream_inference_cost="0.3")
        reconciling.reconcile_costs(NOW)
        assert charged() == usd_to_nano("0.31")

    def test_it_puts_a_voided_row_back_to_what_it_truly_cost(self, openrouter):
        row = estimated(make_key(), state="LOST", success=False)
        void_usage(row.id, at=NOW, actor="anna")
        true_cost(openrouter, 0.1)
        reconciling.reconcile_costs(NOW)
        assert charged() == NANO // 10
        assert sorted(Adjustment.objects.values_list("kind", flat=True)) == ["late", "void"]
        door.books_balance()

    def test_it_uses_the_keys_own_secret_and_an_escaped_id(self, openrouter):
        estimated(make_key(secret="sk-or-v1-" + "b2" * 24), upstream_id="gen-1/../key?x")
        openrouter.get(
            "https://openrouter.ai/api/v1/generation?id=gen-1%2F..%2Fkey%3Fx", status=404,
            match=[matchers.header_matcher({"Authorization": "Bearer sk-or-v1-" + "b2" * 24})],
        )  # fmt: skip
        reconciling.reconcile_costs(NOW)
        assert openrouter.calls[0].request.url.endswith("generation?id=gen-1%2F..%2Fkey%3Fx")

    def test_it_leaves_a_failing_provider_for_the_next_run_and_says_why(self, openrouter):
        key = make_key(name="Production")
        estimated(key)
        make_usage(key, cost_source="estimated", upstream_id="gen-2")
        openrouter.get("https://openrouter.ai/api/v1/generation?id=gen-2", status=503, body="down")
        with pytest.raises(tasks.TaskFailed, match=r"“Production”: .* \(status 503\)"):
            tasks.reconcile_costs()
        assert len(openrouter.calls) == 1
        assert not Adjustment.objects.exists()

    def test_it_survives_an_unreachable_provider(self, openrouter):
        estimated(make_key())
        openrouter.get(GENERATION, body=responses.ConnectionError("gone"))
        assert reconciling.reconcile_costs(NOW).failed == 1

    @pytest.mark.parametrize(
        "body", ["", "[]", '{"data": 7}', '{"data": {"total_cost": "one"}}', '{"data": {"total_cost": -1}}']
    )
    def test_it_takes_no_nonsense_for_a_cost(self, openrouter, body):
        estimated(make_key())
        openrouter.get(GENERATION, body=body)
        assert reconciling.reconcile_costs(NOW).pending == 1

    @pytest.mark.parametrize(
        "columns",
        [
            {"cost_source": "provider"},
            {"upstream_id": ""},
            {"upstream_id": "req_of_a_proxy"},
            {"state": "HELD", "cost_nano": 0, "lease_until": NOW},
            {"provider": "openai"},
            {"created_at": NOW - timedelta(hours=24, seconds=1)},
        ],
    )
    def test_it_asks_only_for_what_openrouter_can_tell(self, columns):
        estimated(make_key(), **columns)
        assert reconciling.reconcile_costs(NOW).asked == 0

    @pytest.mark.parametrize(
        "columns",
        [
            {"deleted_at": NOW, "enabled": False, "is_default": False, "fingerprint": None},
            {"secret_missing": True},
            {"rejected_at": NOW},
        ],
    )
    def test_it_asks_for_no_key_that_it_cannot_use(self, columns):
        key = make_key()
        estimated(key)
        ApiKey.objects.filter(pk=key.pk).update(**columns)
        assert reconciling.reconcile_costs(NOW).asked == 0

    def test_it_says_once_that_an_estimate_stands_for_good(self):
        estimated(make_key(name="Production"), created_at=NOW - timedelta(days=2), day=(NOW - timedelta(days=2)).date())
        done = [reconciling.reconcile_costs(NOW + timedelta(minutes=15 * number)).given_up for number in range(2)]
        assert done == [1, 0]
        assert KeyEvent.objects.get(kind="reconciled").message == (
            "OpenRouter did not report within 24 hours what 1 estimated request of “Production” on 2026-11-21 "
            "really cost: the estimate, $0.25, stands."
        )

    def test_it_counts_the_estimates_that_stand(self):
        key, long_ago = make_key(name="Production"), NOW - timedelta(days=2)
        for model in ("one", "another"):
            estimated(key, model=model, created_at=long_ago, day=long_ago.date())
        assert reconciling.reconcile_costs(NOW).given_up == 2
        assert "what 2 estimated requests of “Production” on 2026-11-21 really cost: the estimates, $0.50, stand." in (
            KeyEvent.objects.get(kind="reconciled").message
        )
