"""`check_answer`: the free key test in words. The bodies are rebuilt, except where a recording is named."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from llmkeys.providers import PROVIDERS, FailureKind, KeyCheck, get
from tests.providers.helpers import NOW, recorded_bytes

OPENROUTER_KEY: dict[str, Any] = {
    "label": "sk-or-v1-au7...890",
    "limit": 100,
    "limit_remaining": 74.5,
    "limit_reset": "monthly",
    "usage": 25.5,
    "usage_daily": 1.2,
    "usage_monthly": 25.5,
    "is_free_tier": False,
    "is_management_key": False,
    "expires_at": "2027-12-31T23:59:59Z",
    "effective_budget": {"scope": "workspace", "limit_usd": 50, "remaining_usd": -0.5, "resets_at": None},
}


def check(provider: str, body: Any, status: int = 200) -> KeyCheck:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return get(provider).check_answer(status=status, headers={}, body=raw, at=NOW)


class TestOpenRouter:
    def test_it_accepts_a_key_and_tells_its_limits(self) -> None:
        outcome = check("openrouter", {"data": OPENROUTER_KEY})
        assert (outcome.ok, outcome.message, outcome.failure) == (True, "Key tested successfully", None)
        assert outcome.details == {
            "limit": 100,
            "limitRemaining": Decimal("74.5"),
            "limitReset": "monthly",
            "usage": Decimal("25.5"),
            "usageDaily": Decimal("1.2"),
            "usageMonthly": Decimal("25.5"),
            "isFreeTier": False,
            "expiresAt": "2027-12-31T23:59:59Z",
            "effectiveBudget": {
                "limitUsd": 50,
                "spendUsd": None,
                "remainingUsd": Decimal("-0.5"),
                "scope": "workspace",
                "resetInterval": None,
                "resetsAt": None,
            },
        }

    def test_it_shows_no_part_of_the_key(self) -> None:
        assert "au7" not in repr(check("openrouter", {"data": OPENROUTER_KEY}))

    @pytest.mark.parametrize("mark", ["is_management_key", "is_provisioning_key"])
    def test_it_refuses_a_management_key(self, mark: str) -> None:
        outcome = check("openrouter", {"data": OPENROUTER_KEY | {mark: True}})
        assert outcome.ok is False
        assert outcome.message.startswith("This is a management key of OpenRouter, which cannot serve requests.")
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.REJECTED

    def test_it_rejects_the_recorded_401(self) -> None:
        outcome = check("openrouter", recorded_bytes("openrouter-error-401.json"), 401)
        assert outcome.message == (
            "OpenRouter does not accept this key (401): No cookie auth credentials found. "
            "Create a new one at https://openrouter.ai/settings/keys and replace the secret."
        )


class TestModelLists:
    def test_it_counts_openais_models(self) -> None:
        outcome = check("openai", {"object": "list", "data": [{"id": "gpt-4o"}, {"id": "o3"}]})
        assert (outcome.ok, outcome.message, outcome.details) == (True, "Key tested successfully", {"modelsListed": 2})

    def test_it_accepts_a_local_server_without_models(self) -> None:
        assert check("openai", {"object": "list", "data": None}).details == {"modelsListed": 0}

    def test_it_says_that_there_are_more(self) -> None:
        anthropic = check("anthropic", {"data": [{"id": "claude-opus-5-5"}], "has_more": True})
        google = check("google", {"models": [{"name": "models/gemini-2.5-flash"}], "nextPageToken": "x"})
        assert anthropic.ok
        assert google.ok
        assert anthropic.details == google.details == {"modelsListed": 1, "moreModels": True}


class TestFailures:
    def test_it_rejects_the_recorded_openai_401(self) -> None:
        outcome = check("openai", recorded_bytes("openai-error-401-invalid-key.json"), 401)
        assert outcome.ok is False
        assert outcome.message.startswith("OpenAI does not accept this key (401): Incorrect API key provided: ***.")
        assert outcome.message.endswith(
            "Create a new one at https://platform.openai.com/api-keys and replace the secret."
        )
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.REJECTED

    @pytest.mark.parametrize(
        ("provider", "repeated"), [("openai", "sk-admin-****abcd"), ("anthropic", "sk-ant-admin01-abc")]
    )
    def test_it_names_a_management_key_that_the_answer_repeats(self, provider: str, repeated: str) -> None:
        outcome = check(provider, {"error": {"message": f"Incorrect key: {repeated}"}}, 401)
        assert outcome.message.startswith("This is a management key of")
        assert repeated not in outcome.message

    def test_it_keeps_a_restricted_key(self) -> None:
        outcome = check("openai", {"error": {"message": "Missing scopes: api.model.read"}}, 403)
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.FORBIDDEN_HERE
        assert "the key stays as it is" in outcome.message

    def test_it_rejects_an_anthropic_key_that_may_not_list_models(self) -> None:
        body = {"type": "error", "error": {"type": "permission_error", "message": "no"}}
        outcome = check("anthropic", body, 403)
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.REJECTED

    def test_it_rejects_an_invalid_google_key(self) -> None:
        body = {"error": {"code": 400, "message": "API key not valid. Please pass a valid API key."}}
        outcome = check("google", body, 400)
        assert outcome.message.startswith("Google does not accept this key (400): API key not valid.")
        assert "https://aistudio.google.com/" in outcome.message

    def test_it_finds_an_empty_balance(self) -> None:
        body = {"error": {"type": "invalid_request_error", "message": "Your credit balance is too low."}}
        outcome = check("anthropic", body, 400)
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.EXHAUSTED
        assert "credit or quota is used up" in outcome.message


@pytest.mark.parametrize("name", PROVIDERS)
class TestAnyProvider:
    @pytest.mark.parametrize("body", [b"", b"<html>captive portal</html>", b"{}", b"[]", b'{"data":5}', b"null"])
    def test_it_finds_that_another_server_answered(self, name: str, body: bytes) -> None:
        outcome = check(name, body)
        assert outcome.ok is False
        assert get(name).base_url_variable in outcome.message
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.WRONG_ADDRESS

    def test_it_does_not_follow_a_redirect(self, name: str) -> None:
        assert get(name).base_url_variable in check(name, b"", 302).message

    def test_it_finds_a_wrong_path(self, name: str) -> None:
        outcome = check(name, {"error": {"message": "model not found", "status": "NOT_FOUND"}}, 404)
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.CLIENT_ERROR
        assert get(name).base_url_variable in outcome.message

    @pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 503])
    def test_it_says_what_happened_and_what_to_do(self, name: str, status: int) -> None:
        outcome = check(name, b"", status)
        assert outcome.ok is False
        assert outcome.message.startswith(get(name).label)
        assert str(status) in outcome.message
        assert outcome.message.endswith(".")
        assert outcome.failure is not None
