"""Programs that ask without a pause while something goes wrong, and what each of them was answered."""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from tests.flows.product import Product, Program, chat
from tests.serving import wait_for

BODY = chat("[[prompt_tokens=100 completion_tokens=100 delay_ms=20]]", max_tokens=200)
BROKEN = (OSError, http.client.HTTPException)
PAUSE_SECONDS = 0.05  # of a program that was refused, before it asks again


@dataclass(frozen=True)
class Said:
    """One answer: 0 for a connection that broke."""

    status: int
    seconds: float
    code: str = ""
    retry_after: str = ""
    message: str = ""


@dataclass
class Crowd:
    """`count` programs spread over the products; ended by the `with` block."""

    products: list[Product]
    count: int = 8
    body: dict[str, Any] = field(default_factory=lambda: BODY)
    said: list[Said] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Crowd:
        for number in range(self.count):
            product = self.products[number % len(self.products)]
            thread = threading.Thread(target=self._ask, args=(product,), name=f"program-{number}")
            thread.start()
            self._threads.append(thread)
        self.is_served()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads), "a program hangs"

    def _ask(self, product: Product) -> None:
        with closing(product.program()) as program:
            while not self._stop.is_set():
                said = ask(program, self.body)
                self.said.append(said)
                if said.status != 200:
                    self._stop.wait(PAUSE_SECONDS)

    def served(self) -> int:
        return sum(said.status == 200 for said in list(self.said))

    def refused(self) -> list[Said]:
        return [said for said in list(self.said) if said.status != 200]

    def is_served(self) -> None:
        """Wait until each program, more or less, has had an answer from now on."""
        before = self.served()
        wait_for(lambda: self.served() > before + 2 * self.count, what="the programs are served")

    def is_refused(self) -> None:
        """Wait until each program, more or less, was refused from now on."""
        before = len(self.refused())
        wait_for(lambda: len(self.refused()) > before + self.count, what="the programs are refused")


def ask(program: Program, body: dict[str, Any]) -> Said:
    begin = time.monotonic()
    try:
        reply = program.chat(body)
    except BROKEN as broken:
        return Said(0, time.monotonic() - begin, message=repr(broken))
    seconds = time.monotonic() - begin
    if reply.status == 200:
        return Said(200, seconds)
    try:
        error = reply.json["error"]  # of no other shape, whatever went wrong
    except ValueError:
        return Said(reply.status, seconds, message=repr(reply.body[:200]))
    return Said(reply.status, seconds, error["code"], reply.headers.get("retry-after", ""), error["message"])
