"""What an access token may spend, use and ask for: refused in every dialect's own shape, before any key is asked."""

from __future__ import annotations

import json
import time
from datetime import timedelta

import pytest
from django.contrib.auth.models import Group, Permission

from llmkeys.lib.money import usd_to_nano
from llmkeys.models import AccessToken, ApiKey, KeyEvent
from llmkeys.tokens.making import change_token, rotate_token
from tests.gateway.door import (
    OPENAI,
    OPENROUTER,
    Pieces,
    Program,
    ask,
    completion,
    error_of,
    fresh,
    is_refused,
    limits,
    only_row,
    rows,
    spend,
    usage,
)
from tests.helpers import NOW, make_account, make_key, make_user

TEXT = [{"role": "user", "content": "hi"}]
# dialect: path, body, and where its error has the code
DIALECTS = {
    "chat": ("/v1/chat/completions", {"model": "openai/gpt-6.1-terra", "messages": TEXT, "max_tokens": 50}),
    "chat stream": (
        "/v1/chat/completions",
        {"model": "openai/gpt-6.1-terra", "messages": TEXT, "max_tokens": 50, "stream": True},
    ),
    "responses": ("/v1/responses", {"model": "gpt-6.1-terra", "input": "hi", "max_output_tokens": 50, "store": False}),
    "embeddings": ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "hi"}),
    "messages": ("/v1/messages", {"model": "claude-sonnet-5-5", "messages": TEXT, "max_tokens": 50}),
    "count tokens": ("/v1/messages/count_tokens", {"model": "claude-sonnet-5-5", "messages": TEXT}),
    "google": (
        "/v1beta/models/gemini-3.8-flash:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 50}},
    ),
    "google stream": (
        "/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 50}},
    ),
}
PAID = [name for name in DIALECTS if name != "count tokens"]


@pytest.fixture
def keys(provider):
    """A key of each provider; none of them may be asked."""
    return [make_key(provider=name) for name in ("openrouter", "openai", "anthropic", "google")]


def program(user, *scopes, **fields):
    token, text = make_account(user, *scopes, **fields)
    return token, Program(text)


def told(answer, dialect):
    """Return code and message from the dialect's own shape."""
    error = answer.json()["error"]
    if dialect.startswith("google"):
        assert error["code"] == answer.status_code and error["status"]
        return error["details"][0]["reason"], error["message"]
    if dialect in ("messages", "count tokens"):
        assert answer.json()["type"] == "error" and error["type"]
    else:
        assert sorted(error) == ["code", "message", "param", "type"]
    return error["code"], error["message"]


def send(door, dialect):
    path, body = DIALECTS[dialect]
    return door.post(path, json.dumps(body))


class TestBudget:
    @pytest.mark.parametrize("dialect", PAID)
    def test_a_spent_one_is_refused_in_every_shape(self, user, keys, provider, dialect):
        token, door = program(user, dailyLimit=0.01)
        AccessToken.objects.filter(pk=token.pk).update(
            spent_day_nano=usd_to_nano("0.01"), day=NOW.date(), month=NOW.date().replace(day=1)
        )
        answer = send(door, dialect)
        code, message = told(answer, dialect)
        assert (answer.status_code, code) == (429, "token_at_limit"), answer.content
        assert message.startswith("This token has reached its limit: this request needs up to $0.00")
        assert "$0.00 is left of its daily budget. It resets at 2026-11-24 00:00 UTC." in message
        assert answer["Retry-After"] == str(int(timedelta(hours=3.5).total_seconds()))
        assert answer["x-should-retry"] == "false"
        assert not provider.calls and not rows()

    @pytest.mark.parametrize("dialect", PAID)
    def test_more_than_its_whole_limit_is_another_thing(self, user, keys, provider, dialect):
        _, door = program(user, totalLimit=0.000000001)
        answer = send(door, dialect)
        code, message = told(answer, dialect)
        assert (answer.status_code, code) == (400, "request_exceeds_budget")
        assert "more than this token's whole limit ($0.000000001, its total budget)" in message
        assert not provider.calls and not rows()

    def test_in_soft_mode_a_spent_one_is_spent_for_large_requests_too(self, client, user, provider):
        make_key()
        _, door = program(user, dailyLimit=0.01, budgetMode="soft")
        provider.post(OPENROUTER, json=completion(usage=usage(cost=0.01)))
        assert ask(door, max_tokens=40_000).status_code == 200
        answer = ask(door, max_tokens=40_000)
        is_refused(answer, 429, "token_at_limit", "This token has reached its limit: this request needs up to $0.20")
        assert (answer["Retry-After"], answer["x-should-retry"]) == ("12600", "false")

    def test_a_total_one_has_no_end_by_itself(self, user, keys):
        token, door = program(user, totalLimit=1)
        AccessToken.objects.filter(pk=token.pk).update(spent_total_nano=usd_to_nano(1))
        answer = ask(door)
        assert "It does not reset by itself" in is_refused(answer, 429, "token_at_limit", "This token has reached")
        assert "Retry-After" not in answer.headers and answer["x-should-retry"] == "false"

    def test_it_is_told_even_where_the_keys_are_full_too(self, client, user):
        key = make_key(**limits(daily="0.01"))
        spend(key, "0.01")
        token, door = program(user, dailyLimit=0.01)
        AccessToken.objects.filter(pk=token.pk).update(
            spent_day_nano=usd_to_nano("0.01"), day=NOW.date(), month=NOW.date().replace(day=1)
        )
        is_refused(ask(door), 429, "token_at_limit", "This token has reached its limit")
        is_refused(ask(client), 429, "all_keys_at_limit", "All keys have reached their limits")
        AccessToken.objects.filter(pk=token.pk).update(spent_day_nano=0)  # or the books would not balance

    def test_a_request_is_fitted_to_what_it_has_left_first(self, client, user, provider):
        make_key()
        _, door = program(user, totalLimit=0.05)
        provider.post(OPENROUTER, json=completion())
        answer = ask(door, max_tokens=20_000)  # 0.1 USD, and 5 millionths for each token of output
        assert answer.status_code == 200, answer.content
        limit = int(answer["X-LLM-Max-Tokens"])
        assert 5000 <= limit < 10_000
        assert provider.calls[0].json["max_tokens"] == only_row().max_tokens == limit

    @pytest.mark.parametrize("fits", [True, False])
    def test_it_is_refused_where_nothing_is_to_be_fitted(self, client, user, provider, settings, fits):
        """$0.05 of the limit is left, of the token's or of the key's, and the request may cost $0.10."""
        settings.FIT_OUTPUT = fits
        token, door = program(user, totalLimit=0.15)
        key = make_key()
        AccessToken.objects.filter(pk=token.pk).update(spent_total_nano=usd_to_nano("0.1"))
        if fits:
            provider.post(OPENROUTER, json=completion())
        by_token = ask(door, max_tokens=20_000)
        AccessToken.objects.filter(pk=token.pk).update(spent_total_nano=sum(row.cost_nano for row in rows()))
        ApiKey.objects.filter(pk=key.pk).update(**limits(total="0.15"))
        spend(key, "0.1")
        by_key = ask(client, max_tokens=20_000)
        if fits:
            assert by_token["X-LLM-Max-Tokens"] and by_key["X-LLM-Max-Tokens"]
            return
        is_refused(by_token, 429, "token_at_limit", "This token has reached its limit: this request needs up to $0.10")
        is_refused(by_key, 429, "all_keys_at_limit", "All keys have reached their limits: this request needs up to $0.")
        assert "X-LLM-Max-Tokens" not in by_token.headers and "X-LLM-Max-Tokens" not in by_key.headers
        assert not provider.calls and not rows()

    def test_both_accounts_pay(self, client, user, provider):
        key = make_key()
        token, door = program(user, dailyLimit=1)
        provider.post(OPENROUTER, json=completion())
        assert ask(door).status_code == 200
        token.refresh_from_db()
        assert token.spent_day_nano == fresh(key).spent_day_nano == usd_to_nano("0.0123")
        assert (only_row().token_id, token.held_nano, token.total_requests) == (token.pk, 0, 1)

    def test_an_edited_limit_counts_at_the_next_request(self, client, user, provider):
        make_key()
        token, door = program(user, totalLimit=0.01)
        provider.post(OPENROUTER, json=completion())
        assert ask(door).status_code == 200  # 0.0123 of 0.01 is spent: the provider's own figure
        is_refused(ask(door), 429, "token_at_limit", "This token has reached its limit")
        assert token.status_at(NOW) == "ACTIVE" and fresh_token(token).status_at(NOW) == "LIMIT_REACHED"
        change_token(fresh_token(token), values={"totalLimit": 1}, at=NOW)
        assert ask(door).status_code == 200
        assert fresh_token(token).status_at(NOW) == "ACTIVE"


def fresh_token(token):
    return AccessToken.objects.select_related("user", "maker").get(pk=token.pk)


class TestModels:
    @pytest.mark.parametrize("dialect", DIALECTS)
    def test_another_model_is_refused_in_every_shape(self, user, keys, provider, dialect):
        _, door = program(user, models=["meta/*", "house-model"])
        answer = send(door, dialect)
        code, message = told(answer, dialect)
        assert (answer.status_code, code) == (403, "model_not_allowed"), answer.content
        assert message.startswith("This token may not use model “")
        assert "It may use: meta/*, house-model." in message
        assert not provider.calls and not rows()

    @pytest.mark.parametrize(
        ("pattern", "model", "allowed"),
        [
            ("openai/*", "openai/gpt-6.1-terra", True),
            ("openai/*", "gpt-6.1-terra", True),
            ("gpt-6*", "openai/gpt-6.1-terra", True),
            ("gpt-6.1-terra", "openai/gpt-6.1-terra", True),
            ("gpt-6.1-terra", "openai/gpt-6.1-terra:online", False),
            ("gpt-6.1-terra", "gpt-6.1-terra-mini", False),
            ("gpt-6*", "someone/gpt-6.1-terra", False),
            ("anthropic/claude-sonnet-4.5", "claude-sonnet-4-5", True),
            ("claude-sonnet-4-5", "anthropic/claude-sonnet-4.5", True),
            ("claude-sonnet-4-5-20250929", "anthropic/claude-sonnet-4.5", True),
            ("claude-*", "anthropic/claude-sonnet-5.5", True),
            ("gpt-?.1-terra", "gpt-6.1-terra", False),
            ("*", "openai/gpt-6.1-terra", True),
            ("*terra", "openai/gpt-6.1-terra", True),
            ("*gpt*6*terra*", "openai/gpt-6.1-terra", True),
            ("*terra*6*", "openai/gpt-6.1-terra", False),
            ("*6.1-*-terra", "openai/gpt-6.1-terra", False),
            ("openai/gpt-6.1*1-terra", "openai/gpt-6.1-terra", False),
        ],
    )
    def test_patterns_fit_every_spelling_and_nothing_else(self, client, user, provider, pattern, model, allowed):
        make_key()
        if allowed:
            provider.post(OPENROUTER, json=completion())
        answer = ask(program(user, models=[pattern])[1], model=model)
        assert (answer.status_code == 200) is allowed, answer.content
        assert allowed or error_of(answer)["code"] == "model_not_allowed"

    def test_of_the_models_of_an_alias_the_allowed_ones_serve(self, client, user, provider, settings):
        make_key()
        provider.post(OPENROUTER, json=completion())
        assert ask(program(user, models=["anthropic/*"])[1], model="auto").status_code == 200
        assert provider.calls[0].json["model"] == "anthropic/claude-sonnet-5.5"
        answer = ask(program(user, models=["meta/*"])[1], model=...)
        is_refused(answer, 403, "model_not_allowed", "This token may not use model “auto”")
        assert ask(program(user, models=["meta/*", "auto"])[1], model=...).status_code == 200
        assert provider.calls[1].json["model"] == "openai/gpt-6.1-terra"

    @pytest.mark.parametrize("more", [{"models": ["anthropic/claude-opus-5.5"]}, {"preset": "cheap"}])
    def test_nor_may_the_provider_choose_another_one(self, client, user, provider, more):
        make_key()
        door = program(user, models=["openai/*"])[1]
        is_refused(ask(door, **more), 403, "model_not_allowed", "This token may not use model “")

    def test_a_pattern_with_many_stars_holds_nobody_up(self, user, keys):
        door = program(user, models=["*a*a*a*a*b"])[1]
        began = time.monotonic()
        is_refused(ask(door, model="a" * 200), 403, "model_not_allowed", "This token may not use model “aaa")
        assert time.monotonic() - began < 20

    @pytest.mark.parametrize("field", ["preset", "models"])
    def test_a_name_that_no_model_has_is_refused_before_it_is_compared(self, user, keys, field):
        door = program(user, models=["*gpt*mini*"])[1]
        began = time.monotonic()
        words = is_refused(ask(door, **{field: "gpt" * 300_000}), 400, "invalid_request", f"“{field}” must be")
        assert "at most 200 printable characters" in words
        assert time.monotonic() - began < 20

    @pytest.mark.parametrize(
        ("asked", "model"),
        [
            ({"tools": [{"type": "image_generation"}]}, "gpt-image-1"),  # what OpenAI may take by itself
            ({"tools": [{"type": "image_generation", "model": "gpt-image-1-mini"}]}, "gpt-image-1-mini"),
            ({"prompt": {"id": "pmpt_1"}}, "gpt-image-1"),  # which may have the tool
        ],
    )
    def test_nor_may_a_tool_draw_with_another_one(self, user, provider, asked, model):
        make_key(provider="openai")
        path, body = DIALECTS["responses"]
        body = json.dumps(body | asked)
        answer = program(user, models=["openai/gpt-6*"])[1].post(path, body)
        words = is_refused(answer, 403, "model_not_allowed", f"This token may not use model “{model}”, with which")
        assert "It may use: openai/gpt-6*." in words
        provider.post("https://api.openai.com/v1/responses", json={"id": "resp_1", "status": "completed"})
        assert program(user, models=["openai/gpt-6*", "gpt-image-*"])[1].post(path, body).status_code == 200

    @pytest.mark.parametrize(
        ("path", "headers", "listed", "names"),
        [
            ("/v1/models", {}, "data", {"openai/gpt-6.1-terra", "gpt-6.1-terra"}),
            ("/v1/models", {"anthropic-version": "2023-06-01"}, "data", {"openai/gpt-6.1-terra"}),
            ("/v1beta/models", {}, "models", set()),
        ],
    )
    def test_lists_have_only_these_in_every_dialect(self, client, user, simulator, path, headers, listed, names):
        for name in ("openrouter", "openai", "anthropic", "google"):
            make_key(provider=name)
        door = program(user, models=["gpt-6.1-terra"])[1]
        found = door.get(path, headers=headers).json()[listed]
        assert {entry.get("id", entry.get("name")) for entry in found} == names
        assert len(client.get(path, headers=headers).json()[listed]) > len(found)

    def test_one_that_is_not_allowed_is_not_shown(self, client, user, simulator):
        make_key(provider="openai")
        door = program(user, models=["gpt-6.1-terra"])[1]
        assert door.get("/v1/models/gpt-6.1-terra").status_code == 200
        answer = door.get("/v1/models/claude-sonnet-5-5")
        is_refused(answer, 403, "model_not_allowed", "This token may not use model “claude-sonnet-5-5”")


class TestPace:
    def test_so_many_in_a_minute_and_not_one_more(self, client, user, provider, frozen):
        make_key()
        _, door = program(user, requestsPerMinute=3)
        provider.post(OPENROUTER, json=completion())
        frozen.move_to(NOW + timedelta(seconds=20.5))
        assert [ask(door).status_code for _ in range(3)] == [200] * 3
        answer = ask(door)
        words = is_refused(answer, 429, "too_many_requests", "This token has used up its 3 requests for this minute.")
        assert "begins at 20:31 UTC" in words
        assert answer["Retry-After"] == "40" and "x-should-retry" not in answer.headers
        assert len(rows()) == 3, "what is refused is no request of the minute"
        frozen.move_to(NOW + timedelta(seconds=60))
        assert [ask(door).status_code for _ in range(4)] == [200] * 3 + [429]
        assert ask(client).status_code == 200, "another token has its own"

    @pytest.mark.parametrize("dialect", DIALECTS)
    def test_it_is_told_in_every_shape(self, user, keys, provider, dialect):
        token, door = program(user, requestsPerMinute=1)
        AccessToken.objects.filter(pk=token.pk).update(minute=NOW.timestamp() // 60, minute_requests=1)
        answer = send(door, dialect)
        code, _ = told(answer, dialect)
        assert (answer.status_code, code, answer["Retry-After"]) == (429, "too_many_requests", "60")
        assert not provider.calls and not rows()

    def test_a_clock_set_back_opens_no_minute_again(self, client, user, provider, frozen):
        make_key()
        _, door = program(user, requestsPerMinute=2)
        provider.post(OPENROUTER, json=completion())
        for minutes, expected in ((0, [200, 200, 429]), (-60, [200, 200, 429]), (0, [429]), (1, [200, 200, 429])):
            frozen.move_to(NOW + timedelta(minutes=minutes))
            assert [ask(door).status_code for _ in expected] == expected, minutes
        frozen.move_to(NOW + timedelta(seconds=50))  # a second machine, a little slow: the minute after is full
        assert ask(door).status_code == 429

    def test_further_attempts_of_a_request_do_not_count(self, client, user, provider, pauses):
        make_key()
        make_key()
        _, door = program(user, requestsPerMinute=1)
        provider.sends(*(Pieces.whole(json={}, status=500) for _ in range(2)), Pieces.whole(json=completion()))
        assert ask(door).status_code == 200
        assert len(rows()) == 3 and AccessToken.objects.get(requests_per_minute=1).minute_requests == 1

    def test_a_request_without_a_hold_does_not_count(self, client, user, provider):
        key = make_key(**limits(total="0.01"))
        spend(key, "0.01")
        token, door = program(user, requestsPerMinute=1)
        is_refused(ask(door), 429, "all_keys_at_limit", "All keys")
        assert fresh_token(token).minute_requests == 0 and fresh_token(token).held_nano == 0
        make_key()
        provider.post(OPENROUTER, json=completion())
        assert [ask(door).status_code for _ in range(2)] == [200, 429]

    def test_a_limit_given_within_the_minute_counts_what_was_sent(self, client, user, provider):
        make_key()
        token, door = program(user)
        provider.post(OPENROUTER, json=completion())
        assert ask(door).status_code == ask(door).status_code == 200
        change_token(fresh_token(token), values={"requestsPerMinute": 3}, at=NOW)
        assert [ask(door).status_code for _ in range(2)] == [200, 429]


class TestRotation:
    def test_the_old_secret_holds_as_long_as_was_said(self, client, user, provider, frozen):
        make_key()
        provider.post(OPENROUTER, json=completion())
        token, old = program(user)
        _, text = rotate_token(token, overlap_seconds=60, at=NOW)
        new = Program(text)
        frozen.move_to(NOW + timedelta(seconds=59))
        assert ask(old).status_code == ask(new).status_code == 200
        assert {row.token_id for row in rows()} == {token.pk}
        frozen.move_to(NOW + timedelta(seconds=60))
        is_refused(ask(old), 401, "invalid_token", "Invalid or missing")
        assert ask(new).status_code == 200

    def test_without_an_overlap_it_ends_at_once(self, client, user, provider):
        make_key()
        token, old = program(user)
        rotate_token(token, at=NOW)
        is_refused(ask(old), 401, "invalid_token", "Invalid or missing")


class TestPermission:
    def test_its_user_needs_the_permission(self, client, provider):
        make_key()
        person = make_user("person")
        for scope in ("gateway", "manage"):
            answer = ask(program(person, scope)[1])
            words = is_refused(answer, 403, "missing_scope", "This token may not send requests")
            assert "llmkeys.use_gateway" in words
        assert not provider.calls

    def test_a_group_may_give_it(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=completion())
        person, group = make_user("person"), Group.objects.create(name="programs")
        group.permissions.add(Permission.objects.get(codename="use_gateway"))
        door = program(person)[1]
        assert ask(door).status_code == 403
        person.groups.add(group)
        assert ask(door).status_code == 200

    def test_an_administrator_has_it(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=completion())
        assert ask(program(make_user("root", is_superuser=True))[1]).status_code == 200


def test_a_warning_and_the_end_of_a_budget_are_events_of_the_token(client, user, provider):
    make_key()
    token, door = program(user, dailyLimit=0.015, name="shop")
    provider.post(OPENROUTER, json=completion())
    assert ask(door).status_code == 200
    assert KeyEvent.objects.get(kind="warned").token_id == token.pk
    is_refused(ask(door, max_tokens=600), 429, "token_at_limit", "This token has reached its limit")
    assert KeyEvent.objects.get(kind="limit_reached").token_id == token.pk


def test_limits_cost_no_statement(client, user, provider, statements):
    """Rights, keys, room and pace are asked by the same statements, whether or not the token has limits."""
    make_key()
    provider.post(OPENROUTER, json=completion())
    limits = {"dailyLimit": 5, "monthlyLimit": 5, "totalLimit": 5, "requestsPerMinute": 1000, "models": ["openai/*"]}
    root = make_user("root", is_superuser=True)
    doors = [client, program(user, **limits)[1], program(root)[1], program(root, **limits)[1]]
    counts = []
    for door in doors:
        assert ask(door).status_code == 200  # opens the windows, and the minute
        before = len(statements)
        assert ask(door).status_code == 200
        counts.append(len(statements) - before)
    plain, limited, of_root, limited_of_root = counts
    assert plain == limited, statements
    assert of_root == limited_of_root == plain - 1, "others are asked for their permission"


def test_openai_keys_are_asked_by_their_own_name(client, user, provider):
    make_key(provider="openai")
    provider.post(OPENAI, json=completion())
    assert ask(program(user, models=["openai/*"])[1], model="gpt-6.1-terra").status_code == 200
