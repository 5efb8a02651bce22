"""The successful answers of each provider, whole and as stream events, in the shapes that real ones have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from .generation import Generation
from .refusals import Occasion, refuse
from .wire import encoded

DONE = b"data: [DONE]\n\n"
PROCESSING = b": OPENROUTER PROCESSING\n\n"
FINGERPRINT = "simulated"


@dataclass(frozen=True, slots=True)
class Reply:
    """One generation on its way out of one provider; `distortion` is a behaviour that falsifies the usage."""

    provider: str
    id: str
    created: int
    generation: Generation
    distortion: str = ""


@dataclass(frozen=True, slots=True)
class Stream:
    """The events of a stream: before the text, the text, and after it (finish reason, usage, [DONE])."""

    opening: list[bytes]
    contents: list[bytes]
    closing: list[bytes]


# --- usage --------------------------------------------------------------------------------------------------------


def usage_of(reply: Reply) -> dict[str, Any]:
    """The usage object as this provider reports it, or falsified."""
    usage = _USAGES[reply.provider](reply.generation)
    change = _DISTORTIONS.get(reply.distortion)
    return _changed(usage, change) if change else usage


def _totals(prompt: int, completion: int, total: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _openrouter_usage(generation: Generation) -> dict[str, Any]:
    tokens = generation.tokens
    return _totals(tokens.prompt, tokens.completion, tokens.prompt + tokens.completion) | {
        "cost": generation.cost,
        "is_byok": False,
        "prompt_tokens_details": {
            "cached_tokens": tokens.cached,
            "cache_write_tokens": tokens.cache_write,
            "audio_tokens": 0,
            "video_tokens": 0,
        },
        "cost_details": {
            "upstream_inference_cost": generation.cost,
            "upstream_inference_prompt_cost": generation.bill.prompt,
            "upstream_inference_completions_cost": generation.bill.completion,
        },
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning, "image_tokens": 0},
    }


def _openai_usage(generation: Generation) -> dict[str, Any]:
    tokens = generation.tokens
    return _totals(tokens.prompt, tokens.completion, tokens.prompt + tokens.completion) | {
        "prompt_tokens_details": {
            "cached_tokens": tokens.cached,
            "cache_write_tokens": tokens.cache_write,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {
            "reasoning_tokens": tokens.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _anthropic_usage(generation: Generation) -> dict[str, Any]:
    tokens = generation.tokens
    return _totals(tokens.prompt, tokens.completion, tokens.prompt + tokens.completion)


def _google_usage(generation: Generation) -> dict[str, Any]:
    """Google's OpenAI layer leaves thinking out of the completion and has it in the total only."""
    tokens = generation.tokens
    return _totals(tokens.prompt, tokens.completion - tokens.reasoning, tokens.prompt + tokens.completion)


_USAGES: dict[str, Callable[[Generation], dict[str, Any]]] = {
    "openrouter": _openrouter_usage,
    "openai": _openai_usage,
    "anthropic": _anthropic_usage,
    "google": _google_usage,
}

_DISTORTIONS: dict[str, Callable[[Any], Any]] = {
    "zerousage": lambda number: 0,
    "negusage": lambda number: -(number or 1),
    "strusage": lambda number: "abc",
}


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: _changed(inner, change) for name, inner in value.items()}
    return change(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value


# --- whole answers ------------------------------------------------------------------------------------------------


def whole(reply: Reply) -> dict[str, Any]:
    """The body of an answer that is not streamed; without usage where the behaviour withholds it."""
    body = _envelope(reply, "chat.completion")
    body["choices"] = [_choice(reply, number) for number in range(reply.generation.choices)]
    if reply.distortion != "nousage":
        body["usage"] = usage_of(reply)
    return body


def _envelope(reply: Reply, object_: str) -> dict[str, Any]:
    envelope = {
        "id": reply.id,
        "object": object_,
        "created": reply.created,
        "model": reply.generation.model_name,
        "system_fingerprint": FINGERPRINT,
    }
    if reply.provider == "openrouter":
        envelope["provider"] = "Simulated"
    return envelope


def _choice(reply: Reply, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.generation.text, "refusal": None}
    choice = {"index": number, "message": message, "logprobs": None, "finish_reason": reply.generation.finish_reason}
    if reply.provider == "openrouter":
        message["reasoning"] = None
        choice["native_finish_reason"] = reply.generation.finish_reason
    return choice


# --- streams ------------------------------------------------------------------------------------------------------


def event(value: object) -> bytes:
    return b"data: " + encoded(value) + b"\n\n"


def stream_of(reply: Reply, *, include_usage: bool) -> Stream:
    """All events of an undisturbed stream; OpenRouter always reports usage, the others where it was asked for."""
    reports = reply.distortion != "nousage" and (include_usage or reply.provider == "openrouter")
    chunks = _Chunks(reply, null_usage=reports and reply.provider == "openai")
    numbers = range(reply.generation.choices)
    opening = [chunks.event(number, {"role": "assistant", "content": ""}) for number in numbers]
    contents = [chunks.event(number, {"content": piece}) for piece in reply.generation.pieces for number in numbers]
    closing = [chunks.event(number, {}, finish_reason=reply.generation.finish_reason) for number in numbers]
    if reports:
        closing.append(chunks.usage_event())
    closing.append(DONE)
    if reply.provider == "openrouter":
        opening.insert(0, PROCESSING)
    return Stream(opening, contents, closing)


class _Chunks:
    """Writes the chunks of one stream."""

    def __init__(self, reply: Reply, *, null_usage: bool) -> None:
        self._reply = reply
        self._envelope = _envelope(reply, "chat.completion.chunk")
        self._null_usage = null_usage

    def event(self, number: int, delta: dict[str, Any], *, finish_reason: str | None = None) -> bytes:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        if self._reply.provider == "openrouter":
            choice["delta"] = {"role": "assistant", "content": ""} | delta
            choice["native_finish_reason"] = finish_reason
        chunk = self._envelope | {"choices": [choice]}
        if self._null_usage:
            chunk["usage"] = None
        return event(chunk)

    def usage_event(self) -> bytes:
        """The last chunk: OpenRouter's has one choice that says nothing, the others' have none."""
        choices: list[dict[str, Any]] = []
        if self._reply.provider == "openrouter":
            delta = {"role": "assistant", "content": ""}
            choices = [{"index": 0, "delta": delta, "finish_reason": None, "native_finish_reason": None}]
        return event(self._envelope | {"choices": choices, "usage": usage_of(self._reply)})


def error_inside(reply: Reply) -> dict[str, Any]:
    """The error of a generation that failed after its answer had begun with status 200."""
    if reply.provider == "openrouter":
        error = {
            "code": 502,
            "message": "Provider returned error",
            "metadata": {"error_type": "provider_unavailable"},
        }
        return {"error": error}
    kind = {"openai": "500", "anthropic": "503", "google": "503"}[reply.provider]
    return refuse(Occasion(reply.provider, kind, native=True)).body


def error_event(reply: Reply) -> bytes:
    """The error as the last chunk of a stream."""
    if reply.provider != "openrouter":
        return event(error_inside(reply))
    choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "native_finish_reason": "error"}
    return event(_envelope(reply, "chat.completion.chunk") | error_inside(reply) | {"choices": [choice]})
