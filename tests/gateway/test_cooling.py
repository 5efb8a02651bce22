"""A key that was cooling: one request tries it first, others wait or use other keys, and its answer decides."""

from __future__ import annotations

import json
import socket
from datetime import timedelta
from typing import ClassVar

import pytest
from django.db import connection, transaction

from llmkeys import ledger
from llmkeys.keys import checking
from llmkeys.models import ApiKey, Cooling, KeyEvent
from llmkeys.vault import keyring
from tests.gateway.door import (
    DONE,
    MODEL,
    OPENAI,
    OPENROUTER,
    RESET,
    SILENCE,
    Gate,
    Pieces,
    Reply,
    ask,
    begin,
    chunk,
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
    usage_chunk,
)
from tests.helpers import NOW, make_key, new_secret

EXHAUSTED = {"error": {"code": 402, "message": "Insufficient credits"}}
LIMITED = {"error": {"code": 429, "message": "Rate limit exceeded", "metadata": {}}}
LUNA = "openai/gpt-6-luna"


@pytest.fixture(autouse=True)
def _nobody_waits(impatient):
    """Nobody waits for the verdict of another request, unless the test says so."""


def cooled(key: ApiKey, *, scope: str = "", model: str = MODEL, **columns) -> Cooling:
    """Let the key have been cooling until a second ago."""
    defaults = {"kind": "rate_limited", "until": NOW - timedelta(seconds=1), "strikes": 1}
    return Cooling.objects.create(scope=scope or f"key:{key.id}", model=model, **defaults | columns)


def asked(**columns) -> Cooling:
    """Return the one cooling, which another request asks about for half a minute still."""
    Cooling.objects.update(probe_until=NOW + timedelta(seconds=30), **columns)
    return Cooling.objects.get()


class TestOneAsksFirst:
    def test_it_lets_no_second_request_through(self, client, sends):
        key = make_key()
        cooled(key)
        meanwhile = []
        sends(Pieces(lambda: meanwhile.append(ask(client)), *answer()))
        assert ask(client)["X-LLM-Key-Id"] == key.id
        (second,) = meanwhile
        is_refused(second, 503, "all_keys_cooling", "All keys are cooling down")
        assert second["Retry-After"] == "1"
        assert len(rows()) == 1 and not Cooling.objects.exists()

    def test_it_sends_the_others_to_the_next_key_meanwhile(self, client, sends):
        key, other = make_key(), make_key()
        cooled(key)
        meanwhile = []
        sends(Pieces(lambda: meanwhile.append(ask(client)), *answer()), Pieces(*answer()))
        assert ask(client)["X-LLM-Key-Id"] == key.id
        assert meanwhile[0]["X-LLM-Key-Id"] == other.id
        assert rows()[1].skipped == [{"keyId": key.id, "reason": "cooling: another request is trying it first"}]

    def test_it_waits_a_moment_for_the_verdict(self, client, provider, impatient, statements):
        impatient(30)
        key = make_key()
        cooled(key)
        asked()
        provider.post(OPENROUTER, json=completion())
        waiting = begin(client)
        looks = lambda: sum("llmkeys_cooling" in sql for sql in statements)  # noqa: E731
        eventually(lambda: looks() >= 6, "it does not look again")
        assert provider.calls == [] and waiting.says_nothing_for(0.1)
        Cooling.objects.all().delete()
        assert waiting.answer()["X-LLM-Key-Id"] == key.id

    def test_it_counts_the_billing_group_as_one(self, client, sends):
        key = make_key(billing_group="team")
        make_key(billing_group="team")
        cooled(key, scope="group:openrouter:team")
        meanwhile = []
        sends(Pieces(lambda: meanwhile.append(ask(client)), *answer()))
        assert ask(client)["X-LLM-Key-Id"] == key.id
        is_refused(meanwhile[0], 503, "all_keys_cooling", "All keys are cooling down")
        assert not Cooling.objects.exists()

    def test_it_leaves_other_models_alone(self, client, provider):
        key = make_key()
        cooled(key)
        asked()
        provider.post(OPENROUTER, json=completion())
        assert ask(client, model=LUNA)["X-LLM-Key-Id"] == key.id
        is_refused(ask(client), 503, "all_keys_cooling", "All keys are cooling down")

    def test_it_claims_all_that_concerns_the_key_or_nothing(self, client):
        key = make_key()
        cooled(key)
        cooled(key, model="", probe_until=NOW + timedelta(seconds=30))
        is_refused(ask(client), 503, "all_keys_cooling", "All keys are cooling down")
        assert Cooling.objects.get(model=MODEL).probe_until is None

    def test_it_takes_the_claim_of_a_process_that_died_after_a_minute(self, client, frozen, provider):
        key = make_key()
        cooled(key, probe_until=NOW + timedelta(seconds=60))
        assert ask(client).status_code == 503
        frozen.move_to(NOW + timedelta(seconds=60))
        provider.post(OPENROUTER, json=completion())
        assert ask(client)["X-LLM-Key-Id"] == key.id

    def test_it_costs_nothing_where_no_key_rested(self, client, provider, statements):
        make_key()
        provider.post(OPENROUTER, json=completion())
        statements.clear()
        assert ask(client).status_code == 200
        assert any("llmkeys_apikey" in sql for sql in statements)
        looked = [sql for sql in statements if "llmkeys_cooling" in sql]
        assert [sql for sql in looked if "EXISTS (SELECT 1 FROM llmkeys_cooling)" not in sql] == []


def answer() -> list[bytes]:
    return [json.dumps(completion()).encode()]


class TestTopUp:
    """OpenAI's free call succeeds without credit as well, so only a request shows whether there is some again."""

    MODELS = "https://api.openai.com/v1/models"
    SPENT: ClassVar = {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}

    @pytest.mark.parametrize("group", ["", "team"])
    def test_a_key_without_credit_keeps_its_words_until_a_person_tests_it(self, client, api, provider, group):
        key = make_key(provider="openai", billing_group=group)
        provider.post(OPENAI, json=self.SPENT, status=429)
        is_refused(ask(client), 503, "all_keys_cooling", "")
        provider.get(self.MODELS, json={"object": "list", "data": []})
        checking.check_keys(NOW, pause=lambda _: None)
        shown = api.get(f"/api/llm/keys/{key.id}").json()
        assert "You exceeded your current quota" in shown["lastError"] and shown["coolingUntil"]
        assert api.post(f"/api/llm/keys/{key.id}/test").json()["success"] is True
        shown = api.get(f"/api/llm/keys/{key.id}").json()
        assert (shown["lastError"], shown["coolingUntil"]) == ("", None)
        is_refused(ask(client), 503, "all_keys_cooling", "")
        assert len(rows()) == 2, "it was sent, and refused once more"
        assert api.get(f"/api/llm/keys/{key.id}").json()["coolingUntil"]


class TestTheVerdict:
    def test_a_success_lets_all_traffic_through(self, client, provider):
        key = make_key(last_error="Rate limit …")
        cooled(key, strikes=4)
        provider.post(OPENROUTER, json=completion())
        assert ask(client).status_code == 200
        assert not Cooling.objects.exists() and fresh(key).last_error == ""

    def test_a_success_after_an_exhaustion_leaves_an_event(self, client, provider):
        key = make_key()
        cooled(key, model="", kind="exhausted")
        provider.post(OPENROUTER, json=completion())
        assert ask(client).status_code == 200
        assert [event.key_id for event in KeyEvent.objects.filter(kind="recovered")] == [key.id]

    def test_a_success_after_a_rate_limit_leaves_none(self, client, provider):
        cooled(make_key())
        provider.post(OPENROUTER, json=completion())
        assert ask(client).status_code == 200
        assert not KeyEvent.objects.filter(kind="recovered").exists()

    def test_another_429_makes_it_rest_longer(self, client, provider):
        cooled(make_key(), strikes=2)
        provider.post(OPENROUTER, json=LIMITED, status=429)
        assert ask(client)["Retry-After"] == "60"
        cooling = Cooling.objects.get()
        assert (cooling.strikes, cooling.until) == (3, NOW + timedelta(seconds=60))

    def test_requests_that_fail_together_count_as_one(self, client, sends):
        """Each was under way before the first 429 came: the key did not fail again after a rest."""
        make_key()
        nested = []

        def ask_again() -> None:
            if len(nested) < 4:
                nested.append(None)
                ask(client)

        streams = [Pieces(ask_again, b"{}", status=429, headers={"content-type": "application/json"}) for _ in range(5)]
        sends(*streams)
        assert ask(client).status_code == 503
        assert len(rows()) == 5
        cooling = Cooling.objects.get()
        assert (cooling.strikes, cooling.until) == (1, NOW + timedelta(seconds=10))

    def test_a_success_leaves_what_began_to_rest_meanwhile(self, client, sends):
        key = make_key()
        cooled(key)
        until = NOW + timedelta(seconds=40)
        sends(Pieces(lambda: Cooling.objects.update(until=until, probe_until=NOW), *answer()))
        assert ask(client).status_code == 200
        assert Cooling.objects.get().until == until

    def test_a_stream_gives_it_with_its_first_event(self, client, sends):
        key = make_key()
        cooled(key)
        gate = Gate()
        sends(Pieces(chunk("a"), gate, usage_chunk(cost=0.01), DONE))
        answer = ask(client, stream=True)
        assert next(answer.pieces) == chunk("a")
        assert not Cooling.objects.exists()
        gate.open()
        assert answer.content.endswith(DONE)


class TestEveryWayOut:
    """What says nothing of the key gives the claim back at once: the next request may ask."""

    def may_be_asked_now(self, client, sends) -> bool:
        assert Cooling.objects.get().probe_until is None
        sends(Pieces(*answer()))
        return ask(client).status_code == 200 and not Cooling.objects.exists()

    @pytest.mark.parametrize(
        ("status", "error", "told"),
        [
            (400, {"message": "messages.0.role: not allowed", "code": 400}, 400),
            (404, {"message": f"No endpoints found for {MODEL}.", "code": 404}, 404),
            (500, {"message": "Internal Server Error", "code": 500}, 502),
            (402, {"message": "You requested up to 50 tokens, but can only afford 20.", "code": 402}, 429),
        ],
    )
    def test_a_refusal_that_is_not_the_keys(self, client, sends, settings, status, error, told):
        settings.MAX_RETRIES = 0
        cooled(make_key())
        sends(Pieces(json.dumps({"error": error}).encode(), status=status))
        assert ask(client).status_code == told
        assert self.may_be_asked_now(client, sends)

    @pytest.mark.parametrize(("ending", "told"), [(RESET, 502), (SILENCE, 504)], ids=["a reset", "a silence"])
    @pytest.mark.parametrize("begun", [False, True])
    def test_a_broken_answer(self, client, sends, settings, ending, told, begun):
        settings.MAX_RETRIES = 0
        settings.ANSWER_TIMEOUT_SECONDS = settings.STREAM_IDLE_SECONDS = 1
        cooled(make_key())
        sends(Pieces(b"{", ending) if begun else Pieces(ending, framing="raw"))
        assert ask(client).status_code == told
        assert self.may_be_asked_now(client, sends)

    def test_a_connection_that_is_refused(self, client, sends, settings):
        settings.MAX_RETRIES = 0
        cooled(make_key())
        with socket.create_server(("127.0.0.1", 0)) as closed_soon:
            port = closed_soon.getsockname()[1]
        real = settings.PROVIDER_BASE_URLS
        settings.PROVIDER_BASE_URLS = real | {"openrouter": f"http://127.0.0.1:{port}/api/v1"}
        assert ask(client).status_code == 502
        settings.PROVIDER_BASE_URLS = real
        assert self.may_be_asked_now(client, sends)

    def test_an_answer_that_nobody_can_read(self, client, sends):
        cooled(make_key())
        sends(Pieces(b"<html>"), Pieces(b"<html>"))
        assert ask(client).status_code == 502
        assert self.may_be_asked_now(client, sends)

    def test_a_stream_that_breaks_before_its_first_event(self, client, sends, settings):
        settings.MAX_RETRIES = 0
        cooled(make_key())
        sends(Pieces(b": waiting\n\n"))
        assert ask(client, stream=True).status_code == 502
        assert self.may_be_asked_now(client, sends)

    def test_a_bug_of_our_own(self, client, sends, settings):
        """A setting of a type that the checks at the start would never let through stands for a bug."""
        cooled(make_key())
        seconds, settings.TIMEOUT_SECONDS = settings.TIMEOUT_SECONDS, "no number"
        assert ask(client).status_code == 500
        assert only_row().state == "LOST"
        settings.TIMEOUT_SECONDS = seconds
        assert self.may_be_asked_now(client, sends)

    def test_a_key_without_room(self, client, sends):
        key = make_key(**limits(daily="1"))
        spend(key, "1")
        cooled(key)
        is_refused(ask(client), 429, "all_keys_at_limit", "All keys have reached their limits")
        ApiKey.objects.update(daily_limit_nano=0)
        assert self.may_be_asked_now(client, sends)

    def test_a_client_that_goes_away(self, client, sends):
        cooled(make_key())
        gate = Gate()
        sends(Pieces(gate, chunk("a"), usage_chunk(cost=0.01), DONE))
        wire = begin(client, stream=True)
        gate.wait_until_reached()
        assert Cooling.objects.get().probe_until is not None
        wire.close()
        gate.open()
        settled()
        assert not Cooling.objects.exists()

    def test_a_client_that_goes_away_in_the_middle(self, client, sends):
        cooled(make_key())
        gate = Gate()
        sends(Pieces(chunk("a"), gate, chunk("b"), usage_chunk(cost=0.01), DONE))
        reply = ask(client, stream=True)
        assert next(reply.pieces)
        assert not Cooling.objects.exists()
        reply.close()
        gate.open()
        settled()

    def test_a_hold_that_came_too_late(self, client):
        key = make_key()
        cooled(key)
        attempt = ledger.Attempt("req-1", 1, NOW, "openai-chat", MODEL, "worker", False, "me")
        bid = ledger.Bid(key.id, "openrouter", MODEL, 1, cooled_scopes=(f"key:{key.id}",))
        with transaction.atomic(), connection.cursor() as cursor:
            job = ledger.PlaceHold([bid], attempt)
            placed = job(cursor)
            assert Cooling.objects.get().probe_until == NOW + timedelta(seconds=60)
            job.undo(cursor, placed)
        assert Cooling.objects.get().probe_until is None


class TestClocks:
    """A clock that ran ahead leaves no key resting in the future."""

    @pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=1), timedelta(days=30)])
    def test_a_cooling_of_the_future_does_not_count(self, client, frozen, provider, ahead):
        key = make_key()
        provider.post(OPENROUTER, json=LIMITED, status=429, headers={"Retry-After": "7"})
        frozen.move_to(NOW + ahead)
        assert ask(client)["Retry-After"] == "7"
        frozen.move_to(NOW)
        provider.reset()
        provider.post(OPENROUTER, json=LIMITED, status=429, headers={"Retry-After": "9"})
        assert ask(client)["Retry-After"] == "9"
        assert ask(client)["Retry-After"] == "9"
        frozen.move_to(NOW + timedelta(seconds=9))
        provider.reset()
        provider.post(OPENROUTER, json=completion())
        assert ask(client)["X-LLM-Key-Id"] == key.id

    def test_a_claim_of_the_future_does_not_count(self, client, provider):
        cooled(make_key(), probe_until=NOW + timedelta(hours=1))
        provider.post(OPENROUTER, json=completion())
        assert ask(client).status_code == 200

    def test_a_long_rest_of_today_counts(self, client, frozen, provider):
        make_key()
        provider.post(OPENROUTER, json=LIMITED, status=429, headers={"Retry-After": str(30 * 86_400)})
        assert ask(client)["Retry-After"] == str(30 * 86_400)
        frozen.move_to(NOW + timedelta(days=29))
        assert ask(client)["Retry-After"] == str(86_400)


def judged(key: ApiKey) -> None:
    """Wait for the free test, which runs in the background: a rejection waits for nobody's answer."""
    eventually(lambda: key.events.filter(kind__in=["rejected", "cooled"]).exists(), "the test has no verdict yet")


class TestRejection:
    """A 401 is confirmed by the free test before the key is disabled."""

    KEY = "https://openrouter.ai/api/v1/key"
    REJECTED = {"error": {"code": 401, "message": "User not found."}}
    GOOD = {"data": {"label": "sk-or-v1-…", "limit": None, "usage": 1}}

    @pytest.fixture
    def key(self, provider):
        key = make_key(secret=(secret := new_secret()))
        provider.post(OPENROUTER, json=self.REJECTED, status=401, match=sent_with(secret))
        return key

    def test_it_disables_a_key_that_the_free_test_rejects_too(self, client, provider, key):
        provider.get(self.KEY, json=self.REJECTED, status=401)
        assert "1 rejected" in is_refused(ask(client), 503, "no_key_available", "No API key available")
        done()
        key = fresh(key)
        assert (key.rejected_at, key.status_at(NOW)) == (NOW, "DISABLED")
        assert not Cooling.objects.exists()
        assert list(key.events.filter(kind="rejected").values_list("key", flat=True)) == [key.id]
        assert ask(client).status_code == 503
        assert len(provider.calls) == 2  # it is not asked again

    @pytest.mark.parametrize(
        ("check", "words"),
        [
            ({"json": GOOD}, "The free test accepts the key."),
            ({"body": b"busy", "status": 503}, "The free test was inconclusive: OpenRouter is overloaded or down"),
            ({"answer": Pieces(SILENCE, framing="raw")}, "did not answer within 1 s"),
            ({"answer": Pieces(RESET, framing="raw")}, "The free test was inconclusive"),
            ({"body": b"<html>"}, "The free test was inconclusive"),
        ],
    )
    def test_it_lets_a_key_rest_that_may_be_good(self, client, frozen, provider, monkeypatch, key, check, words):
        if "within 1 s" in words:
            monkeypatch.setattr("llmkeys.keys.failures.CONFIRM_SECONDS", 1.0)
        provider.get(self.KEY, **check)
        is_refused(ask(client), 503, "no_key_available", "No API key available")
        done()
        answer = ask(client)
        is_refused(answer, 503, "all_keys_cooling", "All keys are cooling down")
        assert answer["Retry-After"] == "10"
        key = fresh(key)
        assert (key.rejected_at, key.is_default) == (None, True)
        assert key.last_error.startswith("Refused by its provider, and cooling down until 2026-11-23 20:30:10 UTC: ")
        assert words in key.last_error
        assert words in key.events.get(kind="cooled").message
        frozen.move_to(NOW + timedelta(seconds=10))
        assert ask(client).status_code == 503
        done()
        assert ask(client)["Retry-After"] == "30"

    def test_it_serves_again_after_a_false_rejection(self, client, frozen, provider, key):
        provider.get(self.KEY, json=self.GOOD)
        assert ask(client).status_code == 503
        done()
        frozen.move_to(NOW + timedelta(seconds=10))
        provider.reset()
        provider.post(OPENROUTER, json=completion())
        assert ask(client)["X-LLM-Key-Id"] == key.id
        assert not Cooling.objects.exists() and fresh(key).last_error == ""

    def test_it_delays_no_other_request(self, client, provider, key):
        """While the free test is made, which nobody waits for, all requests take the next key and make none."""
        other = make_key(secret=(secret := new_secret()))
        provider.post(OPENROUTER, json=completion(), match=sent_with(secret))
        meanwhile: list[Reply] = []
        rejected = json.dumps(self.REJECTED).encode()
        headers = {"Content-Type": "application/json"}
        provider.get(self.KEY, Pieces(lambda: meanwhile.append(ask(client)), rejected, status=401, headers=headers))
        assert ask(client)["X-LLM-Key-Id"] == other.id
        done()
        assert [reply["X-LLM-Key-Id"] for reply in meanwhile] == [other.id]
        assert [call.url for call in provider.calls].count(self.KEY) == 1

    def test_a_test_brings_it_back(self, client, provider, key, api):
        provider.get(self.KEY, json=self.REJECTED, status=401)
        assert ask(client).status_code == 503
        done()
        provider.reset()
        provider.get(self.KEY, json=self.GOOD)
        assert api.post(f"/api/llm/keys/{key.id}/test").json()["success"] is True
        provider.post(OPENROUTER, json=completion())
        assert ask(client)["X-LLM-Key-Id"] == key.id
        assert key.events.filter(kind="accepted").count() == 1

    @pytest.mark.parametrize("last_call", ["the request", "the free test"])
    def test_a_new_secret_is_not_rejected_for_the_old_one(self, client, provider, api, last_call):
        """The secret is replaced while the last call with the old one is in progress."""
        key = make_key(secret=(secret := new_secret()))
        late = self.replacing(api, key, self.REJECTED, 401)
        if last_call == "the request":
            provider.post(OPENROUTER, late, match=sent_with(secret))
        else:
            provider.post(OPENROUTER, json=self.REJECTED, status=401, match=sent_with(secret))
            provider.get(self.KEY, late)
        assert ask(client).status_code == 503
        self.is_untouched(key, client, provider)

    @pytest.mark.parametrize(("refusal", "status"), [(LIMITED, 429), (EXHAUSTED, 402)])
    def test_a_new_secret_does_not_cool_down_for_the_old_one(self, client, provider, api, refusal, status):
        key = make_key(secret=(secret := new_secret()))
        provider.post(OPENROUTER, self.replacing(api, key, refusal, status), match=sent_with(secret))
        assert ask(client).status_code >= 400
        self.is_untouched(key, client, provider)

    def replacing(self, api, key: ApiKey, refusal: object, status: int) -> Pieces:
        """Return a refusal whose body is sent after the key got a new secret."""

        def replace() -> None:
            assert api.put(f"/api/llm/keys/{key.id}", {"apiKey": new_secret()}).status_code == 200

        headers = {"Content-Type": "application/json"}
        return Pieces(replace, json.dumps(refusal).encode(), status=status, headers=headers)

    def is_untouched(self, key: ApiKey, client, provider) -> None:
        """Assert that nothing is held against the key, and that it serves."""
        done()
        key = fresh(key)
        assert (key.rejected_at, key.last_error, key.status_at(NOW)) == (None, "", "ACTIVE")
        assert not Cooling.objects.exists()
        assert not key.events.filter(kind__in=["rejected", "cooled", "exhausted"]).exists()
        provider.post(OPENROUTER, json=completion(), match=lambda request: request.secret == keyring.open_secret(key))
        assert ask(client)["X-LLM-Key-Id"] == key.id
