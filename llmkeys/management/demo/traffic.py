"""Three programs that keep sending requests, quickly at first, so that a budget is spent within a minute."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from llmkeys.management.demo.history import choose_habit

QUICK_SECONDS = 90
QUICK_PAUSE, CALM_PAUSE = (0.3, 1.0), (8.0, 20.0)
MOST_TOKENS = 16_000
QUESTIONS = (
    "Summarise the meeting notes in five points.",
    "Explain this stack trace and propose a fix.",
    "Write a test for the function below.",
    "Translate the release notes into German.",
    "Which of these invoices look unusual, and why?",
)
# Per hundred requests: an overloaded provider, a stream that breaks off, a client's mistake.
TROUBLES = ((2, "status=503"), (1, "behaviour=cut"), (2, "status=400"))
_BROKEN = (OSError, http.client.HTTPException)


class Traffic:
    """One thread for each program; `tokens` maps the programs' names to their access tokens."""

    def __init__(self, host: str, port: int, tokens: Mapping[str, str]) -> None:
        self._address = (host, port)
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._threads = [
            threading.Thread(target=self._run, args=(token, random.Random(name)), name=name, daemon=True)  # noqa: S311
            for name, token in tokens.items()
        ]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def _run(self, token: str, chance: random.Random) -> None:
        while not self._stop.is_set():
            self._ask(token, chance)
            quick = time.monotonic() - self._began < QUICK_SECONDS
            self._stop.wait(chance.uniform(*(QUICK_PAUSE if quick else CALM_PAUSE)))

    def _ask(self, token: str, chance: random.Random) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=60)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(_body(chance)), headers)
            answer = connection.getresponse()
            while answer.read(65_536) and not self._stop.is_set():
                pass
        except _BROKEN:
            pass  # the demo is ending, or a stream broke off as intended
        finally:
            connection.close()


def _body(chance: random.Random) -> dict[str, Any]:
    output = min(MOST_TOKENS, int(chance.lognormvariate(8.8, 0.5)))
    text = f"{chance.choice(QUESTIONS)} [[completion_tokens={output} delay_ms={chance.randint(150, 900)} chunks=12 "
    text += f"chunk_delay_ms=60 {_trouble(chance)}]]"
    return {
        "model": choose_habit(chance).model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": MOST_TOKENS,
        "stream": chance.random() < 0.4,
    }


def _trouble(chance: random.Random) -> str:
    number = chance.randrange(100)
    for share, directive in TROUBLES:
        number -= share
        if number < 0:
            return directive
    return ""
