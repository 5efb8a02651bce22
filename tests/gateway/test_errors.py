"""What a client is told when it gets no answer: one test for each row of the table, and every broken body."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkeys import ledger
from llmkeys.models import AccessToken, ApiKey, Cooling, DailyUsage, KeyEvent, UsageRecord
from llmkeys.tokens.making import revoke_token
from tests.gateway.door import (
    ANTHROPIC,
    MODEL,
    OPENAI,
    OPENROUTER,
    PATH,
    RESET,
    Pieces,
    Program,
    ask,
    begin,
    books_balance,
    chat,
    completion,
    done,
    error_of,
    eventually,
    fresh,
    is_refused,
    limits,
    only_row,
    rows,
    spend,
    usage,
)
from tests.helpers import NOW, make_key, make_token, new_secret

INVALID_TOKEN = (401, "invalid_token", "Invalid or missing access token")


class TestToken:
    def test_it_needs_one(self, client):
        is_refused(ask(Program()), *INVALID_TOKEN)
        is_refused(ask(Program("rfk_unknown")), *INVALID_TOKEN)
        is_refused(ask(Program("sk-or-v1-a-providers-key")), *INVALID_TOKEN)
        is_refused(Program().get("/v1/models"), *INVALID_TOKEN)

    def test_a_part_of_one_is_none(self, client, user):
        token = make_token(user)
        for wrong in (token[:-1], token + "a", token.upper(), token[4:]):
            is_refused(ask(Program(wrong)), *INVALID_TOKEN)

    def test_a_revoked_one_is_none(self, client, user):
        door = Program(make_token(user, name="gone"))
        revoke_token(AccessToken.objects.get(name="gone"), at=NOW)
        is_refused(ask(door), *INVALID_TOKEN)

    def test_one_ends_at_its_instant(self, client, user, frozen):
        door = Program(make_token(user, expiresAt=NOW + timedelta(hours=1)))
        frozen.move_to(NOW + timedelta(hours=1, microseconds=-1))
        assert ask(door).status_code == 503
        frozen.move_to(NOW + timedelta(hours=1))
        is_refused(ask(door), *INVALID_TOKEN)

    def test_it_ends_with_its_user(self, client, user):
        user.is_active = False
        user.save()
        is_refused(ask(client), *INVALID_TOKEN)

    def test_it_needs_the_scope_gateway(self, client, user):
        is_refused(ask(Program(make_token(user, "read"))), 403, "missing_scope", "This token may not")
        assert ask(Program(make_token(user, "manage"))).status_code == 503  # manage implies it

    def test_a_token_without_its_keys_finds_none(self, client, user):
        key = make_key()
        make_key()
        door = Program(make_token(user, keyIds=[key.id]))
        ApiKey.objects.filter(pk=key.pk).update(enabled=False)
        message = is_refused(ask(door), 503, "no_key_available", "No API key available")
        assert "of 1 stored, 1 disabled" in message, "it knows of no other keys"

    @pytest.mark.parametrize("header", ["x-api-key", "x-goog-api-key", "Authorization"])
    def test_it_comes_in_any_dialects_header(self, client, user, header):
        token = make_token(user)
        value = f"bearer {token}" if header == "Authorization" else token
        answer = Program().post(PATH, json.dumps(chat()), headers={header: value})
        assert error_of(answer)["code"] == "no_key_available"

    def test_its_last_use_is_noted_with_a_hold(self, client, provider):
        ask(client)
        assert AccessToken.objects.get().last_used_at is None, "nothing was sent"
        make_key()
        provider.post(OPENROUTER, json=completion())
        ask(client)
        assert AccessToken.objects.get().last_used_at == NOW


class TestAddress:
    @pytest.mark.parametrize("path", ["/v1/", "/v1/chat", "/v1/embeddings2"])
    def test_an_unknown_one_is_told_in_the_dialect(self, client, path):
        assert error_of(client.post(path, "{}"))["code"] == "not_found"

    @pytest.mark.parametrize("path", ["/v1beta/x:generate", "/v1beta/tunedModels/x:generateContent"])
    def test_an_unknown_one_of_googles_is_told_as_google_does(self, client, path):
        answer = client.post(path, "{}")
        assert (answer.status_code, answer.json()["error"]["status"]) == (404, "NOT_FOUND")

    @pytest.mark.parametrize("version", ["v1", "v1beta"])
    @pytest.mark.parametrize("method", ["generate", "predict", "batchGenerateContent", "generateContent:x", ""])
    def test_an_unknown_method_of_googles_is_no_address(self, client, version, method):
        answer = client.post(f"/{version}/models/gemini-2.5-flash:{method}", "{}")
        error = answer.json()["error"]
        assert answer.status_code == 404
        assert "The base URL is http" in error["message"]
        assert f"The method “{method.rpartition(':')[2]}” is not served" in error["message"]

    @pytest.mark.parametrize(
        "path",
        [
            "/%00", "/v1/%00", "/v1/chat/completions%00", "/v1/models/%00", "/v1/models/a%00b", "/v1beta/models/%00",
            "/v1beta/models/a%00b:generateContent", "/v1beta/models/a%00b:x", "/v1/chat/completions?x=%00",
            "/v1beta/models/gemini-2.5-flash:generateContent?alt=%00",
        ],
    )  # fmt: skip
    def test_nul_in_an_address_is_an_error_of_the_clients(self, client, path):
        for method in ("get", "post", "head", "put"):
            answer = getattr(client, method)(path, *(["{}"] if method in ("post", "put") else []))
            assert 400 <= answer.status_code < 500, (method, answer.content)

    @pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
    def test_chat_takes_post_only(self, client, method):
        answer = getattr(client, method)(PATH)
        assert (answer.status_code, error_of(answer)["code"]) == (405, "method_not_allowed")


class TestBody:
    def refused(self, client, raw, words=""):
        message = is_refused(client.post(PATH, raw), 400, "invalid_request", "")
        assert words in message, message
        assert not UsageRecord.objects.exists()

    @pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe{}", b"hello", b'{"model": }', b'{"a":1}{"b":2}'])
    def test_it_is_json(self, client, raw):
        self.refused(client, raw, "The body is not valid JSON" if raw.strip() else "The body is empty")

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_it_is_utf_8(self, client, provider, encoding):
        """Sizes and holds count its bytes."""
        make_key()
        words = "it is not UTF-8" if encoding in ("utf-16", "utf-32") else ""  # without a mark it is UTF-8 with NULs
        self.refused(client, json.dumps(chat()).encode(encoding), f"The body is not valid JSON: {words}")
        assert provider.calls == []

    def test_it_may_begin_with_a_byte_order_mark(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=completion())
        raw = b"\xef\xbb\xbf" + json.dumps(chat()).encode()
        assert client.post(PATH, raw).status_code == 200

    @pytest.mark.parametrize("raw", ["[]", '"text"', "null", "1", "true"])
    def test_it_is_an_object(self, client, raw):
        self.refused(client, raw, "must be a JSON object")

    def test_no_key_stands_twice_at_the_top(self, client):
        self.refused(client, '{"model":"a","messages":[],"model":"b"}', "twice")
        self.refused(client, '{"model":"a","messages":[],"mod\\u0065l":"b"}', "twice")

    def test_a_key_may_stand_twice_further_down(self, client):
        raw = '{"messages":[{"role":"user","content":"x","content":"y"}]}'
        assert error_of(client.post(PATH, raw))["code"] == "no_key_available"

    @pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000])
    def test_a_number_is_a_number(self, client, number):
        self.refused(client, f'{{"messages":[{{}}],"temperature":{number}}}', "not valid JSON")

    @pytest.mark.parametrize("form", ['{"a":', "["])
    def test_it_is_not_nested_too_deeply(self, client, form):
        self.refused(client, '{"messages":[{}],"x":' + form * 100_000, "nested too deeply")

    def test_it_can_be_written_again_where_it_could_just_be_read(self, client, sends):
        make_key(provider="openai")  # which takes another name of the model than the client wrote
        seen = set()
        for depth in range(600, 1000, 5):
            sends(Pieces(json.dumps(completion(usage=usage())).encode()))
            nested = "[" * depth + "]" * depth
            raw = f'{{"model":"{MODEL}","max_tokens":5,"messages":[{{"role":"user","content":"x"}}],"x":{nested}}}'
            answer = client.post(PATH, raw)
            seen.add(answer.status_code)
            assert answer.status_code == 200 or "nested too deeply" in error_of(answer)["message"]
        assert seen == {200, 400}
        assert "LOST" not in {row.state for row in rows()}

    def test_a_lone_surrogate_is_passed_on(self, client, provider):
        make_key(provider="openai")
        provider.post(OPENAI, json=completion(usage=usage()))
        raw = '{"model":"gpt-6.1-terra","max_completion_tokens":5,"messages":[{"role":"user","content":"\\ud83d"}]}'
        assert client.post(PATH, raw).status_code == 200
        assert provider.calls[0].body == raw.encode()
        assert client.post(PATH, raw.replace('"max_completion_tokens":5,', "")).status_code == 200
        assert b"\\ud83d" in provider.calls[1].body

    def test_a_surrogate_in_the_models_name_is_refused(self, client):
        self.refused(client, '{"model":"gpt-\\ud83d","messages":[{}]}', "model")

    @pytest.mark.parametrize("messages", [..., None, [], {}, "hello", ["hello"], [[]], [None], 0])
    def test_it_has_messages(self, client, messages):
        self.refused(client, json.dumps(chat(messages=messages)), "messages")

    @pytest.mark.parametrize("n", [0, -1, 129, "x", 1.5, True, [], {}])
    def test_it_asks_for_a_possible_number_of_answers(self, client, n):
        self.refused(client, json.dumps(chat(n=n)), "“n” must be")

    @pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
    @pytest.mark.parametrize("limit", [0, -2, "x", 10**30, True, 1.5, [], {}])
    def test_it_sets_a_possible_limit(self, client, field, limit):
        self.refused(client, json.dumps(chat(**{field: limit})), field)

    @pytest.mark.parametrize("model", ["m" * 300, ["a"], {"a": 1}, 7, True, "a\nb", "\0"])
    def test_it_names_a_model_in_words(self, client, model):
        self.refused(client, json.dumps(chat(model=model)), "model")

    @pytest.mark.parametrize("stream", ["yes", "true", 1, 0, [], 1.0])
    def test_stream_is_true_or_false(self, client, stream):
        self.refused(client, json.dumps(chat(stream=stream)), "stream")

    def test_stream_options_are_an_object(self, client):
        self.refused(client, json.dumps(chat(stream=True, stream_options=[])), "stream_options")

    def test_it_is_not_too_large(self, client, settings):
        settings.MAX_BODY_MB = 1
        at_most = json.dumps(chat(messages=[{"role": "user", "content": ""}]))
        at_most = at_most.replace('""', '"' + "x" * (1024 * 1024 - len(at_most)) + '"', 1)
        assert error_of(client.post(PATH, at_most))["code"] == "no_key_available"
        is_refused(client.post(PATH, at_most + " "), 413, "request_too_large", "The body is larger than 1 MB")

    def test_it_may_be_larger_than_djangos_own_limit(self, client):
        content = [{"role": "user", "content": "x" * 4_000_000}]
        assert error_of(ask(client, messages=content))["code"] == "no_key_available"


class TestNoKey:
    def test_none_is_stored(self, client):
        answer = ask(client)
        assert "manage.py keys add" in is_refused(answer, 503, "no_key_available", "No API key available")
        assert answer["X-LLM-Request-Id"].startswith("req_")

    def test_all_are_out_of_service(self, client):
        make_key(enabled=False), make_key(rejected_at=NOW), make_key(expires_at=NOW), make_key(secret_missing=True)
        message = is_refused(ask(client), 503, "no_key_available", "No API key available")
        for reason in (
            "1 disabled",
            "1 rejected by its provider",
            "1 expired",
            "1 its environment variable is not set",
        ):
            assert reason in message

    def test_none_can_serve_the_model(self, client):
        make_key(provider="openai")
        is_refused(ask(client, model="claude-sonnet-5-5"), 404, "model_not_available", "No stored key can serve model")

    def test_a_request_may_cost_more_than_any_limit(self, client):
        make_key(name="Small", **limits(daily="0.5")), make_key(**limits(monthly="0.2"))
        message = is_refused(
            ask(client, max_tokens=1_000_000), 400, "request_exceeds_budget", "This request may cost $0.64"
        )
        assert "the largest is $0.50, daily budget of “Small”" in message and "Lower max_tokens" in message

    def test_all_are_spent(self, client):
        key = make_key(**limits(daily="1"))
        spend(key, "1")
        answer = ask(client)
        is_refused(answer, 429, "all_keys_at_limit", "All keys have reached their limits")
        assert error_of(answer)["type"] == "rate_limit_error"
        assert (answer["Retry-After"], answer["x-should-retry"]) == ("12600", "false")

    def test_only_open_holds_stand_in_the_way(self, client, impatient):
        impatient(0.1)
        key = make_key(**limits(daily="1"))
        usage_id = self.hold(key, 10**9)
        answer = ask(client)
        is_refused(answer, 429, "budget_busy", "Other requests in progress hold what is left")
        assert answer["Retry-After"] == "1" and "x-should-retry" not in answer.headers
        assert fresh(key).status_at(NOW) == "ACTIVE"
        self.release(usage_id)

    def test_it_waits_a_moment_for_open_holds(self, client, provider, impatient, statements):
        impatient(30)
        key = make_key(**limits(daily="1"))
        usage_id = self.hold(key, 10**9)
        provider.post(OPENROUTER, json=completion())
        statements.clear()
        waiting = begin(client)
        looks = lambda: sum("held_nano" in sql and sql.startswith("UPDATE") for sql in statements)  # noqa: E731
        eventually(lambda: looks() >= 3, "it does not look again")
        assert provider.calls == [] and waiting.says_nothing_for(0.1)
        self.release(usage_id)
        assert waiting.answer().status_code == 200

    def hold(self, key, nano):
        attempt = ledger.Attempt("req-other", 1, NOW, "openai-chat", MODEL, "", False, "another process")
        with connection.cursor() as cursor:
            placed = ledger.place_hold(cursor, [ledger.Bid(key.id, key.provider, MODEL, nano)], attempt)
        return placed.hold.usage_id

    def release(self, usage_id):
        with connection.cursor() as cursor:
            ledger.finish(cursor, usage_id, ledger.Outcome(state="RELEASED", at=NOW, sent=False))


class TestSealed:
    def is_sealed(self, client, key):
        before = bytes(key.secret)
        is_refused(ask(client), 503, "sealed", "The ")
        assert bytes(fresh(key).secret) == before
        assert (only_row().state, fresh(key).total_requests) == ("RELEASED", 0)

    def test_another_key_opens_nothing_and_overwrites_nothing(self, client, settings):
        key = make_key()
        settings.REFACTAI_ENCRYPTION_KEYS = ["another key altogether, long enough"]
        self.is_sealed(client, key)

    def test_a_lost_key_is_not_made_anew(self, client, settings, tmp_path):
        key = make_key()
        settings.DATA_DIR = tmp_path
        self.is_sealed(client, key)
        assert list(tmp_path.iterdir()) == []

    def test_a_key_file_that_cannot_be_read(self, client, settings, tmp_path):
        key = make_key()
        (tmp_path / "encryption.key").mkdir()
        settings.DATA_DIR = tmp_path
        self.is_sealed(client, key)

    def test_it_serves_again_with_the_key(self, client, provider, settings):
        make_key()
        settings.REFACTAI_ENCRYPTION_KEYS = ["another key altogether, long enough"]
        ask(client)
        settings.REFACTAI_ENCRYPTION_KEYS = []
        provider.post(OPENROUTER, json=completion())
        assert ask(client).status_code == 200


class TestDatabase:
    @pytest.fixture
    def other(self):
        other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None, check_same_thread=False)
        yield other
        other.close()

    @pytest.mark.only_on("sqlite")
    def test_nothing_is_sent_while_it_cannot_be_written(self, client, provider, short_busy, other):
        make_key()
        short_busy(0.5)
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):  # the second one: the token's last use needs no note any more
            answer = ask(client)
            is_refused(answer, 503, "database_unavailable", "The database cannot be written now")
            assert answer["Retry-After"] == "10"
            other.execute("ROLLBACK")
            AccessToken.objects.update(last_used_at=NOW)
            other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
        assert len(provider.calls) == 0 and not rows()
        provider.post(OPENROUTER, json=completion())
        short_busy(8.0)
        assert ask(client).status_code == 200

    @pytest.mark.only_on("sqlite")
    def test_an_answer_is_given_and_recorded_as_soon_as_that_is_possible(self, client, sends, short_busy, other):
        make_key()

        def lock() -> None:
            short_busy(0.5)
            other.execute("BEGIN IMMEDIATE")

        answered = json.dumps(completion()).encode()
        sends(Pieces(lock, answered, headers={"Content-Type": "application/json"}))
        answer = ask(client)
        assert answer.status_code == 200 and answer.json() == completion()
        assert only_row().state == "HELD"
        short_busy(8.0)
        other.execute("ROLLBACK")
        eventually(lambda: only_row().state != "HELD", "the end is not recorded")
        assert (only_row().state, only_row().cost_nano) == ("SETTLED", 12_300_000)

    @pytest.mark.only_on("sqlite")
    @pytest.mark.parametrize("at_report", [False, True], ids=["at the next hold", "at the report of the failure"])
    def test_after_a_lost_attempt_no_library_sends_again(
        self, client, sends, provider_server, pauses, short_busy, other, at_report
    ):
        provider_server.hang_up()  # so that the connection that ends is not one that rested
        make_key()

        def lock() -> None:
            short_busy(0.5)
            other.execute("BEGIN IMMEDIATE")

        late = {"error": {"code": 429, "message": "Rate limit exceeded"}, "usage": ...}  # after some output
        lost = (
            Pieces(lock, json.dumps(completion(**late)).encode()) if at_report else Pieces(lock, RESET, framing="raw")
        )
        sends(lost)
        answer = ask(client)
        is_refused(answer, 503, "database_unavailable", "The database cannot be written now")
        assert answer["x-should-retry"] == "false"
        short_busy(8.0)
        other.execute("ROLLBACK")
        ended = (["LOST"], ["LOST", "RELEASED"])  # the next hold may have come too late
        eventually(lambda: [row.state for row in rows()] in ended, "a row is open")


class TestFault:
    """A bug of ours, stood in for by one in a place where nothing fails."""

    def test_no_library_sends_again_what_may_have_been_charged(self, client, sends, monkeypatch, caplog):
        make_key()
        sends(Pieces(json.dumps(completion()).encode()))
        monkeypatch.setattr("llmkeys.prices.cost.charge", None)
        answer = ask(client)
        is_refused(answer, 500, "internal_error", "The gateway failed while this request was in progress.")
        assert answer["x-should-retry"] == "false"
        assert (only_row().state, only_row().cost_nano) == ("LOST", only_row().hold_nano)


class TestUpstream:
    def test_the_providers_failure_is_told_without_secrets(self, client, provider, pauses):
        secret = new_secret()
        make_key(secret=secret)
        provider.post(
            OPENROUTER, json={"error": {"message": f"cannot serve {secret} of user_2abcDEF", "code": 500}}, status=500
        )
        answer = ask(client)
        message = is_refused(answer, 502, "upstream_error", "cannot serve *** of ***")
        assert "(after 2 attempts)" in message and answer["X-LLM-Attempts"] == "2"
        assert error_of(answer)["type"] == "api_error"

    def test_the_clients_own_mistake_is_handed_back_without_secrets(self, client, provider):
        secret = new_secret()
        make_key(secret=secret)
        provider.post(OPENROUTER, json={"error": {"message": f"{secret} may not", "code": 400}}, status=400)
        answer = ask(client)
        assert answer.json() == {"error": {"message": "*** may not", "code": 400}}

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 413, 429, 500, 503])
    def test_words_without_end_fit_into_what_is_recorded(self, client, provider, pauses, status, stream):
        """PostgreSQL refuses a text that is too long for its column, or has a NUL or half a character in it."""
        make_key()
        words = "\0\ud800" + "w" * 3000
        said = {"message": words, "code": status if status > 200 else 429, "type": words, "metadata": {"raw": words}}
        raw = json.dumps({"id": words, "model": words, "error": said}).encode()
        pieces = (b"data: " + raw + b"\n\n",) if stream and status == 200 else (raw,)
        headers = {"Content-Type": "application/json", "X-Request-Id": "i" * 3000, "X-Generation-Id": "\xe9" * 3000}
        provider.post(OPENROUTER, Pieces(*pieces, status=status, headers=headers))
        provider.get("https://openrouter.ai/api/v1/key", json={"error": said}, status=401)
        provider.must_be_asked = False
        assert ask(client, stream=stream).status_code >= 400
        done()
        assert {row.state for row in rows()} == {"RELEASED"}


# --- nothing that anybody sends is a 500 ------------------------------------------------------------------------------

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "input_audio", "file", "video_url"]) | _JSON},
    optional={"text": _JSON, "image_url": _JSON, "input_audio": _JSON, "file": _JSON, "cache_control": _JSON},
)
_MESSAGE = st.fixed_dictionaries({}, optional={"role": _JSON, "content": st.lists(_PART, max_size=3) | _JSON})
_BODY = st.fixed_dictionaries(
    {"messages": st.lists(_MESSAGE, min_size=1, max_size=3) | _JSON},
    optional={
        "model": st.sampled_from([MODEL, "gpt-6.1-terra", "auto", "claude-sonnet-4-5"]) | _JSON,
        "max_tokens": st.integers(1, 100) | _JSON,
        "n": st.integers(1, 3) | _JSON,
        "stream": st.booleans() | _JSON,
        "stream_options": st.none() | _JSON,
        "tools": _JSON,
        "plugins": _JSON,
        "models": _JSON,
        "prediction": _JSON,
        "service_tier": _JSON,
        "speed": st.just("fast") | _JSON,
        "web_search_options": _JSON,
        "metadata": _JSON,
    },
)
_QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


class TestAnyBody:
    @pytest.fixture
    def keys(self, provider):
        """Keys of three providers that list no models; no example sees what another did to them, or to the token."""
        provider.must_be_asked = False
        for url in (OPENROUTER, OPENAI, ANTHROPIC):
            provider.get(url.replace("/chat/completions", "/models"), json={"data": []})
        provider.get("https://openrouter.ai/api/v1/key", json={"data": {"limit": None}})
        make_key(), make_key(provider="openai"), make_key(provider="anthropic")
        return [(kind, row) for kind in (ApiKey, AccessToken) for row in kind.objects.values()]

    def never_a_500(self, client, provider, keys, raw, reply):
        provider.replace(OPENROUTER, Pieces(reply))
        provider.replace(OPENAI, Pieces(reply))
        provider.replace(ANTHROPIC, Pieces(reply))
        answer = client.post(PATH, raw)
        _ = answer.content
        assert answer.status_code in (200, 400, 404, 429, 502)
        if answer.status_code != 200:
            error_of(answer)
        books_balance()
        with transaction.atomic():
            for kept in (UsageRecord, DailyUsage, Cooling, KeyEvent):
                kept.objects.all().delete()
            for kind, row in keys:
                kind.objects.filter(pk=row["id"]).update(**row)

    @settings(max_examples=150, suppress_health_check=_QUIET, derandomize=True)
    @given(body=_BODY)
    def test_it_never_gives_a_500(self, client, provider, keys, pauses, body):
        reply = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
        if body.get("stream") is not True:
            reply = json.dumps(completion()).encode()
        self.never_a_500(client, provider, keys, json.dumps(body), reply)

    @settings(max_examples=60, suppress_health_check=_QUIET, derandomize=True)
    @given(reply=_JSON, streamed=st.booleans(), usage_told=_JSON, error=_JSON)
    def test_no_answer_of_a_provider_gives_one_either(
        self, client, provider, keys, pauses, reply, streamed, usage_told, error
    ):
        for body in (reply, {"usage": usage_told, "choices": reply}, {"error": error, "usage": usage_told}):
            raw = json.dumps(body).encode()
            if streamed:
                raw = b"data: " + raw + b"\n\ndata: [DONE]\n\n"
            asked = json.dumps(chat(stream=streamed, messages=[{"role": "user"}]))
            self.never_a_500(client, provider, keys, asked, raw)
