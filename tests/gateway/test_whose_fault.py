"""Whose fault it is: dead keys, what was not sent, fields that we added, wrong addresses, connections that rested."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from llmkeys.models import Cooling
from llmkeys.relay import model_lists
from tests.gateway.door import (
    CLOSE,
    DONE,
    OPENAI,
    OPENROUTER,
    PATH,
    RESET,
    SILENCE,
    Gate,
    Pieces,
    Program,
    ask,
    begin,
    chat,
    chunk,
    completion,
    error_of,
    fresh,
    is_refused,
    only_row,
    rows,
    sent_with,
    usage,
    usage_chunk,
)
from tests.gateway.test_dialects import CALLS
from tests.helpers import NOW, make_key, make_token, new_secret

KEY = "https://openrouter.ai/api/v1/key"
LIST = "https://openrouter.ai/api/v1/models"
REJECTED = {"error": {"code": 401, "message": "User not found."}}
UNKNOWN = "acme-never-heard-of-it"
OPENAI_MODEL = "gpt-6.1-terra"


class TestDeadKeys:
    """A key that refuses for its own sake uses up no retry."""

    @pytest.mark.parametrize("retries", [0, 3])
    def test_the_sixth_serves_after_five_that_are_dead(self, client, provider, settings, retries):
        settings.MAX_RETRIES = retries
        for number in range(5):
            make_key(secret=(secret := new_secret()), billing_group=f"account-{number}")
            provider.post(OPENROUTER, json=REJECTED, status=401, match=sent_with(secret))
        good = make_key(secret=(secret := new_secret()))
        provider.post(OPENROUTER, json=completion(), match=sent_with(secret))
        provider.get(KEY, json=REJECTED, status=401)
        answer = ask(client)
        assert (answer.status_code, answer["X-LLM-Key-Id"], answer["X-LLM-Attempts"]) == (200, good.id, "6")

    def test_where_none_is_left_the_words_are_our_own(self, client, provider):
        for _ in range(5):
            make_key()
        provider.post(OPENROUTER, json=REJECTED, status=401)
        provider.get(KEY, json=REJECTED, status=401)
        answer = ask(client)
        message = is_refused(answer, 503, "no_key_available", "No API key available")
        assert "5 rejected" in message and "User not found" not in message
        assert answer["x-should-retry"] == "false"

    def test_twenty_are_enough(self, client, provider, monkeypatch):
        monkeypatch.setattr("llmkeys.keys.failures.CONFIRM_SECONDS", 60.0)
        for _ in range(22):
            make_key()
        provider.post(OPENROUTER, json=REJECTED, status=401)
        gate = Gate()
        provider.get(KEY, Pieces(gate, CLOSE, framing="raw"))
        provider.must_be_asked = False
        began = time.monotonic()
        assert ask(client).status_code == 503
        assert time.monotonic() - began < 25, "the tests that confirm the rejections hold nothing up"
        gate.open()
        assert len(rows()) == 20


class TestNotSent:
    """Until the request's first byte has left, the hold is released."""

    @pytest.mark.parametrize(
        "secret", ["sk-one\nsk-two-0123456789", "sk-\x00-0123456789012345", "sk-😀-0123456789012345"]
    )
    def test_a_key_that_cannot_be_sent_is_passed_over(self, client, provider, monkeypatch, pauses, secret):
        bad, good = make_key(), make_key(provider="openai")
        monkeypatch.setattr("llmkeys.vault.keyring.open_secret", _opened_as(secret, bad.id))
        provider.post(OPENAI, json=completion(usage=usage()))
        answer = ask(client)
        assert (answer.status_code, answer["X-LLM-Key-Id"]) == (200, good.id)
        first, second = rows()
        assert (first.key_id, first.state, first.cost_nano) == (bad.id, "RELEASED", 0)
        assert "header" in first.error and secret not in first.error
        assert second.state == "SETTLED" and pauses == [], "it would not do better a second time"
        assert fresh(bad).last_error

    def test_it_is_told_in_words_where_no_other_is_left(self, client, monkeypatch, pauses):
        key = make_key()
        monkeypatch.setattr("llmkeys.vault.keyring.open_secret", _opened_as("a\nb", key.id))
        answer = ask(client)
        assert answer.status_code in (502, 503) and error_of(answer)["message"]
        assert [row.state for row in rows()] == ["RELEASED"]


def _opened_as(secret: str, key_id: str):
    from llmkeys.vault import keyring

    real = keyring.open_secret
    return lambda key: secret if key.id == key_id else real(key)


class TestFieldsThatWeAdded:
    """A 400 that blames a field or value of ours is answered by asking once more."""

    NO_MAX_TOKENS = {
        "error": {
            "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            "type": "invalid_request_error", "param": "max_tokens", "code": "unsupported_parameter",
        }
    }  # fmt: skip
    NO_OPTIONS = {"error": {"message": "Unrecognized request argument supplied: stream_options", "param": None}}

    @pytest.fixture
    def local(self, provider, settings):
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": f"{provider.local}/v1"}
        return f"{provider.local}/v1/chat/completions"

    def test_the_limit_has_the_other_name(self, client, provider, local):
        make_key(provider="openai")
        names = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}

        def answer(request):
            if len(provider.calls) > 1:
                return Pieces.whole(json=completion(usage=usage()))
            sent = next(name for name in names if name in request.json)
            words = f"Unsupported parameter: '{sent}' is not supported with this model. Use '{names[sent]}' instead."
            error = {"message": words, "type": "invalid_request_error", "param": sent, "code": "unsupported_parameter"}
            return Pieces.whole(json={"error": error}, status=400)

        provider.post(local, answer)
        assert ask(client, model="gpt-6-luna", max_tokens=...).status_code == 200
        (was, limit), (now, same) = (
            next((name, call.json[name]) for name in names if name in call.json) for call in provider.calls
        )
        assert (now, same) == (names[was], limit)
        assert only_row().state == "SETTLED", "both under one hold: a refusal costs nothing"

    def test_the_id_is_that_of_the_second_answer(self, client, provider, local):
        """Its cost may be fetched by that id later."""
        make_key(provider="openai")
        provider.post(local, json=self.NO_OPTIONS, status=400, headers={"X-Generation-Id": "gen-bad"})
        provider.post(local, Pieces(chunk("a", id="gen-good"), DONE))
        assert ask(client, model="gpt-6-luna", stream=True).content.endswith(DONE)
        assert len(provider.calls) == 2 and only_row().upstream_id == "gen-good"

    def test_stream_options_are_left_out(self, client, provider, local):
        make_key(provider="openai")
        provider.post(local, json=self.NO_OPTIONS, status=400)
        provider.post(local, Pieces(chunk("a"), DONE))
        answer = ask(client, model="gpt-6-luna", stream=True)
        assert answer.status_code == 200 and answer.content.endswith(DONE)
        first, second = (call.json for call in provider.calls)
        assert "stream_options" in first and "stream_options" not in second

    def test_it_is_asked_once_more_and_no_more(self, client, provider, local):
        make_key(provider="openai")
        provider.post(local, json=self.NO_MAX_TOKENS, status=400)
        assert ask(client, model="gpt-6-luna", max_tokens=...).status_code == 400
        assert len(provider.calls) <= 2 and only_row().state == "RELEASED"

    AT_MOST_4096 = {
        "responses": (
            {"max_output_tokens": None},
            "Invalid 'max_output_tokens': integer above maximum value. Expected a value <= 4096, but got 16384.",
        ),
        "messages": (
            {"max_tokens": None},
            "max_tokens: 16384 > 4096, which is the maximum allowed number of output tokens for this model",
        ),
        "generate": (
            {"generationConfig": {}},
            "Unable to submit request because it has a maxOutputTokens value of 16384 but the supported range is "
            "from 1 (inclusive) to 4097 (exclusive). Update the value and try again.",
        ),
    }

    @pytest.mark.parametrize(
        ("name", "mode"),
        [
            ("responses", "strict"),
            ("messages", "strict"),
            ("messages", "soft"),
            ("messages", "untracked"),
            ("generate", "strict"),
        ],
    )
    def test_the_limit_is_lowered_in_every_dialect(self, client, provider, settings, name, mode):
        """In soft mode, and without cost tracking, a limit is added for Anthropic alone, which demands one."""
        (limit, words), call = self.AT_MOST_4096[name], CALLS[name]
        settings.BUDGET_MODE = "soft" if mode == "soft" else "strict"
        settings.COST_TRACKING = mode != "untracked"
        make_key(provider=call.provider)
        provider.post(call.url, json={"error": {"code": 400, "message": words}}, status=400)
        provider.post(call.url, json=call.answer)
        answer = client.post(call.path, json.dumps(call.body | limit))
        assert (answer.status_code, answer.json()) == (200, call.answer)
        first, second = (_output_limit(sent.json) for sent in provider.calls)
        assert (first, second) == (16_384, 4_096)
        assert only_row().state == "SETTLED"

    def test_the_limit_leaves_room_for_the_prompt(self, client, provider):
        """GPT-4 has a window of 8,192 tokens, which the limit filled by itself."""
        make_key()
        provider.post(OPENROUTER, self._small_window)
        assert ask(client, model="openai/gpt-4", max_tokens=...).status_code == 200
        assert 7_500 < provider.calls[0].json["max_tokens"] < 8_192 and len(provider.calls) == 1

    def test_a_limit_that_does_not_fit_beside_the_prompt_is_lowered(self, client, provider):
        """No table has the window of every host's model, but the host tells it."""
        make_key()
        provider.post(OPENROUTER, self._small_window)
        assert ask(client, model="acme/small", max_tokens=...).status_code == 200
        assert [call.json["max_tokens"] for call in provider.calls] == [16_384, 8_192 - 100]
        row = only_row()
        assert row.state == "SETTLED" and row.cost_nano <= row.hold_nano

    def test_a_prompt_that_fills_the_window_is_the_clients_own_mistake(self, client, provider):
        make_key()
        provider.post(OPENROUTER, lambda request: self._small_window(request, prompt=9_000))
        assert ask(client, model="acme/small", max_tokens=...).status_code == 400
        assert len(provider.calls) == 1

    def test_a_limit_is_not_lowered_to_the_thinking_budget(self, client, provider):
        """Anthropic would refuse that too: max_tokens must be greater than thinking.budget_tokens."""
        call = CALLS["messages"]
        make_key(provider=call.provider)
        words = (
            "input length and `max_tokens` exceed context limit: 120000 + 104096 > 200000, decrease input length or "
            "`max_tokens` and try again"
        )
        refused = {"type": "error", "error": {"type": "invalid_request_error", "message": words}}
        provider.post(call.url, json=refused, status=400)
        thinking = {"type": "enabled", "budget_tokens": 100_000}
        changes = {"model": "claude-3-7-sonnet-20250219", "max_tokens": None, "thinking": thinking}
        answer = client.post(call.path, json.dumps(call.body | changes))
        assert (answer.status_code, answer.json()) == (400, refused)
        assert [sent.json["max_tokens"] for sent in provider.calls] == [104_096]

    @staticmethod
    def _small_window(request, prompt=100):
        limit = request.json["max_tokens"]
        if prompt + limit <= 8_192:
            return Pieces.whole(json=completion())
        words = (
            f"This endpoint's maximum context length is 8192 tokens. However, you requested about {prompt + limit} "
            f"tokens ({prompt} of text input, {limit} in the output). Please reduce the length of either one, or use "
            "the middle-out transform to compress your prompt automatically."
        )
        return Pieces.whole(json={"error": {"message": words, "code": 400}}, status=400)

    def test_openrouters_highest_price_is_never_left_out(self, client, provider):
        """The hold depends on it, and any text may have the word."""
        make_key()
        words = {"error": {"message": "my provider is not a provider", "code": 400}}
        provider.post(OPENROUTER, json=words, status=400)
        answer = ask(client)
        assert (answer.status_code, answer.json()) == (400, words)
        assert len(provider.calls) == 1

    def test_another_server_may_not_know_it(self, client, provider, settings):
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openrouter": f"{provider.local}/v1"}
        make_key()
        url = f"{provider.local}/v1/chat/completions"
        provider.post(url, json={"error": {"message": "Unrecognized argument: provider", "code": 400}}, status=400)
        provider.post(url, json=completion())
        assert ask(client).status_code == 200
        assert ["provider" in call.json for call in provider.calls] == [True, False]

    def test_what_the_client_sent_is_its_own_mistake(self, client, provider, local):
        make_key(provider="openai")
        provider.post(local, json=self.NO_MAX_TOKENS, status=400)
        answer = ask(client, model="gpt-6-luna", max_tokens=50)
        assert (answer.status_code, answer.json()) == (400, self.NO_MAX_TOKENS)
        assert len(provider.calls) == 1


def _output_limit(body):
    places = {"max_tokens", "max_output_tokens", "maxOutputTokens"}
    return next(value for part in (body, body.get("generationConfig", {})) for value in map(part.get, places) if value)


class TestWrongAddress:
    """What is not of the provider's making is a 502 that names the variable, and the key is flagged."""

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (404, b'{"detail":"Not Found"}'),
            (404, b"<!DOCTYPE html><html>nginx</html>"),
            (404, b"404 page not found"),
            (405, b"<html>Not allowed</html>"),
            (403, b"<html>Blocked by the firewall</html>"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_it_names_the_variable(self, client, provider, status, body, stream):
        key = make_key(provider="openai")
        kind = "application/json" if body.startswith(b"{") else "text/html"
        provider.post(OPENAI, body=body, status=status, content_type=kind)
        answer = ask(client, model=OPENAI_MODEL, stream=stream)
        assert "OPENAI_BASE_URL" in is_refused(answer, 502, "upstream_error", "")
        assert "OPENAI_BASE_URL" in fresh(key).last_error and only_row().state == "RELEASED"

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize("stream", [False, True])
    def test_it_names_the_variable_where_the_address_has_moved(self, client, provider, status, stream):
        key = make_key(provider="openai")
        headers = {"Location": "https://elsewhere.example/v1/chat/completions", "Content-Type": "text/html"}
        page = b"<html><head><title>Moved</title></head></html>"
        provider.post(OPENAI, Pieces(page, status=status, headers=headers))
        answer = ask(client, model=OPENAI_MODEL, stream=stream)
        found = f"OpenAI's base URL answered with status {status}, but not as OpenAI does: Moved."
        words = f"{found} Check OPENAI_BASE_URL."
        is_refused(answer, 502, "upstream_error", words)
        row = only_row()
        assert fresh(key).last_error == row.error == words
        assert (row.state, row.http_status, len(provider.calls)) == ("RELEASED", status, 1)

    @pytest.mark.parametrize("status", [404, 301])
    def test_another_provider_may_serve(self, client, provider, status):
        make_key(provider="openai")
        other = make_key()
        provider.post(OPENAI, json={"detail": "Not Found"}, status=status)
        provider.post(OPENROUTER, json=completion())
        assert ask(client)["X-LLM-Key-Id"] == other.id


class TestWaits:
    """What the provider asks for is passed on; what would be in vain, or cost twice, is not sent again."""

    @pytest.mark.parametrize(("status", "told"), [(503, "90"), (529, "90")])
    def test_its_wait_is_passed_on(self, client, provider, pauses, status, told):
        make_key()
        provider.post(
            OPENROUTER, json={"error": {"code": status, "message": "x"}}, status=status, headers={"Retry-After": told}
        )
        answer = ask(client)
        is_refused(answer, 502, "upstream_error", "")
        assert answer["Retry-After"] == told and pauses == [], "a wait of over 8 s is not waited out"

    def test_a_short_one_is_waited_out(self, client, provider, pauses):
        make_key()
        provider.post(
            OPENROUTER, json={"error": {"code": 503, "message": "x"}}, status=503, headers={"Retry-After": "7"}
        )
        provider.post(OPENROUTER, json=completion())
        assert ask(client).status_code == 200 and pauses == [7.0]

    def test_a_balance_that_is_too_small_is_told_as_a_spent_key(self, client, provider):
        make_key()
        words = "This request requires more credits. You requested up to 50 tokens, but can only afford 20."
        provider.post(OPENROUTER, json={"error": {"code": 402, "message": words}}, status=402)
        answer = ask(client)
        is_refused(answer, 429, "all_keys_at_limit", "All keys have reached their limits")
        assert answer["x-should-retry"] == "false" and "Retry-After" not in answer.headers

    def test_a_request_above_the_limit_per_minute_is_told_as_that(self, client, provider):
        key = make_key(provider="openai")
        words = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 52000."
        error = {"message": words, "type": "tokens", "param": None, "code": "rate_limit_exceeded"}
        provider.post(OPENAI, json={"error": error}, status=429)
        answer = ask(client, model="gpt-4o")
        told = is_refused(answer, 429, "all_keys_at_limit", "All keys have reached their limits: this request is")
        assert "Limit 30000, Requested 52000). Shorten it, lower max_tokens, or add a key of an account with a" in told
        assert "credit" not in told
        assert answer["x-should-retry"] == "false" and "Retry-After" not in answer.headers
        key.refresh_from_db()
        assert key.last_error == words and not Cooling.objects.exists(), "a smaller request may go at once"

    def test_a_silence_is_told_once(self, client, provider, settings):
        settings.ANSWER_TIMEOUT_SECONDS = settings.STREAM_IDLE_SECONDS = 1
        make_key(), make_key()
        provider.post(OPENROUTER, Pieces(SILENCE, framing="raw"))
        answer = ask(client)
        assert re.search(r"within [1-9] s\.", is_refused(answer, 504, "upstream_timeout", ""))
        assert answer["x-should-retry"] == "false" and len(provider.calls) == 1


class TestConnections:
    """Connections that rested, and answers before the answer."""

    @pytest.fixture
    def twice(self, client, provider, provider_server, rested_at_once, monkeypatch):
        """A connection that has served once and rests."""
        monkeypatch.setattr("llmkeys.upstream.relayed.AT_ONCE_SECONDS", 10.0)  # the machine may be busy
        provider_server.hang_up()
        make_key()
        provider.post(OPENROUTER, json=completion())
        assert ask(client).status_code == 200
        provider.reset()
        return provider

    @pytest.mark.parametrize("ending", [CLOSE, RESET])
    @pytest.mark.parametrize("stream", [False, True])
    def test_one_that_ends_as_the_request_arrives_has_not_taken_it(self, client, twice, pauses, ending, stream):
        good = Pieces(chunk("a"), usage_chunk(cost=0.01), DONE) if stream else Pieces.whole(json=completion())
        twice.sends(Pieces(ending, framing="raw"), good)
        answer = ask(client, stream=stream)
        assert answer.status_code == 200 and answer.content
        assert [row.state for row in rows()] == ["SETTLED", "RELEASED", "SETTLED"]

    @pytest.mark.parametrize("ending", [CLOSE, RESET])
    def test_one_that_ends_after_it_has_worked_may_have(self, client, twice, pauses, hardly_at_once, ending):
        wait = threading.Event()
        twice.sends(Pieces(lambda: wait.wait(0.6), ending, framing="raw"), Pieces.whole(json=completion()))
        assert ask(client).status_code == 200
        assert [row.state for row in rows()] == ["SETTLED", "LOST", "SETTLED"]

    def test_one_that_served_a_moment_ago_may_have(self, client, provider, provider_server, pauses, monkeypatch):
        monkeypatch.setattr("llmkeys.upstream.relayed.RESTED_SECONDS", 3600.0)  # a moment may be long
        provider_server.hang_up()
        make_key()
        provider.sends(Pieces.whole(json=completion()), Pieces(CLOSE, framing="raw"), Pieces.whole(json=completion()))
        assert [ask(client).status_code for _ in range(2)] == [200, 200]
        assert [row.state for row in rows()] == ["SETTLED", "LOST", "SETTLED"]

    def test_each_has_rested_for_a_time_of_its_own(
        self, client, provider, provider_server, pauses, pool_clock, monkeypatch
    ):
        """Two rested for three seconds and end as they are used: that one was used first says nothing of the other."""
        monkeypatch.setattr("llmkeys.upstream.relayed.AT_ONCE_SECONDS", 10.0)  # the machine may be busy
        provider_server.hang_up()
        make_key()
        good = json.dumps(completion()).encode()
        assert self.two_at_once(client, provider, good, headers={"Content-Type": "application/json"}) == [200, 200]
        pool_clock(3)
        assert self.two_at_once(client, provider, CLOSE, framing="raw") == [200, 200]
        assert Counter(row.state for row in rows()) == {"SETTLED": 4, "RELEASED": 2}

    def test_one_that_has_just_brought_a_long_answer_has_not_rested(
        self, client, provider, provider_server, pauses, pool_clock, monkeypatch
    ):
        monkeypatch.setattr("llmkeys.upstream.relayed.RESTED_SECONDS", 15.0)
        monkeypatch.setattr("llmkeys.upstream.relayed.AT_ONCE_SECONDS", 10.0)
        provider_server.hang_up()
        make_key()
        gate = Gate()
        provider.sends(Pieces(gate, chunk("a"), usage_chunk(cost=0.01), DONE))
        wire = begin(client, stream=True)
        gate.wait_until_reached()
        pool_clock(20)  # the answer takes that long
        gate.open()
        assert wire.answer().content.endswith(DONE)
        provider.sends(Pieces(CLOSE, framing="raw"), Pieces.whole(json=completion()))
        assert ask(client).status_code == 200
        assert [row.state for row in rows()] == ["SETTLED", "LOST", "SETTLED"]

    @staticmethod
    def two_at_once(client, provider, *pieces, **form):
        """Ask twice at the same time, answer both so at the same moment and the next well; return the statuses."""
        gates = [Gate(), Gate()]
        well = [Pieces.whole(json=completion()) for _ in gates]
        provider.reset()
        provider.must_be_asked = False
        provider.sends(*(Pieces(gate, *pieces, **form) for gate in gates), *well)
        wires = [begin(client) for _ in gates]
        for gate in gates:
            gate.wait_until_reached()
        for gate in gates:
            gate.open()
        return [wire.answer().status_code for wire in wires]

    def test_one_that_ends_in_the_middle_of_a_head_has(self, client, twice, pauses):
        twice.sends(Pieces(b"HTTP/1.1 200 OK\r\nContent-Ty", CLOSE, framing="raw"), Pieces.whole(json=completion()))
        assert ask(client).status_code == 200
        assert [row.state for row in rows()] == ["SETTLED", "LOST", "SETTLED"]

    def test_one_that_the_provider_closed_is_not_used(self, client, twice, provider_server):
        provider_server.hang_up()
        twice.post(OPENROUTER, json=completion())
        assert ask(client)["X-LLM-Attempts"] == "1"
        assert {row.state for row in rows()} == {"SETTLED"}

    def test_a_fresh_one_that_ends_may_have_taken_it(self, client, provider, provider_server, pauses):
        provider_server.hang_up()
        make_key()
        provider.sends(Pieces(CLOSE, framing="raw"), Pieces.whole(json=completion()))
        assert ask(client).status_code == 200
        assert [row.state for row in rows()] == ["LOST", "SETTLED"]

    @pytest.mark.parametrize(
        "before",
        [
            (b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",),
            (b"HTTP/1.1 100 Continue\r\n\r\n",),
            (b"HTTP/1.1 102 Processing\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        ],
    )
    @pytest.mark.parametrize("stream", [False, True])
    def test_answers_before_the_answer_are_skipped(self, client, sends, before, stream):
        make_key()
        if stream:
            sends(Pieces(chunk("a"), usage_chunk(cost=0.01), DONE, informational=before))
        else:
            answer = Pieces.whole(json=completion())
            answer.informational = before
            sends(answer)
        answer = ask(client, stream=stream)
        assert answer.status_code == 200 and answer.content
        assert (only_row().state, only_row().success) == ("SETTLED", True)


class TestUnknownNames:
    """One usable key of each provider is asked for its list, side by side, once, within 5 s, and it is kept."""

    def test_keys_that_cannot_serve_are_not_asked(self, client, provider):
        make_key(), make_key(enabled=False), make_key(rejected_at=NOW), make_key(expires_at=NOW)
        provider.get(LIST, json={"data": []})
        for _ in range(3):
            is_refused(ask(client, model=UNKNOWN), 404, "model_not_available", "No stored key can serve model")
        assert len(provider.calls) == 1

    def test_callers_share_one_question(self, client, provider):
        make_key()
        gate = Gate()
        listed = json.dumps({"data": [{"id": "another"}]}).encode()
        provider.get(LIST, Pieces(gate, listed, headers={"Content-Type": "application/json"}))
        wires = [begin(client, model=UNKNOWN) for _ in range(8)]
        gate.wait_until_reached()
        gate.open()
        for wire in wires:
            assert wire.answer().status_code == 404
        assert len(provider.calls) == 1

    def test_a_list_that_was_never_read_is_asked_for_again_soon(self, client, provider, monkeypatch):
        make_key()
        passed = [0.0]
        monkeypatch.setattr(model_lists, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
        provider.get(LIST, status=500)
        assert [ask(client, model=UNKNOWN).status_code for _ in range(2)] == [404, 404]
        assert len(provider.calls) == 1
        passed[0] = 16
        provider.reset()
        provider.get(LIST, json={"data": [{"id": UNKNOWN}]})
        provider.post(OPENROUTER, json=completion())
        assert ask(client, model=UNKNOWN).status_code == 200

    def test_silent_lists_have_one_deadline(self, client, provider, provider_server, monkeypatch):
        """Three, so that one after the other they would take nine seconds."""
        monkeypatch.setattr(model_lists, "ASK_SECONDS", 3.0)
        make_key(), make_key(provider="openai"), make_key(provider="anthropic")
        for url in (LIST, "https://api.openai.com/v1/models", "https://api.anthropic.com/v1/models"):
            provider.get(url, Pieces(SILENCE, framing="raw"))
        provider.must_be_asked = False
        began = time.monotonic()
        assert ask(client, model=UNKNOWN).status_code == 404
        assert time.monotonic() - began < 8.5
        provider_server.hang_up()


class TestTokensLimitedToKeys:
    """Only its own keys exist for such a token."""

    def test_a_model_of_others_is_not_available(self, client, user):
        own = make_key(provider="anthropic")
        for _ in range(7):
            make_key()
        door = Program(make_token(user, keyIds=[own.id]))
        answer = door.post(PATH, json.dumps(chat(model="gpt-4o-mini")))
        message = is_refused(answer, 404, "model_not_available", "No stored key can serve model")
        assert "8" not in message and "7" not in message

    def test_waits_come_from_its_own_keys_alone(self, client, user, provider):
        own, other = make_key(secret=(mine := new_secret())), make_key(secret=(theirs := new_secret()))
        limited = {"error": {"code": 429, "message": "Rate limit exceeded"}}
        provider.post(OPENROUTER, json=limited, status=429, headers={"Retry-After": "7"}, match=sent_with(theirs))
        provider.post(OPENROUTER, json=limited, status=429, headers={"Retry-After": "90"}, match=sent_with(mine))
        assert ask(client)["Retry-After"] == "7"
        door = Program(make_token(user, keyIds=[own.id]))
        answer = ask(door)
        assert answer["Retry-After"] == "90" and "1 for this model" in answer.json()["error"]["message"]
        assert other.id not in answer.content.decode()
