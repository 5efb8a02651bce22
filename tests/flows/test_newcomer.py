"""A newcomer's first quarter of an hour: serve, a token, the real `openai` client, and what it cost."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmkeys.dashboard.tokens_page import snippets_for
from llmkeys.simulator.thread import SimulatorThread
from tests.flows.product import Product, new_secret
from tests.lazily import lazily
from tests.serving import ROOT, Served

if TYPE_CHECKING:
    import openai
else:
    openai = lazily("openai")

MODEL = "openai/gpt-6.1-terra"
DIRECTIVES = "[[prompt_tokens=1000 cached_tokens=100 completion_tokens=50 reasoning_tokens=5]]"
MESSAGES = [{"role": "user", "content": "word " * 1000 + DIRECTIVES}]
# By hand, from OpenRouter's prices per million: 900 × $1 + 100 cached × $0.05 + 50 × $5 = 900 + 5 + 250 millionths.
COST = 0.001155


class EmptyHome(Product):
    """The product as `make run` starts it: nothing but a home directory, all paths at their defaults."""

    is_new = True

    def __init__(self, home: Path, simulator: SimulatorThread, **more: str) -> None:
        home.mkdir()
        super().__init__(home / ".refactai/data", simulator, HOME=str(home), REFACTAI_DATA_DIR="", **more)

    def _serve(self, *arguments: str, prelude: str) -> Served:
        return _ServedFromHome(self.data_dir.parent.parent, *arguments, prelude=prelude, **self.environment)


class _ServedFromHome(Served):
    def pids(self) -> list[int]:
        """Its processes are known by their home: no variable names the data directory."""
        home = f"HOME={self.data_dir}".encode()
        pids = (int(directory.name) for directory in Path("/proc").glob("[0-9]*"))
        return [pid for pid in pids if home in environment_of(pid)]


def environment_of(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("newcomer") / "home"
    with SimulatorThread() as simulator, EmptyHome(home, simulator, OPENROUTER_API_KEY=new_secret()) as running:
        yield running
        running.check_books()
        billed = sum(float(entry["cost"]) for entry in simulator.journal())
        assert the_key(running)["totalCost"] == round(billed, 9)


@pytest.fixture
def client(product: Product):
    with openai.OpenAI(base_url=f"http://127.0.0.1:{product.served.port}/v1", api_key=product.token) as made:
        yield made


def newest_row(product: Product) -> dict:
    return product.api("GET", "/usage")["results"][0]


def the_key(product: Product) -> dict:
    (key,) = product.api("GET", "/keys")
    return key


def test_it_keeps_everything_below_the_home_directory(product):
    assert (product.data_dir / "llmkeys.sqlite3").exists()
    assert (product.data_dir / "first-login").exists()
    key = the_key(product)
    assert (key["name"], key["description"]) == ("Default OpenRouter Key", "Auto-created from environment")
    assert (key["source"], key["isDefault"], key["status"]) == ("environment", True, "ACTIVE")


def test_it_answers_and_tells_the_exact_cost(product, client):
    before = the_key(product)
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES, max_tokens=100)
    answer = raw.parse()
    assert answer.choices[0].message.content.startswith("simulated")
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1000, 50)
    assert (raw.headers["X-LLM-Cost-USD"], raw.headers["X-LLM-Attempts"]) == ("0.001155000", "1")
    row = newest_row(product)
    assert row["requestId"] == raw.headers["X-LLM-Request-Id"]
    assert row["keyId"] == raw.headers["X-LLM-Key-Id"] == before["id"]
    assert (row["state"], row["success"], row["httpStatus"], row["streamed"]) == ("SETTLED", True, 200, False)
    assert (row["inputTokens"], row["cachedInputTokens"]) == (1000, 100)
    assert (row["outputTokens"], row["reasoningTokens"]) == (50, 5)
    assert (row["cost"], row["costSource"], row["overrun"]) == (COST, "provider", False)
    assert (row["requestedModel"], row["model"], row["provider"]) == (MODEL, MODEL, "openrouter")
    after = the_key(product)
    for cost in ("currentDailyCost", "currentMonthlyCost", "totalCost"):
        assert round(after[cost] - before[cost], 9) == COST
    assert after["remainingDailyBudget"] == round(10 - after["currentDailyCost"], 9)
    assert after["totalRequests"] == before["totalRequests"] + 1
    assert after["reservedCost"] == 0


@pytest.mark.parametrize("wants_usage", [True, False], ids=["with usage", "without usage"])
def test_it_streams_and_charges_the_same(product, client, wants_usage):
    options = {"stream_options": {"include_usage": True}} if wants_usage else {}
    stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=100, stream=True, **options)
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text.startswith("simulated")
    if wants_usage:
        assert chunks[-1].usage.prompt_tokens == 1000
    row = newest_row(product)
    assert (row["streamed"], row["state"], row["inputTokens"], row["outputTokens"]) == (True, "SETTLED", 1000, 50)
    assert (row["cost"], row["costSource"]) == (COST, "provider")


def test_it_lists_the_models_that_can_be_served(client):
    names = {model.id for model in client.models.list()}
    assert {MODEL, "anthropic/claude-haiku-4.5", "google/gemini-2.5-flash"} <= names


def test_it_serves_a_request_without_a_model(product, client):
    client.chat.completions.create(model="auto", messages=MESSAGES, max_tokens=100)
    row = newest_row(product)
    assert (row["requestedModel"], row["model"], row["cost"]) == ("auto", MODEL, COST)


def test_it_serves_a_client_that_is_set_up_by_the_environment_alone(product, monkeypatch):
    """As the README has it: `export OPENAI_BASE_URL=… OPENAI_API_KEY=…`, and no line of the program is changed."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{product.served.port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", product.token)
    with openai.OpenAI() as client:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=100)
    assert newest_row(product)["cost"] == COST


def test_it_refuses_a_bad_request_as_the_client_knows_it(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=MODEL, messages=[])
    assert refused.value.code == "invalid_request" and refused.value.type == "invalid_request_error"


def test_it_refuses_a_wrong_token_as_the_client_knows_it(client):
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="rfk_wrong").chat.completions.create(model=MODEL, messages=MESSAGES)
    assert refused.value.code == "invalid_token"


def test_it_tells_an_unknown_model_as_the_client_knows_it(client):
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="mystery", messages=MESSAGES)
    assert refused.value.code == "model_not_available"


def test_it_tells_that_the_budget_is_spent_and_the_client_does_not_ask_again(product, client):
    """2,000 tokens of output and 5,000 bytes may cost some $0.017: more than what is left, less than the limit."""
    product.api("PATCH", f"/keys/{the_key(product)['id']}", {"dailyLimit": 0.02})
    for _ in range(3):
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "[[cost=0.004 completion_tokens=9]]"}], max_tokens=1000
        )
    sent = len(product.simulator.journal())
    with pytest.raises(openai.RateLimitError) as refused:
        client.with_options(max_retries=5).chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2000)
    assert refused.value.code == "all_keys_at_limit"
    assert refused.value.message.count("All keys have reached their limits") == 1
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert len(product.simulator.journal()) == sent
    assert the_key(product)["status"] == "LIMIT_REACHED"
    product.api("PATCH", f"/keys/{the_key(product)['id']}", {"dailyLimit": 10})


# --- the four providers, each with a key of the database ------------------------------------------------------------

VENDORS = {
    # By hand per million: 900 × 2.5 + 100 cached × 1.25 + 50 × 10 = 2,250 + 125 + 500 millionths of a dollar.
    "openai": ("sk-proj-" + "a1" * 30 + "-ok", "gpt-4o", "gpt-4o", 0.002875),
    # 1,000 × 1 + 50 × 5; its OpenAI layer tells no cached tokens.
    "anthropic": ("sk-ant-api03-" + "b2" * 30 + "-ok", "claude-haiku-4-5", "claude-haiku-4-5", 0.00125),
    # 1,000 × 0.30 + 50 × 2.50
    "google": ("AIza" + "c3" * 18 + "-ok", "google/gemini-2.5-flash", "gemini-2.5-flash", 0.000425),
    # 900 × 2.5 + 100 × 1.25 + 50 × 10, and told by OpenRouter itself
    "openrouter": ("sk-or-v1-" + "d4" * 30 + "-ok", "openai/gpt-4o", "openai/gpt-4o", 0.002875),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory):
    """A product without any environment key; a key of each provider comes in through `manage.py keys add`."""
    data_dir = tmp_path_factory.mktemp("stored") / "data"
    with SimulatorThread() as simulator, Product(data_dir, simulator, "--no-scheduler") as running:
        yield running
        running.check_books()


def only_key(stored: Product, provider: str, secret: str) -> str:
    """Store a key and switch all others off; return its id."""
    key = stored.add_with_command(provider, secret, "--name", f"My {provider}", "--daily-limit", "1")
    for other in stored.api("GET", "/keys"):
        stored.api("POST", f"/keys/{other['id']}/toggle", {"active": other["id"] == key})
    return key


def first_requests() -> dict[str, str]:
    """Return the models that a newcomer's first requests name: in the documents and on the page of a new token."""
    documents = {name: (ROOT / name).read_text() for name in ("README.md", "docs/quickstart.md")}
    asked = {name: json.loads(re.search(r"""-d '({"model".*})'""", text)[1]) for name, text in documents.items()}
    chats = [each for each in snippets_for("rfk_x", base="http://h/", scopes=["gateway"]) if "chat" in each.needs]
    named = {each.id: re.search(r"""model"?[=:] ?"([^"]+)""", each.text) for each in chats}
    found = {name: body["model"] for name, body in asked.items()} | {name: hit[1] for name, hit in named.items() if hit}
    assert set(found) == {"README.md", "docs/quickstart.md", "curl", "openai", "langchain"}
    return found


@pytest.mark.parametrize("provider", VENDORS)
def test_a_newcomers_first_request_is_served_by_a_key_of_any_provider(stored, provider):
    key = only_key(stored, provider, f"{VENDORS[provider][0][:-3]}-first-ok")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{stored.served.port}/v1", api_key=stored.token) as client:
        for where, model in first_requests().items():
            raw = client.chat.completions.with_raw_response.create(
                model=model, messages=[{"role": "user", "content": "Hello"}]
            )
            assert raw.headers["X-LLM-Key-Id"] == key, where


@pytest.mark.parametrize("provider", VENDORS)
def test_it_serves_each_provider_with_a_stored_key(stored, provider):
    secret, asked, sent_as, cost = VENDORS[provider]
    key = only_key(stored, provider, secret)
    with openai.OpenAI(base_url=f"http://127.0.0.1:{stored.served.port}/v1", api_key=stored.token) as client:
        client.chat.completions.create(model=asked, messages=MESSAGES, max_tokens=100)
        list(client.chat.completions.create(model=asked, messages=MESSAGES, max_tokens=100, stream=True))
    rows = stored.api("GET", f"/usage?key={key}")["results"]
    source = "provider" if provider == "openrouter" else "computed"
    assert [(row["cost"], row["costSource"], row["model"]) for row in rows] == [(cost, source, sent_as)] * 2
    assert [(row["inputTokens"], row["outputTokens"]) for row in rows] == [(1000, 50)] * 2
    assert stored.simulator.journal()[-1]["provider"] == provider
    assert stored.simulator.journal()[-1]["model"] == sent_as
    shown = stored.api("GET", f"/keys/{key}")
    assert (shown["currentDailyCost"], shown["currentMonthlyCost"], shown["totalCost"]) == (round(2 * cost, 9),) * 3
    assert secret not in str(shown)
