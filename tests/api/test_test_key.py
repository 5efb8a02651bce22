"""POST /api/llm/keys/{id}/test"""

from __future__ import annotations

import time
from datetime import timedelta
from json import dumps

import pytest
import responses
from responses import matchers

from llmkeys.keys.environment import register_environment_keys
from llmkeys.models import ApiKey, Cooling, KeyEvent, UsageRecord
from llmkeys.upstream import asked
from tests.api import checks
from tests.api.checks import SECRET
from tests.helpers import NOW, make_key
from tests.provider import Pieces, Script

OPENROUTER = "https://openrouter.ai/api/v1/key"
DETAILS = {"label": "sk-or-v1-au7...890", "limit": 100, "limit_remaining": 74.5, "usage": 25.5, "is_free_tier": False}

pytestmark = pytest.mark.django_db


@pytest.fixture
def provider():
    """Answers instead of the network; whatever is not registered here is refused."""
    with responses.RequestsMock() as mock:
        yield mock


def path(key):
    return f"/api/llm/keys/{key.id}/test"


def sent_with(secret):
    return [matchers.header_matcher({"Authorization": f"Bearer {secret}"})]


def test_it_works(api, provider):
    key = make_key(secret=SECRET)
    make_key()
    provider.get(OPENROUTER, json={"data": DETAILS}, match=sent_with(SECRET))
    answer = api.post(path(key))
    assert answer.status_code == 200
    result = answer.json()
    assert (result["success"], result["message"]) == (True, "Key tested successfully")
    assert isinstance(result["latencyMs"], int) and result["latencyMs"] >= 0
    assert (result["details"]["limit"], result["details"]["limitRemaining"]) == (100, 74.5)
    checks.shows_no_secret(answer)


@pytest.mark.parametrize(
    ("name", "url", "header", "body"),
    [
        ("openai", "https://api.openai.com/v1/models", "Authorization", {"object": "list", "data": [{"id": "gpt-6"}]}),
        ("anthropic", "https://api.anthropic.com/v1/models", "x-api-key", {"data": [{"type": "model", "id": "c"}]}),
        (
            "google",
            "https://generativelanguage.googleapis.com/v1beta/models",
            "x-goog-api-key",
            {"models": [{"name": "models/gemini-3.8-flash"}]},
        ),
    ],
)
def test_it_asks_each_provider_with_the_key_in_a_header(api, provider, name, url, header, body):
    secret = {"openai": "sk-proj-", "anthropic": "sk-ant-api03-", "google": "AIza"}[name] + "0123456789" * 4
    value = f"Bearer {secret}" if header == "Authorization" else secret
    provider.get(url, json=body, match=[matchers.header_matcher({header: value})])
    answer = api.post(path(make_key(provider=name, secret=secret)))
    assert answer.json()["success"] is True, answer.content
    assert secret not in provider.calls[0].request.url


def test_it_counts_no_request(api, provider):
    key = make_key()
    provider.get(OPENROUTER, json={"data": DETAILS})
    api.post(path(key))
    key.refresh_from_db()
    assert (key.total_requests, key.last_used_at, UsageRecord.objects.count()) == (0, None, 0)


def test_a_rejected_key_is_marked_and_loses_the_default(api, provider):
    key, following = make_key(secret=SECRET), make_key()
    provider.get(OPENROUTER, json={"error": {"message": f"No auth for {SECRET}", "code": 401}}, status=401)
    answer = api.post(path(key))
    assert answer.status_code == 200
    assert list(answer.json()) == ["success", "message"]
    assert answer.json()["success"] is False
    shown = api.get(f"/api/llm/keys/{key.id}").json()
    assert (shown["status"], shown["isDefault"], shown["lastError"]) == ("DISABLED", False, answer.json()["message"])
    assert api.get(f"/api/llm/keys/{following.id}").json()["isDefault"] is True
    assert KeyEvent.objects.filter(kind="rejected", key=key).count() == 1
    checks.shows_no_secret(answer)


def test_a_secret_that_looks_like_nothing_known_is_taken_out_as_well(api, provider):
    secret = "n0b0dy-may-see-this-plain-word"
    provider.get(OPENROUTER, body=f'{{"error": {{"message": "Bad key {secret}!", "code": 401}}}}', status=401)
    answer = api.post(path(make_key(secret=secret)))
    assert "Bad key" in answer.json()["message"]
    checks.shows_no_secret(answer)


def test_a_key_that_is_accepted_again_is_the_default_instead_of_an_environment_key(api, provider, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "e" * 40)
    register_environment_keys(at=NOW)
    key = make_key()
    provider.get(OPENROUTER, status=401, json={"error": {"message": "User not found.", "code": 401}})
    provider.get(OPENROUTER, json={"data": DETAILS})
    for accepted in (False, True):
        assert api.post(path(key)).json()["success"] is accepted
        key.refresh_from_db()
        assert key.is_default is accepted


def test_success_clears_the_rejected_mark(api, provider):
    key = make_key(rejected_at=NOW, last_error="Rejected by its provider: no.")
    provider.get(OPENROUTER, json={"data": DETAILS})
    assert api.post(path(key)).json()["success"] is True
    shown = api.get(f"/api/llm/keys/{key.id}").json()
    assert (shown["status"], shown["lastError"]) == ("ACTIVE", "")
    assert KeyEvent.objects.filter(kind="accepted", key=key).count() == 1


def test_success_clears_the_words_of_the_rejection_also_while_the_billing_group_is_cooling(api, provider, frozen):
    key = make_key(rejected_at=NOW, last_error="Rejected by its provider: no.", billing_group="team")
    until = NOW + timedelta(hours=3)
    Cooling.objects.create(scope="group:openrouter:team", model="gpt-6", kind="rate_limited", until=until)
    provider.get(OPENROUTER, json={"data": DETAILS})
    assert api.post(path(key)).json()["success"] is True
    shown = api.get(f"/api/llm/keys/{key.id}").json()
    assert (shown["status"], shown["lastError"], shown["coolingUntil"]) == ("ACTIVE", "", f"{until:%Y-%m-%dT%H:%M:%SZ}")


REJECTED = {"error": {"message": "User not found.", "code": 401}}
MEANWHILE = "was deleted or its secret was replaced during the test. Test it again."


def after(change, *, status=200, json=None):
    """Answer a request after `change` was done."""

    def answer(request):
        change()
        return status, {}, dumps(json)

    return answer


def test_the_rejection_of_a_replaced_secret_says_nothing_about_the_new_one(api, provider):
    key = make_key(name="Production")
    make_key()
    replace = after(lambda: api.put(f"/api/llm/keys/{key.id}", {"apiKey": SECRET}), status=401, json=REJECTED)
    provider.add_callback("GET", OPENROUTER, replace)
    assert api.post(path(key)).json() == {"success": False, "message": f"“Production” {MEANWHILE}"}
    shown = api.get(f"/api/llm/keys/{key.id}").json()
    assert (shown["status"], shown["isDefault"], shown["lastError"]) == ("ACTIVE", True, "")
    assert ApiKey.objects.get(pk=key.pk).last_test_at is None
    assert not KeyEvent.objects.filter(kind="rejected").exists()


def test_the_success_of_a_replaced_secret_does_not_accept_the_new_one(api, provider):
    key = make_key()

    def replace():
        api.put(f"/api/llm/keys/{key.id}", {"apiKey": SECRET})
        ApiKey.objects.filter(pk=key.pk).update(rejected_at=NOW, last_error="User not found.")

    provider.add_callback("GET", OPENROUTER, after(replace, json={"data": DETAILS}))
    assert MEANWHILE in api.post(path(key)).json()["message"]
    shown = api.get(f"/api/llm/keys/{key.id}").json()
    assert (shown["status"], shown["lastError"]) == ("DISABLED", "User not found.")


def test_an_answer_changes_nothing_about_a_key_that_was_deleted_meanwhile(api, provider):
    key = make_key()
    delete = after(lambda: api.delete(f"/api/llm/keys/{key.id}"), status=401, json=REJECTED)
    provider.add_callback("GET", OPENROUTER, delete)
    assert MEANWHILE in api.post(path(key)).json()["message"]
    key = ApiKey.objects.get(pk=key.pk)
    assert (key.rejected_at, key.last_error, key.last_test_at) == (None, "", None)
    assert not KeyEvent.objects.filter(kind="rejected").exists()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_provider_leaves_the_key_as_it_is(api, provider, status):
    key = make_key()
    provider.get(OPENROUTER, body="busy", status=status)
    assert api.post(path(key)).json()["success"] is False
    assert api.get(f"/api/llm/keys/{key.id}").json()["status"] == "ACTIVE"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"data": null}', b"\xff\xfe", b'{"data": {"limit": NaN}}'])
def test_an_odd_answer_is_no_success_and_no_error_of_ours(api, provider, body):
    provider.get(OPENROUTER, body=body)
    answer = api.post(path(make_key()))
    assert answer.status_code == 200
    assert isinstance(answer.json()["success"], bool)


def test_no_connection_is_told_in_words(api, provider):
    import requests

    provider.get(OPENROUTER, body=requests.exceptions.ConnectTimeout())
    answer = api.post(path(make_key()))
    assert answer.status_code == 200
    assert answer.json() == {"success": False, "message": "openrouter.ai could not be reached within 20 s."}


def trickle(piece: bytes) -> list:
    """A piece again and again for six seconds: each comes long before the limit for a silence."""
    pause = time.sleep
    return [piece, lambda: pause(0.1)] * 60


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
TRICKLES = {
    "a head": Pieces(b"HTTP/1.1 200 OK\r\nX-Wait: ", *trickle(b"x"), framing="raw"),
    "heads before the head": Pieces(*trickle(b"HTTP/1.1 100 Continue\r\n\r\n"), framing="raw"),
    "a body of a length": Pieces(*trickle(b" "), framing="length", length=10_000),
    "a body in chunks": Pieces(*trickle(b" "), framing="chunked"),
    "the size of a chunk": Pieces(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *trickle(b"0"), framing="raw"),
    "a body without a length": Pieces(*trickle(b" "), framing="close"),
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("what", TRICKLES)
def test_an_answer_that_trickles_in_is_not_waited_for(api, provider_server, settings, monkeypatch, what, scheme):
    monkeypatch.setitem(asked.check_key.__kwdefaults__, "seconds", 0.7)
    script = Script()
    provider_server.play(script)
    address = f"https://localhost:{provider_server.tls_port}" if scheme == "https" else script.local
    settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": address}
    script.get(f"{address}/models", TRICKLES[what])
    started = time.monotonic()
    answer = api.post(path(make_key(provider="openai")))
    took = time.monotonic() - started
    provider_server.end()
    script.check()
    assert answer.json()["success"] is False
    what_it_lacked = "answer" if what == "heads before the head" else "give its whole answer"
    assert answer.json()["message"].endswith(f" did not {what_it_lacked} within 1 s.")
    assert took < 4, "it ends with the deadline, not with the provider"


@pytest.mark.parametrize("url", ["http://my host:8000/v1", "http://exa%mple/v1"])
def test_an_address_that_no_client_takes_is_told_in_words(api, settings, url):
    settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": url}
    answer = api.post(path(make_key(provider="openai")))
    assert answer.status_code == 200
    assert answer.json()["success"] is False
    assert answer.json()["message"].startswith(f"The request to {url[7:].split(':')[0].split('/')[0]} failed")


def test_no_redirect_is_followed(api, provider):
    provider.get(OPENROUTER, status=302, headers={"Location": "https://elsewhere.example/key"})
    assert api.post(path(make_key())).json()["success"] is False
    assert len(provider.calls) == 1


def test_a_key_of_the_environment_sends_what_the_variable_holds_now(api, provider, monkeypatch):
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-the-old-one-0123456789")
    (key,) = register_environment_keys(at=NOW)
    monkeypatch.setenv("OPENROUTER_API_KEY", SECRET)
    provider.get(OPENROUTER, json={"data": DETAILS}, match=sent_with(SECRET))
    assert api.post(path(key)).json()["success"] is True
    assert bytes(ApiKey.objects.get(pk=key.pk).secret) == b""


def test_what_a_provider_says_of_another_value_than_the_servers_is_told_and_not_stored(api, provider, monkeypatch):
    monkeypatch.setenv("OPENROUTER_API_KEY", "sk-or-v1-the-servers-own-0123456789")
    (key,) = register_environment_keys(at=NOW)
    monkeypatch.setenv("OPENROUTER_API_KEY", SECRET)
    provider.get(OPENROUTER, status=401, json={"error": {"message": "User not found.", "code": 401}})
    result = api.post(path(key)).json()
    assert result["success"] is False and "OPENROUTER_API_KEY here, which is not the server's" in result["message"]
    key.refresh_from_db()
    assert (key.status_at(NOW), key.is_default, key.last_error, key.last_test_at) == ("ACTIVE", True, "", None)


def test_a_variable_that_is_gone_is_told(api, monkeypatch):
    monkeypatch.setenv("OPENROUTER_API_KEY", SECRET)
    (key,) = register_environment_keys(at=NOW)
    monkeypatch.delenv("OPENROUTER_API_KEY")
    answer = api.post(path(key))
    assert answer.json()["success"] is False
    assert "OPENROUTER_API_KEY" in answer.json()["message"]


def test_a_wrong_encryption_key_is_told(api, settings):
    key = make_key()
    settings.REFACTAI_ENCRYPTION_KEYS = ["another key than before"]
    answer = api.post(path(key))
    assert answer.status_code == 503
    assert answer.json()["code"] == "sealed"


def test_it_knows_no_other_key(api):
    checks.is_unknown(api.post("/api/llm/keys/key-0-0/test"))


def test_it_needs_authentication():
    checks.needs_authentication("post", path(make_key()))


def test_it_needs_the_permission_to_change():
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.get(OPENROUTER, json={"data": DETAILS})
        checks.needs_permission("post", path(make_key()), "change_apikey")


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, path(make_key()), "post")
