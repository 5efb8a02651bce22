"""Pictures of every page, light and dark, wide and narrow, from the demo's data: `python -m tests.screenshots`.

Whole pages go to the directory that is named (`test-results/screenshots`); those that the README and docs/ show, one
window each, to `docs/images`. With `--fonts dejavu` the browser sees only DejaVu and an emoji font, as on a bare Linux,
and only the whole pages are taken, into a directory `dejavu` below. Chromium must be on the PATH. A complaint of the
browser, or a page with anything that has to be pushed sideways, ends it with 1.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.pages.browser import CHROMIUM, SIZES, sideways, watched
from tests.serving import ROOT, environment, free_port, wait_for

IMAGES = ROOT / "docs" / "images"
HISTORY_DAYS = 30
SPENT_SECONDS = 90  # within which the demo's first key is spent and the next one serves

KEY = "/llm-settings/keys/{key}"
TOKEN = "/llm-settings/tokens/{token}"
# What is shown, under which name; `{key}`, `{request}` and `{token}` are the first of each.
PAGES = {
    "dashboard": "/llm-settings",
    "add-key": "/llm-settings/keys/add",
    "key": KEY,
    "edit-key": f"{KEY}/edit",
    "delete-key": f"{KEY}/delete",
    "usage": "/llm-settings/usage",
    "usage-by-key": "/llm-settings/usage?range=7&by=key&success=false",
    "request": "/llm-settings/usage/{request}",
    "tokens": "/llm-settings/tokens",
    "new-token": "/llm-settings/tokens/create",
    "token": TOKEN,
    "rotate-token": f"{TOKEN}/rotate",
    "reset-token": f"{TOKEN}/reset",
    "revoke-token": f"{TOKEN}/revoke",
    "statement": f"{TOKEN}/statement",
    "playground": "/llm-settings/playground",
    "health": "/llm-settings/health",
    "password": "/account/password",
    "admin": "/admin/",
    "admin-keys": "/admin/llmkeys/apikey/",
    "admin-tokens": "/admin/llmkeys/accesstoken/",
    "admin-usage": "/admin/llmkeys/usagerecord/",
    "admin-prices": "/admin/llmkeys/modelprice/",
    "not-found": "/llm-settings/no-such-page",
}
SCHEMES = ("light", "dark")
TALLER = 320  # pixels by which a document's picture is higher than a window: the chart belongs to it
_NOT_THERE = "not-found"  # the one page whose status 404 is right
# What a bare Linux has beside Chromium, and an emoji font, which must draw nothing but emoji.
DEJAVU = ("DejaVu Sans", "DejaVu Sans Mono", "DejaVu Serif", "Noto Color Emoji")


def only_dejavu(directory: Path) -> Path:
    """Write a fontconfig file that lists the installed fonts of `DEJAVU` alone; exit if one of them is missing."""
    if shutil.which("fc-list") is None:
        raise SystemExit("fc-list, which lists the fonts, is not on the PATH (Debian: the package fontconfig).")
    accepted = "".join(f'<pattern><patelt name="family"><string>{name}</string></patelt></pattern>' for name in DEJAVU)
    file = directory / "fonts.conf"
    file.write_text(
        '<?xml version="1.0"?>\n<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">\n<fontconfig>\n'
        "  <include>/etc/fonts/fonts.conf</include>\n"
        f"  <selectfont><acceptfont>{accepted}</acceptfont></selectfont>\n"
        "  <selectfont><rejectfont><pattern/></rejectfont></selectfont>\n</fontconfig>\n"
    )
    if missing := [name for name in DEJAVU if name not in families(file)]:
        raise SystemExit(
            f"Not installed: {', '.join(missing)} (Debian: the packages fonts-dejavu-core and fonts-noto-color-emoji)."
        )
    return file


def families(fontconfig: Path) -> set[str]:
    """Return the families that programs see with this fontconfig file, each by its first name."""
    listed = subprocess.run(
        ["fc-list", "--format", "%{family[0]}\n"],
        env={**os.environ, "FONTCONFIG_FILE": str(fontconfig)}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return set(listed.stdout.splitlines())


class Demo:
    """`manage.py demo` with its history, running."""

    def __init__(self, directory: Path) -> None:
        self._out = directory / "out"
        with self._out.open("w") as out:
            where = f"127.0.0.1:{free_port()}"
            self._process = subprocess.Popen(
                [sys.executable, "manage.py", "demo", "--bind", where, "--history", str(HISTORY_DAYS)],
                cwd=ROOT, env=environment(directory / "data"), stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        wait_for(
            lambda: "Password:" in self._out.read_text() or self._process.poll() is not None, what="the demo is up"
        )

    def told(self, what: str) -> str:
        found = re.search(rf"^{what}: +(\S+)", self._out.read_text(), re.MULTILINE)
        if found is None:
            raise SystemExit(f"The demo did not start:\n{self._out.read_text()}")
        return found[1]

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGINT)
        self._process.wait(30)


class Camera:
    """One browser that is logged in; every complaint about a page is kept."""

    def __init__(self, browser: Browser, demo: Demo) -> None:
        self._browser, self._address = browser, demo.told("Dashboard").removesuffix("/llm-settings")
        self.complaints: list[str] = []
        with self.page("light", "desk") as page:
            page.goto("/llm-settings")
            page.get_by_label("User name").fill(demo.told("User"))
            page.get_by_label("Password").fill(demo.told("Password"))
            page.get_by_role("button", name="Log in").click()
            page.get_by_role("heading", name="Dashboard", level=1).wait_for()
            self._state = page.context.storage_state()
            page.get_by_text("LIMIT_REACHED").first.wait_for(timeout=SPENT_SECONDS * 1000)
            self.places = _places(page)

    @contextlib.contextmanager
    def page(self, scheme: str, size: str, *, taller: int = 0) -> Iterator[Page]:
        width, height = SIZES[size]
        context = self._browser.new_context(
            base_url=self._address, color_scheme=scheme, viewport={"width": width, "height": height + taller},
            storage_state=getattr(self, "_state", None), reduced_motion="reduce",
        )  # fmt: skip
        page = context.new_page()
        complaints = watched(page)
        yield page
        self.complaints += [words for words in complaints if "404" not in words or PAGES[_NOT_THERE] not in page.url]
        context.close()

    def take_all(self, directory: Path) -> None:
        """Take every page whole, light and dark, wide and narrow."""
        directory.mkdir(parents=True, exist_ok=True)
        for scheme, size in itertools.product(SCHEMES, SIZES):
            with self.page(scheme, size) as page:
                for name, address in PAGES.items():  # the page that is not there comes last: its 404 is no complaint
                    self._open(page, name, address)
                    page.screenshot(path=directory / f"{name}-{scheme}-{size}.png", full_page=True)

    def take_for_documents(self, directory: Path) -> None:
        """Take what README and docs/ show: one window each."""
        directory.mkdir(parents=True, exist_ok=True)
        for scheme, size in (("light", "desk"), ("dark", "desk"), ("light", "phone")):
            suffix = {"dark": "-dark", "phone": "-phone"}.get(scheme if size == "desk" else size, "")
            with self.page(scheme, size, taller=TALLER if size == "desk" else 0) as page:
                for name in ("dashboard", "key", "usage", "health") if not suffix else ("dashboard",):
                    self._open(page, name, PAGES[name])
                    page.screenshot(path=directory / f"{name}{suffix}.png")
        with self.page("light", "desk") as page:
            _ask_in_the_playground(page)
            page.screenshot(path=directory / "playground.png")

    def _open(self, page: Page, name: str, address: str) -> None:
        answer = page.goto(address.format(**self.places))
        page.wait_for_load_state("networkidle") if name == "request" else page.wait_for_load_state()
        if name == _NOT_THERE and answer.status != 404:
            self.complaints.append(f"{page.url}: status {answer.status} instead of 404")
        width = page.viewport_size["width"]
        self.complaints += [f"{page.url} in {width} px: {what}" for what in sideways(page)]


def _places(page: Page) -> dict[str, Any]:
    """Return the ids of a key, a request and a token that the demo made."""
    page.goto("/llm-settings/usage")
    hrefs = page.eval_on_selector_all("a[href]", "found => found.map(one => one.getAttribute('href'))")
    request = next(found[1] for href in hrefs if (found := re.fullmatch(r"/llm-settings/usage/(req[^/?#]+).*", href)))
    page.goto("/llm-settings")
    hrefs = page.eval_on_selector_all("a[href]", "found => found.map(one => one.getAttribute('href'))")
    key = next(found[1] for href in hrefs if (found := re.match(r"/llm-settings/keys/(key-[\d-]+)", href)))
    page.goto("/llm-settings/tokens")
    hrefs = page.eval_on_selector_all("a[href]", "found => found.map(one => one.getAttribute('href'))")
    token = next(found[1] for href in hrefs if (found := re.fullmatch(r"/llm-settings/tokens/(\d+)", href)))
    return {"key": key, "request": request, "token": token}


def _ask_in_the_playground(page: Page) -> None:
    page.goto("/llm-settings/playground")
    page.get_by_label("Prompt", exact=True).fill("Why should a budget be held before a request is sent?")
    page.get_by_role("button", name="Send").click()
    page.get_by_text("Complete").wait_for()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=ROOT / "test-results" / "screenshots")
    parser.add_argument("--fonts", choices=["dejavu"], help="only these and an emoji font, not all that are installed")
    options = parser.parse_args()
    if CHROMIUM is None:
        print("No Chromium is on the PATH (Debian: the package chromium).", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="llmkeys-screenshots-") as name, sync_playwright() as playwright:
        fonts = {"FONTCONFIG_FILE": str(only_dejavu(Path(name)))} if options.fonts else {}
        directory = options.directory / (options.fonts or "")
        demo = Demo(Path(name))
        try:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox"], env={**os.environ, **fonts}
            )
            camera = Camera(browser, demo)
            if not options.fonts:
                camera.take_for_documents(IMAGES)
            camera.take_all(directory)
            browser.close()
        finally:
            demo.stop()
    print("\n".join(camera.complaints) or f"{directory}: nothing to complain of")
    return 1 if camera.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
