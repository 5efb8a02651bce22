"""What a provider's failure does to a key: how long it rests, and what a second refusal adds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import responses
from django.db import connection

from llmkeys import providers
from llmkeys.keys.environment import register_environment_keys
from llmkeys.keys.failures import confirm_rejection, report_failure
from llmkeys.ledger import coolings
from llmkeys.models import ApiKey, Cooling
from llmkeys.providers import Failure, FailureKind
from tests.helpers import NOW, make_key

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

MODEL = "gemini-2.5-flash"
PACIFIC_MIDNIGHT = datetime(2026, 11, 24, 8, tzinfo=UTC)
PER_DAY, PER_MINUTE = "GenerateRequestsPerDayPerProject", "GenerateRequestsPerMinutePerProject"


def refusal(quota: str, at: datetime, delay: str = "36s") -> Failure:
    details = [{"violations": [{"quotaId": quota}]}, {"retryDelay": delay}]
    error = {
        "code": 429,
        "message": "You exceeded your current quota.",
        "status": "RESOURCE_EXHAUSTED",
        "details": details,
    }
    body = json.dumps({"error": error}).encode()
    return providers.get("google").classify(status=429, headers={}, body=body, at=at)


def candidate(key: ApiKey) -> Any:
    return SimpleNamespace(
        id=key.id, name=key.name, provider=key.provider, billing_group=key.billing_group, model=MODEL,
        scopes=(f"key:{key.id}",), environment_variable=key.environment_variable, secret=key.secret,
    )  # fmt: skip


def stored(key: ApiKey) -> Any:
    """Return the key as the call to its provider needs it."""
    return SimpleNamespace(**vars(candidate(key)), workspace_id="")


@pytest.fixture
def key():
    return make_key(provider="google")


def report(key: ApiKey, failure: Failure, seconds: float) -> datetime:
    report_failure(candidate(key), failure, at=NOW + timedelta(seconds=seconds))
    return Cooling.objects.get().until


class TestAQuotaOfTheDay:
    def test_it_waits_as_told_and_locks_until_midnight_when_it_is_refused_again(self, key):
        assert report(key, refusal(PER_DAY, NOW), 0) == NOW + timedelta(seconds=36)
        again = NOW + timedelta(seconds=40)
        assert report(key, refusal(PER_DAY, again), 40) == PACIFIC_MIDNIGHT

    def test_two_requests_under_way_together_are_one_refusal(self, key):
        report(key, refusal(PER_DAY, NOW), 0)
        assert report(key, refusal(PER_DAY, NOW), 1) == NOW + timedelta(seconds=36)

    def test_a_success_in_between_begins_anew(self, key):
        report(key, refusal(PER_DAY, NOW), 0)
        with connection.cursor() as cursor:
            coolings.forgive(cursor, key.id, candidate(key).scopes, MODEL, NOW + timedelta(seconds=40))
        later = NOW + timedelta(seconds=50)
        assert report(key, refusal(PER_DAY, later), 50) == later + timedelta(seconds=36)

    def test_a_quota_of_the_minute_before_it_does_not_count(self, key):
        report(key, refusal(PER_MINUTE, NOW), 0)
        later = NOW + timedelta(seconds=40)
        assert report(key, refusal(PER_DAY, later), 40) == later + timedelta(seconds=36)

    def test_yesterdays_refusal_does_not_count(self, key):
        report(key, refusal(PER_DAY, NOW), 0)
        tomorrow = NOW + timedelta(days=1)
        assert report(key, refusal(PER_DAY, tomorrow), 86_400) == tomorrow + timedelta(seconds=36)

    def test_a_quota_of_the_minute_never_locks(self, key):
        for seconds in (0, 40, 80):
            at = NOW + timedelta(seconds=seconds)
            assert report(key, refusal(PER_MINUTE, at), seconds) == at + timedelta(seconds=36)


def test_a_wrong_address_flags_the_key_and_rests_nothing(key):
    failure = providers.get("google").classify(status=404, headers={}, body=b'{"detail":"Not Found"}', at=NOW)
    report_failure(candidate(key), failure, at=NOW)
    key.refresh_from_db()
    assert "GOOGLE_BASE_URL" in key.last_error
    assert (key.status_at(NOW), Cooling.objects.exists()) == ("ACTIVE", False)


@pytest.mark.parametrize("kind", [FailureKind.MODEL_UNAVAILABLE, FailureKind.CLIENT_ERROR, FailureKind.RETRY])
def test_what_is_not_the_keys_own_leaves_it_alone(key, kind):
    report_failure(candidate(key), Failure(kind, "m", status=404), at=NOW)
    key.refresh_from_db()
    assert (key.last_error, Cooling.objects.exists()) == ("", False)


class TestARejection:
    """The key rests at once, and is judged by a free test that nobody waits for."""

    REJECTED = Failure(FailureKind.REJECTED, "User not found.", status=401)
    FREE = "https://openrouter.ai/api/v1/key"

    @pytest.fixture
    def key(self):
        return make_key()

    def test_it_lets_the_key_rest_without_asking_anybody(self, key):
        assert report_failure(candidate(key), self.REJECTED, at=NOW) is True
        assert Cooling.objects.get().until == NOW + timedelta(seconds=10)
        assert ApiKey.objects.get().rejected_at is None

    def test_only_the_first_of_many_refusals_asks(self, key):
        asked = [report_failure(candidate(key), self.REJECTED, at=NOW) for _ in range(3)]
        assert asked == [True, False, False]

    @responses.activate
    def test_the_test_rejects_it(self, key):
        responses.get(self.FREE, status=401, json={"error": {"message": "User not found.", "code": 401}})
        report_failure(candidate(key), self.REJECTED, at=NOW)
        confirm_rejection(stored(key), self.REJECTED, at=NOW)
        key.refresh_from_db()
        assert (key.rejected_at, Cooling.objects.exists()) == (NOW, False)

    @responses.activate
    def test_the_test_takes_it(self, key):
        responses.get(self.FREE, json={"data": {"label": "x", "limit": None, "usage": 0}})
        report_failure(candidate(key), self.REJECTED, at=NOW)
        confirm_rejection(stored(key), self.REJECTED, at=NOW)
        key.refresh_from_db()
        assert key.rejected_at is None
        assert key.last_error.endswith("The free test accepts the key.")
        assert Cooling.objects.get().until == NOW + timedelta(seconds=10)

    def test_no_other_failure_is_to_be_confirmed(self, key):
        for kind in FailureKind:
            if kind is not FailureKind.REJECTED:
                assert report_failure(candidate(key), Failure(kind, "m"), at=NOW) is False


class TestAnEnvironmentKeyWhoseVariableDiffersHere:
    """A command may run in a shell that has another secret in the variable than the server."""

    ALL = [Failure(kind, "Refused.", status=401) for kind in FailureKind]

    @pytest.fixture
    def key(self, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "e" * 40)
        (key,) = register_environment_keys(at=NOW)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "f" * 40)
        return key

    @responses.activate
    @pytest.mark.parametrize("failure", ALL, ids=lambda failure: failure.kind.value)
    def test_no_failure_of_it_changes_the_key(self, key, failure):
        responses.get("https://api.openai.com/v1/models", status=401, json={"error": {"code": "invalid_api_key"}})
        assert report_failure(candidate(key), failure, at=NOW) is False
        confirm_rejection(stored(key), failure, at=NOW)
        key.refresh_from_db()
        assert (key.status_at(NOW), key.last_error, key.is_default) == ("ACTIVE", "", True)
        assert not Cooling.objects.exists()

    def test_a_rejection_counts_only_once_the_server_was_started_with_it(self, key):
        assert report_failure(candidate(key), TestARejection.REJECTED, at=NOW) is False
        register_environment_keys(at=NOW)
        assert report_failure(candidate(key), TestARejection.REJECTED, at=NOW) is True
        assert Cooling.objects.get().scope == f"key:{key.id}"
