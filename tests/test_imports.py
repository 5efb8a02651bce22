"""Imports point one way, and only two doors lead to a provider."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from llmkeys.providers import PROVIDERS

ROOT = Path(__file__).resolve().parent.parent / "llmkeys"

# Each room has a number, and imports only from lower ones; rooms of one number do not know each other.
LEVELS = [
    {"lib", "exceptions"},
    {"database", "providers", "dialects"},
    {"key_state"},
    {"models"},
    {"account_fields", "presentation", "vault", "prices"},
    {"ledger"},
    {"alerts", "upstream"},
    {"keys", "tokens", "usage"},
    {"relay"},
    {"backup", "scheduling", "templatetags"},
    {"checks"},
    {"supervisor"},
    {"doctor"},
    {"gateway", "api", "dashboard", "admin", "tasks", "management"},
]
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
BESIDE = {"simulator"}  # knows nothing of the others, so that tests can trust what it says about money
MODULES = [path for path in ROOT.rglob("*.py") if path.parts[len(ROOT.parts)] not in ("migrations", "simulator")]


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the rooms of `llmkeys` that a module imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("llmkeys.")}


def top_level_packages(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    froms = {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return froms | {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_imports_from_lower_rooms_alone(path):
    room = room_of(path)
    if room in ("__init__", "apps"):
        return
    assert room in LEVEL, f"{room} has no number"
    wrong = {other for other in imported(path) - BESIDE - {room} if LEVEL[other] >= LEVEL[room]}
    assert not wrong, f"{room} must not know {wrong}"


def test_every_number_is_a_room():
    assert LEVEL.keys() == {room_of(path) for path in MODULES} - {"__init__", "apps"}


def test_the_table_for_contributors_is_the_same():
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", (ROOT.parent / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    assert {int(number): set(rooms.split(" · ")) for number, rooms in rows} == dict(enumerate(LEVELS))


def test_the_commands_alone_know_the_simulator():
    assert {room_of(path) for path in MODULES if "simulator" in imported(path)} == {"management"}
    assert not [path for path in (ROOT / "simulator").rglob("*.py") if imported(path) - {"simulator"}]


def test_one_room_alone_speaks_to_the_world():
    users = {room_of(path) for path in MODULES if {"requests", "urllib3"} & top_level_packages(path)}
    assert users == {"upstream"}


def test_one_room_alone_opens_a_secret():
    callers = {room_of(path) for path in MODULES if "open_secret(" in path.read_text()}
    assert callers == {"vault", "upstream"}


def test_one_room_alone_asks_which_database_it_is():
    asking = re.compile(r"connection\.vendor|\bvendor [!=]= .(sqlite|postgresql)|\[.ENGINE.\]")
    assert {room_of(path) for path in MODULES if asking.search(path.read_text())} == {"database"}


# Modules that name a provider all the same, and why.
NAMES_A_PROVIDER = {
    "llmkeys/api/examples.py": "examples of the documentation",
    "llmkeys/dashboard/tokens_page.py": "ids of snippets, after the client libraries",
    "llmkeys/dialects/bounds.py": "a field of a body: `extra_body.google`",
    "llmkeys/dialects/media.py": "vendors in names of models; dialects know no provider",
    "llmkeys/management/demo/history.py": "whose keys the demo has",
    "llmkeys/models/accounts.py": "the choices of a column",
    "llmkeys/models/usage.py": "the condition of an index, which a migration holds",
    "refactai_site/settings.py": "each provider's base URL has a variable of its own",
}


def test_one_room_alone_knows_providers_by_name():
    above = ROOT.parent
    others = [path for path in MODULES if room_of(path) != "providers"] + [*(above / "refactai_site").rglob("*.py")]
    naming = {
        str(path.relative_to(above))
        for path in others
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.rstrip("/:") in PROVIDERS
    }
    assert naming == NAMES_A_PROVIDER.keys()


def test_the_pure_rooms_know_no_django():
    pure = {"exceptions", "lib", "providers", "dialects"}
    assert pure < LEVEL.keys()
    assert not [path for path in MODULES if room_of(path) in pure and "django" in top_level_packages(path)]
