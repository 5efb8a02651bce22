"""OpenAI responses, as answered by OpenAI and OpenRouter."""

from __future__ import annotations

from typing import Any

from ..generation import Asked, Call, Tool, Unacceptable
from ..http import Request
from ..signatures import signature
from .base import Dialect, Reply, Stream, halves, named_model, objects, texts_of, whole_number
from .openai_chat import DONE

_OUTPUTS = ("function_call_output", "custom_tool_call_output", "local_shell_call_output", "shell_call_output")


class OpenAIResponses(Dialect):
    prefix = "resp_"

    def read(self, body: dict[str, Any], request: Request, action: str) -> Asked:
        model, given = named_model(body), body.get("input")
        if not isinstance(given, str | list) or not given:
            raise Unacceptable("The input is missing.")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else objects(given)
        texts = [text for item in items for text in (*texts_of(item.get("content")), *texts_of(item.get("output")))]
        users = [item for item in items if item.get("role") == "user"]
        includes = body.get("include")
        return Asked(
            model=model,
            texts=[*texts_of(body.get("instructions")), *texts],
            last_user_text=" ".join(texts_of(users[-1].get("content"))) if users else "",
            output_limit=whole_number(body, "max_output_tokens"),
            is_streamed=body.get("stream") is True,
            wants_usage=True,
            tools=tuple(_tools(body)),
            follows_tool=bool(items) and items[-1].get("type") in _OUTPUTS,
            shows_thinking=isinstance(includes, list) and "reasoning.encrypted_content" in includes,
            signatures=tuple(str(item["encrypted_content"]) for item in items if item.get("encrypted_content")),
        )

    def whole(self, reply: Reply) -> dict[str, Any]:
        status = "incomplete" if reply.generation.is_cut_short else "completed"
        return _response(reply, status, [item for item, _ in _items(reply)])

    def stream(self, reply: Reply) -> Stream:
        events = _Events()
        begun = _response(reply, "in_progress", [])
        opening = [events.one(kind, response=begun) for kind in ("response.created", "response.in_progress")]
        contents: list[Any] = []
        closing: list[Any] = []
        for index, (item, deltas) in enumerate(_items(reply)):
            place = {"output_index": index, "item_id": item["id"]}
            is_text = item["type"] == "message"
            before = opening if not contents and not closing else closing
            before.append(events.one("response.output_item.added", output_index=index, item=_empty(item)))
            if is_text:
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                before.append(events.one("response.content_part.added", content_index=0, part=part, **place))
            for kind, fields in deltas:
                (contents if is_text and kind.endswith(".delta") else closing).append(
                    events.one(kind, **fields, **place)
                )
            if is_text:
                part = item["content"][0]
                closing.append(events.one("response.content_part.done", content_index=0, part=part, **place))
            after = opening if item["type"] == "reasoning" else closing
            after.append(events.one("response.output_item.done", output_index=index, item=item))
        whole = self.whole(reply)
        closing.append(events.one(f"response.{whole['status']}", response=whole))
        if reply.is_routed:
            closing.append(DONE)
        return Stream(opening, contents, closing)

    def written(self, value: Any, reply: Reply, *, first: bool) -> bytes:
        """Return the event, with a name for OpenAI but not for OpenRouter."""
        plain = super().written(value, reply, first=first)
        named = isinstance(value, dict) and "type" in value and not reply.is_routed
        return b"event: " + value["type"].encode() + b"\n" + plain if named else plain

    def error_event(self, reply: Reply) -> dict[str, Any]:
        """Return OpenAI's flat error, or OpenRouter's failed response."""
        error = self.error_inside(reply)["error"]
        if reply.is_routed:
            failed = _response(reply, "failed", []) | {"error": {"code": "server_error", "message": error["message"]}}
            return {"type": "response.failed", "sequence_number": 99, "response": failed}
        code = error["code"] or "server_error"
        return {"type": "error", "sequence_number": 99, "code": code, "message": error["message"], "param": None}


class _Events:
    """Numbers the events of a stream."""

    def __init__(self) -> None:
        self._number = -1

    def one(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}


def _tools(body: dict[str, Any]) -> list[Tool]:
    """Return all function and custom tools: of the request, of input items, and inside namespaces."""
    stack = [(one, "") for one in (body.get("tools"), *(item.get("tools") for item in objects(body.get("input"))))]
    found = []
    while stack:
        tools, namespace = stack.pop()
        for tool in objects(tools):
            name = str(tool.get("name") or tool.get("type"))
            if tool.get("type") == "namespace":
                stack.append((tool.get("tools"), name))
            else:
                found.append(Tool(name, tool.get("type") == "custom", namespace))
    return found


Item = tuple[dict[str, Any], list[tuple[str, dict[str, Any]]]]


def _items(reply: Reply) -> list[Item]:
    """Return the items of the output, each with the events that build it."""
    generation, number = reply.generation, reply.id.removeprefix("resp_")
    found: list[Item] = []
    if generation.tokens.reasoning:
        item: dict[str, Any] = {"id": f"rs_{number}", "type": "reasoning", "summary": []}
        if reply.asked.shows_thinking:
            item["encrypted_content"] = signature(generation.organisation)
        found.append((item, []))
    if generation.pieces or generation.call is None:
        part = {"type": "output_text", "text": generation.text, "annotations": [], "logprobs": []}
        message = {"id": f"msg_{number}", "type": "message", "status": "completed", "role": "assistant"}
        deltas = [
            ("response.output_text.delta", {"content_index": 0, "delta": piece, "logprobs": []})
            for piece in generation.pieces
        ]
        done = ("response.output_text.done", {"content_index": 0, "text": generation.text, "logprobs": []})
        found.append((message | {"content": [part]}, [*deltas, done]))
    if generation.call is not None:
        found.append(_called(generation.call, number))
    return found


def _called(call: Call, number: str) -> Item:
    """Return a call, with arguments for a function or text for a custom tool."""
    is_custom = call.tool.is_custom
    kind, field = ("custom_tool_call", "input") if is_custom else ("function_call", "arguments")
    event = f"response.{kind}_{field}"
    given = call.text if is_custom else call.arguments
    item = {"id": f"fc_{number}", "type": kind, "status": "completed", "call_id": f"call_{number}", "name": call.name}
    if call.tool.namespace:
        item["namespace"] = call.tool.namespace
    pieces = [(f"{event}.delta", {"delta": piece}) for piece in halves(given)]
    done = (f"{event}.done", {field: given} | ({} if is_custom else {"name": call.name}))
    return item | {field: given}, [*pieces, done]


def _empty(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item as it is in its first event."""
    if item["type"] == "message":
        return item | {"status": "in_progress", "content": []}
    empty = {"function_call": {"arguments": ""}, "custom_tool_call": {"input": ""}}.get(item["type"])
    return item | {"status": "in_progress"} | empty if empty else item


def _response(reply: Reply, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    has_ended = status in ("completed", "incomplete")
    return {
        "id": reply.id,
        "object": "response",
        "created_at": reply.created,
        "model": reply.generation.model_name,
        "status": status,
        "output": output,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "max_output_tokens": reply.asked.output_limit,
        "metadata": {"simulated": "true"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "service_tier": "default" if has_ended else "auto",
        "store": False,
        "temperature": 1,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1,
        "truncation": "disabled",
        "usage": _usage(reply) if has_ended and reply.reports_usage else None,
    }


def _usage(reply: Reply) -> dict[str, Any]:
    tokens = reply.generation.tokens
    usage = {
        "input_tokens": tokens.prompt,
        "input_tokens_details": {"cached_tokens": tokens.cached, "cache_write_tokens": tokens.cache_write},
        "output_tokens": tokens.completion,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning},
        "total_tokens": tokens.prompt + tokens.completion,
    }
    return reply.falsified(reply.with_cost(usage, input_name="input", output_name="output"))
