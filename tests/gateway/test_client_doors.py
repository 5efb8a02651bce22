"""How clients come in: bodies in every framing and encoding, browsers, addresses, words for what is wrong, slowness."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import threading
import time
import zlib
from datetime import timedelta
from types import SimpleNamespace

import pytest

from llmkeys.gateway.program import Program as GatewayProgram
from llmkeys.ledger import leases
from llmkeys.prices import catalogue
from llmkeys.relay import background
from tests.gateway.door import (
    DONE,
    OPENROUTER,
    PATH,
    Gate,
    Pieces,
    Program,
    ask,
    begin,
    chat,
    chunk,
    completion,
    error_of,
    is_refused,
    only_row,
    rows,
    settled,
    usage,
    usage_chunk,
)
from tests.helpers import NOW, make_key
from tests.serving import ROOT
from tests.site.exchange import Exchange
from tests.web import JSON, application

RAW = json.dumps(chat()).encode()
CHUNKED = {"Transfer-Encoding": "chunked", "Content-Type": JSON}
ORIGIN = "app://obsidian.md"
ASKED = "authorization, content-type, x-stainless-os"


@pytest.fixture
def serving(provider):
    make_key()
    provider.post(OPENROUTER, json=completion())
    return provider


class TestBodies:
    @pytest.mark.parametrize("size", [1, 17, 10_000])
    def test_a_chunked_one_is_as_good_as_one_with_a_length(self, client, serving, size):
        pieces = [RAW[at : at + size] for at in range(0, len(RAW), size)]
        answer = client.open("POST", PATH, CHUNKED).chunks(*pieces).answer()
        assert answer.status_code == 200
        assert serving.calls[0].json["messages"] == chat()["messages"]

    def test_the_limit_holds_for_a_chunked_one(self, client, settings):
        settings.MAX_BODY_MB = 1
        wire = client.open("POST", PATH, CHUNKED)
        answer = wire.chunks(*[b" " * 65_536] * 20).answer()
        is_refused(answer, 413, "request_too_large", "The body is larger than 1 MB")

    @pytest.mark.parametrize(
        ("encoding", "encode"),
        [
            ("gzip", gzip.compress),
            ("x-gzip", gzip.compress),
            ("deflate", zlib.compress),
            ("deflate", lambda raw: zlib.compress(raw, wbits=-15)),
            ("gzip, deflate", lambda raw: zlib.compress(gzip.compress(raw))),
            ("GZIP", gzip.compress),
            ("identity", bytes),
        ],
    )
    def test_an_encoded_one_is_decoded(self, client, serving, encoding, encode):
        answer = client.post(PATH, encode(RAW), headers={"Content-Encoding": encoding})
        assert answer.status_code == 200
        assert serving.calls[0].json["messages"] == chat()["messages"]
        assert "Content-Encoding" not in serving.calls[0].headers

    @pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "aes128gcm"])
    def test_an_encoding_that_is_not_known_is_named(self, client, encoding):
        answer = client.post(PATH, RAW, headers={"Content-Encoding": encoding})
        message = is_refused(answer, 415, "unsupported_encoding", "")
        assert encoding.split()[-1] in message

    @pytest.mark.parametrize("raw", [RAW, b"", gzip.compress(RAW)[:-4]])
    def test_one_that_is_not_what_it_says_is_refused(self, client, raw):
        answer = client.post(PATH, raw, headers={"Content-Encoding": "gzip"})
        assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_request")

    def test_the_limit_holds_for_the_decoded_size(self, client, settings):
        settings.MAX_BODY_MB = 1
        bomb = gzip.compress(b" " * 50_000_000)
        answer = client.post(PATH, bomb, headers={"Content-Encoding": "gzip"})
        is_refused(answer, 413, "request_too_large", "The body is larger than 1 MB")

    @pytest.mark.parametrize("is_encoded", [False, True])
    def test_the_largest_has_room_however_large_it_may_be(self, client, serving, larger_than_the_room, is_encoded):
        """Encoded, it takes room twice: as it was sent, and decoded."""
        text = random.Random(1).randbytes(larger_than_the_room // 2 - 1000).hex()
        messages = [{"role": "user", "content": text}]
        raw = json.dumps(chat(model="openai/gpt-4.1-mini", messages=messages)).encode()
        sent, headers = (gzip.compress(raw), {"Content-Encoding": "gzip"}) if is_encoded else (raw, {})
        assert client.post(PATH, sent, headers=headers).status_code == 200

    def test_a_client_may_ask_whether_to_send_it(self, client, serving):
        """`Expect: 100-continue`, as curl sends it before larger bodies."""
        wire = client.open(
            "POST", PATH, {"Content-Length": str(len(RAW)), "Content-Type": JSON, "Expect": "100-continue"}
        )
        assert wire.send(RAW).answer().status_code == 200

    def test_one_that_takes_its_time_meets_the_keys_that_there_are_when_it_has_come(self, client, provider, frozen):
        """The keys are read with the access token: what is older than a moment counts no more."""
        provider.post(OPENROUTER, json=completion())
        wire = client.open(
            "POST", PATH, {"Content-Length": str(len(RAW)), "Content-Type": JSON, "Expect": "100-continue"}
        )
        assert wire.line() == b"HTTP/1.1 100 Continue" and wire.line() == b""  # the token has been read
        make_key()
        frozen.move_to(NOW + timedelta(seconds=1))
        assert wire.send(RAW).answer().status_code == 200


class TestHalfClosed:
    """The web server takes a client that closes its sending side for one that has gone: the documents say so."""

    @pytest.mark.parametrize("stream", [False, True])
    def test_it_has_gone_and_is_charged_what_was_made(self, client, sends, stream):
        make_key()
        gate = Gate()
        if stream:
            sends(Pieces(gate, chunk("a"), usage_chunk(cost=0.0123), DONE))
        else:
            sends(Pieces(gate, json.dumps(completion()).encode(), headers={"Content-Type": JSON}))
        wire = begin(client, stream=stream)
        gate.wait_until_reached()
        wire.half_close()
        wire.wait_until_heard()
        gate.open()
        settled()
        assert (only_row().state, only_row().cost_nano) == ("SETTLED", 12_300_000)
        assert "half-close" in (ROOT / "docs" / "deployment.md").read_text()


class TestGoneBeforeItIsServed:
    """A client that goes while its request waits for room or for the database: nothing is sent, nothing is charged."""

    @pytest.mark.parametrize("stream", [False, True])
    def test_nothing_is_sent(self, client, provider, monkeypatch, stream):
        make_key()
        provider.must_be_asked = False
        monkeypatch.setattr("llmkeys.gateway.program.LISTEN_AFTER_SECONDS", 0.0)
        placed, gone, place, leave = threading.Event(), threading.Event(), leases.place, GatewayProgram._leave

        async def slowly(*args, **options):
            found = await place(*args, **options)
            placed.set()
            assert await asyncio.to_thread(gone.wait, 10)
            return found

        monkeypatch.setattr(leases, "place", slowly)
        monkeypatch.setattr(GatewayProgram, "_leave", lambda program: (leave(program), gone.set()))
        wire = begin(client, stream=stream)
        assert placed.wait(10)
        wire.close()
        settled()
        assert (only_row().state, only_row().cost_nano, only_row().error) == (
            "RELEASED", 0, "The client went away before the request was sent."
        )  # fmt: skip
        assert provider.calls == []


def test_a_worker_that_has_stopped_sends_nothing_and_charges_nothing(client, monkeypatch):
    """The body arrived when the time for requests in progress was over."""
    make_key()
    monkeypatch.setattr("llmkeys.upstream.relayed._pools", {})
    is_refused(ask(client), 503, "overloaded", "The server is stopping")
    assert (only_row().state, only_row().cost_nano) == ("RELEASED", 0)


def test_stale_prices_are_read_once_for_all_who_wait(client, serving, monkeypatch):
    ask(client)
    reading, go_on, reads, refresh = threading.Event(), threading.Event(), [], catalogue.refresh

    def slowly():
        reads.append(1)
        reading.set()
        assert go_on.wait(10)
        refresh()

    monkeypatch.setattr(catalogue, "refresh", slowly)
    monkeypatch.setattr(catalogue, "is_stale", lambda: not go_on.is_set())
    wires = [begin(client) for _ in range(12)]
    assert reading.wait(10)
    for wire in wires:
        assert wire.says_nothing_for(0.02)
    go_on.set()
    assert {wire.answer().status_code for wire in wires} == {200}
    assert len(reads) == 1


class TestBrowsers:
    @pytest.fixture(autouse=True)
    def _listed(self, settings):
        settings.CORS_ORIGINS = [ORIGIN, "https://chat.example"]

    def preflight(self, path: str = PATH, *, origin: str = ORIGIN, method: str = "POST"):
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": method,
            "Access-Control-Request-Headers": ASKED,
        }
        return Program().options(path, headers=headers)

    @pytest.mark.parametrize(("path", "method"), [(PATH, "POST"), ("/v1/models", "GET"), ("/v1/models/a/b", "GET")])
    def test_a_listed_origin_may_ask(self, client, path, method):
        answer = self.preflight(path, method=method)
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer["Access-Control-Allow-Origin"] == ORIGIN
        assert answer["Access-Control-Allow-Headers"] == ASKED
        assert method in answer["Access-Control-Allow-Methods"]
        assert "Origin" in answer["Vary"]
        assert "Access-Control-Allow-Credentials" not in answer.headers

    def test_the_answer_has_no_length(self, client):
        """The web server leaves it out of a 204 by itself; so the application is asked."""
        headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        asked = asyncio.run(Exchange(method="OPTIONS", path=PATH, headers=headers).run(application()))
        assert asked.status == 204 and asked.is_complete
        assert "content-length" not in asked.answered

    def test_a_star_lists_every_origin(self, client, settings):
        settings.CORS_ORIGINS = ["*"]
        assert self.preflight(origin="null").status_code == 204
        assert self.preflight(origin="https://anywhere.example").status_code == 204

    @pytest.mark.parametrize("origin", ["https://evil.example", "https://chat.example.evil.example", "null", ""])
    def test_another_origin_is_told_which_setting_lists_it(self, client, origin):
        answer = self.preflight(origin=origin)
        assert answer.status_code == 405 and "POST" in answer["Allow"]
        assert "REFACTAI_CORS_ORIGINS" in error_of(answer)["message"]
        assert "Access-Control-Allow-Origin" not in answer.headers

    def test_none_is_listed_at_first(self, client, settings):
        settings.CORS_ORIGINS = []
        assert self.preflight().status_code == 405

    @pytest.mark.parametrize("stream", [False, True])
    def test_answers_and_streams_may_be_read(self, client, sends, stream):
        make_key()
        sends(Pieces(chunk("a"), usage_chunk(cost=0.01), DONE) if stream else Pieces.whole(json=completion()))
        answer = client.post(PATH, json.dumps(chat(stream=stream)), headers={"Origin": ORIGIN})
        assert (answer.status_code, answer["Access-Control-Allow-Origin"]) == (200, ORIGIN)
        assert answer.content

    def test_errors_may_be_read(self, client):
        for answer in (
            client.post(PATH, "{}", headers={"Origin": ORIGIN}),
            Program().post(PATH, RAW, headers={"Origin": ORIGIN}),
            client.post("/v1/nothing", RAW, headers={"Origin": ORIGIN}),
            client.get(PATH, headers={"Origin": ORIGIN}),
        ):
            assert answer.status_code >= 400
            assert answer["Access-Control-Allow-Origin"] == ORIGIN, answer.content

    @pytest.mark.parametrize("path", ["/api/llm/keys", "/llm-settings", "/login", "/healthz"])
    def test_pages_and_the_rest_api_are_never_opened(self, client, path):
        answer = Program().get(path, headers={"Origin": ORIGIN})
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Access-Control-Allow-Origin" not in self.preflight(path).headers


class TestAddresses:
    @pytest.mark.parametrize("path", [f"/{PATH}", PATH.replace("/", "//"), f"{PATH}/", "///v1//chat//completions//"])
    def test_slashes_are_folded(self, client, serving, path):
        assert client.post(path, RAW).status_code == 200

    @pytest.mark.parametrize("path", ["/v1/models", "//v1//models", "/v1/models/"])
    def test_the_list_too(self, client, provider, path):
        assert client.get(path).json() == {"object": "list", "data": []}

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("post", "/chat/completions"), ("get", "/models"), ("post", "/v1"),
            ("get", "/v1"), ("get", "/v1/"), ("post", "/v1/moderations"), ("post", "/api/v1/chat/completions"),
            ("post", "/openai/v1/chat/completions"), ("get", "/v1/threads"), ("delete", "/anything"), ("put", "/x"),
        ],
    )  # fmt: skip
    def test_one_that_is_not_there_names_the_base_url(self, client, method, path):
        answer = getattr(client, method)(path)
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (404, "not_found")
        assert "/v1" in error["message"] and "127.0.0.1:" in error["message"]

    def test_a_program_without_a_token_is_told_as_well(self, client):
        assert error_of(Program().post("/chat/completions", RAW))["code"] == "not_found"

    @pytest.mark.parametrize("path", ["/v1/models", "/v1/models/openai/gpt-4o-mini"])
    def test_head_is_get_without_its_body(self, client, provider, path):
        make_key()
        provider.get("https://openrouter.ai/api/v1/models", json={"data": [{"id": "openai/gpt-4o-mini"}]})
        got, head = client.get(path), client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
        assert head["Content-Type"] == got["Content-Type"] == JSON
        assert head["Content-Length"] == got["Content-Length"] == str(len(got.content))

    @pytest.mark.parametrize(("path", "status"), [(PATH, 405), ("/v1/models/none", 404), ("/v1/nothing", 404)])
    def test_so_is_a_refusal_and_nothing_follows_it(self, client, path, status):
        head = client.open("HEAD", path, {}).answer(keep=True)
        assert head.status_code == status and int(head["Content-Length"]) > 100
        assert head.wire.head("GET", "/healthz", {}).answer().json() == {"status": "ok"}

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("get", PATH, {"POST"}), ("head", PATH, {"POST"}), ("put", PATH, {"POST"}), ("delete", PATH, {"POST"}),
            ("options", PATH, {"POST"}), ("post", "/v1/models", {"GET", "HEAD"}),
            ("patch", "/v1/models/a", {"GET", "HEAD"}), ("options", "/v1/models", {"GET", "HEAD"}),
        ],
    )  # fmt: skip
    def test_each_405_names_what_is_allowed(self, client, method, path, allowed):
        answer = getattr(client, method)(path)
        assert answer.status_code == 405
        assert allowed <= {name.strip() for name in answer["Allow"].split(",")}

    def test_one_model_is_its_entry_of_the_list(self, client, provider):
        make_key()
        provider.get("https://openrouter.ai/api/v1/models", json={"data": [{"id": "openai/gpt-4o-mini"}]})
        (entry,) = client.get("/v1/models").json()["data"]
        for path in ("openai/gpt-4o-mini", "openai%2Fgpt-4o-mini"):
            answer = client.get(f"/v1/models/{path}")
            assert (answer.status_code, answer.json()) == (200, entry)

    @pytest.mark.parametrize(
        ("vendor", "listed", "name", "shown"),
        [
            ("openai", ["gpt-4o-mini"], "openai/gpt-4o-mini", "gpt-4o-mini"),
            ("openrouter", ["openai/gpt-4o-mini"], "gpt-4o-mini", "openai/gpt-4o-mini"),
            ("anthropic", ["claude-sonnet-4-5"], "claude-sonnet-4.5", "claude-sonnet-4-5"),
            ("anthropic", ["claude-sonnet-4-5"], "anthropic/claude-sonnet-4.5", "claude-sonnet-4-5"),
            (
                "anthropic",
                ["claude-3-5-sonnet-20241022", "claude-3-5-sonnet-20240620"],
                "anthropic/claude-3-5-sonnet-20240620",
                "claude-3-5-sonnet-20240620",
            ),
            ("openai", ["gpt-4o", "gpt-4o-mini"], "gpt-4o-mini", "gpt-4o-mini"),
        ],
    )
    def test_one_model_is_found_by_every_name_that_a_request_may_give_it(
        self, client, provider, vendor, listed, name, shown
    ):
        make_key(provider=vendor)
        own = {"openrouter": "openrouter.ai/api", "openai": "api.openai.com", "anthropic": "api.anthropic.com"}[vendor]
        provider.get(f"https://{own}/v1/models", json={"data": [{"id": one} for one in listed]})
        answer = client.get(f"/v1/models/{name}")
        assert (answer.status_code, answer.json().get("id")) == (200, shown)

    @pytest.mark.parametrize("name", ["gpt-4o-mini-2024-07-18", "mini", "acme-model", "openai", "x" * 201])
    def test_one_that_no_request_would_get_is_not_found(self, client, provider, name):
        make_key()
        listed = [{"id": "openai/gpt-4o-mini"}, {"id": "acme/acme-model"}]
        provider.get("https://openrouter.ai/api/v1/models", json={"data": listed})
        is_refused(client.get(f"/v1/models/{name}"), 404, "model_not_available", "No stored key can serve model")

    def test_an_unknown_model_is_named(self, client, provider):
        make_key()
        provider.get("https://openrouter.ai/api/v1/models", json={"data": []})
        answer = client.get("/v1/models/acme/none")
        assert "acme/none" in is_refused(answer, 404, "model_not_available", "No stored key can serve model")

    def test_an_unknown_model_is_named_by_a_process_that_has_just_begun_too(self, client, monkeypatch):
        monkeypatch.setattr(catalogue, "_aliases", catalogue._Cached(catalogue._read_aliases))
        is_refused(client.get("/v1/models/acme/none"), 404, "model_not_available", "No stored key can serve model")


class TestNumbers:
    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_a_whole_number_may_have_a_point(self, client, provider, name):
        make_key(provider="openai")
        provider.post("https://api.openai.com/v1/chat/completions", json=completion(usage=usage()))
        raw = json.dumps(chat(model="gpt-6.1-terra", max_tokens=...) | {name: 256.0, "n": 1.0})
        assert client.post(PATH, raw).status_code == 200
        assert provider.calls[0].json[name] == 256

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_minus_one_is_refused_where_it_costs(self, client, name):
        make_key()
        error = error_of(client.post(PATH, json.dumps(chat(max_tokens=...) | {name: -1})))
        assert (error["code"], error["param"]) == ("invalid_request", name) and rows() == []

    def test_minus_one_is_none_where_it_costs_nothing(self, client, provider, settings):
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": f"{provider.local}/v1"}
        make_key(provider="openai")
        provider.get(f"{provider.local}/v1/models", json={"data": [{"id": "llama3.2"}]})
        provider.post(f"{provider.local}/v1/chat/completions", json=completion(usage=usage()))
        assert ask(client, model="llama3.2", max_tokens=-1).status_code == 200
        assert provider.calls[-1].json.get("max_tokens") in (None, -1) and only_row().cost_nano == 0

    @pytest.mark.parametrize(
        ("changes", "param"),
        [
            ({"max_tokens": 0}, "max_tokens"), ({"max_completion_tokens": "x"}, "max_completion_tokens"),
            ({"n": 0}, "n"), ({"stream": "yes"}, "stream"), ({"messages": "hi"}, "messages"),
            ({"model": 7}, "model"), ({"stream": True, "stream_options": []}, "stream_options"),
        ],
    )  # fmt: skip
    def test_a_refusal_names_its_field(self, client, changes, param):
        error = error_of(ask(client, **changes))
        assert (error["code"], error["param"]) == ("invalid_request", param)


class TestWords:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"model": "gpt-4o", "input": "hi"}, "/v1/responses"),
            ({"contents": [{"parts": [{"text": "hi"}]}]}, "/v1beta/models"),
            ({"model": "gpt-4o", "messages": "hi"}, "list"),
            ({"model": "gpt-4o", "prompt": "hi"}, "messages"),
            ({"model": "gpt-4o"}, "messages"),
        ],
    )
    def test_they_say_what_came_and_where_it_belongs(self, client, body, words):
        make_key()
        assert words in is_refused(client.post(PATH, json.dumps(body)), 400, "invalid_request", "")

    def test_an_empty_body_is_empty(self, client):
        is_refused(client.post(PATH, b""), 400, "invalid_request", "The body is empty")

    def test_a_number_of_thousands_of_digits_is_no_matter_of_pythons(self, client):
        message = is_refused(client.post(PATH, b'{"seed": ' + b"9" * 5000 + b"}"), 400, "invalid_request", "The body")
        assert "sys" not in message and "digits" in message


class TestAmplifiedBodies:
    @pytest.mark.parametrize("item", [b'{"a":{}}', b"[]", b"[[]]", b"{}", b"0", b'""', b"null"])
    def test_one_that_would_take_many_times_its_size_is_refused_before_it_is_parsed(self, client, monkeypatch, item):
        raw = b'{"messages":[' + b",".join([item] * (20_000_000 // (len(item) + 1))) + b"]}"
        parsed: list[bytes] = []
        parser = SimpleNamespace(loads=lambda raw, **options: parsed.append(raw) or json.loads(raw, **options))
        monkeypatch.setattr("llmkeys.gateway.bodies.json", parser)
        is_refused(client.post(PATH, raw), 400, "invalid_request", "The body has more than")
        assert parsed == []

    @pytest.mark.parametrize("text", ["{}[]," * 600_000, '\\"{}[],\\\\' * 300_000])
    def test_what_stands_in_texts_does_not_count(self, client, serving, text):
        assert ask(client, model="openai/gpt-4.1-mini", messages=[{"role": "user", "content": text}]).status_code == 200
        assert serving.calls[0].json["messages"][0]["content"] == text

    def test_a_large_body_does_not_stop_others(self, client, provider, monkeypatch):
        """While 24 MB are parsed, small requests are answered: each step that takes long is left to the parser."""
        begun, others_were_served, in_parser = threading.Event(), threading.Event(), background.in_parser
        steps: set[str] = set()

        async def in_a_slow_parser(call, *arguments, **named):
            steps.add(call.__name__)

            def slowly():
                begun.set()
                assert others_were_served.wait(30)
                return call(*arguments, **named)

            return await in_parser(slowly)

        monkeypatch.setattr(background, "in_parser", in_a_slow_parser)
        make_key()
        provider.must_be_asked = False
        provider.post(OPENROUTER, json=completion())
        messages = [{"role": "user", "content": "wörd " * 4_000_000}]
        large = json.dumps(chat(model="openai/gpt-4o-mini", messages=messages), ensure_ascii=False)
        wires = [client.begin("POST", PATH, large) for _ in range(2)]
        assert begun.wait(30), "it is parsed where everything else waits for it"
        for _ in range(20):
            assert client.get("/v1/nothing").status_code == 404
        others_were_served.set()
        for wire in wires:
            assert wire.answer().status_code in (200, 400, 429)
        assert steps >= {"parse", "validate", "rewritten"}


class TestSlowStrangers:
    def test_a_refusal_waits_for_no_body(self, client):
        head = {"Content-Length": "1000000", "Content-Type": JSON}
        began = time.monotonic()
        wires = [Program().open("POST", PATH, head).send(b"{") for _ in range(150)]
        for wire in wires:
            answer = wire.answer()
            assert (answer.status_code, error_of(answer)["code"]) == (401, "invalid_token")
        assert time.monotonic() - began < 20

    def test_others_are_served_meanwhile(self, client, serving):
        """Slow bodies with a good token hold no one up, the pages neither."""
        head = {"Content-Length": "1000", "Content-Type": JSON}
        wires = [client.open("POST", PATH, head).send(b"{") for _ in range(150)]
        began = time.monotonic()
        assert ask(client).status_code == 200
        assert Program().get("/healthz").status_code == 200
        assert Program().get("/login").status_code == 200
        assert time.monotonic() - began < 25  # a body may take 60 s
        for wire in wires:
            wire.close()

    def test_a_body_that_comes_after_the_wait_for_leaving_would_begin_is_served(self, client, provider, monkeypatch):
        """Whoever watches for a program that leaves must take no piece of its body."""
        monkeypatch.setattr("llmkeys.gateway.program.LISTEN_AFTER_SECONDS", 0.01)
        make_key()
        provider.post(OPENROUTER, json=completion())
        raw = json.dumps(chat()).encode()
        wire = client.open("POST", PATH, {"Content-Length": str(len(raw)), "Content-Type": JSON})
        for at in range(0, len(raw), 40):
            assert wire.says_nothing_for(0.05)
            wire.send(raw[at : at + 40])
        assert wire.answer().status_code == 200

    def test_a_body_has_a_deadline(self, client, quick_bodies):
        wire = client.open("POST", PATH, {"Content-Length": "1000", "Content-Type": JSON}).send(b"{")
        answer = wire.answer()
        assert (answer.status_code, error_of(answer)["code"]) == (408, "request_timeout")

    def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(self, client):
        make_key()
        wire = client.open("POST", PATH, {"Content-Length": "1000", "Content-Type": JSON}).send(b"{")
        wire.close()
        wire.wait_until_heard()
        assert rows() == []


class TestSentTwice:
    def test_an_idempotency_key_changes_nothing(self, client, serving):
        """The documents say so: libraries send one with every try, and an answer that was lost cannot be had again."""
        assert "Idempotency-Key" in (ROOT / "docs" / "deployment.md").read_text()
        for _ in range(2):
            assert client.post(PATH, RAW, headers={"Idempotency-Key": "abc"}).status_code == 200
        assert len(serving.calls) == len(rows()) == 2


class TestSecretsInTheQuery:
    @pytest.mark.parametrize("name", ["key", "api_key", "access_token", "token"])
    def test_they_do_not_go_along(self, client, serving, name):
        assert client.post(f"{PATH}?beta=true&{name}=secret", RAW).status_code == 200
        assert serving.calls[0].query == {"beta": "true"}
