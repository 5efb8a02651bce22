"""Wrong access tokens: after 20 in a minute from one address, 429; a right one is never throttled."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connection

from llmkeys.exceptions import TooManyFailures
from llmkeys.models import FailedAuthentication
from llmkeys.tokens import throttle
from tests.helpers import NOW, JsonClient, make_token
from tests.web import Program

KEYS, CHAT, MODELS = "/api/llm/keys", "/v1/chat/completions", "/v1/models"
HERE = "127.0.0.1"  # where programs of these tests come from that go through a real web server


def fail(times, *, path=KEYS, address="198.51.100.7", **options):
    return [JsonClient("rfk_wrong").get(path, REMOTE_ADDR=address, **options) for _ in range(times)]


def statuses(answers):
    return [answer.status_code for answer in answers]


@pytest.mark.django_db
class TestThrottling:
    def test_the_21st_failure_is_429(self, frozen):
        *before, last = fail(21)
        assert statuses(before) == [401] * 20
        assert last.status_code == 429
        assert last["Retry-After"] == "60"
        assert list(last.json()) == ["detail"]

    def test_other_addresses_are_not_touched(self, frozen):
        fail(20)
        assert statuses(fail(1, address="198.51.100.8")) == [401]

    def test_it_ends_when_the_oldest_is_a_minute_old(self, frozen):
        fail(1)
        frozen.move_to(NOW + timedelta(seconds=30))
        fail(19)
        frozen.move_to(NOW + timedelta(seconds=59.5))
        answer = fail(1)[0]
        assert (answer.status_code, answer["Retry-After"]) == (429, "1")
        frozen.move_to(NOW + timedelta(seconds=60))
        assert statuses(fail(2)) == [401, 429]

    def test_what_is_older_than_a_minute_is_forgotten(self, frozen):
        fail(20)
        frozen.move_to(NOW + timedelta(seconds=61))
        fail(1, address="198.51.100.8")
        assert FailedAuthentication.objects.count() == 1

    def test_a_clock_that_stepped_back_a_little_gives_no_long_wait(self, frozen):
        fail(20)
        frozen.move_to(NOW - timedelta(seconds=59))
        assert fail(1)[0]["Retry-After"] == "60"

    def test_failures_before_a_clock_was_set_back_far_do_not_count(self, frozen):
        fail(20)
        frozen.move_to(NOW - timedelta(days=1))
        assert statuses(fail(1)) == [401]
        assert FailedAuthentication.objects.get().at == NOW - timedelta(days=1)

    @pytest.mark.parametrize(
        ("https", "forwarded", "expected"),
        [
            (False, "203.0.113.5", "198.51.100.7"),
            (True, "203.0.113.5", "203.0.113.5"),
            (True, "10.0.0.1, 203.0.113.5", "203.0.113.5"),
            (True, "rubbish", "198.51.100.7"),
            (True, "", "198.51.100.7"),
        ],
    )
    def test_only_our_own_proxy_is_believed(self, settings, https, forwarded, expected):
        settings.REFACTAI_HTTPS = https
        environ = {"REMOTE_ADDR": "198.51.100.7", "HTTP_X_FORWARDED_FOR": forwarded}
        assert throttle.address_of(environ) == expected


@pytest.mark.django_db(transaction=True)
class TestAtTheGateway:
    def test_it_counts_along_and_answers_in_its_own_shape(self, frozen):
        assert statuses(fail(10, address=HERE)) == [401] * 10
        assert statuses(Program("rfk_wrong").get(MODELS) for _ in range(10)) == [401] * 10
        answer = Program("rfk_wrong").post(CHAT, "{}")
        assert answer.status_code == 429
        assert answer["Retry-After"] == "60"
        assert answer.json()["error"]["code"] == "too_many_failures"
        assert statuses(fail(1, address=HERE)) == [429]

    def test_a_right_token_is_never_throttled_and_writes_nothing(self, frozen, administrator):
        fail(25, address=HERE)
        token = make_token(administrator, "manage")
        assert JsonClient(token).get(KEYS, REMOTE_ADDR=HERE).status_code == 200
        assert Program(token).get(MODELS).status_code == 200
        assert FailedAuthentication.objects.count() == 20

    def test_no_token_at_all_is_no_attempt(self, frozen):
        fail(20, address=HERE)
        assert JsonClient().get(KEYS, REMOTE_ADDR=HERE).status_code == 401
        assert Program().get(MODELS).status_code == 401


@pytest.mark.django_db(transaction=True)
def test_those_who_come_at_once_are_counted_together():
    refused = []

    def guess():
        try:
            throttle.note_failure("198.51.100.9", at=NOW)
        except TooManyFailures:
            refused.append(1)
        finally:
            connection.close()

    threads = [threading.Thread(target=guess) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (FailedAuthentication.objects.count(), len(refused)) == (20, 12)
