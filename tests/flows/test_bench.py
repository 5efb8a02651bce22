"""`make bench` measures something: a small run of it, whose figures are no matter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.serving import ROOT

SMALL = "--databases sqlite --requests 20 --rounds 1 --connections 2 --open-streams 10 --stream-seconds 2"


@pytest.mark.alone
def test_it_measures_the_provider_a_bare_forwarder_and_the_product():
    command = [sys.executable, "-m", "tests.bench", *SMALL.split()]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, streamed = done.stdout.split("whole streams")
    for table in (whole, streamed):
        names = [line.split()[1] for line in table.splitlines() if line.strip().startswith("2 ")]
        assert names == ["provider", "bare", "product", "limited"]
    assert "10 streams with bodies of 77 kB: {'complete': 10}" in streamed
    assert "The books are right" in streamed
