"""Alerts: each exactly once per key, kind and window, and delivered over real sockets without delaying anybody."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from urllib.parse import quote

import pytest
from django.db import connection

from llmkeys import ledger, tasks
from llmkeys.alerts import delivery, outbox
from llmkeys.database import writer
from llmkeys.database.sql import is_sqlite
from llmkeys.keys import resets
from llmkeys.ledger import Attempt, Bid, Outcome
from llmkeys.models import Alert, ApiKey, KeyEvent, UsageRecord
from llmkeys.supervisor import watchdog
from llmkeys.tokens import expiry
from tests.gateway.door import limits
from tests.helpers import NOW, make_key, make_token
from tests.serving import ROOT, environment
from tests.targets import SECRET, Target

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

CENT = 10_000_000
TOMORROW, NEXT_MONTH = NOW + timedelta(days=1), NOW + timedelta(days=8)
numbers = iter(range(1, 1_000_000))


def charge(key: ApiKey, cents: int, *, at: datetime = NOW) -> None:
    """Let a request of the key cost so much, from hold to settle."""
    attempt = Attempt(f"req-alert-{next(numbers)}", 1, at, "openai-chat", "m", "worker", False, "me")
    holding = ledger.PlaceHold([Bid(key.id, key.provider, "m", 0)], attempt)
    placed = writer.run_now(holding, accounts=holding.accounts)
    outcome = Outcome(state="SETTLED", at=at, success=True, cost_nano=cents * CENT, cost_source="provider")
    writer.run_now(ledger.End(placed.hold, outcome), accounts=placed.hold.locks)


def told(kind: str = "") -> list[str]:
    found = Alert.objects.filter(kind=kind) if kind else Alert.objects.all()
    return list(found.order_by("id").values_list("message", flat=True))


def alert(message: str = "Something happened.", *, at: datetime = NOW, kind: str = "limit_reached") -> Alert:
    return Alert.objects.create(kind=kind, message=message, created_at=at)


@pytest.fixture
def target(settings) -> Iterator[Target]:
    target = Target()
    settings.ALERT_URLS = [target.url]
    yield target
    target.close()


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a target that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"json://127.0.0.1:{server.getsockname()[1]}/{SECRET}?rto=60"


class TestBudgets:
    def test_it_warns_once_per_window_when_the_threshold_is_crossed(self):
        key = make_key(name="Production", **limits(daily="1"))
        charge(key, 79)
        assert told() == []
        for _ in range(3):
            charge(key, 2)
        assert told("warning_threshold") == [
            "“Production”: 81 % of the daily limit of $1.00 is spent: $0.81. "
            "Raise the limit or add another key if the rest is not enough."
        ]
        assert KeyEvent.objects.filter(kind="warned").count() == 1

    def test_it_warns_at_the_very_threshold(self):
        key = make_key(**limits(daily="1"))
        charge(key, 80)
        assert len(told("warning_threshold")) == 1

    def test_it_warns_again_in_the_next_window(self):
        key = make_key(**limits(daily="1"))
        charge(key, 90)
        charge(key, 85, at=TOMORROW)
        assert len(told("warning_threshold")) == 2

    def test_each_window_has_its_own(self):
        key = make_key(**limits(daily="1", monthly="1", total="1"))
        charge(key, 85)
        assert [message.split(" limit")[0].rsplit(" ", 1)[1] for message in told("warning_threshold")] == [
            "daily", "monthly", "total",
        ]  # fmt: skip
        charge(key, 85, at=TOMORROW)  # the month and the total were told before
        assert len(told("warning_threshold")) == 4
        assert len(told("limit_reached")) == 2

    def test_a_jump_over_threshold_and_limit_tells_of_both(self):
        key = make_key(name="Jump", **limits(daily="1"))
        charge(key, 150)
        assert len(told("warning_threshold")) == 1
        assert told("limit_reached") == ["“Jump”: The daily limit of $1.00 is reached: $1.50 spent."]

    def test_what_the_provider_charges_afterwards_counts(self):
        key = make_key(**limits(daily="1"))
        charge(key, 79)
        row = UsageRecord.objects.get()
        writer.run_now(lambda cursor: ledger.correct_cost(cursor, row.pk, 120 * CENT, NOW, reason="The bill."))
        assert len(told("limit_reached")) == len(told("warning_threshold")) == 1

    def test_it_tells_anew_after_a_person_has_set_the_costs_back(self):
        key = make_key(**limits(total="1"))
        charge(key, 100)
        resets.reset_costs([key], daily=False, monthly=False, total=True, at=NOW, actor="anna")
        charge(key, 100)
        assert len(told("limit_reached")) == len(told("warning_threshold")) == 2

    @pytest.mark.parametrize("threshold", ["0", "1"])
    def test_a_threshold_of_nothing_or_all_warns_never(self, settings, threshold):
        settings.WARNING_THRESHOLD = settings.WARNING_THRESHOLD.__class__(threshold)
        charge(make_key(**limits(daily="1")), 100)
        assert told("warning_threshold") == []
        assert len(told("limit_reached")) == 1

    def test_a_request_that_crosses_nothing_costs_no_statement_more(self, django_assert_num_queries):
        key = make_key(**limits(daily="1", monthly="1", total="1"))
        locks = 0 if is_sqlite() else 2  # hold and end lock the key's row before they write
        with django_assert_num_queries(5 + locks):  # hold and row; row, key and the day's total
            charge(key, 1)

    @pytest.mark.django_db(transaction=True)
    def test_eight_threads_tell_once(self):
        key = make_key(**limits(daily="1"))
        start = threading.Barrier(8)

        def many() -> None:
            start.wait()
            for _ in range(10):
                charge(key, 1)

        threads = [threading.Thread(target=many) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert Counter(Alert.objects.values_list("kind", flat=True)) == {"warning_threshold": 1}


class TestKeys:
    def test_it_tells_that_a_key_expired_once_per_date(self):
        key = make_key(name="Old", expires_at=NOW - timedelta(hours=1))
        for _ in range(2):
            resets.expire_keys(NOW)
        assert len(told("key_expired")) == 1
        assert key.name in told("key_expired")[0]

    @pytest.mark.parametrize(("event", "kind"), [("expiring", "key_expires"), ("rejected", "key_rejected")])
    def test_an_event_that_alerts_writes_its_alert_with_it(self, event, kind):
        key = make_key(name="Production")
        for _ in range(2):
            writer.run_now(lambda cursor: ledger.add_event(cursor, event, key.id, "Look.", NOW, once=f"{event} x"))
        assert told(kind) == ["“Production”: Look."]

    def test_an_exhausted_key_is_told_once_a_day_and_again_after_it_served(self):
        key = make_key()

        def exhausted(at: datetime) -> None:
            writer.run_now(lambda cursor: ledger.add_event(cursor, "exhausted", key.id, "No credit.", at))

        for minutes in range(3):
            exhausted(NOW + timedelta(minutes=minutes))
        assert len(told("key_exhausted")) == 1
        writer.run_now(lambda cursor: ledger.add_event(cursor, "recovered", key.id, "Serves again.", NOW))
        exhausted(NOW)
        exhausted(TOMORROW)
        assert len(told("key_exhausted")) == 3
        assert KeyEvent.objects.filter(kind="exhausted").count() == 5


class TestDelivery:
    def test_what_is_due_arrives_in_one_message(self, target):
        charge(make_key(name="Production", **limits(daily="1")), 150)
        assert tasks.send_alerts() == 2
        (message,) = target.heard
        assert message["title"] == "RefactAI: 2 alerts"
        assert message["message"].splitlines()[1] == (
            "2026-11-23 20:30 UTC  “Production”: The daily limit of $1.00 is reached: $1.50 spent."
        )
        assert outbox.send_due_alerts(NOW + timedelta(days=1)) == 0
        assert len(target.heard) == 1

    def test_the_end_of_a_token_is_not_titled_as_that_of_a_key(self, target, administrator):
        make_token(administrator, name="shop", expiresAt=NOW + timedelta(hours=1))
        later = NOW + timedelta(hours=2)
        expiry.expire_tokens(later)
        outbox.send_due_alerts(later)
        (message,) = target.heard
        assert message["title"] == "RefactAI: access token expired" and "shop" in message["message"]

    def test_a_flood_is_summed_up(self, target):
        for number in range(60):
            alert(f"Alert {number}")
        assert outbox.send_due_alerts(NOW) == 60
        assert len(target.lines) == 21
        assert target.heard[0]["message"].endswith("… and 40 more: see the dashboard.")

    def test_what_happens_on_a_machine_without_targets_reaches_those_of_the_scheduler(self, target, settings):
        settings.ALERT_URLS = []
        charge(make_key(name="Production", **limits(daily="1")), 90)
        assert outbox.undelivered_alerts() == []
        settings.ALERT_URLS = [target.url]
        assert outbox.send_due_alerts(NOW) == 1
        assert target.lines == told("warning_threshold")

    def test_without_a_target_it_is_for_the_dashboard(self, target, settings):
        settings.ALERT_URLS = []
        charge(make_key(**limits(daily="1")), 90)
        alert("left from a time with a target")
        assert outbox.send_due_alerts(NOW) == 0
        assert [outbox.delivery_words(found) for found in outbox.open_alerts(10)] == ["dashboard only"] * 2
        settings.ALERT_URLS = [target.url]
        assert outbox.send_due_alerts(NOW) == 0
        assert target.heard == []

    def test_a_target_that_refuses_is_tried_again_alone(self, target, settings):
        other = Target()
        other.status = 500
        settings.ALERT_URLS = [target.url, other.url]
        alert("Look.")
        assert outbox.send_due_alerts(NOW) == 0
        (failed,) = outbox.undelivered_alerts()
        assert failed.delivery_error.startswith(f"{other.name}: ")
        assert "500" in failed.delivery_error
        assert outbox.send_due_alerts(NOW + timedelta(seconds=59)) == 0
        assert other.refused == 1
        other.status = 200
        assert outbox.send_due_alerts(NOW + timedelta(seconds=61)) == 1
        assert (target.lines, other.lines) == (["Look."], ["Look."])
        assert outbox.undelivered_alerts() == []
        other.close()

    def test_it_gives_up_after_six_tries_and_says_so(self, target):
        target.status = 500
        sent = alert()
        at = NOW
        for minutes in (0, 1, 5, 15, 60, 240, 6000, 6000):
            at += timedelta(minutes=minutes)
            outbox.send_due_alerts(at)
        sent.refresh_from_db()
        assert (target.refused, outbox.given_up(sent)) == (6, True)
        assert outbox.delivery_words(sent).startswith("given up after 6 tries: json://127.0.0.1:")
        assert outbox.undelivered_alerts() == [sent]

    def test_a_dead_target_delays_no_other(self, target, settings, silent, monkeypatch):
        monkeypatch.setattr(delivery.send, "__kwdefaults__", {"seconds": 5.0})
        settings.ALERT_URLS = [silent, target.url]
        alert("Look.")
        assert outbox.send_due_alerts(NOW) == 0
        assert target.lines == ["Look."]
        assert "did not answer within 5 seconds" in Alert.objects.get().delivery_error

    def test_a_claim_of_a_sender_that_died_ends(self, target):
        waiting = alert()
        Alert.objects.filter(pk=waiting.pk).update(claimed_until=NOW + outbox.CLAIM, tries=1)
        assert outbox.send_due_alerts(NOW) == 0
        assert outbox.send_due_alerts(NOW + outbox.CLAIM) == 1

    def test_a_sender_that_comes_back_after_its_claim_ran_out_changes_nothing(self, target, monkeypatch):
        waiting, deliver = alert(), outbox._deliver

        def asleep(claimed):
            monkeypatch.setattr(outbox, "_deliver", deliver)
            assert outbox.send_due_alerts(NOW + outbox.CLAIM) == 1
            return {waiting.pk: ["the first sender: its target did not answer"]}

        monkeypatch.setattr(outbox, "_deliver", asleep)
        outbox.send_due_alerts(NOW)
        waiting.refresh_from_db()
        assert waiting.sent_at and not waiting.delivery_error

    def test_a_claim_of_a_clock_far_ahead_does_not_last(self, target):
        waiting = alert()
        Alert.objects.filter(pk=waiting.pk).update(claimed_until=NOW + timedelta(days=30), tries=1)
        assert outbox.send_due_alerts(NOW) == 1

    @pytest.mark.django_db(transaction=True)
    def test_processes_that_send_at_once_send_once(self, target):
        for number in range(30):
            alert(f"Alert {number}")
        code = (
            "import django; django.setup()\n"
            "from django.utils import timezone\nfrom llmkeys.alerts import outbox\n"
            "outbox.AT_ONCE = 7\nwhile outbox.send_due_alerts(timezone.now()): pass"
        )
        senders = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=self._here(target)) for _ in range(2)]
        assert [sender.wait(60) for sender in senders] == [0, 0]
        assert sorted(target.lines) == sorted(f"Alert {number}" for number in range(30))

    def _here(self, target: Target) -> dict[str, str]:
        """The environment of a process on the database of the tests."""
        found = connection.settings_dict
        url = f"sqlite:///{found['NAME']}"
        if connection.vendor == "postgresql":
            login = f"{found['USER']}:{quote(found['PASSWORD'] or '')}"
            url = f"postgres://{login}@{quote(found['HOST'], safe='')}:{found['PORT']}/{found['NAME']}"
        more = {
            "DATABASE_URL": url,
            "REFACTAI_ALERT_URLS": target.url,
            "DJANGO_SETTINGS_MODULE": "refactai_site.settings",
        }
        return environment(os.environ["REFACTAI_DATA_DIR"], **more)


class TestSecrets:
    @pytest.mark.parametrize("status", [200, 401, 500])
    def test_an_address_is_in_no_row_and_no_log(self, target, status, caplog, capfd):
        target.status = status
        sent = alert()
        outbox.send_due_alerts(NOW)
        sent.refresh_from_db()
        results = outbox.send_test_alert(NOW, by="anna")
        told = [sent.delivery_error, *map(repr, results), caplog.text, *capfd.readouterr()]
        told += [str(row) for row in Alert.objects.values()]
        assert not [text for text in told if SECRET in text]
        assert bool(sent.delivery_error) == (status != 200), "nothing was told: this proves less than it should"

    @pytest.mark.parametrize(
        ("url", "name"),
        [
            ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "slack"),
            ("tgram://123456789:abcdefg_hijklmnop/12315544", "tgram"),
            ("mailtos://anna:password@example.com?to=bob@example.com", "mailtos://example.com"),
            ("jsons://token:x@hooks.example.com:8443/path?key=value", "jsons://hooks.example.com:8443"),
            ("json://[half", "json"),
        ],
    )
    def test_a_target_is_named_without_its_secret(self, url, name):
        assert delivery.label(url) == name

    def test_what_the_library_says_of_an_address_it_cannot_use_is_told_without_it(self, settings):
        settings.ALERT_URLS = [f"nonsense://{SECRET}"]
        (result,) = outbox.send_test_alert(NOW)
        assert (result.target, result.delivered) == ("nonsense", False)
        assert result.words.startswith("Unparseable URL")
        assert SECRET not in result.words

    @pytest.mark.parametrize("piece", [SECRET, SECRET.upper(), "pass word", "anna"])
    def test_whatever_is_repeated_of_an_address_is_taken_out(self, piece):
        url = f"jsons://anna:pass%20word@hooks.example.com/{SECRET}?key=value"
        words = delivery._without_secrets(f"Failed to reach hooks.example.com\r\nas {piece}: error=404.", url)
        assert words == "Failed to reach hooks.example.com as ***: error=404."

    def test_a_message_shows_no_address_when_it_is_printed(self):
        assert SECRET not in repr(delivery.Message(f"json://127.0.0.1/{SECRET}", "t", "b"))


class TestScheduler:
    def test_a_stall_is_told_once_and_delivered_without_the_scheduler(self, target):
        for _ in range(2):
            assert watchdog.alert("no schedule was started for 90 seconds", "since 2026-11-23 20:00:00") == 0
        assert len(target.lines) == 1
        assert target.lines[0].startswith(
            "The scheduler is making no progress (no schedule was started for 90 seconds)"
        )

    def test_the_next_stall_is_told_again(self, target):
        watchdog.alert("it stands", "since 2026-11-23 20:00:00")
        watchdog.alert("it stands", "since 2026-11-23 20:20:00")
        assert len(target.lines) == 2

    def test_a_backup_that_fails_is_told_once_a_day(self):
        assert [outbox.backup_failed("the disk is full.", at=at) for at in (NOW, NOW, TOMORROW)] == [True, False, True]
        assert told("backup_failed")[0] == "The backup of the database failed: the disk is full."


class TestDashboard:
    def test_it_lists_what_nobody_has_dismissed(self, django_assert_num_queries):
        key = make_key(name="Production")
        older, newer = alert("older"), alert("newer")
        Alert.objects.filter(pk=newer.pk).update(key=key)
        with django_assert_num_queries(1):
            assert [(one.message, one.key and one.key.name) for one in outbox.open_alerts(10)] == [
                ("newer", "Production"), ("older", None),
            ]  # fmt: skip
        assert [outbox.dismiss(older.pk, NOW), outbox.dismiss(older.pk, NOW)] == [True, False]
        assert outbox.open_alerts(10) == [newer]

    def test_all_are_dismissed_up_to_the_newest_seen(self):
        alert("first")
        seen = alert("seen")
        unseen = alert("came meanwhile")
        assert outbox.dismiss_all(NOW, up_to=seen.pk) == 2
        assert outbox.open_alerts(10) == [unseen]
