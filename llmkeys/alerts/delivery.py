"""Sends messages to notification targets with `apprise`, from a separate process.

The library and its plugins take 44 MB and 0.3 s, too much for web and scheduler processes to carry for a rare alert;
and a process, unlike a thread, can be ended if a target never answers. The child is this module run as a program. It
reads its orders from stdin, so that no address, which is a secret, appears in an argument list.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

DEADLINE_SECONDS = 15.0  # for all targets together, which are called concurrently
START_SECONDS = 15.0  # until the child has loaded, on a busy machine
LONGEST_WORDS = 160
SHORTEST_SECRET = 4  # shorter parts of an address are not secret, and occur in any sentence

# Schemes whose first part is a server; in others it may be a token (`slack://TOKEN/…`, `tgram://TOKEN/…`).
_HOST_IS_A_SERVER = {"http", "json", "xml", "form", "mailto", "gotify", "mmost", "nctalk", "apprise", "hassio", "mqtt"}


@dataclass(frozen=True, slots=True, repr=False)
class Message:
    """A message to one target. It has no repr, because the address is a secret."""

    url: str
    title: str
    body: str


@dataclass(frozen=True, slots=True)
class Result:
    """The result of sending one message, without secrets; `words` is empty if it was delivered."""

    delivered: bool
    words: str = ""


def send(messages: Sequence[Message], *, seconds: float = DEADLINE_SECONDS) -> list[Result]:
    """Send all messages concurrently; return their results in the same order, at the latest after the deadline."""
    if not messages:
        return []
    orders = [{"url": message.url, "title": message.title, "body": message.body} for message in messages]
    answer = _ask_child({"send": orders, "seconds": seconds}, seconds)
    if answer is None or len(answer) != len(messages):
        return [Result(False, "The process that sends did not finish.")] * len(messages)
    return [Result(words is None, words or "") for words in answer]


def unknown(urls: Sequence[str]) -> list[int]:
    """Return the positions of the addresses that `apprise` cannot use, without sending anything."""
    answer = _ask_child({"check": list(urls)}, DEADLINE_SECONDS) if urls else []
    return [position for position, known in enumerate(answer or []) if not known]


def label(url: str) -> str:
    """Return a name of a target for people: its kind, and its server if that is not secret."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return url.partition(":")[0][:20].lower()
    if parts.scheme.removesuffix("s") not in _HOST_IS_A_SERVER or not host:
        return parts.scheme
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def _ask_child(order: dict[str, Any], seconds: float) -> list[Any] | None:
    """Run this module as a program and return its answer, or None. Never raises."""
    try:
        child = subprocess.run(  # noqa: S603  (this very module)
            [sys.executable, "-m", __name__],
            input=json.dumps(order).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).resolve().parents[2],
            timeout=seconds + START_SECONDS,
            check=False,
        )
        return json.loads(child.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


# --- the child --------------------------------------------------------------------------------------------------------


def main() -> None:
    """Read an order, carry it out, write the answer, and exit without waiting for threads that hang."""
    order = json.load(sys.stdin)
    _end_by_itself(order.get("seconds", DEADLINE_SECONDS) + START_SECONDS)
    answer = _check(order["check"]) if "check" in order else _send_all(order["send"], order["seconds"])
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # a thread that waits for a dead target would delay a normal exit


def _end_by_itself(seconds: float) -> None:
    """Exit after `seconds`, because the parent process may have been killed."""
    timer = threading.Timer(seconds, os._exit, [1])
    timer.daemon = True
    timer.start()


def _check(urls: list[str]) -> list[bool]:
    _collect_log()
    from apprise import Apprise

    return [Apprise.instantiate(url) is not None for url in urls]


def _send_all(orders: list[dict[str, str]], seconds: float) -> list[str | None]:
    _collect_log()
    import apprise

    apprise.Apprise.instantiate(orders[0]["url"])  # loads the plugins once, before the threads need them
    words: list[str | None] = [f"It did not answer within {seconds:g} seconds."] * len(orders)
    threads = [
        threading.Thread(target=_send_one, args=(words, position, order), daemon=True)
        for position, order in enumerate(orders)
    ]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(words)


def _send_one(words: list[str | None], position: int, order: dict[str, str]) -> None:
    import apprise

    _logged.set(logged := [])
    asset = apprise.AppriseAsset(
        app_id="RefactAI", app_desc="RefactAI LLM key management", app_url="", async_mode=False
    )
    target = apprise.Apprise(asset=asset)
    try:
        # Plain text: a key's name is user input, which apprise escapes for targets that use HTML.
        delivered = target.add(order["url"]) and target.notify(
            title=order["title"], body=order["body"], body_format=apprise.NotifyFormat.TEXT
        )
    except Exception as error:  # to the operator, a plugin's bug is the same as a dead target
        delivered = False
        logged.append(type(error).__name__)
    words[position] = None if delivered else _without_secrets(" ".join(logged) or "It was not delivered.", order["url"])


_logged: ContextVar[list[str]] = ContextVar("what apprise logged for one message")


class _LogCollector(logging.Handler):
    """Keeps what apprise logs about a message, because it only returns True or False. Its threads copy the context."""

    def emit(self, record: logging.LogRecord) -> None:
        _logged.get([]).append(record.getMessage())


def _collect_log() -> None:
    logger = logging.getLogger("apprise")
    logger.addHandler(_LogCollector(logging.WARNING))
    logger.setLevel(logging.WARNING)
    logger.propagate = False


def _without_secrets(words: str, url: str) -> str:
    """Return the words in one line, shortened, without any part of the address that its label does not show."""
    shown = label(url)
    pieces = {piece for text in (url, unquote(url)) for piece in re.split(r"[:/?&=@#,;]+", text)}
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) >= SHORTEST_SECRET and piece not in shown:
            words = re.sub(re.escape(piece), "***", words, flags=re.IGNORECASE)
    return " ".join(words.split())[:LONGEST_WORDS]


if __name__ == "__main__":
    main()
