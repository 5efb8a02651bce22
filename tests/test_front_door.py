"""The whole product through its front door: `manage.py serve`, and clients that behave in all the ways there are."""

from __future__ import annotations

import gzip
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.parse import urlencode

import pytest

from tests.serving import ROOT, Served, manage, prepare

pytestmark = pytest.mark.slow

PASSWORD = "correct horse battery"
STRANGERS = 128
QUICK_SECONDS = 20.0  # a page takes 0.05 s; on a machine that runs other tests besides, more
LARGE_FILE = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui-bundle.js"
DEADLINE = "django.setup()\nimport refactai_site.pages as pages\npages.BODY_SECONDS = {seconds}\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    data_dir = prepare(tmp_path_factory.mktemp("front-door") / "data")
    given = {"DJANGO_SUPERUSER_USERNAME": "admin", "DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    prelude = DEADLINE.format(seconds=2.0)
    with Served(data_dir, "--no-scheduler", "--threads", "2", prelude=prelude, **given) as running:
        yield running.wait_until_up()


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One that waits for a body longer than a page may take: whoever waited for those bodies would be found out."""
    data_dir = prepare(tmp_path_factory.mktemp("patient") / "data")
    prelude = DEADLINE.format(seconds=3 * QUICK_SECONDS)
    with Served(data_dir, "--no-scheduler", "--threads", "2", prelude=prelude) as running:
        yield running.wait_until_up()


@pytest.fixture(scope="module")
def token(served: Served) -> str:
    made = manage(served.data_dir, "tokens", "create", "front door", "--scope", "manage")
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def connection(served: Served) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", served.port, timeout=2 * QUICK_SECONDS)


def ask(
    served: Served, method: str, path: str, body: object = None, headers: dict[str, str] | None = None, **more: bool
) -> tuple[int, http.client.HTTPMessage, bytes]:
    with closing(connection(served)) as client:
        client.request(method, path, body, headers or {}, **more)
        answer = client.getresponse()
        return answer.status, answer.headers, answer.read()


def raw(served: Served, request: bytes) -> bytes:
    """Return the first bytes that come as an answer."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
        client.sendall(request)
        return client.recv(65_536)


def seconds_for(served: Served, path: str) -> float:
    began = time.monotonic()
    assert ask(served, "GET", path)[0] == 200
    return time.monotonic() - began


# --- Bodies -----------------------------------------------------------------------------------------------------------


def test_a_login_form_may_be_chunked(served):
    _, headers, page = ask(served, "GET", "/login")
    form_token = re.search(rb'name="csrfmiddlewaretoken" value="([^"]+)"', page)[1].decode()
    form = urlencode({"username": "admin", "password": PASSWORD, "csrfmiddlewaretoken": form_token}).encode()
    sent = {"Content-Type": "application/x-www-form-urlencoded", "Cookie": headers["Set-Cookie"].split(";")[0]}
    pieces = iter([form[:20], form[20:]])
    status, headers, _ = ask(served, "POST", "/login", pieces, sent, encode_chunked=True)
    assert (status, headers["Location"]) == (302, "/llm-settings")
    session = next(cookie for cookie in headers.get_all("Set-Cookie") if cookie.startswith("refactai_session"))
    status, _, page = ask(served, "GET", "/llm-settings", headers={"Cookie": session.split(";")[0]})
    assert status == 200 and b"Add API Key" in page


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_the_rest_api_takes_chunked_and_encoded_bodies(served, token, encoding):
    key = {"provider": "openai", "name": f"A {encoding}", "apiKey": f"sk-proj-{'a1B2c3D4e5F6' * 5}{len(encoding)}"}
    body = json.dumps(key).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    if encoding:
        body, headers["Content-Encoding"] = gzip.compress(body), encoding
    status, _, answer = ask(served, "POST", "/api/llm/keys", iter([body[:9], body[9:]]), headers, encode_chunked=True)
    assert status == 201, answer


def test_an_encoding_that_is_not_known_is_named(served, token):
    headers = {"Content-Encoding": "zstd", "Authorization": f"Bearer {token}"}
    status, _, answer = ask(served, "POST", "/api/llm/keys", b"x", headers)
    assert status == 415 and b"zstd" in answer


def test_a_client_that_sends_too_much_reads_why(served):
    assert ask(served, "POST", "/login", b"x" * 3_000_000)[0] == 413


def test_a_body_that_does_not_come_is_refused_in_time(served):
    head = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx"
    assert raw(served, head).startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_arrives_whole_at_the_gateway(served, token):
    """It pauses for longer than the gateway takes to begin to watch for programs that leave."""
    body = b'{"model": "openai/gpt-6.1-terra", "messages": [], "user": "a mistake that comes last"}'
    headers = {"Authorization": f"Bearer {token}", "Content-Length": str(len(body))}
    status, _, answer = ask(served, "POST", "/v1/chat/completions", pausing(body, 1.3), headers)
    assert (status, json.loads(answer)["error"]["param"]) == (400, "messages"), answer


def pausing(body: bytes, seconds: float) -> Iterator[bytes]:
    yield body[:30]
    threading.Event().wait(seconds)
    yield body[30:]


# --- Addresses and headers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_probe_may_use_any_host(served, path, method):
    status, _, body = ask(served, method, path, headers={"Host": "10.0.0.5:8080"})
    assert status == 200
    assert body == (b"" if method == "HEAD" else b'{"status":"ok"}')


def test_a_program_may_use_any_host(served):
    status, _, body = ask(served, "GET", "/v1/models", headers={"Host": "10.0.0.5:8080"})
    assert status == 401 and b"invalid_token" in body


def test_a_probe_may_not_post(served):
    status, headers, _ = ask(served, "POST", "/healthz")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_page_may_not_use_any_host_and_leaves_no_traceback(served):
    status, _, body = ask(served, "GET", "/login", headers={"Host": "10.0.0.5:8080"})
    assert status == 400 and b"10.0.0.5:8080" in body and b"REFACTAI_ALLOWED_HOSTS" in body
    assert "Traceback" not in served.log.read_text()


def test_head_is_get_without_content(served):
    _, of_get, _ = ask(served, "GET", "/login")
    status, of_head, body = ask(served, "HEAD", "/login")
    assert (status, body) == (200, b"")
    assert of_head["Content-Length"] == of_get["Content-Length"]


def test_a_query_that_is_not_encoded_is_read(served):
    request = "GET /login?next=/ä HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    assert raw(served, request).startswith(b"HTTP/1.1 200 ")


def test_files_are_whole(served):
    status, headers, body = ask(served, "GET", "/static/css/base.css")
    assert status == 200
    assert len(body) == int(headers["Content-Length"]) == (ROOT / "static/css/base.css").stat().st_size


# --- Slow clients -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/login", "/v1/chat/completions", "/api/llm/keys"])
def test_strangers_that_send_a_byte_a_second_stop_nobody(patient, path):
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode()
    with ExitStack() as stack:
        strangers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", patient.port))) for _ in range(STRANGERS)
        ]
        for stranger in strangers:
            stranger.sendall(head + b"x")
        assert seconds_for(patient, "/healthz") < QUICK_SECONDS
        assert seconds_for(patient, "/readyz") < QUICK_SECONDS
        assert seconds_for(patient, "/login") < QUICK_SECONDS


def test_readers_that_take_nothing_stop_nobody(patient):
    with ExitStack() as stack:
        for _ in range(40):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", patient.port))
            reader.sendall(f"GET {LARGE_FILE} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert seconds_for(patient, "/login") < QUICK_SECONDS
