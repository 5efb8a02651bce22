"""Make a database of an older version, to upgrade from: `python -m tests.upgrades.make CHECKOUT VERSION`.

The older version itself makes it: its `serve` in a checkout of it, its simulator as the provider, programs that send
requests on two days, and every verb that leaves something behind; in the end the whole server is killed with a request
under way. Written are the text of both databases, and what that version itself said of its keys, tokens and costs.
Needs faketime and PostgreSQL. The secrets in it are the simulator's; the encryption key opens nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.flows.product import Program
from tests.flows.test_three_keys import Clock
from tests.postgres import binaries, new_database, private_server
from tests.serving import environment, free_port, processes_of, wait_for

FIXTURES = Path(__file__).resolve().parent
BEFORE_DAYS = 40
# What a later version shows as well, and no window changes.
OF_A_KEY = (
    "id", "provider", "name", "description", "maskedApiKey", "source", "isDefault", "priority", "dailyLimit",
    "monthlyLimit", "totalLimit", "totalCost", "reservedCost", "totalRequests", "successfulRequests", "failedRequests",
    "successRate", "createdAt", "lastUsed", "expiresAt", "billingGroup", "workspaceId", "lastError",
)  # fmt: skip
OF_A_TOKEN = ("id", "name", "scopes", "user", "keyIds", "createdAt", "expiresAt", "revokedAt", "lastUsed")


# What people enter in the admin.
BY_HAND = """
from django.contrib.auth.models import User
from llmkeys.models import ModelAlias, ModelPrice
User.objects.create_user("anna", password="correct horse battery")
ModelAlias.objects.create(provider="openai", alias="writer", model="gpt-6.1-terra")
ModelPrice.objects.create(provider="openai", model="gpt-own", input_usd_per_mtok="1.5", output_usd_per_mtok="6")
"""


class Older:
    """The older version in its checkout, with a data directory and a database of its own."""

    def __init__(self, checkout: Path, data_dir: Path, simulator: int, **more: str) -> None:
        address = f"http://127.0.0.1:{simulator}"
        paths = {"OPENROUTER": "/api/v1", "OPENAI": "/v1", "ANTHROPIC": "", "GOOGLE": ""}
        urls = {f"{name}_BASE_URL": f"{address}{path}" for name, path in paths.items()}
        self.checkout, self.data_dir, self.port = checkout, data_dir, free_port()
        self.clock = Clock(data_dir.parent / "clock")
        self.environment = environment(data_dir, **urls, ANTHROPIC_API_KEY="sk-ant-api03-environment-ok", **more)
        self.environment.pop("DJANGO_SETTINGS_MODULE", None)

    def command(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments], cwd=self.checkout, env=self.environment, input=stdin,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def json(self, *arguments: str, stdin: str = "") -> Any:
        return json.loads(self.command(*arguments, "--json", stdin=stdin))

    def add(self, provider: str, secret: str, name: str, *options: str) -> str:
        return self.json("keys", "add", "--provider", provider, "--name", name, *options, stdin=secret)["id"]

    def serve(self, *, days_ago: int = 0) -> subprocess.Popen[bytes]:
        clock = self.clock.environment() if days_ago else {}
        self.clock.move(-timedelta(days=days_ago))
        command = [sys.executable, "manage.py", "serve", "--no-scheduler", "--bind", f"127.0.0.1:{self.port}"]
        process = subprocess.Popen(command, cwd=self.checkout, env=self.environment | clock)
        wait_for(self._is_up, what="the older version serves")
        return process

    def _is_up(self) -> bool:
        with suppress(OSError), closing(Program(self.port)) as program:
            return program.call("GET", "/healthz").status == 200
        return False

    def ask(self, token: str, model: str, text: str = "Say something", **more: Any) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 200, **more}
        with closing(Program(self.port, token)) as program:
            return program.chat(body).status


def traffic(old: Older, worker: str, reader: str, vendors: str) -> None:
    """Requests that leave every state and every source of a cost; three programs."""
    for _ in range(4):
        old.ask(worker, "openai/gpt-6.1-terra", "[[prompt_tokens=2000 completion_tokens=150 cached_tokens=800]]")
        old.ask(reader, "anthropic/claude-sonnet-5.5")
    old.ask(vendors, "gpt-6.1-terra")
    old.ask(vendors, "gemini-3.8-flash")
    old.ask(worker, "openai/gpt-6.1-terra", stream=True)
    old.ask(worker, "openai/gpt-6.1-terra", "[[behaviour=nousage]]")  # an estimate
    old.ask(worker, "openai/gpt-6.1-terra", "[[behaviour=cut]]", stream=True)
    old.ask(worker, "openai/gpt-6.1-terra", "[[behaviour=malformed]]")  # lost
    old.ask(reader, "openai/gpt-6.1-terra", "[[behaviour=empty]]")  # lost
    old.ask(worker, "openai/gpt-6.1-terra", "[[status=400]]")


def fill(old: Older) -> dict[str, str]:
    """Let the older version live for two days; return the texts of its tokens. It is killed in the end."""
    server = old.serve(days_ago=BEFORE_DAYS)
    old.add("openrouter", "sk-or-v1-1111111111-of-the-simulator-ok", "Production", "--billing-group", "team")
    old.add("openrouter", "sk-or-v1-2222222222-of-the-simulator-429x1", "Reserve", "--default")
    old.add("openai", "sk-proj-3333333333-of-the-simulator-ok", "Vendor", "--daily-limit", "2", "--priority", "200")
    old.add("google", "AIza4444444444-of-the-simulator-ok", "Search", "--monthly-limit", "0")
    old.add("openai", "sk-proj-5555555555-of-the-simulator-401", "Revoked", "--priority", "50")
    old.add("openrouter", "sk-or-v1-6666666666-of-the-simulator-ok", "Old", "--expires", "2027-01-31")
    old.add("openrouter", "sk-or-v1-7777777777-of-the-simulator-ok", "Gone")
    tokens = {
        "worker": old.command("tokens", "create", "worker").strip(),
        "reader": old.command("tokens", "create", "reader", "--key", "Production", "--scope", "gateway").strip(),
        "manager": old.command("tokens", "create", "manager", "--scope", "manage").strip(),
        "vendors": old.command("tokens", "create", "vendors", "--key", "Vendor", "--key", "Search").strip(),
        "ended": old.command("tokens", "create", "ended").strip(),
    }
    traffic(old, tokens["worker"], tokens["reader"], tokens["vendors"])
    old.command("shell", "-c", BY_HAND)
    old.command("keys", "delete", "Gone", "--yes")
    old.command("tokens", "revoke", "ended")
    old.command("reset_costs", "--key", "Production", "--total", "--yes")
    server.terminate()
    assert server.wait(60) == 0

    server = old.serve()
    traffic(old, tokens["worker"], tokens["reader"], tokens["vendors"])
    old.command("keys", "disable", "Old")
    lost = [row["id"] for row in old.json("usage", "--state", "LOST")]
    old.command("void", str(lost[0]), "--yes", "--reason", "not on the bill")
    old.command("reset_costs", "--key", "Vendor", "--daily", "--yes")
    waiting = threading.Thread(target=_ask_in_vain, args=(old, tokens["worker"]), daemon=True)
    waiting.start()
    wait_for(lambda: old.json("usage", "--state", "HELD"), what="a request is under way")
    for pid in processes_of(old.data_dir):
        os.kill(pid, signal.SIGKILL)
    server.wait(60)
    return tokens


def _ask_in_vain(old: Older, token: str) -> None:
    with suppress(Exception):
        old.ask(token, "openai/gpt-6.1-terra", "[[behaviour=hang]]")


def said(old: Older, tokens: dict[str, str], data_dir: Path) -> dict[str, Any]:
    """What the older version says of itself, as far as no window changes it."""
    return {
        "encryptionKey": (data_dir / "encryption.key").read_text(),
        "tokenTexts": tokens,
        "keys": [{name: key[name] for name in OF_A_KEY} for key in old.json("keys", "list")],
        "tokens": [{name: token[name] for name in OF_A_TOKEN} for token in old.json("tokens", "list")],
        "rows": {
            str(row["id"]): {name: row[name] for name in ("state", "cost", "held", "costSource", "token", "model")}
            for row in old.json("usage", "--limit", "1000")
        },
    }


def sqlite_text(file: Path) -> str:
    with closing(sqlite3.connect(file)) as database:
        return "\n".join(database.iterdump()) + "\n"


def postgresql_text(url: str) -> str:
    command = [binaries() / "pg_dump", "--inserts", "--no-owner", "--no-privileges", f"--dbname={url}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kept = [
        line for line in text.splitlines() if not line.startswith(("--", "SET ", "\\", "SELECT pg_catalog.set_config"))
    ]
    return "\n".join(line for line in kept if line) + "\n"


def make(checkout: Path, version: str, vendor: str, simulator: int, database: str = "") -> None:
    with tempfile.TemporaryDirectory() as name:
        data_dir = Path(name) / "data"
        old = Older(checkout, data_dir, simulator, **({"DATABASE_URL": database} if database else {}))
        tokens = fill(old)
        facts = said(old, tokens, data_dir)
        text = postgresql_text(database) if database else sqlite_text(data_dir / "llmkeys.sqlite3")
    (FIXTURES / f"{version}.{vendor}.sql").write_text(text)
    (FIXTURES / f"{version}.{vendor}.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def main(checkout: Path, version: str) -> None:
    port = free_port()
    command = [sys.executable, "manage.py", "simulator", "--bind", f"127.0.0.1:{port}"]
    with tempfile.TemporaryDirectory() as scratch:
        simulator = subprocess.Popen(command, cwd=checkout, env=environment(Path(scratch)))
        try:
            make(checkout, version, "sqlite", port)
            with private_server() as server, new_database(server.url) as url:
                make(checkout, version, "postgresql", port, url)
        finally:
            simulator.terminate()
            simulator.wait(30)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2])
