"""The endings of keys, directives and pieces."""

from __future__ import annotations

import re
import subprocess
import sys
from decimal import Decimal

import pytest

from llmkeys.simulator.behaviour import ending, read_directives
from llmkeys.simulator.generation import pieces_of
from tests.simulator.helpers import ROOT


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sk-or-v1-abc-429", ("429", None)),
        ("sk-or-v1-abc-429x2", ("429", 2)),
        ("AIzaXYZ-cutx10", ("cut", 10)),
        ("invalid", ("invalid", None)),
        ("sk-or-v1-0123abcd", ("ok", None)),
        ("sk-or-v1-418", ("ok", None)),
        ("", ("ok", None)),
    ],
)
def test_it_reads_the_end_of_a_key(key: str, expected: tuple[str, int | None]) -> None:
    assert ending(key) == expected


def test_it_reads_directives_over_several_brackets() -> None:
    found = read_directives("a [[prompt_tokens=10]] b [[cost=0.5 status=999 chunks=-1 delay_ms=1]]")
    assert (found.prompt_tokens, found.cost, found.status, found.chunks, found.delay_ms) == (
        10,
        Decimal("0.5"),
        None,
        None,
        1,
    )
    assert read_directives(f"[[prompt_tokens={'9' * 9000}]]").prompt_tokens is None


def test_it_never_makes_a_piece_without_a_word() -> None:
    assert pieces_of(3, 5) == ["simulated", " word", " word"]
    assert pieces_of(5, 2) == ["simulated word word", " word word"]
    assert pieces_of(0, 5) == []


def test_it_needs_nothing_of_the_product() -> None:
    code = "import sys, llmkeys.simulator; print([m for m in sys.modules if m.startswith(('llmkeys', 'django'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = {name for name in re.findall(r"'([^']+)'", done.stdout) if not name.startswith("llmkeys.simulator")}
    assert loaded == {"llmkeys"}
