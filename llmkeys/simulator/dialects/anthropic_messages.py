"""Anthropic messages and token counting, as answered by Anthropic and OpenRouter."""

from __future__ import annotations

from typing import Any

from ..generation import Asked, Generation, Tool, Unacceptable
from ..http import Request
from ..signatures import signature
from .base import Dialect, Reply, Stream, halves, listed, named_model, objects, texts_of, whole_number

PING = b'event: ping\ndata: {"type": "ping"}\n\n'


class AnthropicMessages(Dialect):
    prefix = "msg_"

    def read(self, body: dict[str, Any], request: Request, action: str) -> Asked:
        model, messages = named_model(body), listed(body, "messages")
        limit = whole_number(body, "max_tokens")
        if limit is None and not action:
            raise Unacceptable("max_tokens: Field required")
        blocks = [objects(message.get("content")) for message in messages]
        users = [message for message in messages if message.get("role") == "user"]
        thinking = body.get("thinking")
        return Asked(
            model=model,
            texts=[*texts_of(body.get("system")), *_texts(messages)],
            last_user_text=" ".join(texts_of(users[-1].get("content"))) if users else "",
            output_limit=limit,
            is_streamed=body.get("stream") is True and not action,
            wants_usage=True,
            tools=tuple(Tool(str(tool.get("name"))) for tool in objects(body.get("tools"))),
            follows_tool=any(block.get("type") == "tool_result" for block in blocks[-1]) if blocks else False,
            shows_thinking=isinstance(thinking, dict) and thinking.get("type") in ("enabled", "adaptive"),
            signatures=tuple(str(block["signature"]) for one in blocks for block in one if block.get("signature")),
            kind="count" if action else "generate",
        )

    def whole(self, reply: Reply) -> dict[str, Any]:
        if reply.asked.kind == "count":
            return {"input_tokens": reply.generation.tokens.prompt}
        body = _message(reply) | {"content": _blocks(reply), "stop_reason": _stop_reason(reply.generation)}
        if reply.reports_usage:
            body["usage"] = _usage(reply)
        return body

    def stream(self, reply: Reply) -> Stream:
        """Return the events; the input is reported at the start, the output at the end, cumulatively."""
        start = _message(reply)
        if reply.reports_usage:
            start["usage"] = _usage(reply) | ({} if reply.is_falsified else {"output_tokens": 1})
        opening: list[Any] = [{"type": "message_start", "message": start}]
        contents: list[Any] = []
        closing: list[Any] = []
        for index, block in enumerate(_blocks(reply)):
            place: list[Any] = closing if block["type"] == "tool_use" else opening
            place.append({"type": "content_block_start", "index": index, "content_block": _EMPTY[block["type"]](block)})
            if block["type"] == "text":
                opening.append(PING)
                deltas = [{"type": "text_delta", "text": piece} for piece in reply.generation.pieces]
                place = contents
            elif block["type"] == "thinking":
                deltas = [{"type": "thinking_delta", "thinking": block["thinking"]}]
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            else:
                pieces = halves(reply.generation.call.arguments if reply.generation.call else "")
                deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            place += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
            (opening if block["type"] == "thinking" else closing).append({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": _stop_reason(reply.generation), "stop_sequence": None}
        end: dict[str, Any] = {"type": "message_delta", "delta": delta}
        if reply.reports_usage:
            end["usage"] = _usage(reply)
        return Stream(opening, contents, [*closing, end, {"type": "message_stop"}])

    def written(self, value: Any, reply: Reply, *, first: bool) -> bytes:
        """Return the event with its name."""
        plain = super().written(value, reply, first=first)
        if not isinstance(value, dict):
            return plain
        name = value.get("type") or ("error" if "error" in value else "message")
        return b"event: " + name.encode() + b"\n" + plain

    def broken(self, reply: Reply, *, first: bool) -> bytes:
        return b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delt\n\n'

    def error_inside(self, reply: Reply) -> dict[str, Any]:
        if not reply.is_routed:
            return super().error_inside(reply)
        return {"type": "error", "error": {"type": "api_error", "message": "Provider returned error"}}


def _texts(messages: list[dict[str, Any]]) -> list[str]:
    """Return the texts of messages and of tool results."""
    found = []
    for message in messages:
        found += texts_of(message.get("content"))
        for block in objects(message.get("content")):
            found += texts_of(block.get("content")) if block.get("type") == "tool_result" else []
    return found


def _message(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {
        "id": reply.id,
        "type": "message",
        "role": "assistant",
        "model": reply.generation.model_name,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
    return message | {"provider": "Simulated"} if reply.is_routed else message


def _blocks(reply: Reply) -> list[dict[str, Any]]:
    generation = reply.generation
    found: list[dict[str, Any]] = []
    if generation.tokens.reasoning and reply.asked.shows_thinking:
        thinking = {"type": "thinking", "thinking": "simulated thinking"}
        found.append(thinking | {"signature": signature(generation.organisation)})
    if generation.pieces or generation.call is None:
        found.append({"type": "text", "text": generation.text})
    if (call := generation.call) is not None:
        number = reply.id.removeprefix("msg_")
        found.append({"type": "tool_use", "id": f"toolu_{number}", "name": call.name, "input": call.values})
    return found


_EMPTY = {
    "text": lambda block: {"type": "text", "text": ""},
    "thinking": lambda block: {"type": "thinking", "thinking": "", "signature": ""},
    "tool_use": lambda block: block | {"input": {}},
}


def _stop_reason(generation: Generation) -> str:
    if generation.is_cut_short:
        return "max_tokens"
    return "tool_use" if generation.call is not None else "end_turn"


def _usage(reply: Reply) -> dict[str, Any]:
    """Return the usage, whose input excludes tokens that are read from or written to a cache."""
    tokens = reply.generation.tokens
    usage = {
        "input_tokens": max(tokens.prompt - tokens.cached - tokens.cache_write, 0),
        "cache_creation_input_tokens": tokens.cache_write,
        "cache_read_input_tokens": tokens.cached,
        "cache_creation": {"ephemeral_5m_input_tokens": tokens.cache_write, "ephemeral_1h_input_tokens": 0},
        "output_tokens": tokens.completion,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning},
        "service_tier": "standard",
    }
    return reply.falsified(reply.with_cost(usage, input_name="prompt", output_name="completions"))
