"""Every documented example is safe to paste where there are keys already: what was there is the same afterwards."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest

from llmkeys.simulator.thread import SimulatorThread
from tests import guide
from tests.flows.product import Program, chat
from tests.helpers import new_secret
from tests.serving import DEADLINE_SECONDS, ROOT, Served, environment, far_from_midnight, manage, prepare

OPERATIONS = ROOT / "docs" / "operations.md"
# What belongs to the operator, and the columns that time alone changes.
TABLES = {
    # An example takes the default mark and gives it back; another rotates the encryption key.
    "llmkeys_apikey": {"secret", "fingerprint", "last_test", "last_test_at", "updated_at"},
    "llmkeys_accesstoken": {"last_used_at"},
    "llmkeys_usagerecord": set(),
    "llmkeys_adjustment": set(),
    "llmkeys_dailyusage": set(),
    "llmkeys_modelprice": set(),
    "llmkeys_modelalias": set(),
    "auth_user": {"last_login"},
}


class Installation:
    """A product that somebody uses: two keys of which the later one is the default, a token, a price, history."""

    def __init__(self, directory: Path, simulator: SimulatorThread, **more: str) -> None:
        self.data = prepare(directory / "data")
        urls = {f"{provider.upper()}_BASE_URL": url for provider, url in simulator.urls.items()}
        self.variables = urls | {"REFACTAI_TIME_ZONE": far_from_midnight()} | more

    def run(self, *arguments: str, stdin: str = "") -> str:
        done = manage(self.data, *arguments, stdin=stdin, **self.variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def take(self, guide_text: str) -> None:
        """Store the secrets of a guide's examples as keys of the operator, and a lost request as the newest row."""
        for secret in sorted(set(re.findall(r"sk-[a-z0-9-]+-of-the-simulator-ok", guide_text))):
            provider = "anthropic" if "-ant-" in secret else "openrouter"
            self.run("keys", "add", "--provider", provider, "--name", "Example", stdin=secret)
        self.run("keys", "add", "--provider", "openrouter", "--name", "Broken", stdin=new_secret() + "-cut")
        self.run("keys", "set-default", "Broken")
        manage(self.data, "chat", "Say hello", "--max-tokens", "50", **self.variables)
        self.run("keys", "set-default", "Reserve")

    def fill(self) -> None:
        for name in ("Production", "Reserve"):
            self.run("keys", "add", "--provider", "openrouter", "--name", name, stdin=new_secret() + "-ok")
        self.run("keys", "set-default", "Reserve")
        self.run("keys", "disable", "Production")
        self.run("tokens", "create", "operator", "--scope", "manage")
        self.run("chat", "Say hello", "--max-tokens", "50")

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        with closing(sqlite3.connect(self.data / "llmkeys.sqlite3")) as books:
            books.row_factory = sqlite3.Row
            return {
                table: [dict(row) for row in books.execute(f"SELECT * FROM {table} ORDER BY 1")] for table in TABLES
            }

    def secrets(self) -> dict[str, str]:
        """Return every stored secret in clear, as an export has it."""
        file = self.data.parent / "all.json"
        self.run("export_keys", str(file), "--include-secrets", "--force")
        return {key["id"]: key["apiKey"] for key in json.loads(file.read_text()) if "apiKey" in key}


@pytest.mark.parametrize("path", guide.guides(), ids=lambda path: path.name)
def test_what_was_there_is_the_same_afterwards(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="llmkeys-guide-") as name, SimulatorThread() as simulator:
        here = Installation(Path(name), simulator)
        with Served(here.data, **here.variables) as served:
            served.wait_until_up()
            here.fill()
            before, secrets = here.rows(), here.secrets()
            paste(path.read_text(), here, served)
            after = here.rows()
            assert here.secrets() == secrets, "a key more, or one less"
    assert_the_same(before, after)
    mine = {row["id"] for row in before["llmkeys_accesstoken"]}
    assert [
        row["name"] for row in after["llmkeys_accesstoken"] if row["id"] not in mine and not row["revoked_at"]
    ] == []
    for table in ("llmkeys_modelprice", "llmkeys_modelalias", "auth_user"):
        assert len(after[table]) == len(before[table]), f"{table} has grown"


@pytest.mark.parametrize("path", guide.guides(), ids=lambda path: path.name)
def test_no_programs_request_uses_an_examples_key(path: Path) -> None:
    """A stored key goes before one from the environment, whatever its priority, so an example's must not be on."""
    text = path.read_text()
    if path.name == "api.md":  # which says that for one request its key is on
        before, _, rest = text.partition("## Send a request")
        text = before + re.sub(r"<!-- run -->(?=\n```sh\nCLIENT=)", "", rest)
    with tempfile.TemporaryDirectory(prefix="llmkeys-guide-") as name, SimulatorThread() as simulator:
        here = Installation(Path(name), simulator, OPENROUTER_API_KEY=new_secret() + "-ok")
        with Served(here.data, "--no-scheduler", **here.variables) as served:
            served.wait_until_up()
            (own,) = json.loads(here.run("keys", "list", "--json"))
            with asking(served.port, here.run("tokens", "create", "program").strip()) as statuses:
                paste(text, here, served, stumbles=path.name == "api.md")  # without that request it has no row to void
            rows = here.rows()
    assert set(statuses) == {200} and len(statuses) > 5
    assert {row["key_id"] for row in rows["llmkeys_usagerecord"]} == {own["id"]}
    assert [row["id"] for row in rows["llmkeys_apikey"] if row["is_default"]] == [own["id"]]


@contextmanager
def asking(port: int, token: str) -> Iterator[list[int]]:
    """A program that asks one thing after the other; yield the statuses of its answers."""
    statuses: list[int] = []
    ends = threading.Event()

    def ask() -> None:
        with closing(Program(port, token)) as program:
            while not ends.is_set():
                statuses.append(program.chat(chat(max_tokens=20)).status)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        ends.set()
        thread.join(DEADLINE_SECONDS)


def paste(text: str, here: Installation, served: Served, *, stumbles: bool = False) -> None:
    """Run the examples of a guide one after the other, as somebody who pastes them; what fails is passed over."""
    surroundings = environment(here.data, **here.variables) | {"HOME": str(here.data.parent)}
    surroundings.pop("DJANGO_SETTINGS_MODULE", None)
    with guide.Shell(surroundings, here.data.parent) as shell:
        for block in guide.blocks(text):
            if block.mark == "run":
                with suppress(guide.GuideFailed) if stumbles else nullcontext():
                    guide.run(block, shell, f"127.0.0.1:{served.port}")


def assert_the_same(before: dict[str, list[dict[str, Any]]], after: dict[str, list[dict[str, Any]]]) -> None:
    for table, ignored in TABLES.items():
        known = {row["id"]: row for row in after[table]}
        for row in before[table]:
            changed = {column for column in row if row[column] != known[row["id"]][column]} - ignored
            assert not changed, f"{table} {row['id']}: {changed}"


@pytest.mark.proof
@pytest.mark.parametrize("path", guide.guides()[: None if os.environ.get("PROOF") else 1], ids=lambda path: path.name)
def test_nothing_is_lost_where_the_examples_find_their_secrets_taken(path: Path) -> None:
    """What an example could not make is not there to be changed; what the operator calls “Example” is not meant."""
    with tempfile.TemporaryDirectory(prefix="llmkeys-guide-") as name, SimulatorThread() as simulator:
        here = Installation(Path(name), simulator)
        with Served(here.data, "--no-scheduler", **here.variables) as served:
            served.wait_until_up()
            here.fill()
            here.take(path.read_text())
            before, secrets = here.rows(), here.secrets()
            assert before["llmkeys_usagerecord"][-1]["state"] == "LOST"
            paste(path.read_text(), here, served, stumbles=True)
            after = here.rows()
            assert here.secrets() == secrets
    assert_the_same(before, after)
    assert len(after["llmkeys_adjustment"]) == len(before["llmkeys_adjustment"])


def test_the_old_encryption_key_stays_where_reencrypt_fails() -> None:
    (block,) = [block for block in guide.blocks(OPERATIONS.read_text()) if "reencrypt" in block.text]
    with tempfile.TemporaryDirectory(prefix="llmkeys-guide-") as name, SimulatorThread() as simulator:
        here = Installation(Path(name), simulator)
        with Served(here.data, "--no-scheduler", **here.variables) as served:
            served.wait_until_up()
            here.fill()
        secrets, old = here.secrets(), (here.data / "encryption.key").read_text()
        surroundings = environment(here.data, **here.variables) | {"HOME": name}
        with guide.Shell(surroundings, Path(name)) as shell:
            other = sqlite3.connect(here.data / "llmkeys.sqlite3")
            with closing(other), suppress(guide.GuideFailed):
                other.execute("BEGIN EXCLUSIVE")
                guide.run(block, shell, "")
        assert (here.data / "encryption.key").read_text().endswith(old)
        assert here.secrets() == secrets


def test_it_would_notice_an_example_that_deletes_a_key() -> None:
    with tempfile.TemporaryDirectory(prefix="llmkeys-guide-") as name, SimulatorThread() as simulator:
        here = Installation(Path(name), simulator)
        with Served(here.data, "--no-scheduler", **here.variables) as served:
            served.wait_until_up()
            here.fill()
            secrets = here.secrets()
            assert manage(here.data, "keys", "delete", "Reserve", "--yes").returncode == 0
            assert here.secrets() != secrets
