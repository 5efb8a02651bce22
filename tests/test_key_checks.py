"""The free test of every key, every six hours."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import responses

from llmkeys import tasks
from llmkeys.keys import checking
from llmkeys.keys.adding import toggle, update_key
from llmkeys.models import ApiKey, KeyEvent, UsageRecord
from llmkeys.vault import keyring
from tests.helpers import NOW, make_key, new_secret

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

OPENROUTER, OPENAI = "https://openrouter.ai/api/v1/key", "https://api.openai.com/v1/models"


@pytest.fixture
def provider():
    with responses.RequestsMock() as mock:
        yield mock


def check(pauses: list | None = None) -> checking.Checked:
    return checking.check_keys(NOW, pause=(pauses if pauses is not None else []).append)


class TestCheckKeys:
    def test_it_sets_and_clears_the_rejected_mark_and_counts_no_request(self, provider):
        make_key(name="Good", rejected_at=NOW - timedelta(days=1))
        make_key(name="Bad", provider="openai")
        provider.get(OPENROUTER, json={"data": {"label": "x", "limit": None, "usage": 0}})
        provider.get(OPENAI, status=401, json={"error": {"code": "invalid_api_key", "message": "Incorrect API key"}})
        done = check()
        assert (done.good, done.bad, done.failed, done.left) == (1, 1, 0, 0)
        assert [key.name for key in ApiKey.objects.filter(rejected_at__isnull=False)] == ["Bad"]
        assert set(KeyEvent.objects.filter(kind__in=["accepted", "rejected"]).values_list("kind", flat=True)) == {
            "accepted", "rejected",
        }  # fmt: skip
        assert not UsageRecord.objects.exists()
        assert set(ApiKey.objects.values_list("total_requests", flat=True)) == {0}

    def test_it_survives_a_provider_that_is_down_and_disables_nobody(self, provider):
        make_key()
        make_key(provider="openai")
        provider.get(OPENROUTER, body=responses.ConnectionError("gone"))
        provider.get(OPENAI, json={"object": "list", "data": []})
        done = check()
        assert (done.good, done.bad) == (1, 1)
        assert not ApiKey.objects.filter(rejected_at__isnull=False).exists()

    def test_it_survives_a_secret_that_does_not_decrypt_and_fails_visibly(self, provider, monkeypatch):
        monkeypatch.setattr(checking, "PAUSE_SECONDS", 0)
        key = make_key()
        make_key(provider="openai")
        ApiKey.objects.filter(pk=key.pk).update(secret=b"no ciphertext at all, but long enough to be tried")
        provider.get(OPENAI, json={"object": "list", "data": []})
        with pytest.raises(tasks.TaskFailed, match="1 of 2 keys could not be tested"):
            tasks.check_keys()
        assert len(provider.calls) == 1

    def test_it_leaves_out_keys_that_cannot_serve(self):
        make_key(enabled=False)
        make_key(secret_missing=True)
        make_key(expires_at=NOW - timedelta(hours=1))
        make_key(deleted_at=NOW, enabled=False, is_default=False, fingerprint=None)
        assert check() == checking.Checked()

    def test_it_spreads_the_calls_out(self, provider):
        for _ in range(3):
            make_key()
        provider.get(OPENROUTER, json={"data": {"label": "x", "limit": None, "usage": 0}})
        pauses: list[float] = []
        check(pauses)
        assert pauses == [1.0, 1.0]

    def test_it_begins_with_the_longest_untested_and_stops_when_its_time_is_over(self, provider, monkeypatch):
        for name, hours in (("Yesterday", 24), ("Today", 1), ("Never", None)):
            make_key(name=name, last_test_at=None if hours is None else NOW - timedelta(hours=hours))
        assert [key.name for key in checking._to_test(NOW)] == ["Never", "Yesterday", "Today"]
        monkeypatch.setattr(checking, "AT_MOST_SECONDS", -1)
        assert check().left == 3

    def test_it_reads_each_key_only_when_its_turn_comes(self, provider):
        """A run takes up to two minutes, in which a person may replace a secret, or switch a key off."""
        first, second, third = make_key(), make_key(), make_key()
        new = new_secret()

        def change(_request):
            update_key(second, values={"apiKey": new}, at=NOW)
            toggle(third, active=False, at=NOW)
            return 200, {}, json.dumps(GOOD)

        provider.add_callback("GET", OPENROUTER, change)
        provider.get(OPENROUTER, json=GOOD)
        assert check() == checking.Checked(good=2)
        sent = [call.request.headers["Authorization"] for call in provider.calls]
        assert sent == [f"Bearer {keyring.open_secret(first)}", f"Bearer {new}"]


GOOD = {"data": {"label": "x", "limit": None, "usage": 0}}
BAD = {"error": {"message": "User not found.", "code": 401}}


class TestARejectionThatWasAMistake:
    """A key that has served is tested again 1, 5 and 15 minutes after its rejection."""

    def run(self, frozen, minutes: float) -> None:
        at = NOW + timedelta(minutes=minutes)
        frozen.move_to(at)
        tasks.settle_lost_holds()

    def test_it_comes_back_as_soon_as_its_provider_takes_it(self, provider, frozen):
        key = make_key(rejected_at=NOW, last_error="Rejected by its provider: no.", successful_requests=3)
        provider.get(OPENROUTER, json=GOOD)
        self.run(frozen, 0.9)
        assert not provider.calls
        self.run(frozen, 1)
        key.refresh_from_db()
        assert (key.rejected_at, key.last_error, key.status_at(NOW)) == (None, "", "ACTIVE")
        assert KeyEvent.objects.get(kind="accepted").key_id == key.id
        self.run(frozen, 2)
        assert len(provider.calls) == 1

    def test_it_is_tested_three_times_and_then_left_to_the_regular_round(self, provider, frozen):
        make_key(rejected_at=NOW, successful_requests=3)
        provider.get(OPENROUTER, status=401, json=BAD)
        calls = []
        for minutes in (0, 1, 1.5, 2, 4.9, 5, 6, 14, 15, 16, 60, 300):
            self.run(frozen, minutes)
            calls.append(len(provider.calls))
        assert calls == [0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3]
        assert ApiKey.objects.get().rejected_at == NOW

    def test_a_scheduler_that_was_down_makes_the_test_late_and_once(self, provider, frozen):
        make_key(rejected_at=NOW, successful_requests=1)
        provider.get(OPENROUTER, status=401, json=BAD)
        for minutes in (600, 601, 700):
            self.run(frozen, minutes)
        assert len(provider.calls) == 1

    def test_it_tests_no_key_that_got_a_new_secret_during_the_run(self, provider, frozen):
        make_key(rejected_at=NOW - timedelta(seconds=1), successful_requests=1)
        second = make_key(rejected_at=NOW, successful_requests=1)

        def replace(_request):
            update_key(second, values={"apiKey": new_secret()}, at=NOW)
            return 401, {}, json.dumps(BAD)

        provider.add_callback("GET", OPENROUTER, replace)
        self.run(frozen, 1)
        assert len(provider.calls) == 1
        second.refresh_from_db()
        assert (second.rejected_at, second.last_test_at) == (None, None)

    def test_it_tests_no_key_that_never_served_or_that_a_person_switched_off(self, frozen):
        make_key(rejected_at=NOW)
        make_key(rejected_at=NOW, successful_requests=1, enabled=False)
        make_key(rejected_at=NOW, successful_requests=1, expires_at=NOW + timedelta(seconds=1))
        make_key(successful_requests=1)
        self.run(frozen, 1)

    def test_a_provider_that_is_down_fails_nothing(self, provider, frozen):
        make_key(rejected_at=NOW, successful_requests=1)
        provider.get(OPENROUTER, body=responses.ConnectionError("gone"))
        self.run(frozen, 1)
        assert ApiKey.objects.get().rejected_at == NOW
