"""The user's guides are run: `python -m tests.guide` does what README.md and docs/*.md say and compares the answers.

How to mark a guide: an HTML comment on the line before a fenced block.

    <!-- run -->             the ```sh block after it is run
    <!-- answer -->          the block after it (```json, ```csv or ```text) is what the ```sh block before it prints
    <!-- answer: some -->    the same, and only its first lines are shown; the last shown line is `…`

Each guide with a marked block gets a product of its own: an empty data directory, started by `manage.py serve`, sent
to the simulator instead of the providers; docs/operations.md, whose `doctor` would miss a key that can serve, finds one
in the environment. Its blocks run in one bash, one after the other, in the directory of this
project, so variables and functions stay. A block that ends with another code than 0 is a failure; curl ends with 0
whatever the status is. What both sides write differently each time is made equal first: ids of keys and requests,
instants, days, cursors, access tokens, measured times; the address and the Python of the guide stand for the real
ones. The order of fields counts, the way JSON is broken into lines does not.

`python -m tests.guide --write` puts the real answers into the guides, where they differ; `python -m tests.guide FILE…`
takes only these guides.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmkeys.simulator.thread import SimulatorThread
from tests.serving import ROOT, Served, environment, far_from_midnight, prepare

ADDRESS = "127.0.0.1:8080"  # of the product, as the guides write it
COMMAND = "./manage.py"
SECONDS = 60  # for one block
MORE = "…"
_WRAP = textwrap.TextWrapper(110, subsequent_indent=" ", break_long_words=False, break_on_hyphens=False)

_BLOCK = re.compile(
    r"^<!-- (?P<mark>run|answer|answer: some) -->\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_VARYING = (
    (re.compile(r"key-[0-9]{13}-[0-9]{4}"), "KEY"),
    (re.compile(r"rfk_[A-Za-z0-9_…-]+"), "TOKEN"),
    (re.compile(r"req[-_][0-9a-f-]{8,}"), "REQUEST"),
    (re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}(Z|\+[0-9:]{5})"), "INSTANT"),
    (re.compile(r"\b[0-9]{4}-[0-9]{2}(-[0-9]{2})?\b"), "DAY"),
    (re.compile(r"cursor=[A-Za-z0-9%=_-]+"), "cursor=CURSOR"),
    (re.compile(r"\b[0-9]+ ms\b"), "MS"),
    (re.compile(r'"(latencyMs|firstByteMs|created)": ?[0-9]+'), r'"\1": 0'),
    (re.compile(r"\bchatcmpl-[A-Za-z0-9]+|\bgen-[A-Za-z0-9-]+"), "ANSWER"),
)


@dataclass(frozen=True, slots=True)
class Block:
    """A marked block of a guide; `start` and `end` are the place of its text."""

    mark: str
    language: str
    text: str
    start: int
    end: int
    line: int


def _variables(path: Path) -> dict[str, str]:
    return {"OPENAI_API_KEY": f"sk-proj-{'e' * 40}-ok"} if path.name == "operations.md" else {}


class GuideFailed(AssertionError):
    """A guide says something else than what happens."""


def guides() -> list[Path]:
    """Return the files that have something to run."""
    return [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if blocks(path.read_text())]


def blocks(text: str) -> list[Block]:
    return [
        Block(*found.group("mark", "language", "text"), *found.span("text"), text.count("\n", 0, found.start()) + 2)
        for found in _BLOCK.finditer(text)
    ]


# --- running ----------------------------------------------------------------------------------------------------------


class Shell:
    """One bash that runs a block after the other."""

    def __init__(self, surroundings: dict[str, str], directory: Path):
        self._directory = directory
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=ROOT, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def __enter__(self) -> Shell:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(10)

    def run(self, script: str) -> str:
        """Run the lines and return what they printed. Raises GuideFailed where one of them failed or hangs."""
        block, out, err = (self._directory / name for name in ("block.sh", "block.out", "block.err"))
        # A line that fails must not hide behind the next one.
        block.write_text(f"trap 'failed=$?' ERR; failed=0\n{script}\ntrap - ERR\n")
        print(f". '{block}' > '{out}' 2> '{err}' < /dev/null; echo $failed", file=self._process.stdin, flush=True)
        code = self._answer()
        if code != "0":
            raise GuideFailed(f"ended with {code or 'nothing'}:\n{script}\n{out.read_text()}{err.read_text()}")
        return out.read_text()

    def _answer(self) -> str:
        ready, _, _ = select.select([self._process.stdout], [], [], SECONDS)
        return self._process.stdout.readline().strip() if ready else ""


def outputs(text: str, **more: str) -> Iterator[tuple[Block, str]]:
    """Run a guide on a fresh product with these variables; yield each answer's block with what was really printed."""
    scratch = tempfile.TemporaryDirectory(prefix="llmkeys-guide-", ignore_cleanup_errors=True)  # a last file may come
    with scratch as name, SimulatorThread() as simulator:
        directory = Path(name)
        urls = {f"{provider.upper()}_BASE_URL": url for provider, url in simulator.urls.items()}
        variables = urls | {"REFACTAI_TIME_ZONE": far_from_midnight()} | more
        if "DATABASE_URL" not in variables:
            prepare(directory / "data")
        with Served(directory / "data", **variables) as served:
            served.wait_until_up()
            here = environment(directory / "data", **variables) | {"HOME": str(directory)}
            here.pop("DJANGO_SETTINGS_MODULE", None)
            with Shell(here, directory) as shell:
                yield from _run_all(blocks(text), shell, f"127.0.0.1:{served.port}")


def _run_all(found: list[Block], shell: Shell, address: str) -> Iterator[tuple[Block, str]]:
    printed = ""
    for block in found:
        if block.mark == "run":
            printed = run(block, shell, address)
        else:
            yield block, printed


def run(block: Block, shell: Shell, address: str) -> str:
    """Run one block at the product of this address; return what it printed, with the guide's own address."""
    script = block.text.replace(ADDRESS, address).replace(COMMAND, f"{sys.executable} manage.py")
    try:
        return shell.run(script).replace(address, ADDRESS)
    except GuideFailed as failure:
        raise GuideFailed(f"line {block.line} {failure}") from None


# --- comparing --------------------------------------------------------------------------------------------------------


def difference(block: Block, printed: str) -> str:
    """Return how the shown answer differs from the real one; empty where they say the same."""
    shown, real = _plain(block, block.text), _plain(block, printed)
    if block.mark == "answer: some" and MORE in shown:
        shown = shown[: shown.index(MORE)].rstrip()
        real = real[: len(shown)]
    lines = [re.sub(r", (?=[\"{])", ",\n", text).splitlines() for text in (shown, real)]
    return "\n".join(difflib.unified_diff(*lines, "the guide", "the product", lineterm=""))


def _plain(block: Block, text: str) -> str:
    """Return an answer without what changes from one time to the next; JSON in one line."""
    if block.language == "json":
        text = _joined(text)
        with contextlib.suppress(json.JSONDecodeError):  # the difference will show it as it is
            text = json.dumps(json.loads(text), ensure_ascii=False)
    for pattern, word in _VARYING:
        text = pattern.sub(word, text)
    return "\n".join(re.sub(r" {2,}", "  ", line.rstrip()) for line in text.strip().splitlines())


def _joined(text: str) -> str:
    """Undo the breaking of lines, which stands only where a blank was."""
    return re.sub(r"\n *", " ", text.strip())


def presentable(block: Block, printed: str) -> str:
    """Return a real answer as a guide shows it: access tokens hidden, JSON broken into lines."""
    text = re.sub(r"rfk_[A-Za-z0-9_-]+", "rfk_…", printed).strip("\n")
    if block.language == "json":
        text = _wrapped(json.dumps(json.loads(text), ensure_ascii=False))
    if block.mark == "answer: some":
        text = "\n".join([*text.splitlines()[: max(1, len(block.text.splitlines()) - 1)], MORE])
    return text + "\n"


def _wrapped(text: str) -> str:
    """Break lines at blanks, but not between a name and its value."""
    kept = text.replace('": ', '":\N{NO-BREAK SPACE}')
    return "\n".join(_WRAP.wrap(kept)).replace('":\N{NO-BREAK SPACE}', '": ')


# --- the whole --------------------------------------------------------------------------------------------------------


def check(path: Path, **more: str) -> None:
    """Raises GuideFailed with every answer of a guide that is not the real one; `more` are variables."""
    found = [
        f"{path.name}, line {block.line}:\n{differs}"
        for block, printed in outputs(path.read_text(), **_variables(path), **more)
        if (differs := difference(block, printed))
    ]
    if found:
        raise GuideFailed("\n\n".join(found))


def write(path: Path) -> int:
    """Put the real answers into a guide; return how many differed."""
    text = path.read_text()
    # A reader's product is in UTC.
    printed = outputs(text, REFACTAI_TIME_ZONE="UTC", **_variables(path))
    real = [(block, output) for block, output in printed if difference(block, output)]
    for block, output in reversed(real):
        text = text[: block.start] + presentable(block, output) + text[block.end :]
    path.write_text(text)
    return len(real)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--write", action="store_true", help="put the real answers into the guides")
    options = parser.parse_args()
    bad = 0
    for path in options.files or guides():
        try:
            if options.write:
                print(f"{path.name}: {write(path)} answers written")
            else:
                check(path)
                print(f"{path.name}: as it says")
        except GuideFailed as failure:
            bad = 1
            print(f"{path.name}: {failure}", file=sys.stderr)
    return bad


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "refactai_site.settings")
    sys.exit(main())
