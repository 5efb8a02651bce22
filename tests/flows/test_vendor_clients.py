"""The vendors' own clients against the running product: what they return is what they return at the provider itself.

Each call is made twice, once straight to the simulated provider and once through the product, and the two results are
compared as the client's own objects: whole answers, streams, tools, pictures, thinking, vectors, counts and models.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from llmkeys.simulator.thread import SimulatorThread
from tests.flows.product import Product, new_secret
from tests.lazily import lazily
from tests.serving import ROOT

if TYPE_CHECKING:
    import anthropic
    import openai
    from google import genai
else:
    anthropic = lazily("anthropic")
    openai = lazily("openai")
    genai = lazily("google.genai")

PIXEL = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAACklEQVR4nGMAAQAABQABDQottAAAAABJRU5ErkJggg==")
DATA_URL = f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
CALLS_A_TOOL = '[[tool=look_up {"word": "budget"}]] Look it up.'
THINKS = "[[reasoning_tokens=5]] Think."
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
# The blocks of the guide whose libraries are here: `from openai`, `from anthropic`, `from google`.
SNIPPETS = [
    code
    for code in re.findall(r"(?ms)^```python\n(.*?)^```$", (ROOT / "docs" / "clients.md").read_text())
    if code.startswith(("from openai", "from anthropic", "from google"))
]
LIMITS = {"dailyLimit": 0, "monthlyLimit": 0, "totalLimit": 0}


class World:
    """The product beside the simulated providers, and both ways to each of them."""

    def __init__(self, product: Product, simulator: SimulatorThread) -> None:
        self.product, self.simulator = product, simulator
        self.origin = f"http://127.0.0.1:{product.served.port}"
        self._good: dict[str, str] = {}

    def token(self, provider: str) -> str:
        """Return a token that may use one good key of this provider only."""
        if provider not in self._good:
            self._good[provider] = self.bad_token(provider, "ok")
        return self._good[provider]

    def bad_token(self, provider: str, ending: str, **limits: Any) -> str:
        """Return a token that may use a new key with this ending only."""
        key = self.product.add_key(f"{provider} {ending}", provider=provider, ending=ending, **LIMITS | limits)
        return self.product.token_for(key)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("clients") / "data"
    more = {"REFACTAI_ANSWER_TIMEOUT_SECONDS": "10", "REFACTAI_MAX_RETRIES": "0"}
    with SimulatorThread() as simulator, Product(directory, simulator, **more) as product:
        yield World(product, simulator)
        product.check_books()


def plain(result: Any) -> Any:
    """Return what a client returned as plain data, without what differs from one answer to the next."""
    if isinstance(result, list | tuple):
        return [plain(one) for one in result]
    if hasattr(result, "model_dump"):
        dumped = result.model_dump(mode="json", exclude={"sdk_http_response"})
        return [type(result).__name__, plain(dumped)]
    if isinstance(result, dict):
        return {name: 0 if name in ("created", "created_at") else plain(value) for name, value in result.items()}
    return re.sub(r"(gen-\d+-)?simulated\d{6}", "simulated", result) if isinstance(result, str) else result


# --- OpenAI -----------------------------------------------------------------------------------------------------------

CHAT_TOOL: Any = {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA, "strict": True}}
RESPONSES_TOOL: Any = {"type": "function", "name": "look_up", "parameters": SCHEMA, "strict": True}
CHAT_MODELS = {
    "openai": "gpt-4.1-mini",
    "openrouter": "anthropic/claude-haiku-4.5",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-2.5-flash",
}
LAYERS = {"openai": "", "openrouter": "", "anthropic": "/v1", "google": "/v1beta/openai"}


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def picture_for_chat() -> Any:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": DATA_URL}}]
    return [{"role": "user", "content": parts}]


def picture_for_responses() -> Any:
    parts = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": DATA_URL}]
    return [{"role": "user", "content": parts}]


def accumulated_chat(client: openai.OpenAI, model: str, **more: Any) -> Any:
    with client.chat.completions.stream(model=model, max_tokens=200, **more) as stream:
        kinds = [event.type for event in stream]
        return kinds, stream.get_final_completion()


def accumulated_response(client: openai.OpenAI, model: str, **more: Any) -> Any:
    with client.responses.stream(model=model, max_output_tokens=200, **more) as stream:
        kinds = [event.type for event in stream]
        return kinds, stream.get_final_response()


OpenAICall = Callable[["openai.OpenAI", str], Any]
CHAT_CALLS: dict[str, OpenAICall] = {
    "whole": lambda client, model: client.chat.completions.create(model=model, messages=said("hi"), max_tokens=200),
    "cut short": lambda client, model: client.chat.completions.create(model=model, messages=said("hi"), max_tokens=3),
    "stream": lambda client, model: list(
        client.chat.completions.create(model=model, messages=said("hi"), max_tokens=200, stream=True)
    ),
    "stream with usage": lambda client, model: list(
        client.chat.completions.create(
            model=model, messages=said("hi"), max_tokens=200, stream=True, stream_options={"include_usage": True}
        )
    ),
    "tool": lambda client, model: client.chat.completions.create(
        model=model, messages=said(CALLS_A_TOOL), tools=[CHAT_TOOL], max_tokens=200
    ),
    "streamed tool": lambda client, model: accumulated_chat(
        client, model, messages=said(CALLS_A_TOOL), tools=[CHAT_TOOL]
    ),
    "picture": lambda client, model: client.chat.completions.create(
        model=model, messages=picture_for_chat(), max_tokens=200
    ),
}
RESPONSES_CALLS: dict[str, OpenAICall] = {
    "whole": lambda client, model: client.responses.create(model=model, input="hi", max_output_tokens=200),
    "cut short": lambda client, model: client.responses.create(model=model, input="hi", max_output_tokens=16),
    "stream": lambda client, model: list(
        client.responses.create(model=model, input="hi", max_output_tokens=200, stream=True)
    ),
    "accumulated": lambda client, model: accumulated_response(client, model, input="hi"),
    "tool": lambda client, model: client.responses.create(
        model=model, input=CALLS_A_TOOL, tools=[RESPONSES_TOOL], max_output_tokens=200
    ),
    "streamed tool": lambda client, model: accumulated_response(
        client, model, input=CALLS_A_TOOL, tools=[RESPONSES_TOOL]
    ),
    "picture": lambda client, model: client.responses.create(
        model=model, input=picture_for_responses(), max_output_tokens=200
    ),
    "thinking": lambda client, model: len(
        client.responses.create(
            model=model, input=THINKS, include=["reasoning.encrypted_content"], max_output_tokens=200
        ).output
    ),
}
EMBEDDING_CALLS: dict[str, OpenAICall] = {
    "floats": lambda client, model: client.embeddings.create(model=model, input=["one two", "three"]),
    "dimensions": lambda client, model: client.embeddings.create(model=model, input="one", dimensions=4),
    "tokens": lambda client, model: client.embeddings.create(model=model, input=[1, 2, 3], encoding_format="float"),
}


def both_openai(world: World, provider: str, call: OpenAICall, model: str) -> tuple[Any, Any]:
    """Return what the call gives at the provider, and through the product."""
    straight = world.simulator.urls[provider] + LAYERS[provider]
    with (
        openai.OpenAI(api_key=new_secret(provider=provider), base_url=straight, max_retries=0) as direct,
        openai.OpenAI(api_key=world.token(provider), base_url=f"{world.origin}/v1", max_retries=0) as through,
    ):
        return plain(call(direct, model)), plain(call(through, model))


@pytest.mark.parametrize("name", CHAT_CALLS)
@pytest.mark.parametrize("provider", CHAT_MODELS)
def test_openai_chat(world: World, provider: str, name: str):
    direct, through = both_openai(world, provider, CHAT_CALLS[name], CHAT_MODELS[provider])
    assert through == direct


@pytest.mark.parametrize("name", RESPONSES_CALLS)
@pytest.mark.parametrize("provider", ["openai", "openrouter"])
def test_openai_responses(world: World, provider: str, name: str):
    direct, through = both_openai(world, provider, RESPONSES_CALLS[name], CHAT_MODELS[provider])
    assert through == direct


@pytest.mark.parametrize("name", EMBEDDING_CALLS)
@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "text-embedding-3-small"),
        ("openrouter", "openai/text-embedding-3-small"),
        ("google", "gemini-embedding-001"),
    ],
)
def test_openai_embeddings(world: World, provider: str, model: str, name: str):
    direct, through = both_openai(world, provider, EMBEDDING_CALLS[name], model)
    assert through == direct


def test_openai_models(world: World):
    with openai.OpenAI(api_key=world.token("openai"), base_url=f"{world.origin}/v1", max_retries=0) as client:
        assert {"gpt-4.1-mini", "text-embedding-3-small"} <= {model.id for model in client.models.list()}
        assert client.models.retrieve("gpt-4.1-mini").id == "gpt-4.1-mini"
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt-9")


# --- Anthropic --------------------------------------------------------------------------------------------------------

CLAUDES = {"anthropic": "claude-haiku-4-5", "openrouter": "anthropic/claude-haiku-4.5"}
MESSAGES_TOOL: Any = {"name": "look_up", "input_schema": SCHEMA}


def picture_for_messages() -> Any:
    source = {"type": "base64", "media_type": "image/png", "data": DATA_URL.partition(",")[2]}
    return [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image", "source": source}]}]


def accumulated_message(client: anthropic.Anthropic, model: str, text: str, **more: Any) -> Any:
    with client.messages.stream(model=model, max_tokens=2000, messages=said(text), **more) as stream:
        kinds = [event.type for event in stream]
        return kinds, without_signature(stream.get_final_message())


def without_signature(message: Any) -> Any:
    """Leave out what is sealed for the key that served."""
    for block in message.content:
        if block.type == "thinking":
            assert block.signature.startswith("simulated-thought-")
            block.signature = ""
    return message


THINKING: Any = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
AnthropicCall = Callable[["anthropic.Anthropic", str], Any]
MESSAGES_CALLS: dict[str, AnthropicCall] = {
    "whole": lambda client, model: client.messages.create(model=model, max_tokens=200, messages=said("hi")),
    "cut short": lambda client, model: client.messages.create(model=model, max_tokens=3, messages=said("hi")),
    "stream": lambda client, model: list(
        client.messages.create(model=model, max_tokens=200, messages=said("hi"), stream=True)
    ),
    "accumulated": lambda client, model: accumulated_message(client, model, "hi", system="Be brief."),
    "tool": lambda client, model: client.messages.create(
        model=model, max_tokens=200, messages=said(CALLS_A_TOOL), tools=[MESSAGES_TOOL]
    ),
    "streamed tool": lambda client, model: accumulated_message(client, model, CALLS_A_TOOL, tools=[MESSAGES_TOOL]),
    "picture": lambda client, model: client.messages.create(
        model=model, max_tokens=200, messages=picture_for_messages()
    ),
    "thinking": lambda client, model: without_signature(
        client.messages.create(model=model, max_tokens=2000, messages=said(THINKS), **THINKING)
    ),
    "streamed thinking": lambda client, model: accumulated_message(client, model, THINKS, **THINKING),
}


def straight_to_anthropic(world: World, provider: str) -> anthropic.Anthropic:
    """Return a client of the provider itself; Anthropic's library adds `/v1`."""
    url = world.simulator.urls[provider].removesuffix("/v1")
    return anthropic.Anthropic(api_key=new_secret(provider=provider), base_url=url, max_retries=0)


def through_to_anthropic(world: World, token: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=token, base_url=world.origin, max_retries=0)


@pytest.mark.parametrize("name", MESSAGES_CALLS)
def test_anthropic_messages(world: World, name: str):
    call, model = MESSAGES_CALLS[name], CLAUDES["anthropic"]
    with (
        straight_to_anthropic(world, "anthropic") as direct,
        through_to_anthropic(world, world.token("anthropic")) as client,
    ):
        assert plain(call(client, model)) == plain(call(direct, model))


@pytest.mark.parametrize("name", ["whole", "accumulated", "streamed tool"])
def test_anthropic_messages_at_openrouter(world: World, name: str):
    with through_to_anthropic(world, world.token("openrouter")) as client:
        made = str(plain(MESSAGES_CALLS[name](client, CLAUDES["openrouter"])))
    assert "simulated word" in made
    assert ("look_up" in made) is (name == "streamed tool")


def test_anthropic_counts_and_models(world: World):
    with (
        straight_to_anthropic(world, "anthropic") as direct,
        through_to_anthropic(world, world.token("anthropic")) as client,
    ):
        counts = [
            one.messages.count_tokens(model=CLAUDES["anthropic"], messages=said("a b c")) for one in (direct, client)
        ]
        assert counts[0] == counts[1]
        assert {model.id for model in direct.models.list()} == {model.id for model in client.models.list()}
        assert client.models.retrieve(CLAUDES["anthropic"]).id == CLAUDES["anthropic"]
        with pytest.raises(anthropic.NotFoundError):
            client.models.retrieve("claude-9")


# --- Google -----------------------------------------------------------------------------------------------------------

FLASH = "gemini-2.5-flash"
FUNCTION: Any = {"function_declarations": [{"name": "look_up", "parameters_json_schema": SCHEMA}]}
THOUGHTS: Any = {"thinking_config": {"include_thoughts": True}}


GoogleCall = Callable[["genai.Client"], Any]
GENERATE_CALLS: dict[str, GoogleCall] = {
    "whole": lambda client: client.models.generate_content(model=FLASH, contents="hi"),
    "cut short": lambda client: client.models.generate_content(
        model=FLASH, contents="hi", config=genai.types.GenerateContentConfig(max_output_tokens=3)
    ),
    "stream": lambda client: list(client.models.generate_content_stream(model=FLASH, contents="hi")),
    "tool": lambda client: client.models.generate_content(
        model=FLASH, contents=CALLS_A_TOOL, config=genai.types.GenerateContentConfig(tools=[FUNCTION])
    ),
    "streamed tool": lambda client: list(
        client.models.generate_content_stream(
            model=FLASH, contents=CALLS_A_TOOL, config=genai.types.GenerateContentConfig(tools=[FUNCTION])
        )
    ),
    "picture": lambda client: client.models.generate_content(
        model=FLASH, contents=["What is it?", genai.types.Part.from_bytes(data=PIXEL, mime_type="image/png")]
    ),
    "thinking": lambda client: client.models.generate_content(model=FLASH, contents=THINKS, config=THOUGHTS),
    "streamed thinking": lambda client: list(
        client.models.generate_content_stream(model=FLASH, contents=THINKS, config=THOUGHTS)
    ),
    "count": lambda client: client.models.count_tokens(model=FLASH, contents="one two three"),
    "vector": lambda client: client.models.embed_content(model="gemini-embedding-001", contents="one"),
    "vectors": lambda client: client.models.embed_content(model="gemini-embedding-001", contents=["one", "two"]),
}


def google_client(api_key: str, url: str) -> genai.Client:
    return genai.Client(api_key=api_key, http_options=genai.types.HttpOptions(base_url=url))


@pytest.mark.parametrize("name", GENERATE_CALLS)
def test_google_generate(world: World, name: str):
    direct = google_client(new_secret(provider="google"), world.simulator.urls["google"])
    through = google_client(world.token("google"), world.origin)
    call = GENERATE_CALLS[name]
    assert plain(call(through)) == plain(call(direct))


def test_google_models(world: World):
    client = google_client(world.token("google"), world.origin)
    direct = google_client(new_secret(provider="google"), world.simulator.urls["google"])
    assert {model.name for model in client.models.list()} == {model.name for model in direct.models.list()}
    assert client.models.get(model=FLASH).name == f"models/{FLASH}"
    with pytest.raises(genai.errors.ClientError):
        client.models.get(model="gemini-9")


# --- errors -----------------------------------------------------------------------------------------------------------

# What the provider says → the product's code (none: the provider's own error, handed on), its status.
TROUBLES: dict[str, tuple[str, int]] = {
    "400": ("", 400),
    "404": ("model_not_available", 404),
    "401": ("no_key_available", 503),
    "402": ("all_keys_cooling", 503),
    "429": ("all_keys_cooling", 503),
    "500": ("upstream_error", 502),
    "503": ("upstream_error", 502),
    "cut": ("upstream_error", 502),
    "malformed": ("upstream_error", 502),
    "html": ("upstream_error", 502),
    "empty": ("upstream_error", 502),
    "miderror": ("upstream_error", 502),
    "hang": ("upstream_timeout", 504),
}


def error_of(library: Any, status: int) -> Any:
    """Return the exception of OpenAI's or Anthropic's client for a status."""
    names = {400: "BadRequestError", 404: "NotFoundError", 429: "RateLimitError"}
    return getattr(library, names.get(status, "InternalServerError"))


@pytest.mark.parametrize("ending", TROUBLES)
def test_errors_are_exceptions_of_openais_client(world: World, ending: str):
    code, status = TROUBLES[ending]
    for call in (CHAT_CALLS["whole"], RESPONSES_CALLS["whole"]):
        token = world.bad_token("openai", ending)
        with (
            openai.OpenAI(api_key=token, base_url=f"{world.origin}/v1", max_retries=0) as client,
            pytest.raises(error_of(openai, status)) as failed,
        ):
            call(client, CHAT_MODELS["openai"])
        assert failed.value.status_code == status
        assert code in (failed.value.code or "")


@pytest.mark.parametrize("ending", TROUBLES)
def test_errors_are_exceptions_of_anthropics_client(world: World, ending: str):
    code, status = TROUBLES[ending]
    with through_to_anthropic(world, world.bad_token("anthropic", ending)) as client:
        with pytest.raises(error_of(anthropic, status)) as failed:
            MESSAGES_CALLS["whole"](client, CLAUDES["anthropic"])
        assert failed.value.status_code == status
        assert code in str(failed.value.body)


@pytest.mark.parametrize("ending", TROUBLES)
def test_errors_are_exceptions_of_googles_client(world: World, ending: str):
    code, status = TROUBLES[ending]
    client = google_client(world.bad_token("google", ending), world.origin)
    with pytest.raises(genai.errors.ClientError if status < 500 else genai.errors.ServerError) as failed:
        GENERATE_CALLS["whole"](client)
    assert failed.value.code == status
    assert code in str(failed.value.details)


@pytest.mark.parametrize("ending", ["cut", "miderror", "noend"])
def test_errors_inside_a_stream(world: World, ending: str):
    """What broke after content came is an exception of the client's, raised while it reads.

    Two clients raise nothing at the provider either: OpenAI's hands on the event `error` of a response, and Google's
    streams have no end that could be missed.
    """
    token = world.bad_token("openai", ending)
    with openai.OpenAI(api_key=token, base_url=f"{world.origin}/v1", max_retries=0) as client:
        with pytest.raises(openai.APIError):
            CHAT_CALLS["stream"](client, CHAT_MODELS["openai"])
        if ending == "miderror":
            assert RESPONSES_CALLS["stream"](client, CHAT_MODELS["openai"])[-1].type == "error"
        else:
            with pytest.raises(openai.APIError):
                RESPONSES_CALLS["stream"](client, CHAT_MODELS["openai"])
    with (
        through_to_anthropic(world, world.bad_token("anthropic", ending)) as client_of_anthropic,
        pytest.raises(anthropic.APIError),
    ):
        MESSAGES_CALLS["stream"](client_of_anthropic, CLAUDES["anthropic"])
    if ending != "noend":
        with pytest.raises(genai.errors.APIError):
            GENERATE_CALLS["stream"](google_client(world.bad_token("google", ending), world.origin))


def test_a_wrong_token(world: World):
    with (
        openai.OpenAI(api_key="rfk_wrong", base_url=f"{world.origin}/v1", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        CHAT_CALLS["whole"](client, CHAT_MODELS["openai"])
    with (
        through_to_anthropic(world, "rfk_wrong") as client_of_anthropic,
        pytest.raises(anthropic.AuthenticationError),
    ):
        MESSAGES_CALLS["whole"](client_of_anthropic, CLAUDES["anthropic"])
    with pytest.raises(genai.errors.ClientError) as refused:
        GENERATE_CALLS["whole"](google_client("rfk_wrong", world.origin))
    assert refused.value.code == 401


def test_a_spent_budget(world: World):
    spent = {"dailyLimit": 0.000001}
    token = world.bad_token("openai", "ok", **spent)
    with (
        openai.OpenAI(api_key=token, base_url=f"{world.origin}/v1", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="may cost"),
    ):
        CHAT_CALLS["whole"](client, CHAT_MODELS["openai"])
    with (
        through_to_anthropic(world, world.bad_token("anthropic", "ok", **spent)) as client_of_anthropic,
        pytest.raises(anthropic.BadRequestError, match="may cost"),
    ):
        MESSAGES_CALLS["whole"](client_of_anthropic, CLAUDES["anthropic"])
    with pytest.raises(genai.errors.ClientError, match="may cost"):
        GENERATE_CALLS["whole"](google_client(world.bad_token("google", "ok", **spent), world.origin))


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: code.split()[1])
def test_the_snippets_of_the_guide_run(world: World, capsys: pytest.CaptureFixture[str], code: str):
    provider = code.split()[1]
    written = code.replace("http://127.0.0.1:8080", world.origin).replace("rfk_…", world.token(provider))
    exec(compile(written, "docs/clients.md", "exec"), {})
    assert capsys.readouterr().out.startswith("simulated word")
