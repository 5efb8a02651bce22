"""The table “What went wrong” of docs/operations.md: each row is provoked by a test, which reads the quoted words."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.serving import ROOT

# Each day, by its first cell, and the tests that provoke it. Between them they contain all that its row quotes.
PROVOKED_BY = {
    "the database is gone, or another file is in its place": (
        "commands/test_lost_database.py::test_serve_names_the_newest_good_backup_and_both_ways_out",
        "commands/test_lost_database.py::test_the_database_of_another_program_is_not_taken_over",
    ),
    "the database is damaged": ("test_serve.py::test_it_refuses_a_file_that_is_no_database",),
    "the encryption key is gone, wrong or damaged": ("flows/test_drills.py::test_another_master_key_or_none",),
    "the port is taken": ("test_serve.py::test_it_refuses_a_port_in_use",),
    "a setting cannot be parsed": (
        "commands/test_processes.py::TestFromAShell::test_it_names_a_variable_that_cannot_be_parsed",
    ),
    "a setting is misspelt": (
        "commands/test_settings_file.py::test_a_misspelt_name_is_named_with_the_nearest_one",
    ),
    "a page or a form is refused": (
        "pages/test_origins.py::test_a_host_that_is_not_allowed_is_named_with_the_setting",
        "pages/test_origins.py::test_another_origin_names_both_addresses_and_the_setting",
    ),
    "a command's settings differ from the server's": (
        "commands/test_settings_file.py::test_a_command_says_where_the_running_server_has_other_settings",
    ),
    "the data directory, or a file in it, belongs to another user": (
        "flows/test_drills.py::test_a_file_of_another_user",
    ),
    "the disk is full": ("flows/test_drills.py::test_a_full_disk",),
    "the database is locked": ("flows/test_drills.py::test_a_database_that_another_program_holds",),
    "PostgreSQL is down": (
        "flows/test_drills.py::test_a_server_that_crashes_or_is_stopped_and_comes_again",
    ),
    "the driver for PostgreSQL is missing": ("flows/test_drills.py::test_a_driver_that_is_not_installed",),
    "a restore while the server runs": (
        "flows/test_backups.py::test_what_came_after_a_backup_is_gone_after_its_restore",
    ),
    "the archive is damaged": (
        "commands/test_restore.py::test_it_refuses_a_part_that_is_not_what_was_written",
    ),
    "the books do not add up": ("test_audit.py::TestAuditCommand::test_it_names_a_tampered_figure",),
    "a key was rejected": (
        "gateway/test_rotation.py::TestExhaustedAndRejected::test_the_operator_reads_of_a_rejection",
    ),
    "every key is spent": (
        "gateway/test_rotation.py::TestByBudget::test_the_next_key_serves_when_one_is_full",
    ),
    "a request had an unknown outcome": (
        "gateway/test_rotation.py::TestTransport::test_a_reset_is_lost_and_tried_again_once",
    ),
    "the scheduler has stopped": (
        "flows/test_stalled_scheduler.py::test_a_server_without_a_scheduler_is_told_of_by_the_doctor",
        "pages/test_dashboard.py::TestBanners::test_it_says_when_the_scheduler_stands_still",
    ),
    "the clock was set back": ("commands/test_doctor.py::TestWork::test_it_names_requests_of_a_time_to_come",),
    "the password is lost": (
        "pages/test_login_browser.py::test_it_counts_the_attempts_down_and_then_makes_the_name_wait",
    ),
    "the packages are missing": (
        "commands/test_terminal.py::test_without_its_packages_it_says_what_to_do",
        "commands/test_terminal.py::test_with_a_package_too_few_it_names_it",
    ),
}  # fmt: skip


def days() -> dict[str, tuple[str, ...]]:
    """Return the rows of the table: what went wrong, and the pieces of what is quoted or given as a code."""
    text = (ROOT / "docs" / "operations.md").read_text()
    table = re.search(r"^## What went wrong$(.*?)^## ", text, re.MULTILINE | re.DOTALL)[1]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines() if line.startswith("| ")]
    assert all(all(row) and len(row) == 3 for row in rows)
    return {day: pieces(read) for day, read, _ in rows[2:]}


def pieces(read: str) -> tuple[str, ...]:
    quoted = [piece.strip(" :,") for words in re.findall("“([^”]*)”", read) for piece in words.split("…")]
    return tuple(piece for piece in quoted if piece) + tuple(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", read))


def strings(*nodes: ast.AST) -> str:
    found = (node.value for root in nodes for node in ast.walk(root) if isinstance(node, ast.Constant))
    return "\n".join(value for value in found if isinstance(value, str))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def body_of(test: str) -> list[ast.AST]:
    """Return the parameters and the statements of a test, without its docstring; nothing if there is no such test."""
    file, *names = test.split("::")
    found: ast.AST = parsed(ROOT / "tests" / file)
    for name in names:
        own = (node for node in ast.iter_child_nodes(found) if getattr(node, "name", "") == name)
        found = next(own, ast.Module([], []))
    if not isinstance(found, ast.FunctionDef):
        return []
    begin = 1 if ast.get_docstring(found) else 0
    return [*found.decorator_list, *found.body[begin:]]


@cache
def product_words() -> str:
    """Return every text of the product: the parts of its strings, and its templates without their tags."""
    python = [ROOT / "manage.py", *(ROOT / "llmkeys").rglob("*.py"), *(ROOT / "refactai_site").glob("*.py")]
    pages = [re.sub(r"<[^>]*>", "", path.read_text()) for path in (ROOT / "templates").rglob("*.html")]
    return "\n".join([*map(strings, map(parsed, python)), *pages])


def test_there_are_twenty_days_and_each_has_its_tests():
    assert len(days()) >= 20
    assert sorted(days()) == sorted(PROVOKED_BY)


@pytest.mark.parametrize("day", PROVOKED_BY)
def test_its_tests_read_what_the_row_quotes_from_the_product(day):
    assert [test for test in PROVOKED_BY[day] if not body_of(test)] == []
    read_in_tests = strings(*(node for test in PROVOKED_BY[day] for node in body_of(test)))
    quoted = days()[day]
    assert quoted
    assert [words for words in quoted if words not in product_words()] == []
    assert [words for words in quoted if words not in read_in_tests] == []
