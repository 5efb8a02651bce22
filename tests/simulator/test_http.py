"""Its HTTP, byte by byte."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time

import pytest
import requests

from llmkeys.simulator import SimulatorThread
from tests.simulator.helpers import CHAT, MODELS, body_of, chat, raw


def post_bytes(body: bytes, *headers: str, path: str = CHAT["openai"]) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Authorization: Bearer sk-x-ok", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


CHAT_BODY = json.dumps({"model": "gpt-6-luna", **body_of()}).encode()


class TestHttp:
    def test_it_keeps_a_connection_alive(self, simulator: SimulatorThread) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", simulator.port, timeout=10)
        connection.connect()
        used = connection.sock
        for stream in (False, True, False):
            body = json.dumps({"model": MODELS["openai"], "stream": stream, **body_of()})
            connection.request("POST", CHAT["openai"], body, {"Authorization": "Bearer sk-x-ok"})
            answer = connection.getresponse()
            assert answer.status == 200
            assert b"simulated" in answer.read()
            assert connection.sock is used
        connection.close()

    def test_it_answers_pipelined_requests_in_order(self, simulator: SimulatorThread) -> None:
        slow = json.dumps({"model": "gpt-6-luna", **body_of("[[delay_ms=100 completion_tokens=1]]")}).encode()
        first = post_bytes(slow, f"Content-Length: {len(slow)}")
        second = post_bytes(CHAT_BODY, f"Content-Length: {len(CHAT_BODY)}", "Connection: close")
        received = raw(simulator, first + second)
        assert received.count(b"HTTP/1.1 200 OK") == 2
        assert received.index(b'"simulated"') < received.index(b'"simulated word')

    def test_it_reads_a_chunked_body_byte_by_byte(self, simulator: SimulatorThread) -> None:
        half = len(CHAT_BODY) // 2
        chunks = b"".join(b"%x;a=b\r\n%b\r\n" % (len(part), part) for part in (CHAT_BODY[:half], CHAT_BODY[half:]))
        data = post_bytes(chunks + b"0\r\nTrailer: x\r\n\r\n", "Transfer-Encoding: chunked", "Connection: close")
        with socket.create_connection(("127.0.0.1", simulator.port), timeout=5) as connection:
            for position in range(len(data)):
                connection.sendall(data[position : position + 1])
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")

    def test_it_invites_a_body_that_waits(self, simulator: SimulatorThread) -> None:
        head = post_bytes(b"", f"Content-Length: {len(CHAT_BODY)}", "Expect: 100-continue")
        with socket.create_connection(("127.0.0.1", simulator.port), timeout=5) as connection:
            connection.sendall(head)
            assert connection.recv(1_000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            connection.sendall(CHAT_BODY)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 OK")

    def test_it_takes_a_large_body(self, simulator: SimulatorThread) -> None:
        text = "word " * 6_000_000
        usage = chat(simulator, "openai", text).json()["usage"]
        assert usage["prompt_tokens"] == 6_000_000

    def test_it_refuses_a_body_over_40_mb(self, simulator: SimulatorThread) -> None:
        received = raw(simulator, post_bytes(b"", f"Content-Length: {40 * 1024 * 1024 + 1}"))
        assert received.startswith(b"HTTP/1.1 413 ")
        assert b"Connection: close" in received

    @pytest.mark.parametrize(
        "data",
        [
            b"nonsense\r\n\r\n",
            b"nonsense\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET /\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: x\r\nName : x\r\n\r\n",
            post_bytes(b"", "Content-Length: -1"),
            post_bytes(b"", "Content-Length: +1"),
            post_bytes(b"", "Content-Length: 1", "Content-Length: 2"),
            post_bytes(b"", "Content-Length: 1", "Transfer-Encoding: chunked"),
            post_bytes(b"", "Transfer-Encoding: gzip"),
            post_bytes(b"zz\r\n", "Transfer-Encoding: chunked"),
            post_bytes(b"3\r\nabcde\r\n", "Transfer-Encoding: chunked"),
        ],
    )
    def test_it_refuses_a_malformed_request(self, simulator: SimulatorThread, data: bytes) -> None:
        received = raw(simulator, data)
        assert received.startswith(b"HTTP/1.1 400 ")
        assert b"simulated: " in received
        assert simulator.journal() == []

    @pytest.mark.parametrize(
        ("data", "status"),
        [
            (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", b"505"),
            (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 70_000, b"431"),
            (post_bytes(b"", "Content-Length: 1", "Expect: a miracle"), b"417"),
        ],
    )
    def test_it_refuses_what_it_cannot_do(self, simulator: SimulatorThread, data: bytes, status: bytes) -> None:
        assert raw(simulator, data).startswith(b"HTTP/1.1 " + status)

    def test_it_streams_to_an_old_client(self, simulator: SimulatorThread) -> None:
        body = json.dumps({"model": "gpt-6-luna", "stream": True, **body_of()}).encode()
        data = post_bytes(body, f"Content-Length: {len(body)}").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        received = raw(simulator, data)
        assert b"chunked" not in received
        assert received.endswith(b"data: [DONE]\n\n")

    def test_it_notices_a_client_that_leaves(self, simulator: SimulatorThread) -> None:
        body = json.dumps({"model": "gpt-6-luna", "stream": True, **body_of("[[chunk_delay_ms=60000]]")}).encode()
        with socket.create_connection(("127.0.0.1", simulator.port), timeout=5) as connection:
            connection.sendall(post_bytes(body, f"Content-Length: {len(body)}"))
            assert connection.recv(65_536)
            assert simulator.summary()["inFlight"] == 1
        deadline = time.monotonic() + 5
        while simulator.summary()["inFlight"] and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        assert simulator.summary()["inFlight"] == 0
        assert simulator.journal()[0]["completed"] is False

    def test_it_waits_for_a_slow_reader(self, simulator: SimulatorThread) -> None:
        # About 9 MB: more than the kernel takes off the server's hands.
        text = "[[completion_tokens=40000 chunks=5000]]"
        body = json.dumps({"model": "gpt-6-luna", "stream": True, **body_of(text, n=8)}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            connection.settimeout(5)
            connection.connect(("127.0.0.1", simulator.port))
            connection.sendall(post_bytes(body, f"Content-Length: {len(body)}", "Connection: close"))
            assert simulator.wait_for_entries(1)[0]["completed"] is False
            received = bytearray()
            while more := connection.recv(1 << 20):
                received += more
        assert received.endswith(b"0\r\n\r\n")
        assert received.count(b'"delta":{"content":') == 40_000
        assert simulator.journal()[0]["completed"] is True

    def test_it_serves_many_connections_at_once(self, simulator: SimulatorThread) -> None:
        def use(count: int) -> None:
            with requests.Session() as session:
                headers = {"Authorization": "Bearer sk-x-ok"}
                for _ in range(count):
                    url = simulator.base_url + CHAT["openai"]
                    session.post(url, data=CHAT_BODY, headers=headers, timeout=20).raise_for_status()

        threads = [threading.Thread(target=use, args=(5,)) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # 320 x (1 x 0.1 + 20 x 0.5) = 3232 millionths
        assert simulator.summary().items() >= {"count": 320, "completed": 320, "cost": "0.003232"}.items()
