"""What requests hold and cost, from the client's body to the row; each figure beside the provider's price list.

USD per million tokens, as the providers' price pages have them in November 2026.
"""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime

import pytest

from llmkeys.models import ModelAlias, ModelPrice, UsageRecord
from tests.gateway.door import (
    DONE,
    GOOGLE,
    OPENAI,
    OPENROUTER,
    Pieces,
    ask,
    chunk,
    completion,
    event,
    is_refused,
    limits,
    only_row,
    rows,
    usage,
)
from tests.helpers import make_key

GOOGLES = "https://generativelanguage.googleapis.com/v1beta"

SPOKEN = usage(
    2360,
    50,
    prompt_tokens_details={"audio_tokens": 2340},
    completion_tokens_details={"audio_tokens": 40},
)
SOUND = {"type": "input_audio", "input_audio": {"data": base64.b64encode(b"\0" * 150_000).decode(), "format": "mp3"}}
HEARD = [{"role": "user", "content": [SOUND]}]


def answered(**changes):
    return completion(**{"usage": usage()} | changes)


def cost_and_source():
    row = only_row()
    assert row.state == "SETTLED" and not row.overrun
    assert row.cost_nano <= row.hold_nano
    return row.cost_nano, row.cost_source


class TestSoundAndPictures:
    @pytest.mark.parametrize(("name", "url", "model"), [
        ("openrouter", OPENROUTER, "openai/gpt-audio"), ("openai", OPENAI, "gpt-audio"),
    ])  # fmt: skip
    def test_sound_costs_what_sound_costs(self, client, provider, name, url, model):
        """20 × 2.5 + 2340 × 32 + 10 × 10 + 40 × 64 = 77,590; it was 9,100."""
        make_key(provider=name)
        provider.post(url, json=answered(usage=SPOKEN))
        assert ask(client, model=model, messages=HEARD).status_code == 200
        assert cost_and_source() == (77_590_000, "computed")

    def test_sound_without_a_known_rate_is_flagged(self, client, provider):
        """The price page's 40 and 80: 20 × 2.5 + 2340 × 40 + 10 × 10 + 40 × 80 = 96,950."""
        make_key(provider="openai")
        provider.post(OPENAI, json=answered(usage=SPOKEN))
        ask(client, model="gpt-4o-audio-preview", messages=HEARD, modalities=["text", "audio"])
        assert cost_and_source() == (96_950_000, "estimated")

    def test_a_picture_that_was_made_costs_what_pictures_cost(self, client, provider):
        """340 × 2.5 + 2000 × 30 + 10 × 0.3 = 60,853; it was 5,853."""
        make_key()
        made = usage(10, 2340, completion_tokens_details={"image_tokens": 2000})
        provider.post(OPENROUTER, json=answered(usage=made))
        ask(client, model="google/gemini-2.5-flash-image", max_tokens=4_000)
        assert cost_and_source() == (60_853_000, "computed")

    def test_a_video_costs_what_video_costs(self, client, provider):
        """gemini-embedding-2: 8,000 × 12 = 96,000; it was 1,600."""
        make_key(provider="google")
        seen = {"promptTokenCount": 8_000, "promptTokensDetails": [{"modality": "VIDEO", "tokenCount": 8_000}]}
        self.embed_a_video(client, provider, usageMetadata=seen)
        assert cost_and_source() == (96_000_000, "computed")

    def test_a_video_without_usage_is_estimated_as_one(self, client, provider):
        """10,000 bytes, at least 2,500 tokens × 12 = 30,000; it was the words around it as text."""
        make_key(provider="google")
        self.embed_a_video(client, provider)
        nano, source = cost_and_source()
        assert source == "estimated" and nano >= 30_000_000

    def test_a_picture_is_no_video_where_something_else_cannot_be_counted(self, client, provider):
        """At most 6,000 tokens of gpt-4o and the words around it × 2.5; it was $0.25, for 300 kB of base64."""
        make_key(provider="openai")
        said = {"type": "message", "content": [{"type": "output_text", "text": "hello"}]}
        answer = {"id": "resp_1", "status": "completed", "output": [said], "usage": None}
        provider.post("https://api.openai.com/v1/responses", json=answer)
        picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 300_000}
        asked = {"model": "gpt-4o", "input": [{"role": "user", "content": [picture]}], "max_output_tokens": 1_000}
        asked["previous_response_id"] = "resp_0"  # which may fill the whole window
        assert client.post("/v1/responses", json.dumps(asked)).status_code == 200
        nano, source = cost_and_source()
        assert source == "estimated" and 15_000_000 <= nano <= 17_500_000

    def embed_a_video(self, client, provider, **told):
        method = "models/gemini-embedding-2:embedContent"
        provider.post(f"{GOOGLES}/{method}", json={"embedding": {"values": [0.1]}, **told})
        video = {"inlineData": {"mimeType": "video/mp4", "data": "A" * 10_000}}
        asked = {"content": {"parts": [video]}}
        assert client.post(f"/v1beta/{method}", json.dumps(asked)).status_code == 200

    def test_the_hold_of_sound_is_at_the_rate_of_sound(self, client, provider):
        """150 kB of sound at 32; it was 10,300."""
        make_key()
        provider.post(OPENROUTER, json=answered(usage=SPOKEN))
        ask(client, model="openai/gpt-audio", messages=HEARD)
        assert only_row().hold_nano >= 77_590_000


class TestTheModelThatAnswered:
    BOTH = ("openai/gpt-6-luna", "openai/gpt-6.1-sol")

    @pytest.mark.parametrize(
        ("told", "nano"),
        [("openai/gpt-6.1-sol", 12_000_000), ("openai/gpt-6-luna", 600_000), (..., 600_000)],
    )  # Sol: 1000 × 2 + 1000 × 10; Luna: 1000 × 0.1 + 1000 × 0.5
    def test_it_is_charged_at_its_own_price(self, client, provider, told, nano):
        """B4."""
        make_key()
        provider.post(OPENROUTER, json=answered(usage=usage(1000, 1000), model=told))
        ask(client, model=self.BOTH[0], models=list(self.BOTH), max_tokens=1000, messages=[
            {"role": "user", "content": "word " * 1000}
        ])  # fmt: skip
        assert cost_and_source() == (nano, "computed")

    def test_a_list_is_held_at_the_dearest_of_it(self, client, provider):
        """Opus 5.5 may give 128,000 tokens at 20: 2,560,000; it was 127,000."""
        make_key()
        provider.post(OPENROUTER, json=answered())
        ask(client, model="openai/gpt-4-turbo", models=["anthropic/claude-opus-5.5"], max_tokens=128_000)
        assert 2_560_000_000 < only_row().hold_nano < 2_570_000_000


PICTURE = "https://x.test/a.png"
SEEN = {
    "max_tokens": 50,
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}],
}
ROUTER = "https://openrouter.ai/api/v1"
PROMPT = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": PICTURE}}]}]
BY_ANY_NAME = {
    "a picture": (OPENROUTER, "/v1/chat/completions", "openai/gpt-6.1-terra", SEEN),
    "a model that searches": (OPENROUTER, "/v1/chat/completions", "openai/gpt-4o-search-preview", SEEN),
    "a search beside the model": (OPENROUTER, "/v1/chat/completions", "openai/gpt-4o-mini:online", SEEN),
    "a preset": (OPENROUTER, "/v1/chat/completions", "@preset/house", SEEN),
    "responses": (
        f"{ROUTER}/responses", "/v1/responses", "openai/gpt-6.1-terra",
        {"max_output_tokens": 50,
         "input": [{"role": "user", "content": [{"type": "input_image", "image_url": PICTURE}]}]},
    ),
    "messages": (f"{ROUTER}/messages", "/v1/messages", "openai/gpt-6.1-terra", {"max_tokens": 50, "messages": PROMPT}),
    "embeddings": (
        f"{ROUTER}/embeddings", "/v1/embeddings", "acme/eye",
        {"input": [{"content": [{"type": "image_url", "image_url": {"url": PICTURE}}]}]},
    ),
}  # fmt: skip


class TestTheNameThatWasAskedFor:
    """A hold is that of the model that serves, by whatever name the client asks for it."""

    def holds(self, client, provider, url, path, model, body, *, size=500):
        make_key(**limits())
        ModelAlias.objects.create(alias="auto", model_names=[model])
        ModelAlias.objects.create(alias="house", model_names=[model])
        found = {}
        for name in (model, "auto", "house"):
            provider.post(url, json=answered())
            asked = json.dumps({"model": name, **body})
            assert client.post(path, asked.ljust(size)).status_code == 200  # as many bytes by each name
            found[name] = UsageRecord.objects.get(requested_model=name).hold_nano
            assert json.loads(provider.calls[-1].body)["model"] == model
        return found

    @pytest.mark.parametrize("what", BY_ANY_NAME)
    def test_it_makes_no_difference(self, client, provider, what):
        found = self.holds(client, provider, *BY_ANY_NAME[what])
        assert len(set(found.values())) == 1, found

    def test_it_makes_none_in_a_path(self, client, provider):
        """A picture has 6,000 tokens at most for Gemini, though an alias is named like a model that counts 15,000."""
        make_key(provider="google", **limits())
        ModelAlias.objects.create(alias="gpt-6", model_names=["gemini-2.5-flash"])
        picture = {"inlineData": {"data": "iVBORw0KGgo=", "mimeType": "image/png"}}
        asked = {"contents": [{"parts": [picture]}], "generationConfig": {"maxOutputTokens": 40}}
        holds = set()
        for name in ("gemini-2.5-flash", "gpt-6"):
            provider.post(f"{GOOGLES}/models/gemini-2.5-flash:generateContent", json={
                "candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 9, "totalTokenCount": 10},
            })  # fmt: skip
            assert client.post(f"/v1beta/models/{name}:generateContent", json.dumps(asked)).status_code == 200
            holds.add(UsageRecord.objects.get(requested_model=name).hold_nano)
        assert len(holds) == 1 and max(holds) < 10_000 * 300, holds

    def test_nor_in_a_large_body(self, client, provider):
        found = self.holds(client, provider, *BY_ANY_NAME["a picture"], size=100_000)
        assert len(set(found.values())) == 1, found

    def test_nor_when_the_words_are_counted(self, client, provider):
        """Where the bytes do not fit, tokens are counted: the picture of Terra is 15,000 × 1.25 = 18,750."""
        make_key(**limits(daily="0.03"))
        ModelAlias.objects.create(alias="house", model_names=["openai/gpt-6.1-terra"])
        provider.post(OPENROUTER, json=answered())
        words = [{"role": "user", "content": "word " * 4_000}, *SEEN["messages"]]
        assert ask(client, model="house", messages=words, max_tokens=50).status_code == 200
        assert 18_750_000 < only_row().hold_nano < 30_000_000


class TestWhatIsNotPlainText:
    """What is held, of gpt-4o-mini (0.15 in, 0.6 out; 50 tokens out: 30) on OpenRouter."""

    @pytest.mark.parametrize(
        ("asked", "most"),
        [
            # Five searches at 20,000 (five results at 4,000), each with 16,000 tokens at 0.15; it was 60 for the words.
            ({"tools": [{"type": "openrouter:web_search"}]}, 5 * (20_000 + 2_400) + 30),
            ({"plugins": [{"id": "web", "max_results": 25}]}, 25 * 4_000 + 16_000 * 0.15 + 30),
            ({"model": "openai/gpt-4o-mini:online"}, 20_000 + 2_400 + 30),
            # The whole window of 128,000 tokens; it was the bytes of the file.
            ({"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}]}, 19_230),
            ({"preset": "house"}, 19_230),
        ],
    )
    def test_its_hold_is_what_it_may_cost(self, client, provider, asked, most):
        make_key()
        provider.post(OPENROUTER, json=answered())
        assert ask(client, **{"model": "openai/gpt-4o-mini"} | asked).status_code == 200
        assert only_row().hold_nano >= most * 1_000

    def test_openrouter_is_told_the_highest_price_that_is_held(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=answered())
        ask(client, model="openai/gpt-4o-mini:nitro", provider={"order": ["somebody"], "max_price": {"prompt": 0.1}})
        assert provider.calls[0].json["provider"] == {
            "order": ["somebody"], "max_price": {"prompt": 0.1, "completion": 0.6, "request": 0},
        }  # fmt: skip

    def test_the_highest_price_of_an_image_is_that_of_each(self, client, provider):
        """gpt-6.1-sol: 15,000 × 4 = 60,000 for each of 20, and not 20 times as much for each."""
        make_key()
        provider.post(OPENROUTER, json=answered())
        pictures = [{"type": "image_url", "image_url": {"url": f"https://x.test/{number}.png"}} for number in range(20)]
        messages = [{"role": "user", "content": pictures}]
        assert ask(client, model="openai/gpt-6.1-sol", messages=messages).status_code == 200
        most = provider.calls[0].json["provider"]["max_price"]["image"]
        assert 0 < most * 20 <= only_row().hold_nano / 10**9


def test_a_prompt_that_goes_on_from_a_cache_of_googles_is_held_with_the_whole_window(client, provider):
    """Gemini 2.5 Flash reads 1,048,576 tokens, at 0.3 each: the cache may be that long."""
    make_key(provider="google")
    provider.post(GOOGLE, json=answered())
    google = {"google": {"cached_content": "cachedContents/1"}}
    assert ask(client, model="gemini-2.5-flash", extra_body=google).status_code == 200
    assert only_row().hold_nano >= 1_048_576 * 300


class TestEmbeddings:
    """Each text may fill the model's window: OpenAI takes 300,000 tokens over all of them."""

    PATH, URL = "/v1/embeddings", "https://api.openai.com/v1/embeddings"
    TEXTS = ["word " * 5_000] * 50

    def embed(self, client):
        return client.post(self.PATH, json.dumps({"model": "text-embedding-3-large", "input": self.TEXTS}))

    def test_a_list_of_texts_is_held_with_a_window_for_each(self, client, provider):
        """250,000 × 0.13 = 32,500; the hold was 1,065, for 8,192 tokens."""
        make_key(provider="openai")
        told = {"prompt_tokens": 250_000, "total_tokens": 250_000}
        provider.post(self.URL, json={"object": "list", "data": [{"embedding": [0.1]}], "usage": told})
        assert self.embed(client).status_code == 200
        assert cost_and_source() == (32_500_000, "computed")

    def test_a_list_that_may_cost_more_than_a_budget_is_refused(self, client):
        make_key(provider="openai", **limits(daily="0.01"))
        is_refused(self.embed(client), 400, "request_exceeds_budget", "This request may cost")

    def test_a_batch_of_videos_is_held_with_a_window_for_each(self, client, provider):
        """gemini-embedding-2 reads 8,192 tokens of each of 20 videos at 12; the hold was that of one."""
        make_key(provider="google")
        video = {"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}}
        asked = {"requests": [{"model": "models/gemini-embedding-2", "content": {"parts": [video]}}] * 20}
        method = "models/gemini-embedding-2:batchEmbedContents"
        provider.post(f"{GOOGLES}/{method}", json={"embeddings": [{"values": [0.1]}] * 20})
        assert client.post(f"/v1beta/{method}", json.dumps(asked)).status_code == 200
        assert only_row().hold_nano >= 20 * 8_192 * 12_000


class TestWhatNobodyCanPay:
    """Every number by itself may be sent, but their sum would not fit the database's integers."""

    FETCH = {"type": "web_fetch_20250910", "name": "f", "max_uses": 1_000, "max_content_tokens": 100_000_000}
    PICTURE = {"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "mediaResolution": {"numTokens": 100_000_000}}
    HELLO = [{"role": "user", "content": "hello"}]

    @pytest.mark.parametrize("daily", ["0", "10"])
    @pytest.mark.parametrize(
        ("name", "path", "asked"),
        [
            ("anthropic", "/v1/messages", {"model": "claude-zzz", "messages": HELLO, "tools": [FETCH] * 1_000}),
            ("anthropic", "/v1/messages", {"model": "claude-zzz", "messages": HELLO, "max_tokens": 100_000_000,
                                           "fallbacks": [{"max_tokens": 100_000_000}] * 50}),
            ("google", "/v1beta/models/gemini-zzz:generateContent", {"contents": [{"parts": [PICTURE] * 20}]}),
            ("openai", "/v1/chat/completions",
             {"model": "gpt-zzz", "messages": HELLO, "n": 128, "max_tokens": 100_000_000}),
        ],
    )  # fmt: skip
    def test_it_is_refused_in_words(self, client, name, path, asked, daily):
        make_key(provider=name, **limits(daily=daily))
        answer = client.post(path, json.dumps(asked))
        assert answer.status_code == 400
        assert "tokens in all, more than the 1,000,000,000 that can be served" in answer.json()["error"]["message"]
        assert rows() == []

    def test_a_long_recording_is_none_of_them(self, client, provider, settings):
        """70 MB of FLAC, which packs silence to almost nothing, were 1,050,000,000; the model takes 1,048,576."""
        settings.MAX_BODY_MB = 100
        make_key(provider="google", **limits(daily="10"))
        method = "models/gemini-2.5-flash:generateContent"
        answer = {"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}
        provider.post(f"{GOOGLES}/{method}", json=answer | {"usageMetadata": {"promptTokenCount": 1_000_000,
            "candidatesTokenCount": 9, "totalTokenCount": 1_000_009}})  # fmt: skip
        sound = {"inlineData": {"mimeType": "audio/flac", "data": "A" * 70_000_000}}
        assert client.post(f"/v1beta/{method}", json.dumps({"contents": [{"parts": [sound]}]})).status_code == 200
        assert not only_row().overrun

    def test_a_hold_is_no_higher_than_a_budget_can_be(self, client, provider):
        """500,000,000 × 10,000 USD per million are 5,000,000 USD; no limit is above 1,000,000."""
        make_key(**limits())
        ModelPrice.objects.create(
            provider="openrouter", model="acme/gold", valid_from="2020-01-01T00:00Z", input_usd_per_mtok=1,
            output_usd_per_mtok=10_000,
        )  # fmt: skip
        provider.post(OPENROUTER, json=answered())
        for _ in range(2):
            assert ask(client, model="acme/gold", max_tokens=100_000_000, n=5).status_code == 200
        assert [row.hold_nano for row in rows()] == [1_000_001 * 10**9] * 2


class TestLocalServers:
    """Where nothing but the operator's own machine works, and the operator's price says that it costs nothing."""

    @pytest.mark.parametrize("tool", ["file_search", "code_interpreter", "web_search"])
    def test_a_tool_is_as_free_as_the_model(self, client, provider, settings, tool):
        settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": f"{provider.local}/v1"}
        make_key(provider="openai")
        ModelPrice.objects.create(
            provider="openai", model="gpt-zzz", valid_from="2020-01-01T00:00Z", input_usd_per_mtok=0,
            output_usd_per_mtok=0,
        )  # fmt: skip
        said = {"type": "message", "content": [{"type": "output_text", "text": "hello"}]}
        ran = {"type": f"{tool}_call", "container_id": "cntr_1"}
        told = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        answer = {"id": "resp_1", "status": "completed", "output": [ran, said], "usage": told}
        provider.post(f"{provider.local}/v1/responses", json=answer)
        asked = {"model": "gpt-zzz", "input": "hello", "tools": [{"type": tool}]}
        assert client.post("/v1/responses", json.dumps(asked)).status_code == 200
        assert provider.calls[0].json == asked, "no limit is put on what costs nothing"
        assert cost_and_source() == (0, "computed") and only_row().hold_nano == 0


class TestDefaultLimits:
    """The limit that we put on a request without one leaves room for the likely prompt, not for the longest."""

    PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000}}
    FILE = {"filename": "a.txt", "file_data": "data:text/plain;base64," + base64.b64encode(b"word " * 16_000).decode()}
    MINUTES = {"type": "input_audio", "input_audio": {"data": "A" * 4_000_000, "format": "mp3"}}

    @pytest.mark.parametrize(
        ("model", "parts"),
        [
            ("gpt-4o-mini", [PICTURE] * 3),  # it was 4,096: 150,000 tokens were taken for certain
            ("gpt-4o", [{"type": "file", "file": FILE}]),  # 7,672
            ("gpt-audio", [MINUTES]),  # 7,698
        ],
    )
    def test_media_do_not_cut_the_answer_off(self, client, provider, model, parts):
        make_key(provider="openai")
        provider.post(OPENAI, json=answered())
        messages = [{"role": "user", "content": parts}]
        assert ask(client, model=model, messages=messages, max_tokens=...).status_code == 200
        assert provider.calls[0].json["max_completion_tokens"] == 16_384


class TestThinkingBudgets:
    """The limit that we put on a request without one stays above the budget that the client set for thinking."""

    def test_that_of_google(self, client, provider):
        """28,672 × 2.5 = 71,680; it was 16,384 tokens."""
        make_key(provider="google")
        method = "models/gemini-2.5-flash:generateContent"
        answer = {"candidates": [{"content": {"parts": [{"text": "hi"}]}, "finishReason": "STOP"}]}
        provider.post(f"{GOOGLES}/{method}", json=answer | {"usageMetadata": {"promptTokenCount": 1,
            "candidatesTokenCount": 9, "thoughtsTokenCount": 24_576, "totalTokenCount": 24_586}})  # fmt: skip
        config = {"thinkingConfig": {"thinkingBudget": 24_576}}
        asked = {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": config}
        assert client.post(f"/v1beta/{method}", json.dumps(asked)).status_code == 200
        assert provider.calls[0].json["generationConfig"] == config | {"maxOutputTokens": 28_672}
        assert only_row().hold_nano >= 71_680_000
        assert cost_and_source()[1] == "computed"

    def test_that_of_openrouter(self, client, provider):
        """Claude Sonnet 4.5 costs 15: 36,096 × 15 = 541,440."""
        make_key()
        provider.post(OPENROUTER, json=answered())
        thinking = {"max_tokens": 32_000}
        assert ask(client, model="anthropic/claude-sonnet-4.5", max_tokens=..., reasoning=thinking).status_code == 200
        assert provider.calls[0].json["max_tokens"] == 36_096
        assert only_row().hold_nano >= 541_440_000


def test_a_count_may_be_written_with_a_point(client):
    """50 searches at 0.01 and 800,000 tokens × 2.2 are more than 2 USD; 50.0 was taken for five of them."""
    make_key(provider="anthropic", **limits(daily="2"))
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 50.0}
    asked = {"model": "claude-sonnet-5-5", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}]}
    answer = client.post("/v1/messages", json.dumps(asked | {"tools": [tool]}))
    assert answer.status_code == 400 and "may cost $2.2" in answer.json()["error"]["message"]


class TestFeesAndTiers:
    def test_a_search_model_has_a_fee_for_each_answer(self, client, provider):
        """20 × 2.5 + 30 × 10 = 350, and 25 USD for 1,000 searches."""
        make_key(provider="openai")
        provider.post(OPENAI, json=answered(usage=usage(20, 30)))
        ask(client, model="gpt-4o-search-preview", web_search_options={})
        assert cost_and_source() == (25_350_000, "computed")

    def test_a_tool_that_was_only_declared_has_none(self, client, provider):
        """20 × 1 + 30 × 5 = 170."""
        make_key()
        provider.post(OPENROUTER, json=answered(usage=usage(20, 30)))
        ask(client, tools=[{"type": "openrouter:web_search"}])
        assert cost_and_source() == (170_000, "computed")

    def test_google_tells_its_tier_in_a_header(self, client, provider):
        """gemini-3.8-flash-tts costs 0.5 and 9; flex: 10 × 0.25 + 5 × 4.5 = 25."""
        make_key(provider="google")
        provider.post(GOOGLE, json=answered(), headers={"x-gemini-service-tier": "flex"})
        ask(client, model="google/gemini-3.8-flash-tts", service_tier="flex")
        assert cost_and_source() == (25_000, "computed")

    def test_a_tier_without_a_rate_is_flagged(self, client, provider):
        """The data has no flex for gemini-2.5-flash: 10 × 0.3 + 5 × 2.5 = 15.5."""
        make_key(provider="google")
        provider.post(GOOGLE, json=answered(), headers={"x-gemini-service-tier": "flex"})
        ask(client, model="google/gemini-2.5-flash", service_tier="flex")
        assert cost_and_source() == (15_500, "estimated")

    def test_the_tier_asked_for_counts_where_none_is_told(self, client, provider):
        """gpt-4o-mini, priority: 10 × 0.25 + 5 × 1 = 7.5."""
        make_key(provider="openai")
        provider.post(OPENAI, json=answered())
        ask(client, model="gpt-4o-mini", service_tier="priority")
        assert cost_and_source() == (7_500, "computed")

    def test_a_tier_in_the_first_chunk_alone_counts(self, client, provider):
        """The same in a stream."""
        make_key(provider="openai")
        pieces = [chunk(service_tier="priority"), chunk(finish_reason="stop"), event({"choices": [], "usage": usage()})]
        provider.post(OPENAI, Pieces(*pieces, DONE))
        _ = ask(client, model="gpt-4o-mini", service_tier="auto", stream=True).content
        assert cost_and_source() == (7_500, "computed")


class TestWhatToolsCostBesideTheModel:
    URL = "https://api.openai.com/v1/responses"

    def ask(self, client, provider, tool, output, *, prompt=None, **more):
        make_key(provider="openai")
        message = {"type": "message", "content": [{"type": "output_text", "text": "Done."}]}
        usage = {"input_tokens": 50, "output_tokens": 40, "total_tokens": 90}
        body = {"id": "r", "object": "response", "status": "completed", "model": "gpt-5-mini", "usage": usage, **more}
        provider.post(self.URL, json=body | {"output": [*output, message]})
        asked = {"model": "gpt-5-mini", "input": "Go.", "max_output_tokens": 500, "tools": [tool]}
        asked |= {"prompt": prompt} if prompt else {}
        assert client.post("/v1/responses", json.dumps(asked)).status_code == 200

    @pytest.mark.parametrize(("named", "nano", "source"), [
        ({"model": "gpt-image-1-mini"}, 49_956_500, "computed"), ({}, 248_912_500, "estimated"),
    ])  # fmt: skip
    def test_pictures_cost_what_the_model_asks_that_drew_them(self, client, provider, named, nano, source):
        """50 × 0.25 + 40 × 2 = 92.5 for gpt-5-mini, which asked another one for a picture of 6,208 tokens.

        gpt-image-1-mini: 100 × 2 + 6,208 × 8 = 49,864; unnamed, as gpt-image-1: 100 × 5 + 6,208 × 40 = 248,820.
        It was 12,500 at the rates of gpt-5-mini, of a hold of 182,000.
        """
        drawn = {"input_tokens": 100, "input_tokens_details": {"image_tokens": 0}, "output_tokens": 6_208}
        self.ask(client, provider, {"type": "image_generation", **named},
                 [{"type": "image_generation_call", "result": "x"}], tool_usage={"image_gen": drawn})  # fmt: skip
        assert cost_and_source() == (nano, source)

    def test_a_machine_that_runs_code_has_a_fee(self, client, provider):
        """50 × 0.25 + 40 × 2 = 92.5, and 0.48 USD for 16 GB; it was 92.5. Perhaps it was paid for before: flagged."""
        calls = [{"type": "code_interpreter_call", "container_id": "cntr_1"}] * 3
        tool = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "16g"}}
        self.ask(client, provider, tool, calls)
        assert cost_and_source() == (480_092_500, "estimated")

    def test_a_machine_of_a_stored_prompt_is_held_at_any_size_and_charged_as_the_usual_one(self, client, provider):
        calls = [{"type": "code_interpreter_call", "container_id": "cntr_1"}]
        self.ask(client, provider, {"type": "function", "name": "f"}, calls, prompt={"id": "pmpt_1"})
        assert cost_and_source() == (30_092_500, "estimated")
        assert UsageRecord.objects.get().hold_nano > 1_920_000_000


class TestWhatIsNotBelieved:
    def test_zeros_beside_content_are_estimated(self, client, provider):
        """500 words are 2,500 bytes and at least 833 tokens at 5, flagged; it was 0."""
        make_key()
        words = {"role": "assistant", "content": "word " * 500}
        choice = {"index": 0, "message": words, "finish_reason": "stop"}
        provider.post(OPENROUTER, json=answered(choices=[choice], usage=usage(0, 0)))
        ask(client, max_tokens=5_000)
        nano, source = cost_and_source()
        assert source == "estimated" and nano >= 833 * 5_000

    def test_counts_written_as_texts_are_counts(self, client, provider):
        """gpt-4o-mini: 10 × 0.15 + 4 × 0.6 = 3.9."""
        make_key()
        provider.post(OPENROUTER, json=answered(usage={
            "prompt_tokens": "10", "completion_tokens": "4", "total_tokens": "14",
        }))  # fmt: skip
        ask(client, model="openai/gpt-4o-mini")
        assert cost_and_source() == (3_900, "computed")

    def test_a_cost_written_as_a_text_is_a_cost(self, client, provider):
        make_key()
        provider.post(OPENROUTER, json=answered(usage=usage(cost="0.00003")))
        ask(client, model="openai/gpt-4o-mini")
        assert cost_and_source() == (30_000, "provider")


def test_the_price_is_that_of_admission(client, provider, frozen):
    """gemini-4-argon doubles on 1 December: 10 × 2 + 5 × 10 = 70, and not 140."""
    make_key()
    frozen.move_to(datetime(2026, 11, 30, 23, 59, 50, tzinfo=UTC))

    def midnight():
        frozen.move_to(datetime(2026, 12, 1, 0, 0, 10, tzinfo=UTC))

    pieces = [chunk(), midnight, event({"id": "gen-1", "choices": [], "usage": usage()}), DONE]
    provider.post(OPENROUTER, Pieces(*pieces))
    _ = ask(client, model="google/gemini-4-argon", stream=True).content
    assert cost_and_source() == (70_000, "computed")


def test_gpt_5_pro_may_give_272000_tokens(client, provider):
    """250,000 × 120 = 30,000,000; the hold was 15.36 USD, for 128,000 tokens."""
    make_key(provider="openai", **limits())
    told = {"input_tokens": 10, "output_tokens": 250_000, "total_tokens": 250_010}
    answer = {"id": "r", "object": "response", "status": "completed", "model": "gpt-5-pro", "usage": told}
    provider.post("https://api.openai.com/v1/responses", json=answer | {"output": []})
    asked = {"model": "gpt-5-pro", "input": "Go.", "max_output_tokens": 250_000}
    assert client.post("/v1/responses", json.dumps(asked)).status_code == 200
    nano, source = cost_and_source()
    assert source == "computed" and nano >= 30_000_000_000


class TestTheOperator:
    def test_a_price_of_sound_counts_for_hold_and_cost(self, client, provider):
        # 20 × 1 + 2340 × 3 + 10 × 2 + 40 × 4 = 20 + 7,020 + 20 + 160
        make_key()
        ModelPrice.objects.create(
            provider="openrouter", model="acme/ear", valid_from="2020-01-01T00:00Z", input_usd_per_mtok=1,
            output_usd_per_mtok=2, audio_input_usd_per_mtok=3, audio_output_usd_per_mtok=4,
        )  # fmt: skip
        provider.post(OPENROUTER, json=answered(usage=SPOKEN))
        ask(client, model="acme/ear", messages=HEARD, modalities=["text", "audio"])
        assert cost_and_source() == (7_220_000, "computed")

    def test_a_price_counts_from_its_very_instant(self, client, provider, frozen):
        """10 × 1 + 5 × 2 = 20 until five past twelve, then 10 × 10 + 5 × 20 = 200."""
        make_key()
        for valid_from, rate in (("2020-01-01T00:00Z", 1), ("2026-11-24T12:05Z", 10)):
            ModelPrice.objects.create(
                provider="openrouter", model="acme/own", valid_from=valid_from, input_usd_per_mtok=rate,
                output_usd_per_mtok=2 * rate,
            )  # fmt: skip
        provider.post(OPENROUTER, json=answered())
        for minute in (1, 6):
            frozen.move_to(datetime(2026, 11, 24, 12, minute, tzinfo=UTC))
            ask(client, model="acme/own")
        assert [row.cost_nano for row in rows()] == [20_000, 200_000]

    def test_an_alias_is_tried_model_by_model(self, client, provider):
        make_key(provider="openai")
        ModelAlias.objects.create(alias="house", model_names=["anthropic/claude-opus-5.5", "openai/gpt-4o-mini"])
        provider.post(OPENAI, json=answered())
        assert ask(client, model="house").status_code == 200
        assert (only_row().requested_model, only_row().model) == ("house", "gpt-4o-mini")

    @pytest.mark.parametrize("named", ["auto", "", ...])
    def test_auto_is_such_an_alias(self, client, provider, named):
        make_key()
        ModelAlias.objects.create(alias="auto", model_names=["openai/gpt-4o-mini"])
        provider.post(OPENROUTER, json=answered())
        assert ask(client, model=named).status_code == 200
        assert [row.model for row in rows()] == ["openai/gpt-4o-mini"]
