"""What a request at the gateway lets the operator hear."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pytest

from llmkeys.models import Alert, ApiKey
from tests.gateway.door import MODEL, OPENROUTER, Program, ask, completion, done, limits, spend, usage
from tests.helpers import NOW, make_key, make_token
from tests.serving import ROOT, START_SECONDS, environment

UNKNOWN = "acme/never-heard-of-it"


@pytest.fixture(autouse=True)
def as_another_process(nothing_told):
    """Forget what this process has told: as another one would."""
    return nothing_told


def told(kind: str) -> list[str]:
    done()
    return list(Alert.objects.filter(kind=kind).order_by("id").values_list("message", flat=True))


class TestNoKeyLeft:
    def test_it_is_told_once_an_hour(self, client, frozen, as_another_process):
        key = make_key(name="Production", **limits(daily="1"))
        spend(key, "1")
        for _ in range(3):
            assert ask(client).status_code == 429
        (message,) = told("no_key_left")
        assert message.startswith(f"A request for “{MODEL}” found no key: All keys have reached their limits")
        as_another_process()
        ask(client)
        assert len(told("no_key_left")) == 1
        frozen.move_to(NOW + timedelta(hours=1))
        ask(client)
        assert len(told("no_key_left")) == 2

    def test_each_reason_is_told(self, client):
        assert ask(client).status_code == 503
        spend(make_key(**limits(daily="1")), "1")
        ask(client)
        assert len(told("no_key_left")) == 2

    def test_a_request_that_no_budget_fits_is_the_clients_matter(self, client):
        make_key(**limits(daily="0.0000001"))
        assert ask(client).json()["error"]["code"] == "request_exceeds_budget"
        assert told("no_key_left") == []

    def test_in_soft_mode_a_spent_key_is_the_operators_however_large_the_request(self, client):
        spend(make_key(budget_mode="soft", **limits(daily="0.01")), "0.01")
        assert ask(client, max_tokens=40_000).json()["error"]["code"] == "all_keys_at_limit"
        assert len(told("no_key_left")) == 1

    def test_what_a_token_with_keys_of_its_own_lacks_is_told_by_itself(self, client, user, as_another_process):
        """Its lack would otherwise silence, for an hour, that there is no key for anybody."""
        own = make_key(enabled=False)
        other = make_key()
        for name in ("nightly", "shop"):
            assert ask(Program(make_token(user, name=name, keyIds=[own.id]))).status_code == 503
        messages = told("no_key_left")
        assert len(messages) == 2 and ["nightly" in messages[0], "shop" in messages[1]] == [True, True]
        ApiKey.objects.filter(pk=other.pk).update(enabled=False)
        assert ask(client).status_code == 503
        assert len(told("no_key_left")) == 3


class TestFallbackPrice:
    def test_it_is_told_once_per_model(self, client, provider, as_another_process):
        make_key()
        provider.post(OPENROUTER, json=completion(usage=usage()))
        for _ in range(2):
            ask(client, model=UNKNOWN)
        as_another_process()
        ask(client, model=UNKNOWN)
        (message,) = told("fallback_price")
        assert message.startswith(f"No price is known for “{UNKNOWN}” at openrouter")
        assert "0.0001 USD per token" in message

    def test_a_known_price_is_no_matter(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=completion(usage=usage()))
        ask(client)
        assert told("fallback_price") == []


class TestKeys:
    @pytest.mark.parametrize(
        ("status", "error", "kind"),
        [(402, "Insufficient credits.", "key_exhausted"), (401, "User not found.", "key_rejected")],
    )
    def test_what_the_provider_says_of_a_key_is_told_once(self, client, provider, status, error, kind):
        make_key(name="Production")
        provider.post(OPENROUTER, json={"error": {"code": status, "message": error}}, status=status)
        provider.get("https://openrouter.ai/api/v1/key", json={"error": {"code": 401, "message": error}}, status=401)
        provider.must_be_asked = False
        for _ in range(2):
            ask(client)
        (message,) = told(kind)
        assert "“Production”" in message and error in message


def test_a_gateway_request_does_not_load_the_library_that_sends(tmp_path):
    code = (
        "import sys, django; django.setup()\n"
        "from django.core.management import call_command; call_command('migrate', verbosity=0)\n"
        "from django.utils import timezone\nfrom llmkeys.alerts import outbox\nfrom tests import web\n"
        "assert web.Program().post('/v1/chat/completions').status_code == 401\nweb.stop()\n"
        "assert outbox.backup_failed('Look.', at=timezone.now()) and outbox.send_due_alerts(timezone.now()) == 0\n"
        "assert outbox.undelivered_alerts()\n"
        "sys.exit('apprise' in sys.modules)"
    )
    here = environment(
        tmp_path, DJANGO_SETTINGS_MODULE="refactai_site.settings", REFACTAI_ALERT_URLS="json://127.0.0.1:9/x"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=here, capture_output=True, text=True, timeout=START_SECONDS
    )
    assert ran.returncode == 0, ran.stderr
