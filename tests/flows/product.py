"""A running product beside a simulated provider, programs that use it, and a look into its books from outside."""

from __future__ import annotations

import http.client
import json
import secrets
import sqlite3
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmkeys.simulator.thread import SimulatorThread
from tests.serving import Served, far_from_midnight, manage, prepare, wait_for

# A model whose vocabulary is not public: its hold is the bound by bytes and never a tighter one, which makes the
# number of requests that fit into a budget a plain sum.
MODEL = "anthropic/claude-haiku-4.5"
PATIENCE_SECONDS = 60


_LOOKS = {"openrouter": "sk-or-v1-", "openai": "sk-proj-", "anthropic": "sk-ant-api03-", "google": "AQ."}


def new_secret(ending: str = "ok", provider: str = "openrouter") -> str:
    return f"{_LOOKS[provider]}{secrets.token_hex(24)}-{ending}"


def chat(text: str = "Say something", *, model: str = MODEL, max_tokens: int = 200, **more: Any) -> dict[str, Any]:
    """Return the body of a chat request; `text` may hold the simulator's directives."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens, **more}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable code of an error."""
        return self.json["error"]["code"]


class Program:
    """One program of a user: one keep-alive connection, opened anew after it broke, never a retry by itself."""

    def __init__(self, port: int, token: str = "", *, seconds: float = PATIENCE_SECONDS) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
        self._token = token

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Raises OSError or http.client.HTTPException where no complete answer came."""
        given = {"Content-Type": "application/json", **headers}
        if self._token:
            given["Authorization"] = f"Bearer {self._token}"
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        try:
            self._connection.request(method, path, data, given)
            answer = self._connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        except BaseException:
            self._connection.close()
            raise

    def chat(self, body: dict[str, Any]) -> Reply:
        return self.call("POST", "/v1/chat/completions", body)

    def close(self) -> None:
        self._connection.close()


class Product:
    """`manage.py serve` in a data directory, sent to the simulator, with one access token of scope `manage`."""

    is_new = False  # it finds nothing, and makes its database itself

    def __init__(
        self, data_dir: Path, simulator: SimulatorThread, *arguments: str, prelude: str = "", **more: str
    ) -> None:
        urls = {f"{provider.upper()}_BASE_URL": url for provider, url in simulator.urls.items()}
        self.data_dir, self.simulator = data_dir, simulator
        self.environment = urls | {"REFACTAI_TIME_ZONE": far_from_midnight()} | more
        if not (self.is_new or data_dir.exists() or "DATABASE_URL" in more):
            prepare(data_dir)
        self.served = self._serve(*arguments, prelude=prelude)
        self.token = ""

    def _serve(self, *arguments: str, prelude: str) -> Served:
        return Served(self.data_dir, *arguments, prelude=prelude, **self.environment)

    def __enter__(self) -> Product:
        self.served.wait_until_up()
        self.token = self.command("tokens", "create", f"flows {secrets.token_hex(4)}", "--scope", "manage").strip()
        return self

    def __exit__(self, *failure: object) -> None:
        self.served.__exit__()

    def command(self, *arguments: str, stdin: str = "") -> str:
        """Run `manage.py …`, which must succeed, and return what it prints."""
        done = manage(self.data_dir, *arguments, stdin=stdin, **self.environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def add_with_command(self, provider: str, secret: str, *options: str) -> str:
        """`manage.py keys add`, the secret on stdin; return the id."""
        return json.loads(self.command("keys", "add", "--provider", provider, "--json", *options, stdin=secret))["id"]

    def program(self, token: str = "", *, seconds: float = PATIENCE_SECONDS) -> Program:
        return Program(self.served.port, token or self.token, seconds=seconds)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        with closing(self.program()) as program:
            reply = program.call(method, f"/api/llm{path}", body)
        assert reply.status < 400, (reply.status, reply.body)
        return reply.json

    def add_key(self, name: str, *, ending: str = "ok", provider: str = "openrouter", **fields: Any) -> str:
        """Store a key and return its id."""
        body = {"provider": provider, "name": name, "apiKey": new_secret(ending, provider), **fields}
        return self.api("POST", "/keys", body)["id"]

    def token_for(self, *keys: str, **fields: Any) -> str:
        """Return an access token that may use these keys only."""
        body = {"name": f"for {keys[0]}", "keyIds": list(keys), **fields}
        return self.api("POST", "/tokens", body)["token"]

    @property
    def books(self) -> Books:
        database = self.environment.get("DATABASE_URL") or str(self.data_dir / "llmkeys.sqlite3")
        return Books(database.removeprefix("sqlite:///"))

    def states(self, key: str = "") -> Counter[str]:
        """Count the usage rows by state; only those of a key, where one is given."""
        of_key = f"WHERE key_id = '{key}'" if key else ""
        with self.books as books:
            return Counter(dict(books.rows(f"SELECT state, COUNT(*) FROM llmkeys_usagerecord {of_key} GROUP BY 1")))

    def check_books(self) -> None:
        """Every request that the provider billed has its row, and the counters are the sums of the rows."""
        wait_for(lambda: not self.states()["HELD"], seconds=60, what="all holds have ended")
        with self.books as books:
            recorded = {request for (request,) in books.rows("SELECT request_id FROM llmkeys_usagerecord")}
        billed = {entry["requestId"] for entry in self.simulator.journal() if entry["billed"]}
        unrecorded = billed - recorded - {None}  # which was sent straight to the provider
        assert not unrecorded, f"no row has {len(unrecorded)} of the {len(billed)} requests that were billed"
        assert "The books are right" in self.command("audit")

    def probe(self, body: dict[str, Any]) -> tuple[int, int]:
        """Send the request once on a key of its own, which is then deleted; return its hold and cost (nano-dollars)."""
        key = self.add_key("Probe", dailyLimit=0, monthlyLimit=0, totalLimit=0)
        with closing(self.program()) as program:
            reply = program.chat(body)
        assert reply.status == 200, reply.body
        self.api("DELETE", f"/keys/{key}")
        with self.books as books:
            ((hold, cost),) = books.rows(f"SELECT hold_nano, cost_nano FROM llmkeys_usagerecord WHERE key_id = '{key}'")
        return hold, cost


class Books:
    """A connection of our own to the product's database: to read what it has written, SQLite opened read-only."""

    def __init__(self, database: str, *, writable: bool = False) -> None:
        self._database = database
        if database.startswith("postgres"):
            import psycopg

            self._connection: Any = psycopg.connect(database, autocommit=True)
        else:
            file = f"file:{database}?mode={'rw' if writable else 'ro'}"
            self._connection = sqlite3.connect(
                file, uri=True, isolation_level=None, check_same_thread=False, timeout=10
            )

    def writing(self) -> Books:
        """The same, for the few places where a test moves time by moving what is stored."""
        self._connection.close()
        return Books(self._database, writable=True)

    def __enter__(self) -> Books:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def rows(self, query: str) -> list[tuple]:
        return self._connection.execute(query).fetchall()

    def change(self, statement: str) -> int:
        """Run one statement and return how many rows it changed."""
        return self._connection.execute(statement).rowcount


_BUDGETS = """SELECT id, day, spent_day_nano, held_nano, daily_limit_nano FROM llmkeys_apikey
   WHERE daily_limit_nano > 0 AND deleted_at IS NULL
   UNION ALL SELECT 'token ' || name, day, spent_day_nano, held_nano, daily_limit_nano FROM llmkeys_accesstoken
   WHERE daily_limit_nano > 0"""


@dataclass
class Sampler:
    """Looks at the daily budgets of keys and tokens every few milliseconds while a test runs; keeps what broke one.

    Each look is one statement, so that what it sees is one state of the database.
    """

    product: Product
    looks: int = 0
    highest: dict[str, int] = field(default_factory=dict)
    broken: list[tuple] = field(default_factory=list)
    most_held: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Sampler:
        self._thread = threading.Thread(target=self._watch, name="sampler")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _watch(self) -> None:
        with self.product.books as books:
            while not self._stop.wait(0.004):
                for row in books.rows(_BUDGETS):
                    self._look(row)
                self.looks += 1

    def _look(self, row: tuple) -> None:
        key, _, spent, held, limit = row
        self.highest[key] = max(self.highest.get(key, 0), spent + held)
        self.most_held = max(self.most_held, held)
        if spent + held > limit or held < 0:
            self.broken.append(row)


def run_together(count: int, work: Any) -> None:
    """Call `work(number)` in this many threads at once; the first failure of any is raised here."""
    failures: list[BaseException] = []
    begin = threading.Barrier(count)

    def call(number: int) -> None:
        try:
            begin.wait(30)
            work(number)
        except BaseException as failure:  # an assertion too: raised again below
            failures.append(failure)

    threads = [threading.Thread(target=call, args=(number,), name=f"program-{number}") for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "a program hangs"
