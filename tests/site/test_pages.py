"""Django behind ASGI: what it gets of a request, how its answer goes out, and which clients hold a thread."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from refactai_site import pages as module
from refactai_site.pages import Handler, Pages
from tests.site.exchange import Exchange

LIMIT = 1000


class View(Handler):
    """A handler with a single view and no middleware."""

    def __init__(self, view: Callable[[HttpRequest], Any]) -> None:
        self._view = view

    def load_middleware(self, is_async: bool = False) -> None: ...

    def get_response(self, request: ASGIRequest) -> Any:
        return self._view(request)


def run(exchange: Callable[[], Exchange], view: Callable[[HttpRequest], Any], *, threads: int = 2) -> Exchange:
    async def in_worker() -> Exchange:
        application = Pages(View(view), limit=LIMIT)
        application.threads = threads
        async with application.lifespan(lambda: 0.0):
            return await exchange().run(application)

    return asyncio.run(in_worker())


def told(request: HttpRequest) -> JsonResponse:
    """Tell what came of a request."""
    meta = {name: value for name, value in request.META.items() if isinstance(value, str)}
    return JsonResponse({"body": request.body.decode(), "meta": meta, "get": request.GET.dict()})


def send(view: Callable[[HttpRequest], Any] = told, **what: Any) -> Exchange:
    return run(lambda: Exchange(**what), view)


def json_of(exchange: Exchange) -> Any:
    assert exchange.status == 200, exchange.body
    return json.loads(exchange.body)


# --- What Django gets -------------------------------------------------------------------------------------------------


def test_a_chunked_body_arrives_with_its_length():
    answer = json_of(send(method="POST", headers={"Transfer-Encoding": "chunked"}, pieces=[b"abc", b"", b"def"]))
    assert answer["body"] == "abcdef"
    assert answer["meta"]["CONTENT_LENGTH"] == "6"
    assert "HTTP_TRANSFER_ENCODING" not in answer["meta"]


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda raw: zlib.compress(raw, wbits=-15)),
        ("GZIP", gzip.compress),
        ("gzip", lambda raw: gzip.compress(raw[:5]) + gzip.compress(raw[5:])),
        ("identity", bytes),
        ("deflate, gzip", lambda raw: gzip.compress(zlib.compress(raw))),
    ],
)
def test_an_encoded_body_arrives_decoded(encoding, encode):
    raw = encode(b'{"name": "A"}')
    sent = {"Content-Encoding": encoding, "Content-Length": str(len(raw))}
    answer = json_of(send(method="POST", headers=sent, pieces=[raw]))
    assert answer["body"] == '{"name": "A"}'
    assert answer["meta"]["CONTENT_LENGTH"] == "13"
    assert "HTTP_CONTENT_ENCODING" not in answer["meta"]


def test_no_body_is_no_encoded_body():
    assert json_of(send(headers={"Content-Encoding": "gzip"}))["body"] == ""


def test_a_body_that_grows_in_many_small_members_is_refused():
    assert (
        send(method="POST", headers={"Content-Encoding": "gzip"}, pieces=[gzip.compress(b"x" * 300) * 4]).status == 413
    )


def test_an_encoding_that_is_not_known_is_named():
    answer = send(method="POST", headers={"Content-Encoding": "br"}, pieces=[b"x"])
    assert answer.status == 415
    assert "“br”" in answer.body.decode()


@pytest.mark.parametrize("raw", [b"no gzip", gzip.compress(b"x" * 500)[:-9]], ids=["none", "cut"])
def test_a_body_that_is_not_what_it_says_is_refused(raw):
    answer = send(method="POST", headers={"Content-Encoding": "gzip"}, pieces=[raw])
    assert answer.status == 400
    assert "gzip" in answer.body.decode()


@pytest.mark.parametrize(
    ("headers", "pieces"),
    [
        ({"Content-Length": "1001"}, [b"x" * 1001]),
        ({"Transfer-Encoding": "chunked"}, [b"x" * 600, b"x" * 600]),
        ({"Content-Encoding": "gzip"}, [gzip.compress(b"x" * 1001)]),
    ],
    ids=["declared", "chunked", "decoded"],
)
def test_a_body_above_the_limit_is_refused(headers, pieces):
    answer = send(method="POST", headers=headers, pieces=pieces)
    assert answer.status == 413


def test_a_client_that_asks_first_whether_it_may_send_so_much_is_refused_before_it_does():
    headers = {"Content-Length": "1001", "Expect": "100-continue"}
    exchange = Exchange(method="POST", headers=headers, pieces=[None])
    assert run(lambda: exchange, told).status == 413
    assert not exchange.is_asked_for_more.is_set()


def test_a_body_at_the_limit_is_taken():
    assert len(json_of(send(method="POST", pieces=[b"x" * 1000]))["body"]) == 1000


def test_a_refusal_is_json_for_the_rest_api():
    answer = send(method="POST", path="/api/llm/keys", headers={"Content-Encoding": "br"}, pieces=[b"x"])
    assert answer.answered["content-type"] == "application/json"
    assert b'"detail"' in answer.body


def test_a_body_that_does_not_come_is_refused_in_time(monkeypatch):
    monkeypatch.setattr(module, "BODY_SECONDS", 0.05)
    answer = send(method="POST", headers={"Content-Length": "10"}, pieces=[b"x", None])
    assert answer.status == 408
    assert "0.05 seconds" in answer.body.decode()


def test_bodies_that_are_too_many_together_are_refused_and_leave_room_for_the_next():
    async def in_worker() -> tuple[Exchange, Exchange]:
        application = Pages(View(told), limit=LIMIT, room=1500)
        async with application.lifespan(lambda: 0.0):
            slow = Exchange(method="POST", pieces=[b"x" * 900, None])
            waiting = asyncio.create_task(slow.run(application))
            await slow.is_asked_for_more.wait()
            refused = await Exchange(method="POST", pieces=[b"x" * 900]).run(application)
            slow.leave()
            await waiting
            return refused, await Exchange(method="POST", pieces=[b"x" * 900]).run(application)

    refused, taken = asyncio.run(in_worker())
    assert refused.status == 503 and refused.answered["retry-after"] == "1"
    assert taken.status == 200


def test_what_a_body_is_decoded_to_takes_room_too():
    async def in_worker() -> Exchange:
        application = Pages(View(told), limit=LIMIT, room=500)
        async with application.lifespan(lambda: 0.0):
            small = gzip.compress(b"x" * 900)
            return await Exchange(method="POST", headers={"Content-Encoding": "gzip"}, pieces=[small]).run(application)

    assert asyncio.run(in_worker()).status == 503


def test_a_header_name_with_an_underscore_is_left_out():
    headers = [("X_Forwarded_For", "6.6.6.6"), ("X-Forwarded-For", "1.2.3.4")]
    assert json_of(send(headers=headers))["meta"]["HTTP_X_FORWARDED_FOR"] == "1.2.3.4"


def test_cookies_in_several_headers_are_one():
    meta = json_of(send(headers=[("Cookie", "a=1"), ("Cookie", "b=2")]))["meta"]
    assert meta["HTTP_COOKIE"] == "a=1; b=2"


@pytest.mark.parametrize(("raw", "value"), [("ä".encode(), "ä"), (b"\xe4", "\ufffd"), (b"a b", "a b")])
def test_a_query_that_is_not_percent_encoded_is_read(raw, value):
    answer = json_of(send(query=b"q=" + raw))
    assert answer["get"] == {"q": value}
    assert answer["meta"]["QUERY_STRING"].isascii()


# --- How its answer goes out ------------------------------------------------------------------------------------------


def test_every_cookie_has_a_header_of_its_own():
    def view(request: HttpRequest) -> HttpResponse:
        response = HttpResponse("ok")
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    assert [cookie.split(";")[0] for cookie in send(view).cookies] == ["a=1", "b=2"]


def test_lines_that_come_at_once_are_sent_together_and_all_arrive():
    lines = [f"{number}\n" for number in range(50_000)]
    answer = send(lambda request: StreamingHttpResponse(lines))
    assert answer.is_complete
    assert answer.body == "".join(lines).encode()


def test_a_stream_arrives_while_it_is_made():
    first_arrived = threading.Event()

    def lines() -> Iterator[str]:
        yield "first"
        assert first_arrived.wait(30)
        yield "second"

    async def in_worker() -> Exchange:
        application = Pages(View(lambda request: StreamingHttpResponse(lines())), gather_seconds=0)
        async with application.lifespan(lambda: 0.0):
            exchange = Exchange()
            running = asyncio.create_task(exchange.run(application))
            await exchange.gets_content.wait()
            assert exchange.body == b"first"
            first_arrived.set()
            return await running

    assert asyncio.run(in_worker()).body == b"firstsecond"


def test_head_sends_no_content_and_makes_none():
    def lines() -> Iterator[str]:
        raise AssertionError("not to be asked for")
        yield ""

    answer = send(lambda request: StreamingHttpResponse(lines()), method="HEAD")
    assert (answer.status, answer.body, answer.is_complete) == (200, b"", True)


def test_an_answer_that_breaks_off_does_not_look_complete():
    def lines() -> Iterator[str]:
        yield "x" * module.PIECE_BYTES
        raise RuntimeError("the database went away")

    exchange: list[Exchange] = []

    def made() -> Exchange:
        exchange.append(Exchange())
        return exchange[0]

    with pytest.raises(RuntimeError, match="went away"):
        run(made, lambda request: StreamingHttpResponse(lines()))
    assert not exchange[0].is_complete


# --- Who holds a thread -----------------------------------------------------------------------------------------------


class Endless:
    """Lines without end, which know whether they were closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"x" * module.PIECE_BYTES

    def close(self) -> None:
        self.closed.set()


def test_clients_that_take_nothing_hold_no_thread(settings):
    settings.STREAM_IDLE_SECONDS = 3600
    endless = [Endless() for _ in range(20)]
    left = iter(endless)

    def view(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
        return HttpResponse("page") if request.path == "/page" else StreamingHttpResponse(next(left))

    async def in_worker() -> Exchange:
        application = Pages(View(view))
        application.threads = 2
        async with application.lifespan(lambda: 0.0):
            stuck = [Exchange(takes=False) for _ in endless]
            running = [asyncio.create_task(exchange.run(application)) for exchange in stuck]
            for exchange in stuck:
                await exchange.gets_content.wait()
            page = await Exchange(path="/page").run(application)
            assert not any(lines.closed.is_set() for lines in endless)
            for stream in running:
                stream.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            return page

    assert asyncio.run(in_worker()).body == b"page"


def test_clients_that_take_nothing_are_given_up(settings):
    settings.STREAM_IDLE_SECONDS = 0.2
    endless = [Endless() for _ in range(20)]
    left = iter(endless)

    async def in_worker() -> list[Exchange]:
        application = Pages(View(lambda request: StreamingHttpResponse(next(left))))
        application.threads = 2
        async with application.lifespan(lambda: 0.0):
            return await asyncio.gather(*(Exchange(takes=False).run(application) for _ in endless))

    assert not any(exchange.is_complete for exchange in asyncio.run(in_worker()))
    assert all(lines.closed.is_set() for lines in endless)


def test_a_download_ends_when_its_client_goes():
    endless = Endless()

    async def in_worker() -> None:
        application = Pages(View(lambda request: StreamingHttpResponse(endless)))
        async with application.lifespan(lambda: 0.0):
            exchange = Exchange()
            running = asyncio.create_task(exchange.run(application))
            await exchange.gets_content.wait()
            exchange.leave()
            await running

    asyncio.run(in_worker())
    assert endless.closed.is_set()


def test_an_answer_that_is_an_asynchronous_iterator_holds_no_thread():
    async def lines(until: asyncio.Event) -> AsyncIterator[bytes]:
        yield b"first "
        await until.wait()
        yield b"second"

    async def in_worker() -> tuple[Exchange, list[Exchange]]:
        until = asyncio.Event()

        def view(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
            return HttpResponse("page") if request.path == "/page" else StreamingHttpResponse(lines(until))

        application = Pages(View(view))
        application.threads = 1
        async with application.lifespan(lambda: 0.0):
            streams = [Exchange() for _ in range(10)]
            running = [asyncio.create_task(exchange.run(application)) for exchange in streams]
            for exchange in streams:
                await exchange.gets_content.wait()
            page = await Exchange(path="/page").run(application)
            until.set()
            await asyncio.gather(*running)
            return page, streams

    page, streams = asyncio.run(in_worker())
    assert page.body == b"page"
    assert all(exchange.body == b"first second" and exchange.is_complete for exchange in streams)


def test_clients_that_send_slowly_hold_no_thread():
    async def in_worker() -> Exchange:
        application = Pages(View(told), limit=LIMIT)
        application.threads = 1
        async with application.lifespan(lambda: 0.0):
            slow = [Exchange(method="POST", pieces=[b"x", None]) for _ in range(128)]
            running = [asyncio.create_task(exchange.run(application)) for exchange in slow]
            for exchange in slow:
                await exchange.is_asked_for_more.wait()
            page = await Exchange().run(application)
            for exchange in slow:
                exchange.leave()
            await asyncio.gather(*running)
            return page

    assert asyncio.run(in_worker()).status == 200
