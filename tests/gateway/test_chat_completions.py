"""POST /v1/chat/completions, answers that are not streamed."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal

import pytest

from llmkeys.keys.environment import register_environment_keys
from llmkeys.models import DailyUsage, KeyEvent, ModelAlias, ModelPrice, ServingKey
from llmkeys.prices import catalogue
from llmkeys.relay.candidates import find_now
from llmkeys.tokens.rights import Caller
from tests.gateway.door import (
    ANTHROPIC,
    GOOGLE,
    MODEL,
    OPENAI,
    OPENROUTER,
    PATH,
    Program,
    ask,
    chat,
    completion,
    error_of,
    eventually,
    fresh,
    is_refused,
    limits,
    only_row,
    rows,
    sent_with,
    usage,
)
from tests.helpers import NOW, make_key, make_token, new_secret
from tests.providers.helpers import recorded, recorded_bytes

LONGEST = "gpt-" + "4" * 196  # no name may be longer


def sent_body(provider, number=0):
    """Return what went out, but for the prices that OpenRouter is told; those have a test of their own."""
    body = provider.calls[number].json
    assert body.pop("provider", {"max_price": ...}).keys() == {"max_price"}
    return body


class TestAnswer:
    def test_it_works(self, client, provider):
        key = make_key(secret=(secret := new_secret()))
        provider.post(OPENROUTER, json=completion(), match=sent_with(secret))
        answer = ask(client)
        assert answer.status_code == 200
        assert answer.json() == completion()
        assert answer["X-LLM-Key-Id"] == key.id

    def test_it_sends_the_clients_own_bytes(self, client, provider):
        make_key(provider="openai")
        provider.post(OPENAI, json=completion())
        raw = (
            '{ "messages":[{"role":"user","content":"gr\u00fc\u00df \\u00fc \\ud83d\\ude00"}],\n'
            ' "max_tokens":50, "x_unknown":1.50, "model":"gpt-6.1-terra" }'
        ).encode()
        assert client.post(PATH, raw).status_code == 200
        assert provider.calls[0].body == raw

    def test_it_gives_the_providers_own_bytes_back(self, client, provider):
        make_key()
        raw = b'\n  {"usage": {"cost": 1e-05}, "choices": [], "note": "\xc3\xbc\\u00fc"}'
        provider.post(OPENROUTER, body=raw, content_type="application/json; charset=utf-8")
        answer = ask(client)
        assert answer.content == raw
        assert answer["Content-Type"] == "application/json; charset=utf-8"
        assert only_row().cost_nano == 10_000

    def test_it_names_the_request_the_key_the_attempts_and_the_cost(self, client, provider):
        key = make_key(**limits(daily="10"))
        provider.post(OPENROUTER, json=completion(), headers={"X-Generation-Id": "gen-1", "Set-Cookie": "a=b"})
        answer = ask(client)
        assert answer["X-LLM-Request-Id"] == only_row().request_id
        assert answer["X-LLM-Key-Id"] == key.id
        assert answer["X-LLM-Attempts"] == "1"
        assert answer["X-LLM-Cost-USD"] == "0.012300000"
        assert answer["X-LLM-Remaining-Daily-USD"] == "9.987700000"
        assert answer["X-Generation-Id"] == "gen-1"
        assert "Set-Cookie" not in answer.headers

    def test_it_tells_no_remaining_budget_where_there_is_no_limit(self, client, provider):
        make_key(**limits())
        provider.post(OPENROUTER, json=completion())
        assert "X-LLM-Remaining-Daily-USD" not in ask(client).headers

    def test_it_forwards_only_headers_that_a_provider_may_see(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=completion())
        headers = {"X-Title": "my program", "HTTP-Referer": "https://example.org", "X-Private": "1", "Cookie": "a=b"}
        answer = client.post(PATH, json.dumps(chat()), headers=headers | {"User-Agent": "mine"})
        seen = provider.calls[0].headers
        assert (seen["X-Title"], seen["HTTP-Referer"]) == ("my program", "https://example.org")
        assert seen["X-Client-Request-Id"] == answer["X-LLM-Request-Id"]
        assert seen["User-Agent"] == "RefactAI-LLM-key-management"
        assert not {"x-private", "cookie"} & {name.lower() for name in seen}


class TestModelNames:
    @pytest.mark.parametrize(
        ("name", "url", "asked", "sent"),
        [
            ("openai", OPENAI, "openai/gpt-6.1-terra", "gpt-6.1-terra"),
            ("openai", OPENAI, "gpt-6.1-terra", "gpt-6.1-terra"),
            ("anthropic", ANTHROPIC, "anthropic/claude-sonnet-4.5", "claude-sonnet-4-5"),
            ("google", GOOGLE, "google/gemini-3.8-flash", "gemini-3.8-flash"),
            ("openrouter", OPENROUTER, "gpt-6.1-terra", "openai/gpt-6.1-terra"),
            ("openrouter", OPENROUTER, "claude-sonnet-4-5", "anthropic/claude-sonnet-4.5"),
        ],
    )
    def test_it_calls_the_model_as_the_provider_does(self, client, provider, name, url, asked, sent):
        make_key(provider=name, secret=(secret := new_secret(name)))
        provider.post(url, json=completion(usage=usage()), match=sent_with(secret))
        assert ask(client, model=asked).status_code == 200
        assert sent_body(provider) == chat(model=sent)
        assert (only_row().requested_model, only_row().model) == (asked, sent)

    def test_it_knows_the_operators_aliases(self, client, provider):
        make_key()
        ModelAlias.objects.create(provider="openrouter", alias="house-model", model_names=[MODEL])
        provider.post(OPENROUTER, json=completion())
        assert ask(client, model="house-model").status_code == 200
        assert sent_body(provider)["model"] == MODEL

    def test_it_knows_what_another_process_changed_of_them_when_the_tables_are_old(self, client, provider, monkeypatch):
        make_key()
        alias = ModelAlias.objects.create(provider="openrouter", alias="house-model", model_names=[MODEL])
        provider.post(OPENROUTER, json=completion())
        assert ask(client, model="house-model").status_code == 200
        ModelAlias.objects.filter(pk=alias.pk).update(model_names=["openai/gpt-6-luna"])
        ask(client, model="house-model")
        assert sent_body(provider, 1)["model"] == MODEL
        monkeypatch.setattr(catalogue, "TABLES_SECONDS", 0.0)
        ask(client, model="house-model")
        assert sent_body(provider, 2)["model"] == "openai/gpt-6-luna"

    @pytest.mark.parametrize("named", ["auto", "", None, ...])
    def test_it_takes_the_primary_model_where_none_is_named(self, client, provider, settings, named):
        make_key()
        settings.PRIMARY_MODEL = "openai/gpt-6-luna"
        provider.post(OPENROUTER, json=completion())
        assert ask(client, model=named).status_code == 200
        assert sent_body(provider)["model"] == "openai/gpt-6-luna"

    def test_it_asks_the_keys_own_list_for_a_name_that_no_rule_knows(self, client, provider, settings):
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": f"{provider.local}/v1"}
        make_key(provider="openai")
        provider.get(f"{provider.local}/v1/models", json={"object": "list", "data": [{"id": "llama3:8b"}]})
        provider.post(f"{provider.local}/v1/chat/completions", json=completion(usage=usage()))
        assert ask(client, model="llama3:8b").status_code == 200
        is_refused(ask(client, model="llama4"), 404, "model_not_available", "No stored key can serve model “llama4”")

    @pytest.mark.parametrize("named", ["meta-llama/Llama-3", "gemma-3-27b-it", "openai/gpt-oss-20b"])
    def test_it_asks_the_list_of_a_local_server_for_another_providers_name_too(self, client, provider, settings, named):
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": f"{provider.local}/v1"}
        key = make_key(provider="openai")
        provider.get(f"{provider.local}/v1/models", json={"object": "list", "data": [{"id": named}]})
        provider.post(f"{provider.local}/v1/chat/completions", json=completion(usage=usage()))
        assert ask(client, model=named)["X-LLM-Key-Id"] == key.id
        assert sent_body(provider, 1)["model"] == named
        assert [one.id for one in find_now(named, caller=Caller(), at=NOW)] == [key.id], "pages and the REST API too"

    def test_a_provider_at_its_own_address_is_not_asked_for_another_ones_name(self, client, provider, settings):
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"anthropic": provider.local}
        make_key(provider="openai"), make_key(provider="anthropic")
        provider.get(f"{provider.local}/v1/models", json={"data": [{"id": "another"}]})
        is_refused(ask(client, model="meta-llama/Llama-3"), 404, "model_not_available", "No stored key can serve model")
        assert [call.url for call in provider.calls] == [f"{provider.local}/v1/models"]

    def test_the_longest_name_is_refused_where_the_vendors_prefix_makes_it_too_long(self, client):
        """No row of usage holds `openai/` and 200 characters: PostgreSQL refuses what SQLite takes."""
        make_key()
        is_refused(ask(client, model=LONGEST), 404, "model_not_available", f"No stored key can serve model “{LONGEST}”")
        assert rows() == []

    def test_the_longest_name_is_served_where_it_needs_no_prefix(self, client, provider):
        key = make_key(provider="openai")
        provider.post(OPENAI, json=completion(usage=usage(1000, 100)))
        assert ask(client, model=LONGEST).status_code == 200
        row = only_row()
        assert (row.requested_model, row.model, row.state) == (LONGEST, LONGEST, "SETTLED")
        assert (row.cost_nano, row.cost_source) == (110_000_000, "fallback")
        serving = ServingKey.objects.get()
        assert (serving.model, serving.key_id) == (LONGEST, key.id)


class TestOutputLimit:
    @pytest.mark.parametrize(
        ("name", "url", "model", "field", "limit"),
        [
            ("openrouter", OPENROUTER, MODEL, "max_tokens", 16_384),
            ("openai", OPENAI, "gpt-6.1-terra", "max_completion_tokens", 16_384),
            ("openai", OPENAI, "gpt-4-turbo", "max_completion_tokens", 4_096),  # the model's own maximum
            ("anthropic", ANTHROPIC, "claude-sonnet-4-5", "max_tokens", 16_384),
        ],
    )
    def test_it_puts_a_limit_on_a_request_that_sets_none(self, client, provider, name, url, model, field, limit):
        make_key(provider=name)
        provider.post(url, json=completion())
        assert ask(client, model=model, max_tokens=...).status_code == 200
        assert sent_body(provider) == chat(model=model, max_tokens=...) | {field: limit}

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    def test_minus_one_is_no_limit_where_the_model_costs_nothing(self, client, provider, settings, field):
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": f"{provider.local}/v1"}
        make_key(provider="openai")
        provider.get(f"{provider.local}/v1/models", json={"object": "list", "data": [{"id": "llama3:8b"}]})
        provider.post(f"{provider.local}/v1/chat/completions", json=completion(usage=usage()))
        assert ask(client, model="llama3:8b", **({"max_tokens": ...} | {field: -1})).status_code == 200
        assert sent_body(provider, -1)[field] == -1

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    def test_minus_one_is_refused_where_it_costs(self, client, field):
        make_key()
        answer = ask(client, **({"max_tokens": ...} | {field: -1}))
        is_refused(answer, 400, "invalid_request", f"“{field}” must be at least 1")
        assert error_of(answer)["param"] == field

    def test_it_takes_the_operators_default(self, client, provider, settings):
        settings.DEFAULT_MAX_TOKENS = 100
        make_key()
        provider.post(OPENROUTER, json=completion())
        ask(client, max_tokens=...)
        assert sent_body(provider)["max_tokens"] == 100

    @pytest.mark.parametrize("given", [{"max_tokens": 7}, {"max_tokens": ..., "max_completion_tokens": 7}])
    def test_it_adds_nothing_where_the_client_set_one(self, client, provider, given):
        make_key()
        provider.post(OPENROUTER, json=completion())
        ask(client, **given)
        assert sent_body(provider) == chat(**given)

    def test_it_adds_nothing_in_soft_mode(self, client, provider, settings):
        settings.BUDGET_MODE = "soft"
        make_key()
        provider.post(OPENROUTER, json=completion())
        ask(client, max_tokens=...)
        assert "max_tokens" not in sent_body(provider)
        assert only_row().hold_nano > 0  # a lost request still costs something


class TestUsageRow:
    def test_it_records_every_field(self, client, provider):
        key = make_key()
        details = {"prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2}}
        counts = usage(cost=0.0123, completion_tokens_details={"reasoning_tokens": 3}, **details)
        provider.post(OPENROUTER, json=completion(usage=counts), headers={"X-Generation-Id": "gen-7"})
        answer = ask(client)
        row = only_row()
        assert (row.request_id, row.attempt) == (answer["X-LLM-Request-Id"], 1)
        assert (row.created_at, row.finished_at) == (NOW, NOW)
        assert (row.key_id, row.provider, row.dialect) == (key.id, "openrouter", "openai-chat")
        assert (row.requested_model, row.model, row.token_name) == (MODEL, MODEL, "worker")
        assert (row.state, row.success, row.http_status, row.error) == ("SETTLED", True, 200, "")
        assert (row.input_tokens, row.cached_input_tokens, row.cache_write_tokens) == (10, 4, 2)
        assert (row.output_tokens, row.reasoning_tokens) == (5, 3)
        assert (row.cost_nano, row.cost_source) == (12_300_000, "provider")
        # every byte and 256 tokens of frame at the dearest input price, 50 tokens at the output price
        assert row.hold_nano == (len(json.dumps(chat())) + 256) * 1_250 + 50 * 5_000
        assert row.overrun is True
        assert (row.streamed, row.skipped, row.upstream_id) == (False, [], "gen-7")
        assert (str(row.day), str(row.month)) == ("2026-11-23", "2026-11-01")
        assert row.lease_until is None
        assert row.latency_ms >= row.first_byte_ms >= 0

    def test_it_keeps_the_id_of_the_body_where_no_header_tells_one(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=completion(id="gen-8"))
        ask(client)
        assert only_row().upstream_id == "gen-8"

    def test_it_leaves_what_the_provider_did_not_tell_empty(self, client, provider):
        make_key(provider="openai")
        provider.post(OPENAI, json=completion(usage={"prompt_tokens": 10, "completion_tokens": 5}))
        ask(client)
        row = only_row()
        assert (row.cached_input_tokens, row.cache_write_tokens, row.reasoning_tokens) == (None, None, None)

    def test_it_counts_on_the_key_and_in_the_daily_total(self, client, provider):
        key = make_key()
        provider.post(OPENROUTER, json=completion(usage=usage(cost=0.0000001)))
        for _ in range(3):
            assert ask(client).status_code == 200
        key = fresh(key)
        assert (key.spent_day_nano, key.spent_month_nano, key.spent_total_nano, key.held_nano) == (300, 300, 300, 0)
        assert (key.total_requests, key.successful_requests, key.failed_requests) == (3, 3, 0)
        assert key.last_used_at == NOW
        total = DailyUsage.objects.get()
        assert (total.key_id, total.model, total.token_name, str(total.day)) == (key.id, MODEL, "worker", "2026-11-23")
        assert (total.requests, total.successful, total.failed, total.cost_nano) == (3, 3, 0, 300)
        assert (total.input_tokens, total.output_tokens) == (30, 15)

    def test_it_counts_no_failure_for_the_clients_own_mistake(self, client, provider):
        key = make_key()
        refusal = {"error": {"message": "temperature: must be below 2", "code": 400}}
        provider.post(OPENROUTER, json=refusal, status=400)
        answer = ask(client, temperature=9)
        assert (answer.status_code, answer.json()) == (400, refusal)
        key = fresh(key)
        assert (key.total_requests, key.successful_requests, key.failed_requests) == (1, 0, 0)
        assert (only_row().state, only_row().success, only_row().http_status) == ("RELEASED", None, 400)
        assert key.last_error == "" and not KeyEvent.objects.filter(kind__in=["cooled", "rejected"]).exists()


class TestCost:
    def cost(self, client, provider, name, url, model, body):
        make_key(provider=name)
        provider.post(url, json=body)
        assert ask(client, model=model).status_code == 200
        return only_row().cost_nano, only_row().cost_source

    def test_it_takes_what_the_provider_reports(self, client, provider):
        found = self.cost(client, provider, "openrouter", OPENROUTER, MODEL, completion(usage=usage(cost=0.0000123456)))
        assert found == (12_346, "provider")  # rounded up to the next nano-dollar

    def test_a_reported_zero_is_a_cost(self, client, provider):
        found = self.cost(client, provider, "openrouter", OPENROUTER, MODEL, completion(usage=usage(cost=0)))
        assert found == (0, "provider")

    def test_it_computes_from_the_price_data(self, client, provider):
        found = self.cost(client, provider, "openai", OPENAI, "gpt-6.1-terra", completion(usage=usage(1000, 100)))
        assert found == (1_500_000, "computed")  # 1000 × 1 + 100 × 5 = 1,500 USD per million

    def test_the_operators_price_goes_before_the_price_data(self, client, provider):
        ModelPrice.objects.create(
            provider="openai",
            model="gpt-6.1-terra",
            valid_from=NOW - timedelta(days=1),
            input_usd_per_mtok=Decimal(7),
            output_usd_per_mtok=Decimal(11),
        )
        found = self.cost(client, provider, "openai", OPENAI, "gpt-6.1-terra", completion(usage=usage(1000, 100)))
        assert found == (8_100_000, "computed")  # 1000 × 7 + 100 × 11

    def test_a_price_of_zero_is_a_price(self, client, provider):
        ModelPrice.objects.create(
            provider="openai",
            model="gpt-6.1-terra",
            valid_from=NOW - timedelta(days=1),
            input_usd_per_mtok=Decimal(0),
            output_usd_per_mtok=Decimal(0),
        )
        found = self.cost(client, provider, "openai", OPENAI, "gpt-6.1-terra", completion(usage=usage()))
        assert found == (0, "computed")

    def test_an_unknown_model_costs_the_fallback_price(self, client, provider):
        found = self.cost(client, provider, "openai", OPENAI, "gpt-99-new", completion(usage=usage(1000, 100)))
        assert found == (110_000_000, "fallback")  # 1100 × 0.0001

    def test_an_unknown_model_of_a_local_server_is_free(self, client, provider, settings):
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": f"{provider.local}/v1"}
        url = f"{provider.local}/v1/chat/completions"
        found = self.cost(client, provider, "openai", url, "gpt-99-new", completion(usage=usage(1000, 100)))
        assert found == (0, "fallback")
        assert only_row().hold_nano == 0

    def test_it_counts_without_cost_where_tracking_is_off(self, client, provider, settings):
        settings.COST_TRACKING = False
        found = self.cost(client, provider, "openrouter", OPENROUTER, MODEL, completion())
        assert found == (0, "")
        assert (only_row().input_tokens, only_row().hold_nano) == (10, 0)

    def test_it_flags_a_cost_above_the_hold(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=completion(usage=usage(cost=2)))
        ask(client)
        assert (only_row().cost_nano, only_row().overrun) == (2_000_000_000, True)

    def test_it_flags_no_cost_within_the_hold(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=completion(usage=usage(cost=0.0000001)))
        ask(client)
        assert only_row().overrun is False


class TestRecordings:
    """Real answers of the providers, with the numbers that stand in them."""

    def replay(self, client, provider, name, url, model, file):
        make_key(provider=name)
        provider.post(url, body=recorded_bytes(file), content_type="application/json")
        answer = ask(client, model=model)
        assert answer.content == recorded_bytes(file)
        row = only_row()
        return row.input_tokens, row.cached_input_tokens, row.cache_write_tokens, row.output_tokens, row.cost_nano

    def test_it_replays_openrouter(self, client, provider):
        file = "openrouter-chat-nonstream.json"
        found = self.replay(client, provider, "openrouter", OPENROUTER, "openai/gpt-4o-mini", file)
        assert found == (20, 0, None, 1, 3_600)

    def test_it_replays_a_cache_write_at_openrouter(self, client, provider):
        file = "openrouter-chat-nonstream-anthropic-cache-write.json"
        found = self.replay(client, provider, "openrouter", OPENROUTER, "anthropic/claude-sonnet-4.6", file)
        assert found == (3214, 0, 3211, 100, 13_550_250)

    def test_it_replays_cached_tokens_at_openai(self, client, provider):
        found = self.replay(client, provider, "openai", OPENAI, "gpt-4.1", "openai-chat-nonstream-cached.json")
        assert found == (1144, 1024, None, 2, 768_000)  # 120 × 2 + 1024 × 0.5 + 2 × 8

    def test_it_replays_a_cache_write_at_openai(self, client, provider):
        file = "openai-chat-nonstream-cache-write.json"
        found = self.replay(client, provider, "openai", OPENAI, "gpt-5.6-sol", file)
        assert found == (4020, 0, 4012, 4, 20_172_000)  # 8 × 4 + 4012 × 5 + 4 × 20

    @pytest.mark.parametrize(
        ("name", "url", "file", "status"),
        [
            ("openrouter", OPENROUTER, "openrouter-error-401.json", 401),
            ("openai", OPENAI, "openai-error-401-invalid-key.json", 401),
        ],
    )
    def test_it_replays_a_rejection(self, client, provider, name, url, file, status):
        key = make_key(provider=name)
        free_test = {"openrouter": "/key", "openai": "/models"}[name]
        provider.post(url, json=json.loads(recorded_bytes(file)), status=status)
        provider.get(url.replace("/chat/completions", free_test), json=json.loads(recorded_bytes(file)), status=status)
        is_refused(ask(client), 503, "no_key_available", "No API key available")
        eventually(lambda: fresh(key).status_at(NOW) == "DISABLED", "the rejection is confirmed")

    def test_it_replays_an_error_that_is_the_clients_own(self, client, provider):
        make_key(provider="openai")
        provider.post(OPENAI, body=recorded_bytes("openai-error-400.json"), status=400, content_type="application/json")
        answer = ask(client)
        assert (answer.status_code, answer.json()) == (400, recorded("openai-error-400.json"))
        assert rows()[0].state == "RELEASED"


class TestWhichKey:
    def test_it_takes_the_default_first_then_priority_then_age(self, client, provider):
        oldest = make_key(is_default=False)
        make_key(priority=5)
        chosen = make_key()
        type(chosen).objects.update(is_default=False)
        type(chosen).objects.filter(pk=chosen.pk).update(is_default=True)
        provider.post(OPENROUTER, json=completion(usage=usage(cost=0)))
        assert ask(client)["X-LLM-Key-Id"] == chosen.id
        type(chosen).objects.update(is_default=False)
        assert ask(client)["X-LLM-Key-Id"] == type(chosen).objects.get(priority=5).id
        type(chosen).objects.update(priority=100)
        assert ask(client)["X-LLM-Key-Id"] == oldest.id

    def test_it_reads_an_environment_keys_secret_at_use_and_takes_it_last(self, client, provider, monkeypatch):
        monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-" + "first" * 8)
        (stored_nowhere,) = register_environment_keys(at=NOW)
        provider.post(OPENROUTER, json=completion(usage=usage(cost=0)))
        assert ask(client)["X-LLM-Key-Id"] == stored_nowhere.id
        monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-" + "other" * 8)
        ask(client)
        assert [call.secret[9:14] for call in provider.calls] == ["first", "other"]
        key = make_key()
        assert ask(client)["X-LLM-Key-Id"] == key.id

    def test_a_token_may_be_limited_to_keys(self, client, user, provider):
        make_key()
        second = make_key()
        provider.post(OPENROUTER, json=completion())
        limited = Program(make_token(user, keyIds=[second.id]))
        assert ask(limited)["X-LLM-Key-Id"] == second.id
        assert only_row().skipped == [], "a token knows of no other keys"

    def test_openrouter_is_told_the_prices_that_the_hold_covers(self, client, provider, settings):
        make_key()
        provider.post(OPENROUTER, json=completion())
        ask(client, provider={"order": ["azure"], "max_price": {"prompt": 0.5}})
        assert provider.calls[0].json["provider"] == {
            "order": ["azure"],
            "max_price": {"prompt": 0.5, "completion": 5.0, "request": 0.0},
        }
        settings.BUDGET_MODE = "soft"
        provider.post(OPENROUTER, json=completion())
        ask(client)
        assert "provider" not in provider.calls[1].json
