"""From the database that 0.1.0 left when it was killed to this version: nothing is lost, nothing is charged twice.

`tests.upgrades.make` made what is upgraded here, with 0.1.0 itself.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmkeys.simulator.thread import SimulatorThread
from tests.flows.product import Product, Program, chat
from tests.serving import ROOT, environment
from tests.upgrades.make import OF_A_KEY, OF_A_TOKEN

pytestmark = pytest.mark.slow
FIXTURES = Path(__file__).resolve().parent
# `migrate`, which kills itself in one migration: in the middle of what it does batch by batch, or when it has done all
# and not yet noted that it has.
KILLED = """
import os, signal, sys
import django, manage
django.setup()
from importlib import import_module
from django.db import migrations
from django.db.migrations.executor import MigrationExecutor

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def apply(self, state, migration, *rest, stock=MigrationExecutor.apply_migration, **more):
    if migration.name == {migration!r}:
        {how}
    return stock(self, state, migration, *rest, **more)

MigrationExecutor.apply_migration = apply
sys.argv = ["manage.py", "migrate"]
manage.main()
"""
IN_THE_MIDDLE = """import_module("llmkeys.migrations.0006_link_rows_to_tokens")._in_batches = die"""
AT_THE_END = "migration.operations.append(migrations.RunPython(die))"
KILLS = [
    ("0005_tokens_are_accounts", AT_THE_END),
    ("0006_link_rows_to_tokens", IN_THE_MIDDLE),
    ("0006_link_rows_to_tokens", AT_THE_END),
    ("0008_aliases_name_models_in_turn", AT_THE_END),
    ("0014_estimated_and_lost_of_each_day", AT_THE_END),
]


@pytest.fixture
def old(data_dir: Path, database: dict[str, str]) -> dict[str, Any]:
    """What 0.1.0 said of itself; its database and encryption key lie where this version looks for them."""
    vendor = "postgresql" if database else "sqlite"
    text, facts = (FIXTURES / f"0.1.0.{vendor}.sql").read_text(), (FIXTURES / f"0.1.0.{vendor}.json").read_text()
    data_dir.mkdir(mode=0o700)
    if database:
        import psycopg

        with psycopg.connect(database["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(text)
    else:
        with closing(sqlite3.connect(data_dir / "llmkeys.sqlite3")) as connection:
            connection.executescript(text)
    facts = json.loads(facts)
    (data_dir / "encryption.key").write_text(facts["encryptionKey"])
    return facts


def is_what_it_was(product: Product, old: dict[str, Any]) -> None:
    keys = {key["id"]: key for key in json.loads(product.command("keys", "list", "--json"))}
    for was in old["keys"]:
        key, charge = keys[was["id"]], was["reservedCost"]  # what was under way when it was killed is lost by now
        expected = was | {"totalCost": was["totalCost"] + charge, "reservedCost": 0}
        if charge:
            expected |= {name: key[name] for name in ("totalRequests", "failedRequests", "successRate")}
        expected["lastError"] = was["lastError"].replace("off by a person.", "off manually.")  # reworded since
        shown = {name: key[name] for name in OF_A_KEY}
        assert shown.pop("totalCost") == pytest.approx(expected.pop("totalCost"), abs=1e-9)
        assert shown == expected
    tokens = {token["id"]: token for token in json.loads(product.command("tokens", "list", "--json"))}
    for was in old["tokens"]:
        was |= {"keyIds": was["keyIds"] or None, "lastUsed": tokens[was["id"]]["lastUsed"]}  # it was an empty list
        assert {name: tokens[was["id"]][name] for name in OF_A_TOKEN} == was
    rows = {str(row["id"]): row for row in json.loads(product.command("usage", "--limit", "1000", "--json"))}
    for number, was in old["rows"].items():
        if was["state"] == "HELD":
            was |= {"state": "LOST", "cost": was["held"], "costSource": "estimated"}
        assert {name: rows[number][name] for name in was} == was


def serves_its_programs(product: Product, old: dict[str, Any]) -> None:
    """Each token opens what it opened, with secrets that 0.1.0 had encrypted."""
    texts = old["tokenTexts"]
    expected = {"worker": 200, "reader": 200, "vendors": 404, "manager": 200, "ended": 401}
    for name, status in expected.items():
        with closing(Program(product.served.port, texts[name])) as program:
            assert program.chat(chat()).status == status, name
    with closing(Program(product.served.port, texts["vendors"])) as program:
        assert program.chat(chat(model="gpt-6.1-terra")).status == 200


def lives_on(old: dict[str, Any], data_dir: Path, simulator: SimulatorThread, database: dict[str, str]) -> None:
    """This version starts by itself, shows what was, and serves whom 0.1.0 served."""
    more = database | {"ANTHROPIC_API_KEY": "sk-ant-api03-environment-ok", "REFACTAI_TIME_ZONE": "UTC"}
    with Product(data_dir, simulator, "--no-scheduler", **more) as product:
        product.command("shell", "-c", "from llmkeys.tasks import settle_lost_holds; assert settle_lost_holds() <= 1")
        assert "The books are right" in product.command("audit")
        is_what_it_was(product, old)
        serves_its_programs(product, old)
        assert "The books are right" in product.command("audit")


def test_it_loses_nothing_and_charges_nothing_twice(old, data_dir, simulator, database):
    lives_on(old, data_dir, simulator, database)
    (before,) = (data_dir / "backups").glob("*.tar.gz")  # taken before the migrations
    with tarfile.open(before) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))
    assert (manifest["rows"], manifest["migrations"][-1]) == (len(old["rows"]), "0004_totals_of_closed_days")


def test_it_may_be_killed_in_any_migration_and_goes_on(old, data_dir, simulator, database):
    for migration, how in KILLS if os.environ.get("PROOF") else KILLS[1::3]:
        code = KILLED.format(migration=migration, how=how)
        here = environment(data_dir, DJANGO_SETTINGS_MODULE="refactai_site.settings", **database)
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=here, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, (migration, how, done.stderr)
    lives_on(old, data_dir, simulator, database)
