"""The vendors' own clients, pointed at the product: the same objects and exceptions as from the vendors themselves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from llmkeys.models import UsageRecord
from tests.gateway.door import RESET, Gate, Pieces, completion, limits, usage
from tests.gateway.test_dialects import CALLS, GENERATED, GOOGLE, MESSAGE, RESPONSE
from tests.helpers import make_key, make_token
from tests.lazily import lazily
from tests.web import server

if TYPE_CHECKING:
    import anthropic
    import openai
    from google import genai
else:
    anthropic = lazily("anthropic")
    openai = lazily("openai")
    genai = lazily("google.genai")

HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def token(user: Any) -> str:
    return make_token(user, "gateway", name="sdk")


@pytest.fixture
def origin() -> str:
    return f"http://127.0.0.1:{server().port}"


@pytest.fixture
def openai_client(token: str, origin: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=token, base_url=f"{origin}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(token: str, origin: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(api_key=token, base_url=origin, max_retries=0) as client:
        yield client


@pytest.fixture
def google_client(token: str, origin: str) -> genai.Client:
    return genai.Client(api_key=token, http_options=genai.types.HttpOptions(base_url=origin))


@pytest.fixture
def slow(settings: Any) -> None:
    """Let keep-alives come at once."""
    settings.KEEPALIVE_SECONDS = 0.05


class TestOpenAI:
    def test_a_whole_response(self, openai_client: openai.OpenAI, provider: Any) -> None:
        make_key(provider="openai")
        provider.post(CALLS["responses"].url, json=RESPONSE)
        response = openai_client.responses.create(model="gpt-6.1-terra", input="hi", max_output_tokens=50)
        assert response.output_text == "hello"
        assert response.usage is not None
        assert response.usage.total_tokens == 1100

    def test_a_streamed_response(self, openai_client: openai.OpenAI, provider: Any, slow: None) -> None:
        make_key(provider="openai")
        provider.post(CALLS["responses"].url, Pieces(*CALLS["responses"].events))
        stream = openai_client.responses.create(model="gpt-6.1-terra", input="hi", max_output_tokens=50, stream=True)
        assert [event.type for event in stream] == [
            "response.created",
            "response.output_text.delta",
            "response.completed",
        ]

    def test_an_error_inside_a_stream(self, openai_client: openai.OpenAI, provider: Any) -> None:
        make_key(provider="openai")
        provider.post(CALLS["responses"].url, Pieces(*CALLS["responses"].events[:2], RESET))
        stream = openai_client.responses.create(model="gpt-6.1-terra", input="hi", max_output_tokens=50, stream=True)
        with pytest.raises(openai.APIError) as failed:
            list(stream)
        assert failed.value.code == "upstream_error"

    def test_embeddings(self, openai_client: openai.OpenAI, provider: Any) -> None:
        make_key(provider="openai")
        provider.post(CALLS["embeddings"].url, json=CALLS["embeddings"].answer)
        made = openai_client.embeddings.create(
            model="text-embedding-3-small", input=["hi", "there"], encoding_format="float"
        )
        assert (made.data[0].embedding, made.usage.total_tokens) == ([0.1], 1000)

    def test_no_key(self, openai_client: openai.OpenAI) -> None:
        with pytest.raises(openai.InternalServerError) as refused:
            openai_client.responses.create(model="gpt-6.1-terra", input="hi")
        assert refused.value.code == "no_key_available"

    def test_a_spent_key(self, openai_client: openai.OpenAI) -> None:
        make_key(provider="openai", **limits(daily="0.000001"))
        with pytest.raises((openai.RateLimitError, openai.BadRequestError)) as refused:
            openai_client.responses.create(model="gpt-6.1-terra", input="hi", max_output_tokens=50)
        assert refused.value.code == "request_exceeds_budget"

    @pytest.mark.parametrize("trouble", ["a wrong base URL", "a lost encryption key"])
    def test_what_only_a_person_can_end_is_not_sent_again(
        self, openai_client: openai.OpenAI, provider: Any, settings: Any, trouble: str
    ) -> None:
        make_key(provider="openai")
        if trouble == "a wrong base URL":
            provider.post(CALLS["responses"].url, body=b"<html><title>404</title></html>", status=404)
        else:
            settings.REFACTAI_ENCRYPTION_KEYS = ["another key altogether, long enough"]
        eager = openai_client.with_options(max_retries=2)
        with pytest.raises(openai.InternalServerError) as refused:
            eager.responses.create(model="gpt-6.1-terra", input="hi", max_output_tokens=50)
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert UsageRecord.objects.count() == 1

    def test_a_bad_request_names_its_field(self, openai_client: openai.OpenAI) -> None:
        with pytest.raises(openai.BadRequestError) as refused:
            openai_client.responses.create(model="gpt-6.1-terra", input="hi", background=True)
        assert (refused.value.code, refused.value.param) == ("invalid_request", "background")

    def test_a_wrong_token(self, origin: str) -> None:
        client = openai.OpenAI(api_key="rfk_wrong", base_url=f"{origin}/v1", max_retries=0)
        with client, pytest.raises(openai.AuthenticationError) as refused:
            client.chat.completions.create(model="gpt-6.1-terra", messages=HI)
        assert refused.value.code == "invalid_token"

    def test_chat(self, openai_client: openai.OpenAI, provider: Any) -> None:
        make_key(provider="openai")
        provider.post("https://api.openai.com/v1/chat/completions", json=completion(usage=usage()))
        made = openai_client.chat.completions.create(model="gpt-6.1-terra", messages=HI, max_completion_tokens=50)
        assert made.choices[0].message.content == "hello"

    def test_models(self, openai_client: openai.OpenAI, provider: Any) -> None:
        make_key(provider="openai")
        provider.get("https://api.openai.com/v1/models", json={"data": [{"id": "gpt-6.1-terra"}]})
        assert [model.id for model in openai_client.models.list()] == ["gpt-6.1-terra"]
        assert openai_client.models.retrieve("gpt-6.1-terra").id == "gpt-6.1-terra"
        with pytest.raises(openai.NotFoundError):
            openai_client.models.retrieve("gpt-7")


class TestAnthropic:
    URL = CALLS["messages"].url

    def test_a_whole_message(self, anthropic_client: anthropic.Anthropic, provider: Any) -> None:
        make_key(provider="anthropic")
        provider.post(self.URL, json=MESSAGE)
        made = anthropic_client.messages.create(model="claude-sonnet-5-5", max_tokens=50, messages=HI)
        assert made.content[0].model_dump()["text"] == "hello"
        assert made.usage.cache_read_input_tokens == 10_000

    def test_a_streamed_message(self, anthropic_client: anthropic.Anthropic, provider: Any) -> None:
        make_key(provider="anthropic")
        provider.post(self.URL, Pieces(*CALLS["messages"].events))
        with anthropic_client.messages.stream(model="claude-sonnet-5-5", max_tokens=50, messages=HI) as stream:
            assert "".join(stream.text_stream) == "hello"
            assert stream.get_final_message().usage.output_tokens == 100

    def test_keep_alives_before_the_first_event(
        self, anthropic_client: anthropic.Anthropic, provider: Any, slow: None
    ) -> None:
        make_key(provider="anthropic")
        gate = Gate()
        provider.post(self.URL, Pieces(gate, *CALLS["messages"].events))
        made = anthropic_client.messages.create(model="claude-sonnet-5-5", max_tokens=50, messages=HI, stream=True)
        gate.wait_until_reached()
        gate.open()
        assert next(iter(made)).type == "message_start"
        assert [event.type for event in made][-1] == "message_stop"

    def test_an_error_inside_a_stream(self, anthropic_client: anthropic.Anthropic, provider: Any) -> None:
        make_key(provider="anthropic")
        provider.post(self.URL, Pieces(*CALLS["messages"].events[:4], RESET))
        made = anthropic_client.messages.create(model="claude-sonnet-5-5", max_tokens=50, messages=HI, stream=True)
        with pytest.raises(anthropic.APIStatusError) as failed:
            list(made)
        assert failed.value.body["error"]["code"] == "upstream_error"  # type: ignore[index]

    def test_counting(self, anthropic_client: anthropic.Anthropic, provider: Any) -> None:
        make_key(provider="anthropic")
        provider.post(f"{self.URL}/count_tokens", json={"input_tokens": 12})
        assert anthropic_client.messages.count_tokens(model="claude-sonnet-5-5", messages=HI).input_tokens == 12

    def test_a_spent_key(self, anthropic_client: anthropic.Anthropic) -> None:
        make_key(provider="anthropic", **limits(daily="0.000001"))
        with pytest.raises((anthropic.RateLimitError, anthropic.BadRequestError)) as refused:
            anthropic_client.messages.create(model="claude-sonnet-5-5", max_tokens=50, messages=HI)
        assert refused.value.body["error"]["code"] == "request_exceeds_budget"  # type: ignore[index]

    def test_a_wrong_token(self, origin: str) -> None:
        client = anthropic.Anthropic(api_key="rfk_wrong", base_url=origin, max_retries=0)
        with client, pytest.raises(anthropic.AuthenticationError):
            client.messages.create(model="claude-sonnet-5-5", max_tokens=50, messages=HI)

    def test_no_key(self, anthropic_client: anthropic.Anthropic) -> None:
        with pytest.raises(anthropic.InternalServerError) as refused:
            anthropic_client.messages.create(model="claude-sonnet-5-5", max_tokens=50, messages=HI)
        assert refused.value.status_code == 503

    def test_models(self, anthropic_client: anthropic.Anthropic, provider: Any) -> None:
        make_key(provider="anthropic"), make_key(provider="openai")
        provider.get("https://api.anthropic.com/v1/models", json={"data": [{"id": "claude-sonnet-5-5"}]})
        provider.get("https://api.openai.com/v1/models", json={"data": [{"id": "gpt-6.1-terra"}]})
        assert [model.id for model in anthropic_client.models.list()] == ["claude-sonnet-5-5"]
        assert anthropic_client.models.retrieve("claude-sonnet-5-5").type == "model"
        with pytest.raises(anthropic.NotFoundError):
            anthropic_client.models.retrieve("claude-9")


class TestGoogle:
    MODEL = "gemini-2.5-flash"

    def test_a_whole_answer(self, google_client: genai.Client, provider: Any) -> None:
        make_key(provider="google")
        provider.post(CALLS["generate"].url, json=GENERATED)
        made = google_client.models.generate_content(model=self.MODEL, contents="hi")
        assert made.text == "hello"
        assert made.usage_metadata is not None
        assert made.usage_metadata.thoughts_token_count == 40

    def test_a_stream_with_keep_alives(self, google_client: genai.Client, provider: Any, slow: None) -> None:
        make_key(provider="google")
        gate = Gate()
        provider.post(CALLS["generate"].stream_url, Pieces(gate, *CALLS["generate"].events))
        made = google_client.models.generate_content_stream(model=self.MODEL, contents="hi")
        threading.Timer(0.3, gate.open).start()
        assert "".join(chunk.text or "" for chunk in made) == "helhello"

    def test_an_error_inside_a_stream(self, google_client: genai.Client, provider: Any) -> None:
        make_key(provider="google")
        provider.post(CALLS["generate"].stream_url, Pieces(CALLS["generate"].events[0], RESET))
        with pytest.raises(genai.errors.ServerError) as failed:
            list(google_client.models.generate_content_stream(model=self.MODEL, contents="hi"))
        assert failed.value.status == "UNAVAILABLE"

    def test_counting_and_embedding(self, google_client: genai.Client, provider: Any) -> None:
        make_key(provider="google")
        provider.post(f"{GOOGLE}/{self.MODEL}:countTokens", json={"totalTokens": 12})
        assert google_client.models.count_tokens(model=self.MODEL, contents="hi").total_tokens == 12
        provider.post(f"{GOOGLE}/gemini-embedding-001:batchEmbedContents", json={"embeddings": [{"values": [0.5]}]})
        made = google_client.models.embed_content(model="gemini-embedding-001", contents="hi")
        assert made.embeddings is not None
        assert made.embeddings[0].values == [0.5]

    def test_a_spent_key(self, google_client: genai.Client) -> None:
        make_key(provider="google", **limits(daily="0.000001"))
        with pytest.raises(genai.errors.ClientError) as refused:
            google_client.models.generate_content(model=self.MODEL, contents="hi")
        assert refused.value.status in ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT")
        assert "request_exceeds_budget" in json.dumps(refused.value.details)

    def test_a_wrong_token(self, origin: str) -> None:
        client = genai.Client(api_key="rfk_wrong", http_options=genai.types.HttpOptions(base_url=origin))
        with pytest.raises(genai.errors.ClientError) as refused:
            client.models.generate_content(model=self.MODEL, contents="hi")
        assert refused.value.status == "UNAUTHENTICATED"

    def test_models(self, google_client: genai.Client, provider: Any) -> None:
        make_key(provider="google")
        models = {"models": [{"name": "models/gemini-2.5-flash", "inputTokenLimit": 9, "outputTokenLimit": 5}]}
        provider.get("https://generativelanguage.googleapis.com/v1beta/models", json=models)
        assert [model.name for model in google_client.models.list()] == ["models/gemini-2.5-flash"]
        assert google_client.models.get(model="gemini-2.5-flash").output_token_limit == 5
        with pytest.raises(genai.errors.ClientError) as refused:
            google_client.models.get(model="gemini-9")
        assert refused.value.status == "NOT_FOUND"
