"""Which key serves next: when a budget is full, and after each kind of failure."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from llmkeys.models import ApiKey, Cooling, KeyEvent
from llmkeys.prices import catalogue
from llmkeys.simulator.thread import SimulatorThread
from llmkeys.upstream import relayed
from tests.gateway.door import (
    MODEL,
    OPENAI,
    OPENROUTER,
    SILENCE,
    Pieces,
    ask,
    begin,
    completion,
    done,
    eventually,
    fresh,
    is_refused,
    limits,
    only_row,
    rows,
    sent_with,
    settled,
    spend,
    usage,
)
from tests.helpers import NOW, make_key, new_secret
from tests.web import Person

LUNA = "openai/gpt-6-luna"
FREE = completion(usage=usage(cost=0))
RATE_LIMITED = {
    "error": {"code": 429, "message": "Rate limit exceeded", "metadata": {"error_type": "rate_limit_exceeded"}}
}
NO_CREDIT = {"error": {"code": 402, "message": "Insufficient credits."}}
BROKEN = {"error": {"code": 500, "message": "Internal Server Error"}}
NO_MODEL = {"error": {"code": 404, "message": f"No endpoints found for {MODEL}."}}
REJECTED = {"error": {"code": 401, "message": "User not found."}}

COUNTED = {"messages": [{"role": "user", "content": "a word or two " * 2000}]}  # fits $0.02 by its tokens alone


def make_keys(count: int, **fields) -> list[ApiKey]:
    return [make_key(secret=new_secret(), **fields) for _ in range(count)]


def events(kind: str) -> list[str]:
    return list(KeyEvent.objects.filter(kind=kind).order_by("id").values_list("message", flat=True))


@contextmanager
def a_full_house() -> Iterator[int]:
    """A port where nobody answers the door: its queue is full, and whoever comes now waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as guests:
        port = listener.getsockname()[1]
        for _ in range(4):
            guest = guests.enter_context(socket.socket())
            guest.setblocking(False)
            guest.connect_ex(("127.0.0.1", port))
        yield port


@contextmanager
def a_proxy_that_says(words: bytes) -> Iterator[str]:
    """A proxy that answers with this and hangs up; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    guest, _ = listener.accept()
                    with guest:
                        guest.recv(65_536)
                        guest.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def free(provider):
    provider.post(OPENROUTER, json=FREE)
    return provider


class TestByBudget:
    def test_the_next_key_serves_when_one_is_full(self, client, provider):
        first, second, third = make_keys(3, **limits(daily="0.01"))
        provider.post(OPENROUTER, json=completion(usage=usage(cost=0.0099)))
        served = [ask(client)["X-LLM-Key-Id"] for _ in range(3)]
        assert served == [first.id, second.id, third.id]
        message = is_refused(ask(client), 429, "all_keys_at_limit", "All keys have reached their limits")
        assert "needs up to $0.00062625," in message  # 301 tokens × 1.25, frame included, and 50 × 5
        assert "the most that is left is $0.0001 (daily budget of" in message
        assert [fresh(key).status_at(NOW) for key in (first, second, third)] == ["LIMIT_REACHED"] * 3
        assert len(events("limit_reached")) == 3
        assert len(events("rotated")) == 2

    def test_it_says_when_the_budget_comes_back(self, client):
        (key,) = make_keys(1, **limits(daily="1"))
        spend(key, "1")
        answer = ask(client)
        assert answer["Retry-After"] == str(3 * 3600 + 30 * 60)  # 20:30 → midnight
        assert answer["x-should-retry"] == "false"
        assert "2026-11-24 00:00 UTC" in is_refused(answer, 429, "all_keys_at_limit", "All keys")

    def test_midnight_is_the_operators(self, client, settings, frozen):
        settings.TIME_ZONE = "Asia/Tokyo"
        (key,) = make_keys(1, at=NOW, **limits(daily="1"))
        spend(key, "1")
        assert ask(client)["Retry-After"] == str(18 * 3600 + 30 * 60)  # 05:30 → 24:00

    def test_all_serve_again_at_midnight_with_no_job(self, client, frozen, settings, provider):
        settings.TIME_ZONE = "Europe/Berlin"
        keys = make_keys(2, **limits(daily="1"))
        for key in keys:
            spend(key, "1")
        frozen.move_to(datetime(2026, 11, 23, 22, 59, 59, tzinfo=UTC))
        assert ask(client).status_code == 429
        frozen.move_to(datetime(2026, 11, 23, 23, 0, 0, tzinfo=UTC))
        provider.post(OPENROUTER, json=FREE)
        assert ask(client)["X-LLM-Key-Id"] == keys[0].id
        assert str(only_row().day) == "2026-11-24"
        assert fresh(keys[0]).spent_day_nano == 0

    def test_a_monthly_limit_waits_for_the_first(self, client, frozen, provider):
        (key,) = make_keys(1, **limits(monthly="1"))
        spend(key, "1")
        answer = ask(client)
        assert answer["Retry-After"] == str(7 * 86_400 + 3 * 3600 + 30 * 60)
        frozen.move_to(datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC))
        assert ask(client).status_code == 429
        frozen.move_to(datetime(2026, 12, 1, tzinfo=UTC))
        provider.post(OPENROUTER, json=FREE)
        assert ask(client).status_code == 200

    def test_a_total_limit_waits_for_a_person(self, client, frozen):
        (key,) = make_keys(1, **limits(total="1"))
        spend(key, "1")
        frozen.move_to(datetime(2027, 11, 30, tzinfo=UTC))
        answer = ask(client)
        assert "No limit resets by itself" in is_refused(answer, 429, "all_keys_at_limit", "All keys")
        assert "Retry-After" not in answer.headers
        assert answer["x-should-retry"] == "false"

    def test_the_row_tells_why_keys_were_passed_over(self, client, free):
        first, second, third, serving = make_keys(4)
        ApiKey.objects.filter(pk=first.pk).update(enabled=False)
        ApiKey.objects.filter(pk=second.pk).update(expires_at=NOW)
        ApiKey.objects.filter(pk=third.pk).update(daily_limit_nano=10**9)
        spend(third, "1")
        ask(client)
        row = only_row()
        assert row.key_id == serving.id
        assert [entry["keyId"] for entry in row.skipped] == [first.id, second.id, third.id]
        reasons = [entry["reason"] for entry in row.skipped]
        assert reasons[:2] == ["disabled", "expired"]
        assert reasons[2].startswith("daily budget: needs $0.000") and reasons[2].endswith("$0.00 left")

    def test_it_counts_the_tokens_where_the_bytes_do_not_fit(self, client, free):
        """A long prompt bounds by its bytes at more than the limit, by its tokens at less."""
        (key,) = make_keys(1, **limits(daily="0.05"))
        spend(key, "0.03")
        assert ask(client, **COUNTED).status_code == 200
        assert only_row().hold_nano < 20_000_000 < len(COUNTED["messages"][0]["content"]) * 1_250
        assert events("limit_reached") == []
        assert fresh(key).status_at(NOW) == "ACTIVE"

    def test_the_threads_that_count_tokens_read_no_prices(self, client, free, monkeypatch):
        """Nobody looks after their connections to the database."""
        monkeypatch.setattr(catalogue, "TABLES_SECONDS", 0.0)
        readers, read = [], catalogue._read_prices
        monkeypatch.setattr(
            catalogue._prices, "_make", lambda: readers.append(threading.current_thread().name) or read()
        )
        make_keys(1, **limits(daily="0.02"))
        assert ask(client, **COUNTED).status_code == 200
        assert readers and not [name for name in readers if name.startswith("llmkeys-bodies")]

    @pytest.mark.only_on("postgresql")
    def test_tokens_are_counted_after_a_restart_of_the_database(self, client, free, monkeypatch):
        monkeypatch.setattr(catalogue, "TABLES_SECONDS", 0.0)
        make_keys(1, **limits(daily="0.02"))
        assert [ask(client, **COUNTED).status_code for _ in range(2)] == [200, 200], "once for each thread"
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = %s",
                [connection.settings_dict["NAME"]],
            )
        assert {ask(client, **COUNTED).status_code for _ in range(4)} <= {200, 503}

    def test_soft_mode_lets_the_last_request_go_above(self, client, provider, settings):
        settings.BUDGET_MODE = "soft"
        (key,) = make_keys(1, **limits(daily="0.01"))
        provider.post(OPENROUTER, json=completion(usage=usage(cost=0.0099)))
        assert [ask(client).status_code for _ in range(3)] == [200, 200, 429]
        assert fresh(key).spent_day_nano == 19_800_000

    def test_soft_mode_refuses_a_large_request_for_what_is_spent(self, client, provider, settings):
        """It was never too large: with a nano-dollar left it would go."""
        settings.BUDGET_MODE = "soft"
        make_keys(1, **limits(daily="0.01"))
        provider.post(OPENROUTER, json=completion(usage=usage(cost=0.01)))
        assert ask(client, max_tokens=40_000).status_code == 200
        answer = ask(client, max_tokens=40_000)
        message = is_refused(answer, 429, "all_keys_at_limit", "All keys have reached their limits: this request needs")
        assert "up to $0.20" in message and "the most that is left is $0.00" in message
        assert (answer["Retry-After"], answer["x-should-retry"]) == (str(3 * 3600 + 30 * 60), "false")

    def test_without_cost_tracking_no_budget_counts(self, client, free, settings):
        settings.COST_TRACKING = False
        (key,) = make_keys(1, **limits(daily="1"))
        spend(key, "1")
        assert ask(client).status_code == 200


class TestRateLimit:
    def limited(self, provider, secret, **headers):
        provider.post(OPENROUTER, json=RATE_LIMITED, status=429, headers=headers, match=sent_with(secret))

    def test_it_rotates_and_cools_the_key_exactly_so_long(self, client, frozen, provider):
        first, second = make_key(secret=(one := new_secret())), make_key(secret=(two := new_secret()))
        self.limited(provider, one, **{"Retry-After": "7"})
        provider.post(OPENROUTER, json=FREE, match=sent_with(two))
        answer = ask(client)
        assert (answer["X-LLM-Key-Id"], answer["X-LLM-Attempts"]) == (second.id, "2")
        assert [(row.state, row.success, row.http_status) for row in rows()] == [
            ("RELEASED", False, 429),
            ("SETTLED", True, 200),
        ]
        assert rows()[1].skipped == [{"keyId": first.id, "reason": "rate limited"}]
        frozen.move_to(NOW + timedelta(seconds=6, milliseconds=999))
        assert ask(client)["X-LLM-Key-Id"] == second.id
        assert rows()[-1].skipped == [{"keyId": first.id, "reason": "cooling"}]
        frozen.move_to(NOW + timedelta(seconds=7))
        provider.replace(OPENROUTER, json=FREE, match=sent_with(one))
        assert ask(client)["X-LLM-Key-Id"] == first.id
        assert not Cooling.objects.exists() and fresh(first).last_error == ""
        assert len(events("cooled")) == 1

    def test_it_cools_for_that_model_only(self, client, provider):
        first, second = make_key(secret=(one := new_secret())), make_key(secret=(two := new_secret()))
        self.limited(provider, one)
        provider.post(OPENROUTER, json=FREE, match=sent_with(two))
        ask(client)
        provider.replace(OPENROUTER, json=FREE, match=sent_with(one))
        assert ask(client, model=LUNA)["X-LLM-Key-Id"] == first.id
        assert ask(client)["X-LLM-Key-Id"] == second.id

    def test_it_cools_the_whole_billing_group(self, client, provider):
        first = make_key(secret=(one := new_secret()), billing_group="team")
        make_key(billing_group="team")
        other = make_key(secret=(three := new_secret()), billing_group="other")
        self.limited(provider, one)
        provider.post(OPENROUTER, json=FREE, match=sent_with(three))
        answer = ask(client)
        assert (answer["X-LLM-Key-Id"], answer["X-LLM-Attempts"]) == (other.id, "2")
        assert [entry["reason"] for entry in rows()[1].skipped] == ["rate limited", "cooling"]
        assert first.id != other.id

    def test_without_a_hint_it_backs_off_further_each_time(self, client, frozen, provider):
        make_key()
        provider.post(OPENROUTER, json=RATE_LIMITED, status=429)
        at = NOW
        for seconds in (10, 30, 60, 120, 300, 600, 600):
            assert ask(client)["Retry-After"] == str(seconds)
            at += timedelta(seconds=seconds)
            frozen.move_to(at)

    def test_it_says_when_all_are_cooling(self, client, provider):
        make_key(secret=(one := new_secret())), make_key(secret=(two := new_secret()))
        self.limited(provider, one, **{"Retry-After": "40"})
        self.limited(provider, two, **{"Retry-After": "20"})
        answer = ask(client)
        is_refused(answer, 503, "all_keys_cooling", "All keys are cooling down")
        assert answer["Retry-After"] == "20"
        assert "x-should-retry" not in answer.headers

    def test_it_says_so_too_when_some_cool_and_the_others_are_spent(self, client, provider):
        make_key(secret=(one := new_secret()))
        spent = make_key(**limits(daily="1"))
        spend(spent, "1")
        self.limited(provider, one, **{"Retry-After": "40"})
        answer = ask(client)
        is_refused(answer, 503, "all_keys_cooling", "All keys are cooling down")
        assert answer["Retry-After"] == "40"


class TestExhaustedAndRejected:
    def test_no_credit_exhausts_the_group_for_every_model(self, client, provider):
        first = make_key(secret=(one := new_secret()), billing_group="team")
        make_key(billing_group="team")
        other = make_key(secret=(three := new_secret()))
        provider.post(OPENROUTER, json=NO_CREDIT, status=402, match=sent_with(one))
        provider.post(OPENROUTER, json=FREE, match=sent_with(three))
        assert ask(client)["X-LLM-Key-Id"] == other.id
        assert ask(client, model=LUNA)["X-LLM-Key-Id"] == other.id
        assert len(provider.calls) == 3
        first = fresh(first)
        assert first.status_at(NOW) == "ACTIVE"  # its provider has no credit: the key itself is good
        assert first.last_error.startswith("Exhausted at its provider until 2026-11-23 21:00:00 UTC")
        assert len(events("exhausted")) == 1

    def test_exhausted_keys_are_cooling_for_the_client(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=NO_CREDIT, status=402)
        is_refused(ask(client), 503, "all_keys_cooling", "All keys are cooling down")
        answer = ask(client)
        is_refused(answer, 503, "all_keys_cooling", "All keys are cooling down")
        assert answer["Retry-After"] == "1800"

    def test_a_rejection_disables_the_key_and_hands_the_default_on(self, client, provider):
        first, second = make_key(secret=(one := new_secret())), make_key(secret=(two := new_secret()))
        provider.post(OPENROUTER, json=REJECTED, status=401, match=sent_with(one))
        provider.get("https://openrouter.ai/api/v1/key", json=REJECTED, status=401)
        provider.post(OPENROUTER, json=FREE, match=sent_with(two))
        assert first.is_default
        assert ask(client)["X-LLM-Key-Id"] == second.id
        done()
        first = fresh(first)
        assert (first.status_at(NOW), first.is_default, fresh(second).is_default) == ("DISABLED", False, True)
        assert first.last_error.startswith("Rejected by its provider: User not found.")
        assert len(events("rejected")) == 1 and len(events("default_changed")) == 2
        assert (first.total_requests, first.failed_requests) == (1, 1)
        assert ask(client)["X-LLM-Attempts"] == "1"

    def test_the_operator_reads_of_a_rejection(self, client, provider, administrator, capsys):
        key = make_key(name="Production")
        provider.post(OPENROUTER, json=REJECTED, status=401)
        provider.get("https://openrouter.ai/api/v1/key", json=REJECTED, status=401)
        is_refused(ask(client), 503, "no_key_available", "No API key available")
        done()
        page = Person(administrator).look("/llm-settings").content.decode()
        assert "Rejected by OpenRouter" in page and "User not found." in page
        call_command("keys", "show", key.name)
        assert "Rejected by its provider: User not found." in capsys.readouterr().out


class TestProvidersTrouble:
    def test_it_tries_the_same_key_again_after_a_pause(self, client, provider, pauses):
        key = make_key()
        make_key()
        provider.post(OPENROUTER, json=BROKEN, status=500)
        provider.post(OPENROUTER, json=FREE)
        answer = ask(client)
        assert (answer["X-LLM-Key-Id"], answer["X-LLM-Attempts"]) == (key.id, "2")
        assert len(pauses) == 1 and 0.375 <= pauses[0] <= 0.625

    def test_it_waits_as_long_as_it_is_told(self, client, provider, pauses):
        make_key()
        provider.post(OPENROUTER, json=BROKEN, status=503, headers={"Retry-After": "3"})
        provider.post(OPENROUTER, json=FREE)
        assert ask(client).status_code == 200
        assert pauses == [3.0]

    def test_it_goes_on_where_the_pause_is_too_long(self, client, provider, pauses):
        make_key()
        second = make_key()
        provider.post(OPENROUTER, json=BROKEN, status=503, headers={"Retry-After": "30"})
        provider.post(OPENROUTER, json=FREE)
        assert ask(client)["X-LLM-Key-Id"] == second.id
        assert pauses == []

    def test_it_takes_the_next_key_then_gives_up(self, client, provider, pauses):
        make_keys(3)
        provider.post(OPENROUTER, json=BROKEN, status=500)
        answer = ask(client)
        message = is_refused(answer, 502, "upstream_error", "Internal Server Error")
        assert "4 attempts" in message and answer["X-LLM-Attempts"] == "4"
        assert len({call.secret for call in provider.calls}) == 2
        assert {row.state for row in rows()} == {"RELEASED"}

    @pytest.mark.parametrize("retries", [0, 1, 2])
    def test_it_never_tries_more_often_than_it_may(self, client, provider, pauses, settings, retries):
        settings.MAX_RETRIES = retries
        make_keys(5)
        provider.post(OPENROUTER, json=BROKEN, status=500)
        assert ask(client)["X-LLM-Attempts"] == str(retries + 1)
        assert len(provider.calls) == retries + 1

    def test_it_counts_the_attempts_over_all_keys_and_models(self, client, provider, pauses, settings):
        settings.PRIMARY_MODEL, settings.FALLBACK_MODELS = MODEL, [LUNA]
        make_keys(5)
        provider.post(OPENROUTER, json=BROKEN, status=500)
        ask(client, model="auto")
        assert len(provider.calls) == 4

    def test_the_providers_failure_is_told_and_not_that_another_key_is_full(self, client, provider, pauses):
        make_key()
        spent = make_key(**limits(daily="1"))
        spend(spent, "1")
        provider.post(OPENROUTER, json=BROKEN, status=500)
        is_refused(ask(client), 502, "upstream_error", "Internal Server Error")

    def test_the_clients_own_mistake_is_never_rotated(self, client, provider):
        make_keys(3)
        mistake = {"error": {"message": "messages.0.role: not allowed", "code": 400}}
        provider.post(OPENROUTER, json=mistake, status=400)
        answer = ask(client)
        assert (answer.status_code, answer.json(), answer["X-LLM-Attempts"]) == (400, mistake, "1")


class TestModelUnavailable:
    def test_another_provider_serves_the_named_model(self, client, provider):
        make_key(), make_key()
        own = make_key(provider="openai")
        provider.post(OPENROUTER, json=NO_MODEL, status=404)
        provider.post(OPENAI, json=completion(usage=usage()))
        answer = ask(client)
        assert (answer["X-LLM-Key-Id"], answer["X-LLM-Attempts"]) == (own.id, "2")
        assert [entry["reason"] for entry in rows()[1].skipped] == ["its provider does not have the model"] * 2

    def test_a_named_model_is_never_replaced(self, client, provider, settings):
        settings.FALLBACK_MODELS = [LUNA]
        make_key()
        provider.post(OPENROUTER, json=NO_MODEL, status=404)
        is_refused(ask(client), 404, "model_not_available", f"No stored key can serve model “{MODEL}”")
        assert len(provider.calls) == 1

    @pytest.mark.parametrize("named", ["auto", ...])
    def test_the_fallbacks_serve_where_none_was_named(self, client, provider, settings, named):
        settings.PRIMARY_MODEL, settings.FALLBACK_MODELS = MODEL, ["anthropic/claude-haiku-5.5", LUNA]
        make_key()
        provider.post(OPENROUTER, json=NO_MODEL, status=404)
        provider.post(OPENROUTER, json=NO_MODEL, status=404)
        provider.post(OPENROUTER, json=FREE)
        assert ask(client, model=named)["X-LLM-Attempts"] == "3"
        assert [row.model for row in rows()] == [MODEL, "anthropic/claude-haiku-5.5", LUNA]
        assert {row.requested_model for row in rows()} == {"" if named is ... else "auto"}


class TestRotatedEvent:
    def test_it_is_told_once_and_not_for_each_request(self, client, free):
        first, second = make_keys(2)
        ask(client), ask(client)
        ApiKey.objects.filter(pk=first.pk).update(enabled=False)
        ask(client), ask(client)
        assert events("rotated") == [f"Rotated from “{first.name}” to “{second.name}” for {MODEL}."]

    def test_it_is_told_between_providers_whatever_they_call_the_model(self, client, provider):
        provider.post(OPENROUTER, json=FREE)
        provider.post(OPENAI, json=completion(usage=usage()))
        first, second = make_key(), make_key(provider="openai")
        ask(client), ask(client, model="gpt-6.1-terra")
        ApiKey.objects.filter(pk=first.pk).update(enabled=False)
        ask(client)
        assert events("rotated") == [f"Rotated from “{first.name}” to “{second.name}” for {MODEL}."]


class TestTransport:
    def test_a_timeout_is_lost_and_never_tried_again(self, client, provider, settings):
        settings.ANSWER_TIMEOUT_SECONDS = 1
        keys = make_keys(2)
        provider.post(OPENROUTER, Pieces(SILENCE, framing="raw"))
        message = is_refused(ask(client), 504, "upstream_timeout", "openrouter.ai did not answer within ")
        assert re.search(r"within [1-9] s\.", message)
        assert len(provider.calls) == 1
        row = only_row()
        assert (row.state, row.success, row.cost_nano, row.cost_source) == ("LOST", False, row.hold_nano, "estimated")
        assert fresh(keys[0]).spent_day_nano == row.hold_nano

    def test_the_first_model_is_tried_even_if_reading_the_prices_took_all_the_time(self, client, free, settings):
        settings.ANSWER_TIMEOUT_SECONDS = 0.001
        make_keys(1)
        assert ask(client).status_code == 200

    def test_a_timeout_is_not_tried_with_another_model_either(self, client, provider, settings):
        settings.PRIMARY_MODEL, settings.FALLBACK_MODELS = MODEL, [LUNA]
        settings.ANSWER_TIMEOUT_SECONDS = 1
        make_key()
        provider.post(OPENROUTER, Pieces(SILENCE, framing="raw"))
        assert ask(client, model="auto").status_code == 504
        assert len(provider.calls) == 1

    def test_a_real_silence_ends_in_time(self, client, simulator, settings):
        settings.ANSWER_TIMEOUT_SECONDS = 1
        make_key(secret=new_secret() + "-hang")
        message = is_refused(ask(client), 504, "upstream_timeout", "127.0.0.1 did not answer within ")
        assert re.search(r"within [1-9] s\.", message)  # on a busy machine it waits a little longer, and says so
        assert only_row().state == "LOST"
        assert len(simulator.journal()) == 1

    def test_a_silence_inside_an_answer_is_a_timeout_too(self, client, simulator, settings):
        settings.ANSWER_TIMEOUT_SECONDS = settings.STREAM_IDLE_SECONDS = 1
        make_key(secret=new_secret() + "-stall")
        message = is_refused(ask(client), 504, "upstream_timeout", "127.0.0.1 fell silent")
        assert "1 s" in message
        assert only_row().state == "LOST"

    def test_a_reset_is_lost_and_tried_again_once(self, client, simulator, pauses, capsys):
        make_key(secret=new_secret() + "-cut"), make_key()
        is_refused(ask(client), 502, "upstream_error", "127.0.0.1 broke off")
        assert [row.state for row in rows()] == ["LOST", "LOST"]
        assert len(simulator.journal()) == 2
        with suppress(CommandError):  # what else it finds depends on where the tests run
            call_command("doctor", "--offline", "--quick")
        examined = capsys.readouterr().out
        assert "2 requests of the last 30 days ended with an unknown outcome and were charged" in examined

    def test_a_reset_is_tried_again_once_over_all_models(self, client, simulator, pauses, settings):
        settings.PRIMARY_MODEL, settings.FALLBACK_MODELS = MODEL, [LUNA]
        make_key(secret=new_secret() + "-cut")
        assert ask(client, model="auto").status_code == 502
        assert [row.state for row in rows()] == ["LOST", "LOST"]

    def test_a_retry_after_a_reset_may_serve(self, client, simulator, pauses):
        key = make_key(secret=new_secret() + "-cutx1")
        answer = ask(client)
        assert (answer.status_code, answer["X-LLM-Attempts"]) == (200, "2")
        assert [row.state for row in rows()] == ["LOST", "SETTLED"]
        assert fresh(key).spent_day_nano == sum(row.cost_nano for row in rows())

    def test_a_refused_connection_is_released_and_not_counted(self, client, settings, pauses):
        with socket.create_server(("127.0.0.1", 0)) as closed_soon:
            port = closed_soon.getsockname()[1]
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openrouter": f"http://127.0.0.1:{port}/api/v1"}
        key = make_key()
        is_refused(ask(client), 502, "upstream_error", "127.0.0.1 refused the connection")
        key = fresh(key)
        assert {row.state for row in rows()} == {"RELEASED"} and len(rows()) == 2
        assert (key.total_requests, key.failed_requests, key.spent_day_nano) == (0, 0, 0)

    def test_a_connection_that_takes_too_long_says_how_long(self, client, pauses, settings):
        settings.TIMEOUT_SECONDS = 1
        with a_full_house() as port:
            settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openrouter": f"http://127.0.0.1:{port}/api"}
            make_key()
            is_refused(ask(client), 504, "upstream_timeout", "127.0.0.1 could not be reached within 1 s")
        assert {row.state for row in rows()} == {"RELEASED"}

    def test_a_connection_that_takes_all_the_time_there_is_was_not_used(self, client, pauses, settings):
        settings.ANSWER_TIMEOUT_SECONDS = 6  # beyond 5 s aiohttp's own timeouts end a little later
        with a_full_house() as port:
            settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openrouter": f"http://127.0.0.1:{port}/api"}
            make_key()
            is_refused(ask(client), 504, "upstream_timeout", "127.0.0.1 could not be reached within 6 s")
        assert {row.state for row in rows()} == {"RELEASED"}

    @pytest.mark.parametrize(
        "words", [b"", b"SSH-2.0-OpenSSH_9.9\r\n", b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"]
    )
    def test_what_a_proxy_did_not_let_through_is_released(self, client, pauses, settings, monkeypatch, words):
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openrouter": "https://behind-a-proxy.example/v1"}
        key = make_key()
        with a_proxy_that_says(words) as proxy:
            monkeypatch.setenv("https_proxy", proxy)
            relayed._proxy_of.cache_clear()  # which keeps the first proxy of a host
            message = "The proxy on the way to behind-a-proxy.example failed"
            is_refused(ask(client), 502, "upstream_error", message)
        assert {row.state for row in rows()} == {"RELEASED"} and len(rows()) == 2
        assert (fresh(key).total_requests, fresh(key).spent_day_nano) == (0, 0)

    def test_a_client_that_goes_before_there_is_a_connection_is_not_charged(
        self, client, provider, provider_server, fast_drain
    ):
        make_key()
        provider_server.hang_up()
        provider.handshake = "stall"
        wire = begin(client, stream=True)
        eventually(lambda: provider_server._stalled, "it does not connect")
        wire.close()
        settled()
        assert (only_row().state, only_row().error) == ("RELEASED", "The client went away before the stream began.")

    @pytest.mark.parametrize("handshake", ["foreign", "reset"])
    def test_tls_trouble_is_released(self, client, provider, provider_server, pauses, handshake):
        """A certificate that nobody vouches for; a handshake that is cut."""
        key = make_key()
        provider_server.hang_up()
        provider.handshake = handshake
        words = {"foreign": "TLS with openrouter.ai failed", "reset": "openrouter.ai "}[handshake]
        is_refused(ask(client), 502, "upstream_error", words)
        assert {row.state for row in rows()} == {"RELEASED"} and len(rows()) == 2
        key = fresh(key)
        assert (key.total_requests, key.spent_day_nano, key.held_nano) == (0, 0, 0)
        assert provider.calls == []

    def test_a_handshake_that_stalls_is_released(self, client, provider, provider_server, pauses, settings):
        settings.TIMEOUT_SECONDS = 1
        make_key()
        provider_server.hang_up()
        provider.handshake = "stall"
        is_refused(ask(client), 504, "upstream_timeout", "openrouter.ai could not be reached within 1 s")
        assert {row.state for row in rows()} == {"RELEASED"}

    def test_it_serves_again_when_the_handshake_does(self, client, provider, provider_server, pauses):
        key = make_key()
        provider_server.hang_up()
        provider.handshake = "foreign"
        assert ask(client).status_code == 502
        provider.handshake = ""
        provider.post(OPENROUTER, json=FREE)
        assert ask(client)["X-LLM-Key-Id"] == key.id

    def test_a_redirect_is_not_followed(self, client, provider):
        make_key()
        provider.post(OPENROUTER, status=307, headers={"Location": "https://elsewhere.example/"})
        message = is_refused(ask(client), 502, "upstream_error", "OpenRouter's base URL answered with status 307")
        assert "Check OPENROUTER_BASE_URL" in message
        assert len(provider.calls) == 1 and only_row().state == "RELEASED"

    def test_a_status_that_no_answer_has_is_lost(self, client, provider, pauses):
        make_key()
        provider.post(OPENROUTER, status=204)
        is_refused(ask(client), 502, "upstream_error", "OpenRouter answered with the unexpected status 204.")
        assert [(row.state, row.http_status) for row in rows()] == [("LOST", 204)] * 2

    def test_a_provider_that_is_gone_does_not_disturb_the_others(self, client, settings, pauses):
        with SimulatorThread() as gone:
            pass
        with SimulatorThread() as alive:
            settings.PROVIDER_BASE_URLS = alive.urls | {"openrouter": gone.urls["openrouter"]}
            make_key()
            own = make_key(provider="openai")
            assert ask(client)["X-LLM-Key-Id"] == own.id
