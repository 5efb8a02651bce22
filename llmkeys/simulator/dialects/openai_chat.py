"""OpenAI chat completions, as answered by OpenRouter, OpenAI, and the OpenAI layers of Anthropic and Google."""

from __future__ import annotations

from typing import Any

from ..generation import MAX_CHOICES, Asked, Generation, Tool
from ..http import Request
from .base import Dialect, Reply, Stream, halves, listed, named_model, objects, smallest, texts_of, whole_number

DONE = b"data: [DONE]\n\n"
PROCESSING = b": OPENROUTER PROCESSING\n\n"
FINGERPRINT = "simulated"


class OpenAIChat(Dialect):
    prefix = "chatcmpl-"

    def caches_at(self, provider: str) -> bool:
        return provider in ("openrouter", "openai")

    def read(self, body: dict[str, Any], request: Request, action: str) -> Asked:
        model, messages = named_model(body), listed(body, "messages")
        choices = whole_number(body, "n", most=MAX_CHOICES) or 1
        limit = smallest(whole_number(body, "max_tokens"), whole_number(body, "max_completion_tokens"))
        options = body.get("stream_options")
        functions = [tool.get("function") for tool in objects(body.get("tools"))]
        return Asked(
            model=model,
            texts=[text for message in messages for text in texts_of(message.get("content"))],
            last_user_text=_last_user_text(messages),
            output_limit=None if limit is None else limit * choices,
            choices=choices,
            is_streamed=body.get("stream") is True,
            wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
            tools=tuple(Tool(str(function.get("name"))) for function in functions if isinstance(function, dict)),
            follows_tool=bool(messages) and messages[-1].get("role") in ("tool", "function"),
        )

    def whole(self, reply: Reply) -> dict[str, Any]:
        body = _envelope(reply, "chat.completion")
        body["choices"] = [_choice(reply, number) for number in range(reply.generation.choices)]
        if reply.reports_usage:
            body["usage"] = _usage(reply)
        return body

    def stream(self, reply: Reply) -> Stream:
        """Return the events; OpenRouter always reports usage, the others only if requested."""
        reports = reply.reports_usage and (reply.asked.wants_usage or reply.is_routed)
        chunks = _Chunks(reply, null_usage=reports and reply.provider == "openai")
        numbers = range(reply.generation.choices)
        opening: list[Any] = [chunks.chunk(number, {"role": "assistant", "content": ""}) for number in numbers]
        contents = [chunks.chunk(number, {"content": piece}) for piece in reply.generation.pieces for number in numbers]
        closing: list[Any] = [chunks.chunk(number, delta) for number in numbers for delta in _call_deltas(reply)]
        closing += [chunks.chunk(number, {}, finish_reason=_finish_reason(reply.generation)) for number in numbers]
        if reports:
            closing.append(chunks.usage_chunk())
        closing.append(DONE)
        if reply.is_routed:
            opening.insert(0, PROCESSING)
        return Stream(opening, contents, closing)

    def error_event(self, reply: Reply) -> dict[str, Any]:
        if not reply.is_routed:
            return self.error_inside(reply)
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error", "native_finish_reason": "error"}
        return _envelope(reply, "chat.completion.chunk") | self.error_inside(reply) | {"choices": [choice]}


def _last_user_text(messages: list[dict[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            return " ".join(texts_of(message.get("content")))
    return ""


# --- usage --------------------------------------------------------------------------------------------------------


def _usage(reply: Reply) -> dict[str, Any]:
    """Return the usage object as this provider reports it; Google's layer counts thinking only in the total."""
    tokens = reply.generation.tokens
    usage: dict[str, Any] = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion - (tokens.reasoning if reply.provider == "google" else 0),
        "total_tokens": tokens.prompt + tokens.completion,
    }
    if reply.provider in ("openrouter", "openai"):
        cached = {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_write, "audio_tokens": 0}
        usage["prompt_tokens_details"] = cached
        usage["completion_tokens_details"] = {"reasoning_tokens": tokens.reasoning}
    if reply.is_routed:
        usage["prompt_tokens_details"] |= {"video_tokens": 0}
        usage["completion_tokens_details"] |= {"image_tokens": 0}
    elif reply.provider == "openai":
        zeros = ("audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens")
        usage["completion_tokens_details"] |= dict.fromkeys(zeros, 0)
    return reply.falsified(reply.with_cost(usage, input_name="prompt", output_name="completions"))


# --- whole answers ------------------------------------------------------------------------------------------------


def _envelope(reply: Reply, object_: str) -> dict[str, Any]:
    envelope = {
        "id": reply.id,
        "object": object_,
        "created": reply.created,
        "model": reply.generation.model_name,
        "system_fingerprint": FINGERPRINT,
    }
    if reply.is_routed:
        envelope["provider"] = "Simulated"
    return envelope


def _choice(reply: Reply, number: int) -> dict[str, Any]:
    reason = _finish_reason(reply.generation)
    message: dict[str, Any] = {"role": "assistant", "content": reply.generation.text, "refusal": None}
    choice = {"index": number, "message": message, "logprobs": None, "finish_reason": reason}
    if reply.is_routed:
        message["reasoning"] = None
        choice["native_finish_reason"] = reason
    if (call := reply.generation.call) is not None:
        function = {"name": call.name, "arguments": call.arguments}
        message["tool_calls"] = [{"id": f"call_{reply.id}", "type": "function", "function": function}]
    return choice


def _finish_reason(generation: Generation) -> str:
    if generation.is_cut_short:
        return "length"
    return "tool_calls" if generation.call is not None else "stop"


# --- streams ------------------------------------------------------------------------------------------------------


def _call_deltas(reply: Reply) -> list[dict[str, Any]]:
    """Return a tool call: first its name, then its arguments in pieces."""
    call = reply.generation.call
    if call is None:
        return []
    begin = {"id": f"call_{reply.id}", "type": "function", "function": {"name": call.name, "arguments": ""}}
    calls: list[dict[str, Any]] = [begin, *({"function": {"arguments": piece}} for piece in halves(call.arguments))]
    return [{"tool_calls": [{"index": 0, **one}]} for one in calls]


class _Chunks:
    """Builds the chunks of a stream."""

    def __init__(self, reply: Reply, *, null_usage: bool) -> None:
        self._reply = reply
        self._envelope = _envelope(reply, "chat.completion.chunk")
        self._null_usage = null_usage

    def chunk(self, number: int, delta: dict[str, Any], *, finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        if self._reply.is_routed:
            choice["delta"] = {"role": "assistant", "content": ""} | delta
            choice["native_finish_reason"] = finish_reason
        chunk = self._envelope | {"choices": [choice]}
        if self._null_usage:
            chunk["usage"] = None
        return chunk

    def usage_chunk(self) -> dict[str, Any]:
        """Return the last chunk: OpenRouter's has an empty choice, the others' have none."""
        choices: list[dict[str, Any]] = []
        if self._reply.is_routed:
            delta = {"role": "assistant", "content": ""}
            choices = [{"index": 0, "delta": delta, "finish_reason": None, "native_finish_reason": None}]
        return self._envelope | {"choices": choices, "usage": _usage(self._reply)}
