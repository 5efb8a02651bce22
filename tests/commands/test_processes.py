"""Commands as a shell runs them: exit codes, one sentence on stderr, no traceback, help with an example."""

from __future__ import annotations

import argparse
import json

import pytest
from django.core.management import get_commands, load_command_class

from llmkeys.management.base import NO_TABLES
from tests.serving import ROOT, manage

SECRET = "sk-or-v1-abcdefgh12345678verysecret9999"


class TestFromAShell:
    def test_it_adds_a_key_and_shows_it_without_its_secret(self, tmp_path):
        early = manage(tmp_path, "keys", "list")
        assert (early.returncode, early.stdout) == (1, "")
        assert early.stderr == f"{NO_TABLES}\n"
        assert manage(tmp_path, "migrate", "--skip-checks").returncode == 0
        added = manage(tmp_path, "keys", "add", "--provider", "openrouter", "--name", "Production", stdin=SECRET)
        assert (added.returncode, added.stderr) == (0, "")
        listed = manage(tmp_path, "keys", "list", "--json")
        assert [key["name"] for key in json.loads(listed.stdout)] == ["Production"]
        audited = manage(tmp_path, "audit")
        assert (audited.returncode, audited.stdout) == (0, "The books are right: 1 key and 0 usage rows checked.\n")
        refused = manage(tmp_path, "keys", "edit", "Nobody", "--priority", "1")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert len(refused.stderr.splitlines()) == 1
        assert SECRET not in added.stdout + listed.stdout

    @pytest.mark.parametrize(
        ("variable", "value", "words"),
        [
            ("REFACTAI_DAILY_LIMIT", "ten", "“ten” is not a number."),
            ("REFACTAI_DAILY_LIMIT", "-1", "-1 is not between 0 and "),
            ("REFACTAI_MAX_RETRIES", "99", "99 is not between 0 and "),
        ],
    )
    def test_it_names_a_variable_that_cannot_be_parsed(self, tmp_path, variable, value, words):
        ran = manage(tmp_path, "stats", **{variable: value})
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (1, "", 1)
        assert ran.stderr.startswith(f"{variable}: {words}") and "For example" in ran.stderr

    @pytest.mark.parametrize(
        ("variable", "value", "words"),
        [
            ("REFACTAI_ALLOWED_HOSTS", "localhost,192.168.1.5:8080", "“192.168.1.5:8080” is not a host name"),
            ("REFACTAI_ALLOWED_HOSTS", "https://keys.example.com", "“https://keys.example.com” is not a host name"),
            ("REFACTAI_ALLOWED_HOSTS", "[::1]:8080", "“[::1]:8080” is not a host name"),
            ("REFACTAI_CSRF_TRUSTED_ORIGINS", "keys.example.com", "“keys.example.com” is not an origin"),
            ("REFACTAI_CSRF_TRUSTED_ORIGINS", "https://keys.example.com/", "“https://keys.example.com/” is not an"),
            ("REFACTAI_CORS_ORIGINS", "https://a.example,chat.example", "“chat.example” is not an origin"),
            ("OPENAI_BASE_URL", "http://my host:8000/v1", "it is not a plain http or https address"),
            ("OPENAI_BASE_URL", "http://exa%mple/v1", "it is not a plain http or https address"),
            ("OPENAI_BASE_URL", "http://[v1.x:y]/v1", "it is not a plain http or https address"),
            ("OPENAI_BASE_URL", "http://a..b/v1", "it is not a plain http or https address"),
        ],
    )
    def test_it_names_a_host_or_an_origin_that_could_never_match(self, tmp_path, variable, value, words):
        ran = manage(tmp_path, "stats", **{variable: value})
        assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
        assert ran.stderr.startswith(f"{variable}: {words}") and "For example" in ran.stderr

    @pytest.mark.parametrize(
        ("named", "words"),
        [
            ("~nosuch/data", "is in a home directory that does not exist."),
            ("/dev/null", "is a file, not a directory."),
            ("/dev/null/data", "cannot be created: Not a directory."),
        ],
    )
    def test_it_names_a_data_directory_that_cannot_be_one(self, tmp_path, named, words):
        ran = manage(tmp_path, "stats", REFACTAI_DATA_DIR=named)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert ran.stderr == f"The data directory {named} {words} Set REFACTAI_DATA_DIR to another directory.\n"
        assert not (ROOT / "~nosuch").exists()

    def test_it_says_that_an_encryption_key_is_wrong(self, tmp_path):
        assert manage(tmp_path, "migrate", "--skip-checks").returncode == 0
        add = ("keys", "add", "--provider", "openrouter", "--name")
        assert manage(tmp_path, *add, "A", stdin=SECRET, REFACTAI_ENCRYPTION_KEYS="a" * 32).returncode == 0
        ran = manage(tmp_path, *add, "B", stdin=SECRET[:-1] + "0", REFACTAI_ENCRYPTION_KEYS="b" * 32)
        assert ran.returncode == 1
        assert "cannot be decrypted" in ran.stderr and "Traceback" not in ran.stderr and SECRET[:-1] not in ran.stderr


def parsers_of(name: str) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of a command, or those of its verbs."""
    parser = load_command_class("llmkeys", name).create_parser("manage.py", name)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {f"{name} {verb}": its_parser for verb, its_parser in action.choices.items()}
    return {name: parser}


@pytest.mark.parametrize("name", sorted(name for name, app in get_commands().items() if app == "llmkeys"))
def test_it_has_an_example_in_its_help(name):
    for words, parser in parsers_of(name).items():
        text = " ".join(parser.format_help().split()) + " "
        assert f"xample: ./manage.py {words} " in text, words
