"""`settings.env`: one set of settings for `serve` and every command, and a word where two processes differ."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import pytest

from llmkeys.simulator.thread import SimulatorThread
from refactai_site import env, settings_file
from tests.commands.backups import Place, archive, made, place
from tests.serving import Served, free_port, prepare

__all__ = ["archive", "made", "place"]

LINES = {
    "REFACTAI_DAILY_LIMIT=5": "5",
    "  REFACTAI_DAILY_LIMIT = 5  ": "5",
    "export REFACTAI_DAILY_LIMIT=5": "5",
    'REFACTAI_DAILY_LIMIT="5"': "5",
    "REFACTAI_DAILY_LIMIT='5'  # of every new key": "5",
    "REFACTAI_DAILY_LIMIT=5   # of every new key": "5",
    "REFACTAI_DAILY_LIMIT=": "",
    'REFACTAI_DAILY_LIMIT=""': "",
    "\ufeffREFACTAI_DAILY_LIMIT=5\r\n": "5",
    "REFACTAI_DAILY_LIMIT=4\nREFACTAI_DAILY_LIMIT=5": "5",
    "REFACTAI_DAILY_LIMIT=json://a#b": "json://a#b",
    "REFACTAI_DAILY_LIMIT=it's": "it's",
    'REFACTAI_DAILY_LIMIT="a # b"': "a # b",
    "# a comment\n\nREFACTAI_DAILY_LIMIT=a=b": "a=b",
}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Load a file with this text into an environment of its own; return the variable that the tests speak of."""
    monkeypatch.setattr(settings_file, "FAULTS", [])
    monkeypatch.setattr(settings_file, "UNKNOWN", [])
    monkeypatch.setattr(settings_file, "FROM_FILE", {})
    monkeypatch.setattr(settings_file.os, "environ", {})

    def call(text: str) -> str | None:
        (tmp_path / "settings.env").write_bytes(text.encode())
        settings_file.load(tmp_path)
        return settings_file.os.environ.get("REFACTAI_DAILY_LIMIT")

    return call


@pytest.mark.parametrize("text", LINES, ids=repr)
def test_it_reads_what_people_write(load, text):
    assert load(text) == LINES[text]
    assert settings_file.FAULTS == []


@pytest.mark.parametrize(
    "url",
    ["http://ollama_1:11434/v1", "http://bücher.example/v1", "http://[::1]:8000/v1", "https://10.0.0.1", "http://a.b."],
)
def test_a_base_url_may_name_any_host_that_can_be(monkeypatch, url):
    monkeypatch.setattr(env, "FAULTS", [])
    monkeypatch.setattr(env, "IN_FORCE", {})
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    assert (env.url("OPENAI_BASE_URL", "http://default"), env.FAULTS) == (url, [])


@pytest.fixture
def browser_origins(monkeypatch):
    """Return what is read of this value, and how many faults it has."""
    monkeypatch.setattr(env, "FAULTS", [])
    monkeypatch.setattr(env, "IN_FORCE", {})

    def read(value: str) -> tuple[list[str], int]:
        monkeypatch.setenv("REFACTAI_CORS_ORIGINS", value)
        return env.browser_origins("REFACTAI_CORS_ORIGINS"), len(env.FAULTS)

    return read


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://chat.example", "https://chat.example"),
        ("https://chat.example/", "https://chat.example"),
        ("null", "null"),  # of a page that was opened from a file
        ("HTTPS://Chat.Example", "https://chat.example"),
        ("https://chat.example:443", "https://chat.example"),
        ("http://chat.example:80/", "http://chat.example"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        ("*", "*"),
    ],
)
def test_an_origin_is_read_as_browsers_send_it(browser_origins, written, sent):
    assert browser_origins(f"https://other.example, {written}") == (["https://other.example", sent], 0)


@pytest.mark.parametrize(
    "written",
    ["chat.example", "localhost:3000", "https://chat.example/app", "https://*.chat.example", "https://",
     "https://chat.example:port", "https://me@chat.example", "https://chat example"],
)  # fmt: skip
def test_one_that_no_browser_sends_is_a_fault(browser_origins, written):
    assert browser_origins(f"https://other.example, {written}")[1] == 1


def test_the_environment_wins_even_where_it_is_empty(load):
    settings_file.os.environ["REFACTAI_DAILY_LIMIT"] = ""
    assert load("REFACTAI_DAILY_LIMIT=5") == ""


def test_it_is_for_its_owner_alone(load, tmp_path):
    (tmp_path / "settings.env").touch(0o644)
    load("REFACTAI_DAILY_LIMIT=5")
    assert (tmp_path / "settings.env").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("line", ["OPENAI_API_KEY sk-secret", "sk-secret", "=sk-secret", "9A=sk-secret"])
def test_a_line_that_is_not_one_is_named_by_its_number_alone(load, line):
    load(f"# one\n{line}")
    (fault,) = settings_file.FAULTS
    assert fault.variable.endswith("settings.env, line 2") and "sk-secret" not in str(fault)


def test_the_data_directory_cannot_be_moved_from_within(load):
    load("REFACTAI_DATA_DIR=/elsewhere")
    (fault,) = settings_file.FAULTS
    assert fault.variable == "REFACTAI_DATA_DIR" and "REFACTAI_DATA_DIR" not in settings_file.os.environ


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "PYTHONPATH", "OPENAI_APIKEY"])
def test_it_takes_no_variable_that_is_not_a_setting(load, name):
    load(f"{name}=x")
    assert name not in settings_file.os.environ and [name] == settings_file.UNKNOWN


def test_it_knows_the_variables_of_every_provider():
    from llmkeys.providers import PROVIDERS

    assert set(settings_file.KEY_VARIABLES) == {
        name for provider in PROVIDERS.values() for name in provider.environment_variables
    }


def test_it_takes_every_setting_that_the_product_reads():
    refused = [name for name in env.IN_FORCE if not settings_file._ACCEPTED.fullmatch(name)]
    assert refused == []


# --- through the commands --------------------------------------------------------------------------------------------


def write(place: Place, text: str) -> Path:
    file = place.data / "settings.env"
    file.write_text(text)
    file.chmod(0o600)
    return file


@pytest.mark.slow
def test_every_command_reads_it_and_the_environment_wins(place):
    write(place, "REFACTAI_DAILY_LIMIT=5\n")
    place.add_key("By the file")
    place.add_key("By the environment", REFACTAI_DAILY_LIMIT="7")
    assert "of $5.00" in place.done("keys", "show", "By the file")
    assert "of $7.00" in place.done("keys", "show", "By the environment")


@pytest.mark.slow
def test_a_value_that_cannot_be_parsed_is_told_as_any_other(place):
    write(place, "REFACTAI_DAILY_LIMIT=five\n")
    ran = place.run("keys", "list")
    assert ran.returncode == 1 and ran.stderr.startswith("REFACTAI_DAILY_LIMIT: “five” is not a number.")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["file", "environment"])
def test_a_misspelt_name_is_named_with_the_nearest_one(place, where):
    more = {"REFACTAI_DALY_LIMIT": "5"} if where == "environment" else {}
    write(place, "REFACTAI_DALY_LIMIT=5\n" if where == "file" else "")
    said = "REFACTAI_DALY_LIMIT is not a setting of this product and is ignored. Did you mean REFACTAI_DAILY_LIMIT?\n"
    assert place.run("keys", "list", **more).stderr == said
    with Served(place.data, "--no-scheduler", **more) as served:
        served.wait_until_up()
        assert said in served.log.read_text()


@pytest.mark.slow
def test_a_command_says_where_the_running_server_has_other_settings(place):
    secret = "sk-proj-" + "e" * 40
    server = {"REFACTAI_DAILY_LIMIT": "5", "OPENAI_API_KEY": secret, "REFACTAI_MAX_RETRIES": "3"}
    with Served(place.data, "--no-scheduler", **server) as served:
        served.wait_until_up()
        assert place.run("keys", "list", **server).stderr == ""
        said = place.run("keys", "list").stderr
        assert said.count("\n") == 1
        assert "has different values for OPENAI_API_KEY, REFACTAI_DAILY_LIMIT; this command uses its own" in said
        (published,) = place.data.glob("server-*.keys")
        assert published.stat().st_mode & 0o777 == 0o600
        assert secret not in published.read_text()
        assert json.loads(place.done("keys", "list", "--json", REFACTAI_DAILY_LIMIT="6"))
        # Whatever a command lacks, the keys of the environment are the server's affair.
        place.run("doctor", "--offline", "--quick")
        place.run("keys", "test", "Default OpenAI Key")
        place.run("chat", "hi")
    shown = json.loads(place.done("keys", "show", "Default OpenAI Key", "--json"))
    assert (shown["status"], shown["lastError"]) == ("ACTIVE", "")


@pytest.mark.slow
@pytest.mark.parametrize("refusal", ["401", "402", "429"])
def test_what_a_provider_refuses_to_a_commands_own_key_leaves_the_servers_alone(place, refusal):
    place.done("keys", "disable", "Production")
    with SimulatorThread() as simulator:
        server = {"OPENAI_BASE_URL": simulator.urls["openai"], "OPENAI_API_KEY": "sk-proj-" + "e" * 40}
        command = server | {"OPENAI_API_KEY": "sk-proj-" + "f" * 40 + f"-{refusal}"}
        with Served(place.data, "--no-scheduler", **server) as served:
            served.wait_until_up()
            place.done("keys", "edit", "Default OpenAI Key", "--billing-group", "team", **server)
            before = standing(place, "Default OpenAI Key", **server)
            tested = place.run("keys", "test", "Default OpenAI Key", **command)
            said = tested.stdout + tested.stderr
            assert "the value of OPENAI_API_KEY here, which is not the server's: nothing was stored" in said
            assert place.run("chat", "hi", **command).returncode == 1
            assert standing(place, "Default OpenAI Key", **server) == before == ["ACTIVE", True, "", None]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["401", "402", "429", "html"])
def test_what_a_command_hears_at_another_address_leaves_the_servers_keys_alone(place, ending):
    with SimulatorThread() as servers_own, SimulatorThread() as another:
        server = {"OPENROUTER_BASE_URL": servers_own.urls["openrouter"], "REFACTAI_FALLBACK_MODELS": "none"}
        command = server | {"OPENROUTER_BASE_URL": another.urls["openrouter"]}
        place.done("keys", "edit", "Production", "--from-env", "NEW", **server, NEW=f"sk-or-v1-{'e' * 40}-{ending}")
        with Served(place.data, "--no-scheduler", **server) as served:
            served.wait_until_up()
            before = standing(place, "Production", **server)
            tested = place.run("keys", "test", "Production", **command)
            assert "OPENROUTER_BASE_URL, which is not the server's: nothing was stored" in tested.stdout + tested.stderr
            asked = place.run("chat", "hi", **command)
            assert asked.returncode == 1 and "has different values for OPENROUTER_BASE_URL" in asked.stderr
            assert standing(place, "Production", **server) == before == ["ACTIVE", True, "", None]
            assert place.rows("SELECT last_test_at FROM llmkeys_apikey") == [None]
            place.run("keys", "test", "Production", **server)
            assert place.rows("SELECT last_test_at FROM llmkeys_apikey") != [None]
            assert (standing(place, "Production", **server)[0] == "DISABLED") == (ending == "401")


@pytest.mark.slow
def test_an_answer_from_another_address_does_not_say_that_the_servers_key_serves_again(place):
    cooling = "SELECT kind FROM llmkeys_cooling"
    with SimulatorThread() as servers_own, SimulatorThread() as another:
        server = {"OPENROUTER_BASE_URL": servers_own.urls["openrouter"]}
        with Served(place.data, "--no-scheduler", **server) as served:
            served.wait_until_up()
            (key,) = place.rows("SELECT id FROM llmkeys_apikey WHERE name = 'Production'")
            place.change(
                "INSERT INTO llmkeys_cooling (scope, model, kind, until, reason, strikes)"
                f" VALUES ('key:{key}', '', 'rate_limited', '2026-01-01 00:00:00', 'Too many requests', 1)"
            )
            place.done("chat", "hi", OPENROUTER_BASE_URL=another.urls["openrouter"])
            assert place.rows(cooling) == ["rate_limited"]
            place.done("chat", "hi", **server)
            assert place.rows(cooling) == []


def standing(place: Place, key: str, **more: str) -> list[object]:
    shown = json.loads(place.done("keys", "show", key, "--json", **more))
    return [shown[name] for name in ("status", "isDefault", "lastError", "coolingUntil")]


@pytest.mark.slow
def test_a_command_without_the_servers_encryption_key_stores_no_secret_that_the_server_cannot_read(place, tmp_path):
    """Nothing is encrypted yet, so nothing shows the command that its own key, a new one, is another."""
    place.change("UPDATE llmkeys_apikey SET secret = x'', fingerprint = NULL, secret_missing = true")
    own = place.data / "encryption.key"
    own.unlink()
    secret = "sk-or-v1-" + "e" * 40
    (tmp_path / "keys.json").write_text(json.dumps([{"provider": "openrouter", "name": "Older", "apiKey": secret}]))
    with Served(place.data, "--no-scheduler", REFACTAI_ENCRYPTION_KEYS="k" * 40) as served:
        served.wait_until_up()
        for command in (
            ["keys", "add", "--provider", "openrouter", "--name", "New", "--from-env", "SECRET"],
            ["keys", "edit", "Production", "--from-env", "SECRET"],
            ["import_keys", str(tmp_path / "keys.json")],
        ):
            refused = place.run(*command, SECRET=secret)
            assert refused.returncode == 1 and "does not have the first encryption key" in refused.stderr, command
            assert not own.exists(), command
            place.run(*command, SECRET=secret, REFACTAI_ENCRYPTION_KEYS="other key " * 4)
            assert served.get("/readyz")[0] == 200, command
        assert place.names() == ["Production"]
        place.done(
            "keys", "edit", "Production", "--from-env", "SECRET", SECRET=secret, REFACTAI_ENCRYPTION_KEYS="k" * 40
        )
        assert served.get("/readyz")[0] == 200


@pytest.mark.slow
def test_one_file_for_both_leaves_nothing_to_say(place):
    write(place, "REFACTAI_DAILY_LIMIT=5\nOPENAI_API_KEY=sk-proj-" + "e" * 40 + "\n")
    with Served(place.data, "--no-scheduler") as served:
        served.wait_until_up()
        assert place.run("keys", "list").stderr == ""


@pytest.mark.slow
def test_a_backup_has_it_and_a_restore_brings_it_back(place, tmp_path):
    file = write(place, "REFACTAI_DAILY_LIMIT=5\n")
    place.done("backup", str(tmp_path / "with.tar"))
    place.done("backup", str(tmp_path / "without.tar"), "--without-key")
    assert "settings.env" in names(tmp_path / "with.tar") and "settings.env" not in names(tmp_path / "without.tar")
    file.write_text("REFACTAI_DAILY_LIMIT=6\n")
    assert "settings.env was restored as well" in place.done("restore", str(tmp_path / "with.tar"))
    assert file.read_text() == "REFACTAI_DAILY_LIMIT=5\n" and file.stat().st_mode & 0o777 == 0o600
    (kept,) = place.data.glob("before-restore-*/settings.env")
    assert kept.read_text() == "REFACTAI_DAILY_LIMIT=6\n"


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        return tar.getnames()


@pytest.mark.slow
def test_the_encryption_keys_in_it_come_back_with_it(tmp_path):
    old = Place(tmp_path / "old")
    prepare(old.data)
    write(old, "REFACTAI_ENCRYPTION_KEYS=" + "k" * 40 + "\n")
    old.add_key("Production")
    assert "It contains the encryption key" in old.done("backup", str(tmp_path / "all.tar"))
    fresh = Place(tmp_path / "fresh")
    fresh.done("restore", str(tmp_path / "all.tar"))
    assert "1 stored secret can be decrypted" in fresh.done("doctor", "--offline", "--quick")


@pytest.mark.slow
def test_settings_of_another_database_stay_out(place, tmp_path):
    file = write(place, f"DATABASE_URL=sqlite:///{place.database}\n")
    place.done("backup", str(tmp_path / "all.tar"))
    file.unlink()
    assert "names another DATABASE_URL" in place.done("restore", str(tmp_path / "all.tar"))
    assert not file.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "words"),
    {
        "mysql://x": "mysql is not supported; the product runs on SQLite and PostgreSQL",
        "oracle://u:p4ss@h/d": "oracle is not supported",
        "redis://x": "redis is not supported",
        "nonsense": "it is not a database URL",
        "postgres://h:p4ss@h:99999/d": "it is not a database URL",
        "postgres://u:p4ss@h": "it does not name a database",
        "postgres://u:p4ss@h/\udcff": "it is not a database URL",  # a byte that is not UTF-8
        f"postgres://u:p4ss@h/{'d' * 64}": "the name of the database has 64 bytes, and PostgreSQL allows 63",
        f"postgres://u:p4ss@h/{'%C3%BC' * 32}": "the name of the database has 64 bytes",
        "postgres://u:p4ss@h/d?conn_health_checks=maybe&pool=x": "its option “pool” is the product's own",
        "sqlite:////dir/x.db?timeout=5": "one of SQLite takes no options",
        "sqlite://:memory:": "it does not name a file",
        "sqlite:///": "it does not name a file",
    }.items(),
)
def test_a_foreign_database_url_is_told_in_one_line(tmp_path, url, words):
    ran = Place(tmp_path / "data").run("serve", "--bind", f"127.0.0.1:{free_port()}", DATABASE_URL=url)
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr
    assert ran.stderr.startswith(f"DATABASE_URL: {words}") and "p4ss" not in ran.stderr
    assert sys.executable not in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("nonsense=1", "nonsense"),
        ("sslmode=maybe", "sslmode"),
        ("isolation_level=x", "Invalid transaction isolation level x"),
    ],
)
def test_an_option_of_the_database_url_that_cannot_be_used_is_told_in_one_line(tmp_path, option, words):
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    place, here = Place(tmp_path / "data"), {"DATABASE_URL": f"postgres://u:p4ss@127.0.0.1:1/d?{option}"}
    for command in (["serve", "--bind", f"127.0.0.1:{free_port()}"], ["keys", "list"], ["changepassword", "admin"]):
        ran = place.run(*command, **here)
        assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), (command, ran.stderr)
        assert words in ran.stderr and "p4ss" not in ran.stderr, command
        assert "Correct" in ran.stderr and "accepts connections" not in ran.stderr, command
