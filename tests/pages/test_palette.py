"""The colours of charts: any two of the eight, and the grey of the rest, differ for everybody, in light and dark."""

from __future__ import annotations

import itertools
import math
import re

import pytest

from llmkeys.dashboard.charts import MOST_SERIES
from tests.serving import ROOT

TOKENS = (ROOT / "static" / "css" / "tokens.css").read_text()
NAMES = [*map(str, range(1, MOST_SERIES + 1)), "other"]
LEAST = 0.09  # in OKLab, where 0.02 is just seen side by side
# Machado, Oliveira and Fernandes 2009, the whole deficiency, on linear RGB.
SIGHT = {
    "all colours": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "no red": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "no green": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "no blue": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}  # fmt: skip


def times(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def linear(colour: str) -> list[float]:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def oklab(light: list[float]) -> list[float]:
    cones = times(
        ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566),
         (0.0883024619, 0.2817188376, 0.6299787005)), [max(0.0, part) for part in light],
    )  # fmt: skip
    return times(
        ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099),
         (0.0259040371, 0.7827717662, -0.8086757660)), [cone ** (1 / 3) for cone in cones],
    )  # fmt: skip


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_tells_eight_keys_apart(theme, sight):
    pairs = dict(re.findall(r"--series-(\w+):\s+light-dark\((#\w{6}, #\w{6})\)", TOKENS))
    seen = {
        name: oklab(times(SIGHT[sight], linear(pairs[name].split(", ")[theme == "dark"]))) for name in NAMES
    }  # fmt: skip
    near = {(a, b): round(math.dist(seen[a], seen[b]), 3) for a, b in itertools.combinations(NAMES, 2)}
    assert {pair: far for pair, far in near.items() if far < LEAST} == {}


def test_it_names_no_emoji_font():
    """It has digits and a space too, and draws them where the browser's own sans-serif is not installed."""
    stacks = re.findall(r"--(?:sans|mono):([^;]+);", TOKENS)
    assert len(stacks) == 2
    assert [stack for stack in stacks if "Emoji" in stack] == []
