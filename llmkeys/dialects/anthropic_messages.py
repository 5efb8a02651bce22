"""The dialect *Anthropic messages*: `POST /v1/messages` and its free `/v1/messages/count_tokens`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmkeys.dialects import bounds, checks
from llmkeys.dialects.base import Bound, Dialect, Door, Request, Rewrite, Seen, Usage, dump, one_line, with_changes
from llmkeys.dialects.content import content_size
from llmkeys.dialects.media import note_cache, survey
from llmkeys.dialects.usage import reported_cost, word
from llmkeys.lib.reading import count, items, mapping, text, whole_number
from llmkeys.lib.sse import DONE, EventSplitter, documents

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    409: "conflict_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
TOOLS_TOKENS = 1_000  # the instructions that explain tools to Claude, once
TOOL_TOKENS = 40  # for each tool, in addition to its own bytes
TOOLSET_TOKENS = 16_000  # for a set of tools that Anthropic describes
# Tools that the client runs and Anthropic describes; other types, apart from the client's own, are run by Anthropic.
_TOOLSETS = ("computer_toolset_", "browser_toolset_")
_CLIENT_TOOLS = ("bash_", "text_editor_", "computer_", "memory_")
_ADVISOR = "advisor_"
_WITHOUT_FEE = ("web_fetch_", "code_execution_", "tool_search_", "mcp_toolset", _ADVISOR)
_ADVICE, _SUMMARY = "advisor_message", "compaction"  # iterations whose tokens are not in the totals


class AnthropicMessages(Dialect):
    name = "anthropic-messages"
    doors = (
        Door("/v1/messages", "messages"),
        Door("/v1/messages/count_tokens", "count_tokens", "/count_tokens"),
    )
    passed_headers = frozenset({"anthropic-version", "anthropic-beta", "http-referer", "x-title", "x-openrouter-title"})
    limit_names = ("max_tokens",)
    needs_output_limit = True
    names_models_everywhere = True
    telling = re.compile(
        rb"message_(?:start|delta|stop)|signature_delta|redacted_thinking|error|\\u00|"
        rb"_tool_result|citations_delta|encrypted_content"
    )

    # --- the request -------------------------------------------------------------------------------------------------

    def validate(self, request: Request) -> None:
        checks.check_model(request.body)
        checks.check_other_models(request)
        checks.check_messages(request.body)
        checks.check_flag(request.body, "stream")
        for name in ("thinking", "tool_choice", "metadata", "output_config", "context_management"):
            checks.check_object(request.body, name)
        checks.check_bound(request)

    def is_streamed(self, request: Request) -> bool:
        return request.door.operation == "messages" and request.body.get("stream") is True

    def other_models(self, request: Request) -> tuple[str, ...]:
        """Return OpenRouter's list, Anthropic's fallbacks, and the models that its advisor tool uses."""
        body = request.body
        fallbacks = [entry.get("model") for entry in bounds.objects_in(body.get("fallbacks"))]
        return bounds.names_in(body.get("models"), fallbacks, [tool.get("model") for tool in _advisors(body)])

    def bound(self, request: Request, model: str) -> Bound:
        body, size = request.body, len(request.raw)
        if request.door.operation == "count_tokens":
            return Bound(input_tokens=size, output_tokens=0, is_free=True)
        models = bounds.names_in(model, *self.other_models(request))
        found = survey(body, size=size, places=_parts(body), models=models)
        fallbacks = list(bounds.objects_in(body.get("fallbacks")))
        own_limit, unlimited = bounds.output_limit(body, "max_tokens", least=0)
        limits = [bounds.output_limit(one, "max_tokens", least=0)[0] or 0 for one in fallbacks]
        limit = None if own_limit is None else max(own_limit, *limits, 0)
        tries = 1 + (len(fallbacks) or (body.get("fallbacks") is not None))
        for tool in _advisors(body):
            if tool.get("caching") is not None:  # of the prompts that the advisor reads
                note_cache(found, tool["caching"])
        whole_window = found.whole_window or body.get("thread") is not None or bounds.is_kept_elsewhere(body, models)
        added, beside, readings = _added(body, found.tokens)
        bounds.add_openrouter_extras(added, body, models)
        thoughts = [bounds.reasoning(one) for one in (body, *fallbacks)]
        return Bound(
            input_tokens=found.tokens + added.tokens,
            text_tokens=found.text_bytes,
            output_tokens=None if limit is None else limit + beside,
            fallback_output_tokens=max(limits, default=0),
            # What cannot be counted is read again by each fallback and advisor, and for a summary.
            inputs=tries + readings if whole_window else 1,
            choices=tries,
            prediction_tokens=beside,
            audio_input_tokens=found.audio_tokens,
            image_input_tokens=found.image_tokens,
            images=found.images,
            file_tokens=found.file_tokens,
            unseen_bytes=found.unseen_bytes,
            whole_window=whole_window,
            can_write_cache=found.can_write_cache,
            can_write_cache_1h=found.can_write_cache_1h,
            **added.beside | {"tool_input_tokens": added.round_tokens + (tries - 1) * (found.tokens + added.tokens)},
            service_tier=_tier(body, fallbacks),
            may_reason=True if any(may for may, _ in thoughts) else thoughts[0][0],
            thinking_tokens=max(budget for _, budget in thoughts),
            region=word(body.get("inference_geo")),
            unlimited_field=unlimited,
        )

    def traits(self, model: str) -> Any:
        return bounds.traits(model)

    def tighter_bound(self, request: Request, model: str) -> Bound:
        models = (model, *request.other_models)
        return bounds.tighter(request.body, request.bound_for(model), models=models, places=_parts(request.body))

    def sealed(self, request: Request) -> str:
        """Return the signature of the last thinking block, or the data of a redacted one."""
        for message in reversed(list(bounds.objects_in(request.body.get("messages")))):
            for block in reversed(list(bounds.objects_in(message.get("content")))):
                if found := _sealed(block):
                    return found
        return ""

    def rewritten(self, request: Request, change: Rewrite) -> bytes:
        """Return the body with the new limit, also where a fallback's own one is higher."""
        most, given = change.output_limit, request.body.get("fallbacks")
        if most is None or not any(_is_above(most, entry) for entry in bounds.objects_in(given)):
            return with_changes(request, change, limit_field="max_tokens")
        assert isinstance(given, list)
        lowered = [{**entry, "max_tokens": most} if _is_above(most, entry) else entry for entry in given]
        return with_changes(request, change, limit_field="max_tokens", fallbacks=lowered)

    # --- the answer --------------------------------------------------------------------------------------------------

    def events(self, request: Request) -> EventSplitter:
        return EventSplitter()

    def see_event(self, event: bytes, request: Request) -> Seen:
        seen = Seen()
        for found in documents(event):
            if found == DONE:
                seen.is_end = True
            elif isinstance(found, Mapping):
                _see(seen, found)
        return seen

    def see_answer(self, body: Any) -> Seen:
        seen = Seen(body=body if isinstance(body, Mapping) else None)
        if not isinstance(body, Mapping):
            return seen
        if body.get("error"):
            seen.error = body
        if "input_tokens" in body and "usage" not in body:  # the count of tokens
            seen.usage = Usage(input_tokens=count(body["input_tokens"]), output_tokens=0)
            seen.has_content = True
            return seen
        seen.id = text(body.get("id"), limit=200)
        seen.usage = read_usage(mapping(body.get("usage")), body)
        seen.is_finished = bool(body.get("stop_reason"))
        for block in items(body.get("content")):
            _see_block(seen, block)
        return seen

    # --- to the client ------------------------------------------------------------------------------------------------

    def error_body(self, status: int, code: str, message: str, param: str | None = None) -> bytes:
        error = {"type": _TYPES.get(status, "api_error"), "message": message, "code": code}
        return dump({"type": "error", "error": error | ({"param": param} if param else {})})

    def error_event(self, status: int, code: str, message: str, request: Request) -> bytes:
        return b"event: error\ndata: " + self.error_body(status, code, message) + b"\n\n"

    def as_event(self, body: bytes, request: Request) -> bytes:
        kind = b"error" if b'"error"' in body[:200] else b"message"
        return b"event: " + kind + b"\ndata: " + one_line(body) + b"\n\n"

    def model(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "type": "model",
            "id": entry["id"],
            "display_name": entry["id"],
            "created_at": "1970-01-01T00:00:00Z",  # not known
            "max_input_tokens": entry["context_length"],
            "max_tokens": entry["max_output_tokens"],
            "providers": entry["providers"],
            "pricing": entry["pricing"],
        }

    def model_list(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        found = [self.model(entry) for entry in entries]
        ends = {"first_id": found[0]["id"] if found else None, "last_id": found[-1]["id"] if found else None}
        return {"data": found, "has_more": False} | ends

    def keep_alive(self, request: Request) -> bytes:
        return b'event: ping\ndata: {"type": "ping"}\n\n'


# --- what goes in ----------------------------------------------------------------------------------------------------


def _parts(body: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the blocks that may be media: of messages, of tool results, and of documents made of blocks."""
    for message in bounds.objects_in(body.get("messages")):
        for block in bounds.objects_in(message.get("content")):
            yield block
            inner = block.get("content") if block.get("type") == "tool_result" else None
            if block.get("type") == "document":
                inner = bounds.mapping_in(block, "source").get("content")
            if isinstance(inner, list):
                yield from inner


def _advisors(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [tool for tool in bounds.objects_in(body.get("tools")) if str(tool.get("type")).startswith(_ADVISOR)]


def _added(body: Mapping[str, Any], prompt_tokens: int) -> tuple[bounds.Added, int, int]:
    """Return what Anthropic adds to a prompt of `prompt_tokens`.

    And the extra output of its tools and summaries, and how often these read the whole prompt again.
    """
    added, beside, readings, toolsets = bounds.Added(), 0, 0, 0
    tools = list(bounds.objects_in(body.get("tools")))
    added.tokens += TOOLS_TOKENS if tools else 0
    for tool in tools:
        kind = tool.get("type")
        if not isinstance(kind, str) or kind == "custom":
            added.tokens += TOOL_TOKENS
        elif kind.startswith(_TOOLSETS):
            added.tokens += TOOLSET_TOKENS
        elif kind.startswith(_CLIENT_TOOLS):
            added.tokens += bounds.PROVIDER_TOOL_TOKENS
        else:
            uses = tool.get("max_uses")
            rounds = added.server_tool(
                uses, tokens_each=tool.get("max_content_tokens"), has_fee=not kind.startswith(_WITHOUT_FEE)
            )
            toolsets += kind == "mcp_toolset"
            if kind.startswith(_ADVISOR):  # another model reads the whole conversation in every round
                readings += rounds
                added.round_tokens += rounds * prompt_tokens
                most = bounds.up_to(bounds.MAX_OUTPUT_LIMIT, tool.get("max_tokens"), 0)
                beside += rounds * max(bounds.ROUND_TOKENS, most)
    for _ in list(bounds.objects_in(body.get("mcp_servers")))[toolsets:]:
        added.server_tool(has_fee=False)
    if _compacts(body):
        added.round_tokens += prompt_tokens + added.tokens
        beside += bounds.COMPACTION_TOKENS
        readings += 1
    return added, min(beside, bounds.MAX_OUTPUT_LIMIT), readings


def _compacts(body: Mapping[str, Any]) -> bool:
    edits = bounds.objects_in(bounds.mapping_in(body, "context_management").get("edits"))
    return body.get("compaction") is not None or any(str(edit.get("type")).startswith("compact_") for edit in edits)


def _is_above(most: int, fallback: Any) -> bool:
    own = whole_number(fallback.get("max_tokens")) if isinstance(fallback, dict) else None
    return own is not None and own > most


def _tier(body: Mapping[str, Any], fallbacks: Sequence[Mapping[str, Any]]) -> str | None:
    if any(bounds.service_tier(one) == "fast" for one in fallbacks):
        return "fast"
    tier = bounds.service_tier(body)
    return None if tier in ("auto", "standard_only") else tier  # priority capacity is paid for in advance


# --- what comes out --------------------------------------------------------------------------------------------------


def _see(seen: Seen, body: Mapping[str, Any]) -> None:
    """Add to `seen` what an event of a stream says."""
    kind, usage = body.get("type"), None
    seen.body = body
    if body.get("error"):
        seen.error = body
    if kind == "message_start":
        message = mapping(body.get("message"))
        seen.id = text(message.get("id"), limit=200)
        usage = read_usage(mapping(message.get("usage")), message, is_start=True)
    elif kind == "message_delta":
        usage = read_usage(mapping(body.get("usage")), {})
        seen.is_finished = bool(mapping(body.get("delta")).get("stop_reason"))
    elif kind == "content_block_start":
        _see_block(seen, mapping(body.get("content_block")))
    elif kind == "content_block_delta":
        delta = mapping(body.get("delta"))
        size = content_size(delta)
        seen.has_content = seen.has_content or size > 0 or bool(delta.get("signature"))
        seen.sealed = text(delta.get("signature"))
        seen.content_bytes += 0 if delta.get("type") == "citations_delta" else size  # it repeats input
    elif kind == "message_stop":
        seen.is_end = True
    seen.usage = usage.merged(seen.usage) if usage else seen.usage


def _sealed(block: Mapping[str, Any]) -> str:
    if block.get("type") == "thinking":
        return text(block.get("signature"))
    return text(block.get("data")) if block.get("type") == "redacted_thinking" else ""


def _see_block(seen: Seen, block: Mapping[str, Any]) -> None:
    """Add a block of content; results of Anthropic's own tools do not count as output."""
    seen.sealed = _sealed(block) or seen.sealed
    size = content_size(block)
    if size:
        seen.has_content = True
        seen.content_bytes += 0 if str(block.get("type")).endswith("_tool_result") else size


def read_usage(usage: Mapping[str, Any], message: Mapping[str, Any], *, is_start: bool = False) -> Usage | None:
    """Return the usage with all input in `input_tokens`, from which the provider excludes cache reads and writes.

    The output count at the start of a stream is a placeholder, so it is ignored.
    """
    read = _read_counts(usage)
    iterations = items(usage.get("iterations"))
    advice = [one for one in iterations if word(one.get("type")) == _ADVICE]
    summaries = [one for one in iterations if word(one.get("type")) == _SUMMARY]
    reported = replace(
        read,
        output_tokens=None if is_start else read.output_tokens,
        reasoning_tokens=count(mapping(usage.get("output_tokens_details")).get("thinking_tokens")),
        advice=tuple(replace(_read_counts(one), model=text(one.get("model"), limit=200)) for one in advice),
        summaries=tuple(map(_read_counts, summaries)),
        searches=count(mapping(usage.get("server_tool_use")).get("web_search_requests")),
        cost_usd=reported_cost(usage),
        service_tier=word(usage.get("service_tier")),
        speed=word(usage.get("speed")),
        region=word(usage.get("inference_geo")),
        model=text(message.get("model"), limit=200),
    )
    return reported if reported != Usage() else None


def _read_counts(usage: Mapping[str, Any]) -> Usage:
    """Return the tokens of an answer or of one of its iterations."""
    creation = mapping(usage.get("cache_creation"))
    kept = [count(creation.get(name)) for name in ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")]
    plain, written = count(usage.get("input_tokens")), count(usage.get("cache_creation_input_tokens"))
    if any(value is not None for value in kept):
        written = max(written or 0, sum(value or 0 for value in kept))
    read = count(usage.get("cache_read_input_tokens"))
    return Usage(
        input_tokens=None if plain is None else plain + (read or 0) + (written or 0),
        plain_input_tokens=plain,
        cached_input_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=kept[1],
        output_tokens=count(usage.get("output_tokens")),
    )
