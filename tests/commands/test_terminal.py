"""Commands at the edge of what a terminal does: closed pipes, full devices, Ctrl-D, another Python, odd arguments."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import manage as command_door
from tests.commands.backups import Place, archive, made, place
from tests.serving import DEADLINE_SECONDS, ROOT, environment

__all__ = ["archive", "made", "place"]
pytestmark = pytest.mark.slow

# Every command of the product with arguments that do something, each of them harmless when it is refused.
ALL = {
    "alert": ["alert"],
    "audit": ["audit"],
    "backup": ["backup", "{new}"],
    "chat": ["chat", "hi"],
    "demo": ["demo", "--seconds", "1", "--history", "0"],
    "doctor": ["doctor", "--offline", "--quick"],
    "export_keys": ["export_keys", "{new}"],
    "import_keys": ["import_keys", "{keys}"],
    "keys": ["keys", "list"],
    "reencrypt": ["reencrypt"],
    "reset_costs": ["reset_costs", "--daily"],
    "restore": ["restore", "{archive}"],
    "serve": ["serve", "--bind", "127.0.0.1:1"],
    "simulator": ["simulator", "--bind", "127.0.0.1:1"],
    "stats": ["stats"],
    "tokens": ["tokens", "list"],
    "usage": ["usage"],
    "void": ["void", "--lost"],
}
PRINTING = [name for name in ALL if name not in ("chat", "demo", "serve", "simulator")]


@pytest.fixture
def words(place: Place, archive: Path, tmp_path: Path):
    """Return the arguments of a command with files that are there, or can be made."""
    (tmp_path / "keys.json").write_text("[]")
    names = {"new": tmp_path / "new", "keys": tmp_path / "keys.json", "archive": archive}
    return lambda name: [word.format(**names) for word in ALL[name]]


def shell(place: Place, script: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT, env=environment(place.data, PY=sys.executable, **more), capture_output=True, text=True,
        timeout=DEADLINE_SECONDS, stdin=subprocess.DEVNULL, errors="replace",
    )  # fmt: skip


def sentence(ran: subprocess.CompletedProcess[str]) -> str:
    """Return the one line on stderr of a command that refused."""
    assert ran.returncode == 1 and "Traceback" not in ran.stderr, ran.stderr
    assert ran.stderr.count("\n") == 1, ran.stderr
    return ran.stderr


def test_the_list_above_is_whole():
    from django.core.management import get_commands

    assert sorted(ALL) == sorted(name for name, app in get_commands().items() if app == "llmkeys")


@pytest.mark.parametrize("name", PRINTING)
def test_a_full_device_is_one_sentence(place, words, name):
    ran = shell(place, f'"$PY" manage.py {" ".join(words(name))} > /dev/full')
    assert sentence(ran) == "The output could not be written: No space left on device.\n"


@pytest.mark.parametrize("name", PRINTING)
def test_a_closed_pipe_is_silent(place, words, name):
    ran = shell(place, f'"$PY" manage.py {" ".join(words(name))} | true; exit ${{PIPESTATUS[0]}}')
    assert (ran.returncode, ran.stderr) == (1, "")


@pytest.mark.parametrize("name", PRINTING)
def test_closed_streams_are_no_reason_to_fail(place, words, name):
    assert shell(place, f'"$PY" manage.py {" ".join(words(name))} >&- 2>&-').returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["keys", "add", "--provider", "openrouter", "--name", "New"], "There was no API key on stdin."),
        (["keys", "edit", "Production", "--new-secret"], "There was no API key on stdin."),
        (["chat", "-"], "The prompt is empty."),
    ],
)
def test_a_closed_stdin_is_an_empty_one(place, arguments, words):
    ran = shell(place, f'setsid --wait "$PY" manage.py {" ".join(arguments)} <&-')  # without a terminal to ask on
    assert sentence(ran).startswith(words)


@pytest.mark.parametrize("name", ["keys", "usage", "stats", "doctor"])
def test_a_terminal_that_knows_ascii_alone_is_no_reason_to_fail(place, words, name):
    place.add_key("Zürich “one”")
    ran = shell(place, f'"$PY" manage.py {" ".join(words(name))}', PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert ran.returncode == 0 and "Traceback" not in ran.stderr, ran.stderr


@pytest.mark.parametrize("file", ["{file}/below", "{long}", "{missing}/below", "{directory}", ""])
@pytest.mark.parametrize("name", ["backup", "export_keys", "import_keys", "restore"])
def test_a_place_that_cannot_be_used_is_one_sentence(place, tmp_path, name, file):
    (tmp_path / "file").touch()
    names = {"file": tmp_path / "file", "long": "x" * 300, "missing": tmp_path / "no", "directory": tmp_path}
    sentence(place.run(name, file.format(**names)))


@pytest.mark.parametrize("name", ["export_keys", "import_keys"])
def test_a_home_directory_that_does_not_exist_is_named(place, name):
    said = sentence(place.run(name, "~nosuch/keys.json"))
    assert said == "~nosuch/keys.json is in a home directory that does not exist.\n"


@pytest.mark.parametrize("piped", [["keys", "add", "--provider", "openai", "--name", "A"], ["chat", "-"]], ids=" ".join)
@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape"])  # the latter in the locale C
def test_what_is_piped_in_and_is_no_text_is_one_sentence(place, piped, encoding):
    ran = shell(place, f"""printf 'sk-\\xff' | "$PY" manage.py {" ".join(piped)}""", PYTHONIOENCODING=encoding)
    assert sentence(ran) == "What was piped in is not valid UTF-8.\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "show", "$'\\xff'"],
        ["keys", "edit", "$'\\xff'", "--priority", "1"],
        ["tokens", "revoke", "$'\\xff'"],
        ["tokens", "create", "$'\\xff'"],
        ["usage", "--model", "$'\\xff'"],
        ["chat", "$'\\xff'"],
        ["keys", "show", "''"],
        ["keys", "show", "'; DROP TABLE'"],
        ["usage", "--token", "$(printf %05000d 0)", "--key", "x"],
        ["reset_costs"],
        ["reset_costs", "--daily", "--key", "nobody"],
        ["void"],
        ["void", "1", "--lost"],
        ["void", "999999999999999999999999"],
        ["tokens", "create", "a", "--scope", "nonsense"],
        ["tokens", "create", "a", "--user", "nobody"],
        ["tokens", "create", "a", "--key", "nobody"],
        ["tokens", "create", "a", "--expires", "yesterday"],
        ["keys", "edit", "Production", "--expires", "0000-00-00"],
        ["keys", "edit", "Production", "--daily-limit", "1e999999"],
        ["keys", "edit", "Production", "--priority", "99999999999999999999"],
        ["keys", "edit", "Production"],
        ["keys", "add", "--provider", "x", "--name", "A", "--from-env", "NOT_SET"],
        ["chat", "hi", "--max-tokens", "0"],
        ["chat", "''"],
        ["chat", "hi", "--model", "$(printf %05000d 0)"],
        ["alert", "--limit", "0"],
        ["alert", "--test"],
        ["usage", "--json", "--csv"],
        ["serve", "--bind", "nonsense"],
        ["serve", "--workers", "0"],
        ["demo", "--bind", "nonsense"],
        ["simulator", "--bind", "256.256.256.256:99"],
        ["simulator", "--journal", "/nowhere/at/all"],
    ],
    ids=" ".join,
)
def test_an_odd_argument_is_one_sentence(place, arguments):
    sentence(shell(place, f'"$PY" manage.py {" ".join(arguments)}'))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("wrong", [["--no-such-option"], ["surplus", "surplus", "--limit", "x"]], ids=" ".join)
def test_a_wrong_option_shows_the_usage(place, words, name, wrong):
    ran = place.run(*words(name), *wrong)
    assert ran.returncode == 2 and ran.stderr.startswith("usage: manage.py ") and "Traceback" not in ran.stderr


# --- a terminal ------------------------------------------------------------------------------------------------------


TYPE_AGAIN_SECONDS = 20


def typed(place: Place, text: bytes, *arguments: str, output: Path | None = None) -> tuple[int, str]:
    """Run a command on a terminal on which somebody types; return its exit code and all that was shown.

    With `output`, stdout is that file.
    """
    child, terminal = pty.fork()
    if not child:
        if output is not None:
            os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT, 0o600), 1)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where the tests themselves run in the background
        os.chdir(ROOT)
        os.execve(sys.executable, [sys.executable, "manage.py", *arguments], environment(place.data))
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so when the other side has ended
        while not shown.rstrip().endswith((b":", b"[y/N]")):
            assert select.select([terminal], [], [], DEADLINE_SECONDS)[0], "nothing is asked on the terminal"
            shown += os.read(terminal, 4096)
        os.write(terminal, text)
        asked = len(shown)
        while True:
            is_noticed = b"\n" in shown[asked:]
            if not select.select([terminal], [], [], DEADLINE_SECONDS if is_noticed else TYPE_AGAIN_SECONDS)[0]:
                assert not is_noticed, "the command does not end"
                os.write(terminal, text)  # a Ctrl-C between the prompt and the read after it is not noticed
            elif piece := os.read(terminal, 4096):
                shown += piece
            else:
                break
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), shown.decode()


ADD = ("keys", "add", "--provider", "openrouter", "--name", "New")


@pytest.mark.parametrize(
    "arguments", [ADD, ("keys", "edit", "Production", "--new-secret"), ("keys", "delete", "Production")]
)
@pytest.mark.parametrize(("key", "code"), [(b"\x04", 1), (b"\x03", 130)], ids=["Ctrl-D", "Ctrl-C"])
def test_leaving_a_prompt_changes_nothing(place, arguments, key, code):
    ended, shown = typed(place, key, *arguments)
    assert ended == code and "Traceback" not in shown
    assert place.names() == ["Production"]


def test_a_question_does_not_go_where_the_output_goes(place, tmp_path):
    deleted = tmp_path / "deleted.json"
    ended, shown = typed(place, b"y\n", "keys", "delete", "Production", "--json", output=deleted)
    assert ended == 0 and "Delete “Production”" in shown and "[y/N]" in shown
    assert json.loads(deleted.read_text()) == {"success": True, "message": "Key deleted"}
    assert place.names() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("keys", "add", "--provider", "nobody", "--name", "New"), "--provider"),
        ((*ADD, "--daily-limit", "-1"), "--daily-limit"),
        ((*ADD, "--expires", "yesterday"), "--expires"),
        (("keys", "edit", "Production", "--new-secret", "--monthly-limit", "x"), "--monthly-limit"),
        (("keys", "edit", "Nobody", "--new-secret"), "There is no key"),
    ],
)
def test_nothing_is_asked_before_the_other_arguments_are_right(place, arguments, words):
    ended, shown = typed(place, b"", *arguments)
    assert ended == 1 and words in shown and "API key (not shown" not in shown


# --- another Python --------------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A bare checkout: the door alone, and a package whose import shows which Python came in."""
    (tmp_path / "refactai_site").mkdir()
    shutil.copy2(ROOT / "manage.py", tmp_path / "manage.py")
    return tmp_path


def bare_python(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the door with a Python that has no packages."""
    base = Path(sys.base_prefix) / "bin" / "python3"
    return subprocess.run(
        [base, "-E", "-s", "-S", checkout / "manage.py", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )


def test_without_its_packages_it_says_what_to_do(checkout):
    said = sentence(bare_python(checkout, "keys", "list"))
    assert "packages are not installed" in said and "Run `make run` once" in said


def test_with_a_package_too_few_it_names_it(checkout):
    (checkout / "django" / "core").mkdir(parents=True)  # enough to begin with
    (checkout / "django" / "__init__.py").touch()
    (checkout / "django" / "core" / "__init__.py").touch()
    (checkout / "django" / "core" / "management.py").write_text("import dj_database_url\n")
    said = sentence(bare_python(checkout, "keys", "list"))
    assert "packages are not all installed" in said and "dj_database_url is missing. Run `make run` once" in said


@pytest.mark.parametrize("url", ["", "mysql://localhost/keys", "postgres://postgres@127.0.0.1:1/keys"])
def test_a_command_of_django_that_finds_no_database_is_one_sentence(tmp_path, url):
    command = [sys.executable, "manage.py", "changepassword", "admin"]
    here = environment(tmp_path / "data", **({"DATABASE_URL": url} if url else {}))
    ran = subprocess.run(command, cwd=ROOT, env=here, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert ran.returncode == 1 and "Traceback" not in ran.stderr, ran.stderr
    assert ("make run" if not url else "DATABASE_URL") in ran.stderr


def test_it_runs_itself_again_inside_its_environment(checkout):
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "pyvenv.cfg").touch()
    (checkout / ".venv" / "bin" / "python").write_text('#!/bin/sh\necho "inside: $@"\n')
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    ran = bare_python(checkout, "keys", "show", "a b")
    assert ran.stdout == f"inside: {checkout}/manage.py keys show a b\n"


def test_an_environment_of_another_user_is_said_in_a_sentence(monkeypatch):
    class Forbidden(type(Path())):
        def exists(self, **_):
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(command_door, "ENVIRONMENT", Forbidden("/opt/refactai/.venv"))
    with pytest.raises(SystemExit, match="cannot be read by this user"):
        command_door.run_inside_the_environment()


def test_a_stop_while_it_starts_is_silent(place):
    process = subprocess.Popen(
        [sys.executable, "manage.py", "usage"], cwd=ROOT, env=environment(place.data), stderr=subprocess.PIPE, text=True
    )
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=DEADLINE_SECONDS)
    assert said == ""
