"""What the documents say is there: commands, options, settings, codes, schedules, files, links.

Shell lines are run by `tests/flows/test_guide.py` where they are marked for it; the others stand in `NOT_RUN`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.utils.module_loading import import_string

from llmkeys.gateway.app import NOT_SERVED
from llmkeys.scheduling import PLANNED
from refactai_site import VERSION
from tests.guide import blocks
from tests.serving import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
# Every shell line that no guide runs, and why; a test of the same is named where there is one.
NOT_RUN = {
    "make run": "every gate starts from it: tests/flows/test_newcomer.py",
    "make test": "what runs this",
    "./manage.py keys add --provider openrouter --name Production --daily-limit 10": (
        "asks for the secret on a terminal: tests/commands/test_terminal.py"
    ),
    "OPENROUTER_API_KEY=sk-or-v1-… make run": "a real key: tests/test_serve.py",
    "TOKEN=$(./manage.py tokens create my-program)": "docs/api.md runs it",
    "TOKEN=rfk_…": "the token of the page, which the reader has copied: tests/pages/test_tokens.py",
    "curl http://127.0.0.1:8080/v1/chat/completions": "docs/api.md runs it",
    "export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=rfk_…": (
        "tests/flows/test_newcomer.py: test_it_serves_a_client_that_is_set_up_by_the_environment_alone"
    ),
    "export REFACTAI_DATA_DIR=$(mktemp -d)": "goes with the simulator, which does not end",
    "echo OPENROUTER_": "goes with the simulator, which does not end: tests/commands/test_settings_file.py",
    "./manage.py simulator": "does not end: tests/simulator/test_command.py",
    "./manage.py demo": "does not end: tests/flows/test_demo.py",
    "./manage.py restore monday.tar": "needs a stopped server: tests/commands/test_restore.py",
    "./manage.py reencrypt --discard-unreadable": "asks: tests/commands/test_lost_encryption_key.py",
    "./manage.py keys disable Production": "switches the reader's own key off: tests/commands/test_keys_switches.py",
    "./manage.py keys enable Production": "switches the reader's own key on: tests/commands/test_keys_switches.py",
    "api -X POST $URL/keys/$RESERVE/set-default": "moves the reader's own mark: tests/api/test_set_default_key.py",
    "./manage.py keys set-default Production": "moves the reader's own mark: tests/commands/test_keys_switches.py",
    './manage.py chat "Say hello" --max-tokens 50': "spends the reader's money: tests/commands/test_chat.py",
    "./manage.py void": "takes back the reader's own charges: tests/commands/test_void.py",
    "export ANTHROPIC_BASE_URL=http://127.0.0.1:8080 ANTHROPIC_AUTH_TOKEN=rfk_…": "goes with Claude Code",
    "claude --model": "needs Claude Code: docs/clients.md says what was tested",
    "LLM_TOKEN=rfk_… codex": "needs Codex: docs/clients.md says what was tested",
    "export GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8080 GEMINI_API_KEY=rfk_…": "goes with Gemini CLI",
    "gemini -m": "needs Gemini CLI: docs/clients.md says what was tested",
    "export OPENAI_API_BASE=http://127.0.0.1:8080/v1 OPENAI_API_KEY=rfk_…": "goes with aider",
    "aider --model": "needs aider",
    "until curl -sf http://127.0.0.1:8080/readyz": "waits for the service that the line before it starts",
    "docker compose": "needs Docker: tests/test_container.py",
    "sudo ": "changes the machine",
    "cd /opt/refactai && sudo make .venv/installed": "changes the machine",
    "cd /opt/refactai && sudo make postgres": "changes the machine; test_it_locks_the_driver_of_postgresql",
}


def shell_lines(text: str) -> list[str]:
    """Return the lines of the shell blocks that no guide runs, those that go on in the next joined."""
    run = {block.start for block in blocks(text) if block.mark == "run"}
    found = []
    for block in re.finditer(r"^ *```sh\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        if block.start(1) not in run:
            lines = block[1].replace("\\\n", " ").splitlines()
            found += [re.sub(r"\s+#.*", "", line).strip() for line in lines]
    return [line for line in found if line]


def prose_and_code() -> str:
    return "\n".join(path.read_text() for path in DOCUMENTS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_it_runs_every_shell_line_or_says_why_not(path: Path):
    unknown = [line for line in shell_lines(path.read_text()) if not line.startswith(tuple(NOT_RUN))]
    assert unknown == []


def test_every_reason_is_needed():
    lines = [line for path in DOCUMENTS for line in shell_lines(path.read_text())]
    assert [known for known in NOT_RUN if not any(line.startswith(known) for line in lines)] == []


def parser_of(command: str) -> argparse.ArgumentParser:
    return load_command_class(get_commands()[command], command).create_parser("manage.py", command)


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Return the options of a command and of its verbs."""
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= set(action.choices)
            for verb in action.choices.values():
                found |= options_of(verb)
    return found


def test_it_names_commands_and_options_that_exist():
    wrong, own = [], "|".join(name for name, app in get_commands().items() if app == "llmkeys")
    named = re.findall(rf"manage\.py ([a-z_]+)([^`\n|]*)|`({own})( [^`\n]*)`", prose_and_code())
    for command, rest in ((one or other, words or others) for one, words, other, others in named):
        if command not in get_commands():
            wrong.append(command)
            continue
        known = options_of(parser_of(command))
        wrong += [f"{command} {option}" for option in re.findall(r"(?<=\s)--[a-z-]+", rest) if option not in known]
    assert wrong == []


def test_it_names_every_command_of_the_product():
    own = {name for name, app in get_commands().items() if app == "llmkeys"}
    text = (ROOT / "README.md").read_text()
    assert sorted(name for name in own if not re.search(rf"`(manage\.py )?{name}\b", text)) == []


def test_its_table_of_settings_is_the_settings():
    """What the settings read is in the README's table, and nothing else is."""
    source = "\n".join((ROOT / "refactai_site" / name).read_text() for name in ("settings.py", "data_dir.py"))
    read = set(re.findall(r'"((?:REFACTAI|OPENROUTER|OPENAI|ANTHROPIC|GOOGLE|GEMINI)_[A-Z_]+|DATABASE_URL)"', source))
    table = re.search(r"^## Settings$(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    told = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", table.replace("`SECRET_KEY`", "")))
    assert read - told == set()
    assert {name for name in told - read if not name.endswith(("_API_KEY", "_BASE_URL"))} == set()
    anywhere = set(re.findall(r"\bREFACTAI_[A-Z_]+\b", prose_and_code()))
    assert anywhere - told == {"REFACTAI_DALY_LIMIT"}  # the misspelt one of docs/operations.md


def test_it_names_the_codes_of_the_gateway():
    source = "\n".join(path.read_text() for path in (ROOT / "llmkeys" / "gateway").glob("*.py"))
    table = re.search(
        r"^## When something is refused$(.*?)^What operators",
        (ROOT / "README.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )[1]
    codes = re.findall(r"`([a-z_]+)`", "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    assert codes and [code for code in codes if f'"{code}"' not in source] == []


def test_its_table_of_the_rest_api_has_every_path():
    table = re.search(r"^\| method and path(.*?)^$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    served = {str(one.pattern) for one in import_string("llmkeys.api.urls.urlpatterns")}
    first = {path.partition("/")[0] for path in served}
    assert {name for name in first if f"`/{name}" not in table} == set()


def test_it_tells_of_every_schedule():
    text = (ROOT / "docs" / "operations.md").read_text()
    assert [planned.name for planned in PLANNED if f"`{planned.name}`" not in text] == []


def test_it_tells_what_the_gateway_does_not_serve():
    text = (ROOT / "docs" / "clients.md").read_text()
    table = re.search(r"^## What is not served$(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]
    told = {path.removesuffix("{id}") for path in re.findall(r"`(/v1[^`]*)`", table)}
    assert set(NOT_SERVED) - told == set()


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_its_links_lead_somewhere(path: Path):
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert dead == []


def test_the_classes_that_templates_name_are_there():
    templates = [path.read_text() for path in (ROOT / "templates").rglob("*.html")]
    named = {name for text in templates for name in re.findall(r"llmkeys(?:\.\w+)+\.[A-Z]\w+", text)}
    assert named
    for name in named:
        import_string(name)


def test_every_document_is_reached_from_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [path.name for path in DOCUMENTS[1:] if path.name not in text] == []


def test_each_way_to_a_token_sets_what_the_first_request_sends():
    """A reader takes one of the two: the page, or the command."""
    step = re.search(r"^4\. .*?(?=^5\. )", (ROOT / "docs/quickstart.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    assert [line.partition("=")[0] for line in shell_lines(step)] == ["TOKEN", "TOKEN"]


def test_it_waits_for_the_server_before_it_reads_what_that_writes():
    lines = shell_lines((ROOT / "docs/deployment.md").read_text())
    reading = [at for at, line in enumerate(lines) if line.endswith("/first-login")]
    assert len(reading) == 2
    assert all(" --wait" in lines[at - 1] or "/readyz" in lines[at - 1] for at in reading)


def test_it_installs_as_root_what_belongs_to_root():
    """`git clone` under sudo makes /opt/refactai, and what `make` installs there, root's."""
    making = [line for line in shell_lines((ROOT / "docs/deployment.md").read_text()) if "make " in line]
    assert {line.partition(" && ")[2] for line in making if "apt-get" not in line} == {
        "sudo make .venv/installed",
        "sudo make postgres",
    }


# --- files to install -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_the_units_start_what_is_there(unit: Path):
    text = unit.read_text()
    command = re.search(r"^ExecStart=/opt/refactai/.venv/bin/python manage.py serve (.*)$", text, re.MULTILINE)[1]
    known = options_of(parser_of("serve"))
    assert [option for option in re.findall(r"--[a-z-]+", command) if option not in known] == []
    assert ("--no-scheduler" in command) == (unit.name == "refactai-web.service")
    assert "KillMode=mixed" in text.splitlines()  # systemd's default would also signal the children of `serve`


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed (on Debian: the package systemd)"
)
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_nothing_wrong_with_the_units(unit: Path, tmp_path: Path):
    here = tmp_path / unit.name
    here.write_text(re.sub(r"^(ExecStart=)\S+", r"\1/bin/true", unit.read_text(), flags=re.MULTILINE))
    told = subprocess.run(["systemd-analyze", "verify", here], capture_output=True, text=True, check=False)
    assert unit.name not in told.stderr


def test_the_proxies_let_streams_through_and_send_nothing_twice():
    nginx, caddy = (DEPLOY / "nginx.conf").read_text(), (DEPLOY / "Caddyfile").read_text()
    for line in (
        "proxy_buffering off;",
        "proxy_next_upstream off;",
        "X-Forwarded-Proto $scheme;",
        "X-Forwarded-For $remote_addr;",
    ):
        assert line in nginx
    assert nginx.count("{") == nginx.count("}")
    assert not re.search(r"^\s*flush_interval", caddy, re.MULTILINE), "with -1 it does not pass on that a client left"
    assert int(re.search(r"proxy_read_timeout (\d+)s", nginx)[1]) > 600


def test_the_proxies_let_through_the_largest_body():
    nginx, caddy = (DEPLOY / "nginx.conf").read_text(), (DEPLOY / "Caddyfile").read_text()
    most = settings.MAX_BODY_MB
    assert f"client_max_body_size {most}m;" in nginx and f"max_size {most}MiB " in caddy  # MB is decimal for Caddy


def test_it_locks_the_driver_of_postgresql():
    """`make postgres` installs what `make run` does and the driver, in the same versions."""
    plain, with_driver = (
        set(re.findall(r"^([\w.-]+==[\w.]+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements.txt", "requirements-postgres.txt")
    )
    assert plain < with_driver
    assert {line.partition("==")[0] for line in with_driver - plain} >= {"psycopg", "psycopg-binary", "psycopg-pool"}


def test_one_version_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1]
    assert project == newest == VERSION
    done = subprocess.run([sys.executable, "manage.py", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{VERSION}\n"
