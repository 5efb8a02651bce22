"""The secret of a key and an access token: stored, used, tested, refused, deleted, and found nowhere."""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from llmkeys.simulator.thread import SimulatorThread
from tests.flows.leaks import CommandLines, Search
from tests.flows.product import Product, chat
from tests.serving import manage

PASSWORD = "correct horse battery staple"

# The same program with two places that fail while a file is there: once where a secret is about to be sent, once where
# it is about to be stored. Both have it in their local variables.
FRAGILE = """
django.setup()
import os, pathlib
import llmkeys.upstream.asked, llmkeys.upstream.relayed, llmkeys.keys.adding
marker = pathlib.Path(os.environ["REFACTAI_DATA_DIR"]).with_name("fail")
def fragile(function):
    def call(*arguments, **named):
        if marker.exists():
            raise RuntimeError("It failed on purpose.")
        return function(*arguments, **named)
    return call
llmkeys.upstream.asked._send = fragile(llmkeys.upstream.asked._send)
llmkeys.upstream.relayed.Pool.send = fragile(llmkeys.upstream.relayed.Pool.send)
llmkeys.keys.adding._put_secret = fragile(llmkeys.keys.adding._put_secret)
"""


def canary(prefix: str, ending: str) -> str:
    return f"{prefix}{secrets.token_hex(24)}-{ending}"


PREFIX = {"openrouter": "sk-or-v1-", "openai": "sk-proj-", "anthropic": "sk-ant-api03-", "google": "AIza"}
OF_NO_KNOWN_FORM = "own/key+of=a:local~server."  # no prefix to know it by, and every sign that a key may hold
MODELS = {
    "openrouter": "openai/gpt-4o",
    "openai": "gpt-4o",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
}


@dataclass
class Canaries:
    """Every secret of the test by what it is, and every answer that any door gave."""

    secrets: dict[str, str] = field(default_factory=dict)
    answers: list[tuple[str, bytes]] = field(default_factory=list)
    told_once: list[bytes] = field(default_factory=list)  # the two answers that show a new access token

    def new(self, what: str, provider: str, ending: str = "ok", prefix: str = "") -> str:
        self.secrets[what] = canary(prefix or PREFIX[provider], ending)
        return self.secrets[what]

    def collect(self, response: requests.Response, *_: Any, **__: Any) -> None:
        head = "\n".join(f"{name}: {value}" for name, value in response.headers.items())
        where = f"{response.request.method} {response.request.path_url} {response.status_code}"
        self.answers.append((where, head.encode() + b"\n\n" + response.content))

    def note(self, what: str, text: str) -> str:
        self.answers.append((what, text.encode()))
        return text


class Door:
    """A browser or a program of one person; each answer, redirects among them, is collected."""

    def __init__(self, product: Product, canaries: Canaries, token: str = "") -> None:
        self._base = f"http://127.0.0.1:{product.served.port}"
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.hooks["response"].append(canaries.collect)
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self._base + path, timeout=30, **options)

    def send(self, method: str, path: str, body: Any = None, **options: Any) -> requests.Response:
        return self.session.request(method, self._base + path, json=body, timeout=30, **options)

    def submit(self, path: str, **fields: Any) -> requests.Response:
        """Fill in a form of a page as a browser does."""
        self.get(path)
        fields["csrfmiddlewaretoken"] = self.session.cookies.get("refactai_csrf")
        return self.session.post(self._base + path, data=fields, headers={"Referer": self._base + path}, timeout=30)


def command(product: Product, canaries: Canaries, *arguments: str, stdin: str = "", code: int | None = 0) -> str:
    """Run `manage.py …` and keep what it printed."""
    done = manage(product.data_dir, *arguments, stdin=stdin, **product.environment)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    canaries.note("manage.py " + " ".join(arguments[:2]), done.stdout + done.stderr)
    return done.stdout


# --- what a day brings -----------------------------------------------------------------------------------------------


def add_with_every_door(product: Product, canaries: Canaries, browser: Door, program: Door) -> None:
    """One key of each provider by the command, one each by the API, the dashboard and the admin."""
    for provider in PREFIX:
        secret = canaries.new(f"{provider} by command", provider)
        command(product, canaries, "keys", "add", "--provider", provider, "--name", f"Command {provider}", stdin=secret)
    body = {"provider": "openai", "name": "By API", "apiKey": canaries.new("openai by API", "openai")}
    assert program.send("POST", "/api/llm/keys", body).status_code == 201
    body["name"] = "Twice"
    assert program.send("POST", "/api/llm/keys", body).status_code == 409
    secret = canaries.new("google by dashboard", "google")
    answer = browser.submit("/llm-settings/keys/add", provider="google", name="By dashboard", apiKey=secret)
    assert answer.status_code == 200 and "By dashboard" in answer.text
    secret = canaries.new("anthropic by admin", "anthropic")
    answer = browser.submit(
        "/admin/llmkeys/apikey/add/", provider_="anthropic", name="By admin", api_key=secret, priority_="100"
    )
    assert answer.status_code == 200 and "By admin" in answer.text


def add_wrongly(product: Product, canaries: Canaries, browser: Door, program: Door) -> None:
    """What is refused must not be repeated, and what cannot be read neither."""
    secret = canaries.new("refused", "openrouter")
    body = {"provider": "openrouter", "name": "", "apiKey": secret, "dailyLimit": "much"}
    assert program.send("POST", "/api/llm/keys", body).status_code == 400
    assert program.send("POST", "/api/llm/keys", body | {"provider": secret}).status_code == 400
    assert program.send("POST", "/api/llm/keys", body | {"name": "A", "apiKey": [secret]}).status_code == 400
    headers = {"Content-Type": "application/json"}
    for broken in (f'{{"apiKey": "{secret}", ', f'{{"apiKey": "{secret}" "name": 1}}', f'"{secret}"'):
        assert program.send("POST", "/api/llm/keys", data=broken, headers=headers).status_code == 400
    answer = browser.submit("/llm-settings/keys/add", provider="openrouter", name="", apiKey=secret)
    assert answer.status_code == 200 and 'name="apiKey"' in answer.text
    answer = browser.submit("/admin/llmkeys/apikey/add/", provider_="openrouter", name="", api_key=secret)
    assert answer.status_code == 200 and 'name="api_key"' in answer.text
    command(product, canaries, "keys", "add", "--provider", "google", "--name", "\x07", stdin=secret, code=None)


def look_everywhere(product: Product, canaries: Canaries, browser: Door, program: Door) -> None:
    keys = program.get("/api/llm/keys").json()
    for key in keys:
        assert program.get(f"/api/llm/keys/{key['id']}").status_code == 200
        assert browser.get(f"/llm-settings/keys/{key['id']}").status_code == 200
        assert browser.get(f"/admin/llmkeys/apikey/{key['id']}/change/").status_code == 200
        assert browser.get(f"/admin/llmkeys/apikey/{key['id']}/history/").status_code == 200
    for path in ("/keys/statistics", "/keys/active", "/usage", "/usage?format=csv", "/events", "/tokens"):
        assert program.get(f"/api/llm{path}").status_code == 200
    for path in ("/v1/models", "/metrics"):
        assert program.get(path).status_code == 200
    pages = {f"/llm-settings{page}" for page in ("", "/usage", "/tokens", "/playground", "/health")}
    requests_made = {row["requestId"] for row in program.get("/api/llm/usage").json()["results"]}
    assert len(requests_made) > len(PREFIX)
    pages |= {f"/llm-settings/usage/{request}" for request in requests_made}
    for page in pages | admin_pages(browser):
        assert browser.get(page).status_code == 200
    for words in (("keys", "list"), ("keys", "list", "--json"), ("tokens", "list", "--json"), ("stats",), ("audit",)):
        command(product, canaries, *words)
    for words in (("usage",), ("usage", "--json"), ("export_keys", str(product.data_dir / "exported.json"))):
        command(product, canaries, *words)
    for words in (("alert", "--test"), ("doctor",)):  # there is no target, and the doctor finds what was broken
        command(product, canaries, *words, code=None)


def admin_pages(browser: Door) -> set[str]:
    """Every list of the admin, by its first page."""
    lists = set(re.findall(r'href="(/admin/[a-z_]+/[a-z_]+/)"', browser.get("/admin/").text))
    assert "/admin/llmkeys/apikey/" in lists and "/admin/llmkeys/usagerecord/" in lists
    return lists


def use_each(canaries: Canaries, program: Door, simulator: SimulatorThread) -> None:
    """Serve with each provider's key alone; streamed, not streamed, and tested."""
    keys = [key for key in program.get("/api/llm/keys").json() if key["name"].startswith("Command")]
    for key in keys:
        serve_with_only(program, key["id"])
        body = chat(model=MODELS[key["provider"]])
        for more in ({}, {"stream": True}):
            assert program.send("POST", "/v1/chat/completions", body | more).status_code == 200
        assert program.send("POST", f"/api/llm/keys/{key['id']}/test").json()["success"] is True
    assert {entry["provider"] for entry in simulator.journal()} == set(PREFIX)


def serve_with_only(program: Door, key: str) -> None:
    for other in program.get("/api/llm/keys").json():
        active = {"active": other["id"] == key}
        assert program.send("POST", f"/api/llm/keys/{other['id']}/toggle", active).status_code == 200


def be_rejected(product: Product, canaries: Canaries, browser: Door, program: Door) -> None:
    """Providers that repeat the whole key in their refusal: to a test, to a request, to a stream."""
    forms = [(provider, form) for provider in PREFIX for form in ("", OF_NO_KNOWN_FORM)]
    for provider, form in forms:
        name = f"Rejected {provider}{' without a prefix' if form else ''}"
        secret = canaries.new(name, provider, "echo", form)
        body = {"provider": provider, "name": name, "apiKey": secret}
        key = program.send("POST", "/api/llm/keys", body).json()["id"]
        serve_with_only(program, key)
        refused = program.send("POST", "/v1/chat/completions", chat(model=MODELS[provider]))
        assert refused.status_code >= 400
        body = chat(model=MODELS[provider], stream=True)
        assert program.send("POST", "/v1/chat/completions", body).status_code >= 400
        assert program.send("POST", f"/api/llm/keys/{key}/test").json()["success"] is False
        browser.submit(f"/llm-settings/keys/{key}/test")
        command(product, canaries, "keys", "test", name, code=None)
        assert program.get(f"/api/llm/keys/{key}").json()["lastError"]


def change_and_delete(canaries: Canaries, browser: Door, program: Door) -> None:
    keys = {key["name"]: key["id"] for key in program.get("/api/llm/keys").json()}
    secret = canaries.new("openai replaced", "openai")
    assert program.send("PATCH", f"/api/llm/keys/{keys['By API']}", {"apiKey": secret}).status_code == 200
    secret = canaries.new("google replaced", "google")
    assert program.send("PUT", f"/api/llm/keys/{keys['By dashboard']}", {"apiKey": secret}).status_code == 200
    assert program.send("DELETE", f"/api/llm/keys/{keys['By API']}").status_code == 200
    assert browser.submit(f"/llm-settings/keys/{keys['By admin']}/delete").status_code == 200
    assert "By admin" not in {key["name"] for key in program.get("/api/llm/keys").json()}


def make_tokens(product: Product, canaries: Canaries, browser: Door, program: Door) -> None:
    """A token is in the answer that makes it, and nowhere else."""
    answer = program.send("POST", "/api/llm/tokens", {"name": "By API", "scopes": ["read"]})
    canaries.told_once.append(canaries.answers.pop()[1])
    canaries.secrets["token by API"] = answer.json()["token"]
    before = len(canaries.answers)
    page = browser.submit("/admin/llmkeys/accesstoken/add/", name="By admin", scopes="read")
    canaries.told_once += [answer for _, answer in canaries.answers[before:]]
    del canaries.answers[before:]
    canaries.secrets["token by admin"] = re.search(r"rfk_[\w-]+", page.text)[0]
    browser.get("/admin/llmkeys/accesstoken/")  # the message is shown once
    reader = Door(product, canaries, canaries.secrets["token by admin"])
    assert reader.get("/api/llm/keys").status_code == 200
    assert reader.send("POST", "/v1/chat/completions", chat()).status_code == 403
    for header in ("x-api-key", "x-goog-api-key"):
        door = Door(product, canaries)
        assert door.send("POST", "/v1/chat/completions", {}, headers={header: product.token}).status_code == 400
    stored = program.send(
        "POST", "/api/llm/keys", {"provider": "openai", "name": "Ours", "apiKey": canaries.secrets["token by API"]}
    )
    assert stored.status_code == 400


def break_down(product: Product, canaries: Canaries, browser: Door, program: Door) -> int:
    """Fail inside with a secret in hand, behind every door; return how many answers were 500."""
    marker = product.data_dir.with_name("fail")
    key = next(key for key in program.get("/api/llm/keys").json() if key["name"] == "Command openrouter")
    serve_with_only(program, key["id"])
    before = len(canaries.answers)
    marker.touch()
    try:
        secret = canaries.new("lost in a failure", "openrouter")
        program.send("POST", "/v1/chat/completions", chat(model=MODELS["openrouter"]))
        program.send("POST", f"/api/llm/keys/{key['id']}/test")
        program.send("POST", "/api/llm/keys", {"provider": "openrouter", "name": "F", "apiKey": secret})
        browser.submit(f"/llm-settings/keys/{key['id']}/test")
        browser.submit("/llm-settings/keys/add", provider="openrouter", name="F", apiKey=secret)
        browser.submit("/admin/llmkeys/apikey/add/", provider_="openrouter", name="F", api_key=secret, priority_="1")
        command(product, canaries, "keys", "show", key["name"])
    finally:
        marker.unlink()
    program.get("/nowhere")
    browser.get("/llm-settings/nowhere")
    return sum(where.endswith(" 500") for where, _ in canaries.answers[before:])


# --- the tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["DEBUG off", "DEBUG on"])
def debug(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def product(data_dir: Path, simulator: SimulatorThread, canaries: Canaries, debug: bool) -> Iterator[Product]:
    more = {
        "OPENROUTER_API_KEY": canaries.new("environment", "openrouter"),
        "DJANGO_SUPERUSER_PASSWORD": PASSWORD,
        "REFACTAI_DEBUG": str(debug).lower(),
    }
    with Product(data_dir, simulator, prelude=FRAGILE, **more) as running:
        canaries.secrets["token by command"] = running.token
        yield running


def logged_in(product: Product, canaries: Canaries) -> Door:
    browser = Door(product, canaries)
    page = browser.submit("/login", username="admin", password=PASSWORD)
    assert page.status_code == 200 and "Total Cost" in page.text
    return browser


def test_it_shows_no_secret_anywhere(product, simulator, canaries, debug, capsys):
    with CommandLines() as lines:
        browser, program = logged_in(product, canaries), Door(product, canaries, product.token)
        add_with_every_door(product, canaries, browser, program)
        add_wrongly(product, canaries, browser, program)
        make_tokens(product, canaries, browser, program)
        use_each(canaries, program, simulator)
        be_rejected(product, canaries, browser, program)
        change_and_delete(canaries, browser, program)
        failures = break_down(product, canaries, browser, program)
        look_everywhere(product, canaries, browser, program)
        search = Search(canaries.secrets)
        hits = search.find_in_files(product.data_dir, product.served.log, product.served.out)
        assert {"llmkeys.sqlite3", "llmkeys.sqlite3-wal", "llmkeys.sqlite3-shm"} <= {
            file.name for file in product.data_dir.iterdir()
        }
        assert product.served.stop() == 0
    hits += search.find_in_files(product.data_dir, product.served.log, product.served.out)
    hits += [f"{where}: {what}" for where, answer in canaries.answers for what in search.find(answer)]
    hits += [f"command line: {what}" for line in lines.seen for what in search.find(line)]
    with capsys.disabled():
        print(
            f"\n{len(canaries.secrets)} secrets sought in {len(canaries.answers)} answers ({failures} of them 500), "
            f"{len(lines.seen)} command lines and all files: {len(hits)} found"
        )
    assert hits == []
    assert failures >= 4, "the failures on purpose did not happen"
    assert "It failed on purpose" in product.served.log.read_text()
    if debug:
        assert any(b"RuntimeError" in answer and b"Traceback" in answer for _, answer in canaries.answers)
    with_tokens = [answer for answer in canaries.told_once if b"rfk_" in answer]
    assert with_tokens and all(search.find(answer) for answer in with_tokens)


DISGUISED = {
    "plain": lambda secret: secret,
    "reversed": lambda secret: secret[::-1],
    "hex": lambda secret: secret.encode().hex(),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 after one": lambda secret: base64.b64encode(b"a" + secret.encode()).decode(),
    "base64 after two": lambda secret: base64.b64encode(b"ab" + secret.encode() + b"tail").decode(),
    "in JSON": lambda secret: f'{{"key": "{secret}"}}',
    "without its ends": lambda secret: secret[17:-4],
}


@pytest.mark.parametrize("how", DISGUISED)
def test_its_search_finds_what_is_there(tmp_path, how):
    """The proof above is worth as much as its search."""
    secret = canary(PREFIX["openrouter"], "ok")
    (tmp_path / "file").write_text("before " + DISGUISED[how](secret) + " after")
    assert Search({"the key": secret}).find_in_files(tmp_path)
    masked = f"{secret[:17]}...{secret[-4:]}"
    assert Search({"the key": secret}).find(masked.encode()) == []
