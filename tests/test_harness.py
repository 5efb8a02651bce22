"""The tests' own tools: a scripted provider at the providers' addresses, and a web server in this process."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import aiohttp
import pytest
import requests
import time_machine

from llmkeys.models import FailedAuthentication
from tests import screenshots, web
from tests.conftest import NetworkForbidden
from tests.flows.product import Product
from tests.helpers import NOW, make_token, make_user
from tests.provider import CLOSE, RESET, SILENCE, Gate, Pieces, sent_with
from tests.serving import ROOT, environment, far_from_midnight
from tests.web import Program

CHAT = "https://openrouter.ai/api/v1/chat/completions"


async def _post_with_aiohttp(url: str, bundle: str, **options) -> tuple[int, bytes]:
    resolver = aiohttp.ThreadedResolver()
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=bundle), resolver=resolver)
    session = aiohttp.ClientSession(connector=connector, auto_decompress=False, trust_env=False)
    async with session, session.post(url, **options) as answer:
        return answer.status, await answer.read()


@pytest.fixture
def with_aiohttp(_authorities):
    return lambda url, **options: asyncio.run(_post_with_aiohttp(url, str(_authorities[0].file), **options))


class TestScriptedProvider:
    """At a provider's own https address, both for `requests` and for aiohttp."""

    def test_it_answers_requests(self, provider):
        provider.post(CHAT, json={"a": 1}, status=201, headers={"X-Told": "yes"})
        answer = requests.post(f"{CHAT}?beta=true", data=b"body", headers={"X-Mine": "1"}, timeout=5)
        assert (answer.status_code, answer.json(), answer.headers["x-told"]) == (201, {"a": 1}, "yes")
        (call,) = provider.calls
        assert (call.method, call.url, call.query, call.body) == ("POST", CHAT, {"beta": "true"}, b"body")
        assert ("X-Mine", "1") in call.raw_headers

    def test_it_answers_aiohttp(self, provider, with_aiohttp):
        provider.post(CHAT, Pieces(b"a", b"b"))
        assert with_aiohttp(CHAT, data=b"body") == (200, b"ab")
        assert provider.calls[0].body == b"body"

    @pytest.mark.parametrize("url", ["https://elsewhere.example/", "https://api.mistral.ai/v1"])
    def test_other_hosts_stay_out_of_reach(self, provider, with_aiohttp, url):
        with pytest.raises(NetworkForbidden):
            requests.post(url, timeout=5)
        with pytest.raises(NetworkForbidden):
            with_aiohttp(url)

    def test_without_it_no_provider_is_there(self, with_aiohttp):
        with pytest.raises(NetworkForbidden):
            requests.post(CHAT, timeout=5)
        with pytest.raises(NetworkForbidden):
            with_aiohttp(CHAT)

    def test_what_is_not_scripted_is_not_answered_and_fails_the_test(self, provider):
        with pytest.raises(requests.exceptions.ConnectionError):
            requests.get(CHAT, timeout=5)
        with pytest.raises(AssertionError, match="no test has scripted"):
            provider.check()
        provider.unexpected.clear()

    def test_what_was_never_asked_for_fails_the_test(self, provider):
        provider.post(CHAT, json={})
        with pytest.raises(AssertionError, match="was never asked"):
            provider.check()
        provider.reset()

    def test_answers_serve_in_turn_and_the_last_for_good(self, provider):
        for number in (1, 2):
            provider.post(CHAT, json=number)
        provider.post(CHAT, json="other", match=sent_with("x"))
        assert [requests.post(CHAT, timeout=5).json() for _ in range(3)] == [1, 2, 2]
        assert requests.post(CHAT, headers={"Authorization": "Bearer x"}, timeout=5).json() == "other"

    @pytest.mark.parametrize("framing", ["chunked", "length", "close"])
    def test_it_frames_a_body_in_each_way(self, provider, with_aiohttp, framing):
        provider.sends(Pieces(b"abc", b"def", framing=framing), Pieces(b"abc", b"def", framing=framing))
        assert requests.post(CHAT, timeout=5).content == b"abcdef"
        assert with_aiohttp(CHAT) == (200, b"abcdef")

    def test_it_informs_before_it_answers(self, provider, with_aiohttp):
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        provider.post(CHAT, Pieces(b"ok", informational=(hints, b"HTTP/1.1 100 Continue\r\n\r\n")))
        assert with_aiohttp(CHAT) == (200, b"ok")

    @pytest.mark.parametrize("ending", [RESET, CLOSE])
    def test_it_breaks_off(self, provider, ending):
        provider.post(CHAT, Pieces(b"abc", ending))
        with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
            _ = requests.post(CHAT, timeout=5).content

    def test_it_waits_at_a_gate_and_hears_a_client_that_goes(self, provider):
        gate = Gate()
        provider.sends(Pieces(b"abc", gate, b"def"), Pieces(b"abc", SILENCE))
        with requests.post(CHAT, stream=True, timeout=5) as answer:
            assert answer.raw.read1(3) == b"abc"
            gate.wait_until_reached()
            gate.open()
            assert answer.raw.read() == b"def"
        requests.post(CHAT, stream=True, timeout=5).close()
        assert provider.calls[0].answered.is_set() and provider.calls[1].gone.wait(5)

    @pytest.mark.parametrize("handshake", ["foreign", "reset", "stall"])
    def test_a_handshake_goes_wrong(self, provider, handshake):
        provider.handshake = handshake
        with pytest.raises((requests.exceptions.ConnectionError, requests.exceptions.Timeout)):
            requests.post(CHAT, timeout=0.5)
        assert provider.calls == []


class TestWebServer:
    def test_lifespan_begins_and_ends_with_it(self, monkeypatch):
        told = []

        async def application(scope, receive, send):
            assert scope["type"] == "lifespan"
            while "lifespan.shutdown" not in told:
                told.append((await receive())["type"])
                await send({"type": f"{told[-1]}.complete"})

        application.stop = lambda: None
        monkeypatch.setattr(web, "application", lambda: application)
        server = web.WebServer()
        assert told == ["lifespan.startup"]
        server.stop()
        assert told == ["lifespan.startup", "lifespan.shutdown"]

    def test_it_answers_with_a_length(self, transactional_db):
        answer = Program().get("/healthz")
        assert (answer.status_code, answer.streaming) == (200, False)

    def test_a_head_has_no_body_and_a_connection_may_be_kept(self, transactional_db):
        assert Program().head("/healthz").content == b""
        wire = Program().open("GET", "/healthz", {})
        assert wire.answer(keep=True).status_code == 200
        assert wire.head("GET", "/v1/nothing", {}).answer().status_code == 404

    def test_a_body_may_come_slowly(self, transactional_db):
        token = make_token(make_user("worker", "use_gateway"))
        wire = Program(token).open("POST", "/v1/chat/completions", {"Content-Length": "2"})
        assert wire.says_nothing_for(0.05)
        wire.send(b"{")
        assert wire.says_nothing_for(0.05)
        assert b"messages" in wire.send(b"}").answer().content

    def test_it_sees_the_tests_settings_and_clock(self, settings, frozen, transactional_db):
        settings.MAX_BODY_MB = 0
        token = make_token(make_user("worker", "use_gateway"))
        assert Program(token).post("/v1/chat/completions", "{}").status_code == 413
        assert Program("rfk_unknown").get("/v1/models").status_code == 401
        assert FailedAuthentication.objects.get().at == NOW


def test_the_port_of_a_name_is_the_scripts(provider, provider_server):
    found = socket.getaddrinfo("openrouter.ai", 443, type=socket.SOCK_STREAM)
    assert [entry[4] for entry in found] == [("127.0.0.1", provider_server.tls_port)]


def test_a_process_that_a_test_starts_reaches_loopback_alone(tmp_path):
    code = (
        "import django, requests\ndjango.setup()\nfrom llmkeys.upstream.relayed import _proxy\n"
        "print(_proxy('https://provider.invalid/v1'), _proxy('http://127.0.0.2:1/v1'), _proxy('http://localhost:1/v1'))\n"
        "try: requests.get('https://provider.invalid', timeout=60)\n"
        "except requests.exceptions.ProxyError: print('no way out')\n"
    )
    here = environment(tmp_path, DJANGO_SETTINGS_MODULE="refactai_site.settings")
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=here, capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["http://127.0.0.1:9 None None", "no way out"], ran.stderr


@pytest.mark.skipif(shutil.which("fc-list") is None, reason="no fc-list on the PATH (Debian: the package fontconfig)")
def test_the_browser_of_the_pictures_sees_only_the_fonts_that_it_may(tmp_path, monkeypatch):
    one = min(screenshots.families(Path("/etc/fonts/fonts.conf")))
    monkeypatch.setattr(screenshots, "DEJAVU", (one,))
    assert screenshots.families(screenshots.only_dejavu(tmp_path)) == {one}
    monkeypatch.setattr(screenshots, "DEJAVU", (one, "No Such Font"))
    with pytest.raises(SystemExit, match="Not installed: No Such Font"):
        screenshots.only_dejavu(tmp_path)


@pytest.mark.parametrize("month", [6, 11])
@pytest.mark.parametrize("hour", range(24))
def test_no_budget_of_a_product_begins_anew_while_it_is_tested(monkeypatch, tmp_path, month, hour):
    """Whenever the tests are started, also where UTC's midnight or the end of its month is near."""
    monkeypatch.setattr("tests.flows.product.Served", lambda data_dir, **given: given)
    far_from_midnight.cache_clear()
    with time_machine.travel(datetime(2026, month, 30, hour, 59, tzinfo=UTC), tick=False):
        given = Product(tmp_path, SimpleNamespace(urls={})).environment
        here = datetime.now(ZoneInfo(given["REFACTAI_TIME_ZONE"]))
    far_from_midnight.cache_clear()
    assert 3 <= here.hour < 21
