"""The upgrade links what is stored to access tokens, where the name tells the token for certain; and may be stopped."""

from __future__ import annotations

import importlib
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django.db import connection, transaction

from llmkeys import ledger
from llmkeys.ledger import audit
from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, Adjustment, ApiKey, ClosedDay, DailyUsage, UsageRecord
from tests.helpers import NOW, make_key, make_usage, make_user

pytestmark = pytest.mark.django_db(transaction=True)  # the migration commits in batches

linking = importlib.import_module("llmkeys.migrations.0006_link_rows_to_tokens")
parts = importlib.import_module("llmkeys.migrations.0014_estimated_and_lost_of_each_day")
COST = NANO // 4


def token(name: str, user: str = "anna") -> AccessToken:
    user = make_user(f"{user} {AccessToken.objects.count()}")
    return AccessToken.objects.create(name=name, user=user, digest=f"{name} {user}")


def spend(key: ApiKey, name: str, *, days_ago: int = 0, state: str = "SETTLED", cost: int = COST) -> UsageRecord:
    """Leave what the version before wrote: a row and a daily total that know a name alone, and the key's counters."""
    at = NOW - timedelta(days=days_ago)
    row = make_usage(key, at=at, token_name=name, state=state, cost_nano=cost)
    total, _ = DailyUsage.objects.get_or_create(day=row.day, key=key, model=row.model, token_name=name)
    DailyUsage.objects.filter(pk=total.pk).update(
        requests=total.requests + 1, successful=total.successful + 1, cost_nano=total.cost_nano + cost,
        input_tokens=total.input_tokens + 100, output_tokens=total.output_tokens + 20,
    )  # fmt: skip
    key.refresh_from_db()
    key.day, key.month = max(key.day, NOW.date()), max(key.month, NOW.date().replace(day=1))
    key.spent_total_nano += cost
    key.spent_month_nano += cost * (row.month == key.month)
    key.spent_day_nano += cost * (row.day == key.day)
    key.total_requests, key.successful_requests = key.total_requests + 1, key.successful_requests + 1
    key.save()
    return row


class Editor:
    connection = connection


def upgrade() -> None:
    linking.link(apps, Editor)
    parts.fill(apps, Editor)


def test_rows_and_totals_are_linked_and_counters_start_from_them(frozen):
    key, worker = make_key(), token("worker")
    spend(key, "worker"), spend(key, "worker", days_ago=2), spend(key, "worker", days_ago=40)
    upgrade()
    worker.refresh_from_db()
    assert set(UsageRecord.objects.values_list("token_id", flat=True)) == {worker.pk}
    assert set(DailyUsage.objects.values_list("token_id", flat=True)) == {worker.pk}
    assert (worker.spent_day_nano, worker.spent_month_nano, worker.spent_total_nano) == (COST, 2 * COST, 3 * COST)
    assert (worker.day, worker.month) == (NOW.date(), NOW.date().replace(day=1))
    assert (worker.total_requests, worker.successful_requests, worker.failed_requests) == (3, 3, 0)
    assert audit.audit().differences == []


def test_a_name_that_is_not_certain_links_nothing(frozen):
    key = make_key()
    token("twice"), token("twice")
    make_user("anna")
    token("anna")  # the playground wrote the names of users there
    for name in ("twice", "anna", "nobody", ""):
        spend(key, name)
    upgrade()
    assert set(UsageRecord.objects.values_list("token_id", flat=True)) == {None}
    assert set(AccessToken.objects.values_list("spent_total_nano", flat=True)) == {0}
    assert audit.audit().differences == []


def test_corrections_of_a_row_are_the_tokens_too(frozen):
    key, worker = make_key(), token("worker")
    row = spend(key, "worker", state="LOST")
    Adjustment.objects.create(
        kind="void", key=key, usage=row, day_nano=-COST, month_nano=-COST, total_nano=-COST, day=row.day,
        month=row.month, created_at=NOW,
    )  # fmt: skip
    DailyUsage.objects.update(cost_nano=0)
    ApiKey.objects.update(spent_day_nano=0, spent_month_nano=0, spent_total_nano=0)
    upgrade()
    worker.refresh_from_db()
    assert worker.spent_total_nano == 0
    assert set(Adjustment.objects.values_list("key_id", "token_id", "cost_nano")) == {
        (key.id, None, -COST), (None, worker.pk, -COST),
    }  # fmt: skip
    assert audit.audit().differences == []


def test_open_holds_are_the_tokens_too(frozen):
    key, worker = make_key(held_nano=7), token("worker")
    make_usage(key, token_name="worker", state="HELD", cost_nano=0, hold_nano=7, lease_until=NOW, success=None)
    upgrade()
    worker.refresh_from_db()
    assert worker.held_nano == 7
    assert audit.audit().differences == []


def test_a_lost_row_knows_which_resets_came_before_it(frozen):
    key = make_key()
    row = spend(key, "", state="LOST")
    for minutes in (-1, 1):
        Adjustment.objects.create(
            kind="reset", key=key, total_nano=-1, day=row.day, month=row.month,
            created_at=NOW + timedelta(minutes=minutes),
        )  # fmt: skip
    upgrade()
    row.refresh_from_db()
    assert row.charged_after == Adjustment.objects.order_by("id").first().pk


def test_it_goes_on_where_it_was_stopped(frozen, monkeypatch):
    key, worker = make_key(), token("worker")
    for _ in range(6):
        spend(key, "worker")
    monkeypatch.setattr(linking, "BATCH_ROWS", 2)
    run, batches = linking._in_batches, []

    def stopped(*arguments):
        batches.append(arguments)
        if len(batches) == 3:
            raise KeyboardInterrupt
        run(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(linking, "_in_batches", stopped)
        with pytest.raises(KeyboardInterrupt):
            upgrade()
    upgrade()
    upgrade()  # and once more changes nothing
    worker.refresh_from_db()
    assert worker.spent_total_nano == 6 * COST
    assert audit.audit().differences == []


def test_days_tell_what_was_estimated_and_what_was_lost(frozen, monkeypatch):
    """Taken back, or told later, it is neither; stopped half way, the next run does it all again."""
    key = make_key()
    kinds = [("SETTLED", "provider"), ("SETTLED", "estimated"), ("SETTLED", "fallback"), ("LOST", "estimated")]
    rows = [spend(key, f"worker {days}", days_ago=days, state=state) for days in (0, 1) for state, _ in kinds]
    for row, (_, source) in zip(rows, kinds * 2, strict=True):
        UsageRecord.objects.filter(pk=row.pk).update(cost_source=source)
    with connection.cursor() as cursor, transaction.atomic():
        ledger.void_lost(cursor, rows[7].pk, NOW, by="anna", reason="not on the bill")
        ledger.correct_cost(cursor, rows[6].pk, COST // 2, NOW, reason="the bill says so")
    DailyUsage.objects.update(estimated_nano=0, lost_nano=0)  # as the version before left them
    monkeypatch.setattr(parts, "BATCH_GROUPS", 1)
    with monkeypatch.context() as patch:
        batches = iter([transaction.atomic])
        patch.setattr(parts, "transaction", SimpleNamespace(atomic=lambda **on: next(batches)(**on)))
        with pytest.raises(StopIteration):
            parts.fill(apps, Editor)
    assert DailyUsage.objects.exclude(estimated_nano=0).count() == 1
    upgrade()
    upgrade()
    days = DailyUsage.objects.order_by("-day").values_list("day", "estimated_nano", "lost_nano")
    assert list(days) == [(NOW.date(), 2 * COST, COST), (NOW.date() - timedelta(days=1), COST, 0)]
    assert audit.audit().differences == []


def test_the_way_back_leaves_one_total_for_each_name():
    key = make_key()
    for worker in (token("worker"), token("worker")):
        DailyUsage.objects.create(
            day=NOW.date(), key=key, model="m", token_name="worker", token=worker, requests=1, cost_nano=COST
        )
    linking.unlink(apps, Editor)
    assert [(row.requests, row.cost_nano) for row in DailyUsage.objects.all()] == [(2, 2 * COST)]


def test_a_total_that_changes_still_opens_its_day():
    """SQLite made the table anew for its constraint: the triggers on it had to come back."""
    ClosedDay.objects.create(day=NOW.date(), running=False)
    DailyUsage.objects.create(day=NOW.date(), key=make_key(), model="m")
    assert not ClosedDay.objects.exists()


def test_who_sends_already_may_go_on(frozen):
    """Everybody with a live token for the gateway gets the permission that it needs from now on, and nobody else."""
    permission = importlib.import_module("llmkeys.migrations.0012_gateway_needs_a_permission")
    tokens = {
        "sends": {}, "manages": {"scope_gateway": False, "scope_manage": True}, "reads": {"scope_gateway": False},
        "revoked": {"revoked_at": NOW}, "expired": {"expires_at": NOW},
        "later": {"expires_at": NOW + timedelta(days=1)},
    }  # fmt: skip
    for name, columns in tokens.items():
        user = make_user(name)
        AccessToken.objects.create(name=name, user=user, digest=name, **columns)
    make_user("without a token")
    Permission.objects.filter(codename="use_gateway").delete()  # before the upgrade there is none
    permission.grant(apps, Editor)
    permission.grant(apps, Editor)
    users = get_user_model().objects.order_by("username")
    assert [user.username for user in users if user.has_perm("llmkeys.use_gateway")] == ["later", "manages", "sends"]
