"""Answers as bad as providers give them, through a real socket: what the client gets, and what is charged."""

from __future__ import annotations

import pytest

from llmkeys.models import KeyEvent
from tests.gateway.door import ask, done, error_of, fresh, is_refused, only_row, rows
from tests.helpers import NOW, make_key, new_secret

MODELS = {
    "openrouter": "openai/gpt-6.1-terra",
    "openai": "gpt-6.1-terra",
    "anthropic": "claude-sonnet-5-5",
    "google": "gemini-3.8-flash",
}
# The simulated answer: 1 token in and 20 out. Estimated: 3 bytes are a token, both ways, at the model's own prices.
PROMPT_TOKENS, ANSWER_TOKENS = 1, 20


def troubled(client, ending: str, provider: str = "openrouter", **changes):
    key = make_key(provider=provider, secret=new_secret(provider) + f"-{ending}")
    return key, ask(client, model=MODELS[provider], **changes)


@pytest.fixture(autouse=True)
def _quick(pauses, simulator):
    """No pause takes time, and the providers are simulated."""


@pytest.mark.parametrize("provider", MODELS)
class TestUnreadable:
    """Under status 200 the provider may have billed it: charged at the hold, and asked once more."""

    @pytest.mark.parametrize(
        ("ending", "words"),
        [
            ("html", "sent a web page instead of an answer: check "),
            ("malformed", "sent an answer that is not JSON"),
            ("empty", "sent an empty answer"),
        ],
    )
    def test_it_is_lost(self, client, simulator, provider, ending, words):
        key, answer = troubled(client, ending, provider)
        assert words in is_refused(answer, 502, "upstream_error", "")
        assert answer["x-should-retry"] == "false", "sending it again could cost a third time"
        first, second = rows()
        for row in (first, second):
            assert (row.state, row.success, row.http_status, row.cost_source) == ("LOST", False, 200, "estimated")
            assert row.cost_nano == row.hold_nano > 0
        spent = first.hold_nano + second.hold_nano
        assert (fresh(key).spent_day_nano, fresh(key).held_nano, fresh(key).failed_requests) == (spent, 0, 2)
        assert len(simulator.journal()) == 2

    @pytest.mark.parametrize("ending", ["html", "empty"])
    def test_a_stream_is_lost_too(self, client, simulator, provider, ending):
        _, answer = troubled(client, ending, provider, stream=True)
        is_refused(answer, 502, "upstream_error", "")
        assert {row.state for row in rows()} == {"LOST"}

    def test_a_broken_line_in_a_stream_is_passed_on(self, client, simulator, provider):
        _, answer = troubled(client, "malformed", provider, stream=True)
        body = answer.content
        assert body.endswith(b"data: [DONE]\n\n")
        row = only_row()
        assert (row.state, row.input_tokens, row.output_tokens) == ("SETTLED", PROMPT_TOKENS, ANSWER_TOKENS)


class TestFalseUsage:
    @pytest.mark.parametrize("ending", ["nousage", "negusage", "strusage"])
    @pytest.mark.parametrize("provider", MODELS)
    @pytest.mark.parametrize("streamed", [False, True])
    def test_what_is_no_count_is_estimated(self, client, simulator, provider, ending, streamed):
        key, answer = troubled(client, ending, provider, stream=streamed)
        if streamed:
            _ = answer.content
        assert answer.status_code == 200
        row = only_row()
        assert (row.state, row.success, row.cost_source) == ("SETTLED", True, "estimated")
        assert (row.input_tokens, row.output_tokens, row.cached_input_tokens) == (None, None, None)
        assert 0 < row.cost_nano <= row.hold_nano
        assert (fresh(key).spent_day_nano, fresh(key).held_nano) == (row.cost_nano, 0)

    @pytest.mark.parametrize("provider", ["openrouter", "openai"])
    @pytest.mark.parametrize("streamed", [False, True])
    def test_zeros_beside_content_are_not_believed(self, client, simulator, provider, streamed):
        _, answer = troubled(client, "zerousage", provider, stream=streamed)
        assert answer.status_code == 200 and answer.content
        row = only_row()
        assert (row.state, row.success, row.cost_source) == ("SETTLED", True, "estimated")
        assert 100_000 <= row.cost_nano <= row.hold_nano, "twenty tokens out cost so much"

    @pytest.mark.parametrize(
        ("provider", "cost"),
        [
            ("openrouter", 101_000),  # 1 × 1 + 20 × 5
            ("openai", 101_000),
            ("anthropic", 202_000),  # 1 × 2 + 20 × 10
            ("google", 75_750),  # 1 × 0.75 + 20 × 3.75
        ],
    )
    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_good_answer_costs_what_the_provider_bills(self, client, simulator, provider, cost, streamed):
        _, answer = troubled(client, "ok", provider, stream=streamed)
        if streamed:
            _ = answer.content
        assert only_row().cost_nano == cost
        assert simulator.summary()["cost"] == f"{cost / 10**9:.9f}".rstrip("0")


class TestErrorInside:
    @pytest.mark.parametrize("provider", MODELS)
    def test_a_failure_under_status_200_is_released_and_tried_again(self, client, simulator, provider):
        key = make_key(provider=provider, secret=new_secret(provider) + "-miderrorx1")
        answer = ask(client, model=MODELS[provider])
        assert (answer.status_code, answer["X-LLM-Attempts"]) == (200, "2")
        first, second = rows()
        assert (first.state, first.success, first.http_status, first.cost_nano) == ("RELEASED", False, 200, 0)
        assert second.state == "SETTLED"
        assert fresh(key).held_nano == 0

    def test_it_is_a_502_where_it_goes_on(self, client, simulator):
        _, answer = troubled(client, "miderror")
        is_refused(answer, 502, "upstream_error", "Provider returned error")
        assert {row.state for row in rows()} == {"RELEASED"}


class TestEcho:
    @pytest.mark.parametrize("provider", MODELS)
    @pytest.mark.parametrize("streamed", [False, True])
    def test_the_secret_is_nowhere(self, client, simulator, provider, streamed, caplog):
        secret = new_secret(provider) + "-echo"
        key = make_key(provider=provider, secret=secret)
        answer = ask(client, model=MODELS[provider], stream=streamed)
        error_of(answer)
        done()
        row, key = only_row(), fresh(key)
        shown = [answer.content.decode(), str(answer.headers), row.error, key.last_error, caplog.text]
        shown += KeyEvent.objects.values_list("message", flat=True)
        for text in shown:
            assert secret not in text and secret[8:30] not in text
        assert (row.state, key.status_at(NOW)) == ("RELEASED", "DISABLED")


class TestRefusals:
    @pytest.mark.parametrize("provider", MODELS)
    @pytest.mark.parametrize(
        ("ending", "status", "code"),
        [
            ("401", 503, "no_key_available"),
            ("402", 503, "all_keys_cooling"),
            ("429", 503, "all_keys_cooling"),
            ("404", 404, "model_not_available"),
            ("500", 502, "upstream_error"),
            ("503", 502, "upstream_error"),
        ],
    )
    def test_each_provider_says_no_in_its_own_way(self, client, simulator, provider, ending, status, code):
        key, answer = troubled(client, ending, provider)
        assert (answer.status_code, error_of(answer)["code"]) == (status, code), answer.content
        assert {row.state for row in rows()} == {"RELEASED"}
        assert (fresh(key).spent_total_nano, fresh(key).held_nano) == (0, 0)

    @pytest.mark.parametrize("provider", MODELS)
    def test_the_clients_own_mistake_comes_back(self, client, simulator, provider):
        _, answer = troubled(client, "400", provider)
        assert answer.status_code == 400 and b"nvalid" in answer.content
        assert (only_row().state, only_row().success) == ("RELEASED", None)

    def test_a_429_cools_as_long_as_each_provider_says(self, client, simulator):
        for provider in MODELS:
            _, answer = troubled(client, "429", provider)
            assert answer["Retry-After"] == "7", provider
