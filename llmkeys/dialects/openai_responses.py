"""The dialect *OpenAI responses*: `POST /v1/responses`, as OpenAI and OpenRouter serve it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from llmkeys.dialects import bounds, checks
from llmkeys.dialects.base import (
    FILE_SEARCH_FEE,
    PROMPT_CONTAINER_FEE,
    Bound,
    Door,
    Request,
    Rewrite,
    Seen,
    Usage,
    container_fee,
    dump,
    is_container_fee,
    with_changes,
)
from llmkeys.dialects.content import PICTURE_BYTES, content_size, text_size
from llmkeys.dialects.media import survey
from llmkeys.dialects.openai_chat import OpenAIChat
from llmkeys.dialects.usage import first_count, read_openai_usage
from llmkeys.exceptions import InvalidInput
from llmkeys.lib.reading import count, items, mapping, text, whole_number
from llmkeys.lib.sse import DONE, documents

_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})
_CLIENT_TOOLS = frozenset({"local_shell", "apply_patch", "computer", "computer_use_preview"})  # OpenAI describes them
_CONTAINERS = ("code_interpreter", "shell")  # run in OpenAI's containers
_WITHOUT_FEE = frozenset({"mcp", "programmatic_tool_calling", "tool_search", *_CONTAINERS})
_KEPT = ("previous_response_id", "conversation", "prompt")  # input that is stored at the provider
_NO_OUTPUT = frozenset({"message", "reasoning", "compaction"})  # items whose presence alone is not output


class OpenAIResponses(OpenAIChat):
    name = "openai-responses"
    doors = (Door("/v1/responses", "responses"),)
    limit_names = ("max_output_tokens",)
    telling = re.compile(
        rb"response\.(?:completed|incomplete|failed|cancelled|[\w.]{1,60}\.(?:done|added|partial_image))|"
        rb"error|\[DONE\]|\\u00"
    )

    # --- the request -------------------------------------------------------------------------------------------------

    def validate(self, request: Request) -> None:
        body = request.body
        checks.check_model(body)
        checks.check_other_models(request)
        _check_input(body)
        checks.check_flag(body, "stream")
        checks.check_flag(body, "background")
        if body.get("background"):
            words = (
                "is not served: the cost of the answer would not be known. Leave it out and stream the answer instead."
            )
            raise InvalidInput({"background": [words]})
        for name in ("reasoning", "text", "prompt"):
            checks.check_object(body, name)
        checks.check_bound(request)

    def bound(self, request: Request, model: str) -> Bound:
        body = request.body
        limit, unlimited = bounds.output_limit(body, "max_output_tokens")
        models = bounds.names_in(model, body.get("models"))
        found = survey(body, size=len(request.raw), places=_parts(body), models=models)
        added, beside = _added(body), 0
        bounds.add_openrouter_extras(added, body, models)
        if any(map(bounds.searches_itself, models)):
            added.server_tool()
        if any(entry.get("type") == "compaction" for entry in bounds.objects_in(body.get("context_management"))):
            added.round_tokens += found.tokens + added.tokens
            beside += bounds.COMPACTION_TOKENS
        may_reason, thinking = bounds.reasoning(body)
        return Bound(
            input_tokens=found.tokens + added.tokens,
            text_tokens=found.text_bytes,
            output_tokens=None if limit is None else limit + beside,
            prediction_tokens=beside,
            audio_input_tokens=found.audio_tokens,
            image_input_tokens=found.image_tokens,
            images=found.images,
            file_tokens=found.file_tokens,
            unseen_bytes=found.unseen_bytes,
            whole_window=found.whole_window or _is_kept(body) or bounds.is_kept_elsewhere(body, models),
            output_kinds=bounds.output_kinds(body.get("modalities"), models),
            can_write_cache=found.can_write_cache,
            can_write_cache_1h=found.can_write_cache_1h or bounds.keeps_cache_long(body),
            **added.beside,
            preview_search=_uses_preview(body),
            service_tier=bounds.service_tier(body),
            may_reason=may_reason,
            thinking_tokens=thinking,
            unlimited_field=unlimited,
        )

    def tighter_bound(self, request: Request, model: str) -> Bound:
        models = (model, *request.other_models)
        return bounds.tighter(request.body, request.bound_for(model), models=models, places=_parts(request.body))

    def sealed(self, request: Request) -> str:
        """Return the last `encrypted_content` among the items, else the id of the response that this one continues."""
        items_back = reversed(list(bounds.objects_in(request.body.get("input"))))
        found = next(filter(None, map(_sealed, items_back)), "")
        return found or text(request.body.get("previous_response_id"), limit=200)

    def rewritten(self, request: Request, change: Rewrite) -> bytes:
        return with_changes(request, change, limit_field="max_output_tokens")

    # --- the answer --------------------------------------------------------------------------------------------------

    def see_event(self, event: bytes, request: Request) -> Seen:
        seen = Seen()
        for found in documents(event):
            if found == DONE:
                seen.is_end = True
            elif isinstance(found, Mapping):
                _see(seen, found)
        return seen

    def see_answer(self, body: Any) -> Seen:
        seen = Seen()
        if isinstance(body, Mapping):
            _see_response(seen, body)
            sizes = [_item_size(item) for item in items(body.get("output"))]
            seen.body, seen.content_bytes, seen.has_content = body, sum(sizes), any(sizes)
        return seen

    # --- to the client ------------------------------------------------------------------------------------------------

    def error_event(self, status: int, code: str, message: str, request: Request) -> bytes:
        """Return an error in both forms that clients know: flat, and with an object `error`."""
        error = {"type": self.error_type(status), "code": code, "message": message, "param": None}
        body = {"type": "error", "sequence_number": 0, "code": code, "message": message, "param": None, "error": error}
        return b"event: error\ndata: " + dump(body) + b"\n\n"


# --- what goes in ----------------------------------------------------------------------------------------------------


def _check_input(body: Mapping[str, Any]) -> None:
    given = body.get("input")
    if given is None and not _is_kept(body):
        raise InvalidInput({"input": [checks.missing(body, "input", "give a string or a list of items.")]})
    is_list = isinstance(given, list) and all(isinstance(item, dict) for item in given)
    if given is not None and not isinstance(given, str) and not is_list:
        raise InvalidInput({"input": ["must be a string, or a list of objects such as messages."]})


def _is_kept(body: Mapping[str, Any]) -> bool:
    references = any(item.get("type") == "item_reference" for item in bounds.objects_in(body.get("input")))
    return references or any(body.get(name) is not None for name in _KEPT)


def _parts(body: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what may be media: items, parts of messages, and tool outputs."""
    for item in bounds.objects_in(body.get("input")):
        yield item
        for name in ("content", "output"):
            value = item.get(name)
            if isinstance(value, list):
                yield from value
            elif isinstance(value, dict):
                yield value


def _tools(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield every tool: those of the request, of items that add more, and inside namespaces."""
    stack = [body.get("tools"), *(item.get("tools") for item in bounds.objects_in(body.get("input")))]
    while stack:
        for tool in bounds.objects_in(stack.pop()):
            yield tool
            if tool.get("type") == "namespace":
                stack.append(tool.get("tools"))


def _container(tool: Mapping[str, Any]) -> str:
    """Return the size of the container in which a tool's code runs; an existing one may have any size."""
    place = bounds.mapping_in(tool, "container") or bounds.mapping_in(tool, "environment")
    size = place.get("memory_limit", "1g" if str(place.get("type")).endswith("auto") else None)
    return size if size in ("1g", "4g", "16g") else "64g"


def _added(body: Mapping[str, Any]) -> bounds.Added:
    added = bounds.Added()
    for tool in _tools(body):
        kind = tool.get("type")
        if kind is None or kind in ("function", "custom", "namespace"):
            added.tokens += bounds.TOOL_TOKENS
        elif isinstance(kind, str) and (kind in _CLIENT_TOOLS or _runs_at_the_client(tool)):
            added.tokens += bounds.PROVIDER_TOOL_TOKENS
        elif isinstance(kind, str) and kind.endswith("image_generation"):
            added.drawing_tool(tool.get("model", bounds.mapping_in(tool, "parameters").get("model")))
        elif kind == "file_search":
            added.fee(FILE_SEARCH_FEE, added.server_tool(has_fee=False))
        else:
            added.server_tool(has_fee=not (isinstance(kind, str) and kind in _WITHOUT_FEE))
            if kind in _CONTAINERS:
                added.fee(container_fee(_container(tool)))
    if body.get("prompt") is not None:
        _add_tools_of_a_prompt(added)
    calls = whole_number(body.get("max_tool_calls"))
    if added.round_tokens and calls is not None and calls >= 0:
        calls = min(calls, bounds.MOST_ROUNDS)
        added.round_tokens = calls * bounds.ROUND_TOKENS
        added.searches = calls if added.searches else 0
        added.drawings = calls if added.drawings else 0
        added.fees = {
            what: calls if what == FILE_SEARCH_FEE else min(calls, times) for what, times in added.fees.items()
        }
    return added


def _add_tools_of_a_prompt(added: bounds.Added) -> None:
    """Add what a prompt that is stored at OpenAI may declare, which only OpenAI knows.

    A tool of the request stands for one of its kind.
    """
    if not added.searches:
        added.server_tool(has_fee=True)
    if FILE_SEARCH_FEE not in added.fees:
        added.fee(FILE_SEARCH_FEE, added.server_tool(has_fee=False))
    if not any(is_container_fee(what) for what in added.fees):
        added.server_tool(has_fee=False)
        added.fee(PROMPT_CONTAINER_FEE)
    if not added.drawings:
        added.drawing_tool(None)


def _uses_preview(body: Mapping[str, Any]) -> bool | None:
    """Return whether OpenAI searches with the older of its two tools; None if it may use either of them."""
    kinds = [kind for tool in _tools(body) if isinstance(kind := tool.get("type"), str)]
    are_old = {kind.startswith("web_search_preview") for kind in kinds if kind.startswith("web_search")}
    if len(are_old) == 1:
        return are_old.pop()
    return None if are_old or body.get("prompt") is not None else False  # a stored prompt may declare either


def _runs_at_the_client(tool: Mapping[str, Any]) -> bool:
    if tool["type"] == "tool_search":
        return tool.get("execution") == "client"
    return tool["type"] == "shell" and bounds.mapping_in(tool, "environment").get("type") == "local"


# --- what comes out --------------------------------------------------------------------------------------------------


def _see(seen: Seen, body: Mapping[str, Any]) -> None:
    """Add to `seen` what an event of a stream says."""
    seen.body, kind = body, text(body.get("type"), limit=100)
    if body.get("error"):
        seen.error = body
    elif kind == "error":  # OpenAI's flat form
        error = {name: body.get(name) for name in ("code", "message", "param")}
        seen.error = {"error": error | {"type": "server_error"}}
    response = mapping(body.get("response"))
    if response:
        _see_response(seen, response)
    if kind in _ENDS:
        seen.is_end = seen.is_finished = True
        seen.has_content = seen.has_content or any(map(_item_size, items(response.get("output"))))
    elif kind.endswith(".delta"):
        delta = body.get("delta")
        size = text_size(delta) if isinstance(delta, str) else content_size(delta)
        seen.content_bytes += size
        seen.has_content = seen.has_content or size > 0
    elif kind.startswith("response.output_item."):
        item = mapping(body.get("item"))
        is_call = text(item.get("type")) not in _NO_OUTPUT and bool(item)
        seen.has_content = seen.has_content or is_call or _item_size(item) > 0
    elif kind.endswith((".done", ".partial_image")):  # repeats earlier deltas, so its bytes are not counted again
        seen.has_content = seen.has_content or content_size(body) > 0


def _sealed(item: Mapping[str, Any]) -> str:
    """Return the encrypted content of a reasoning or compaction item, which only its organisation can read."""
    return text(item.get("encrypted_content")) if item.get("type") in ("reasoning", "compaction") else ""


def _see_response(seen: Seen, response: Mapping[str, Any]) -> None:
    """Add what a response says, whether it is whole or the state of one in an event."""
    for item in items(response.get("output")):
        seen.sealed = _sealed(item) or seen.sealed
    seen.id = text(response.get("id"), limit=200) or seen.id
    if response.get("store") is not False:
        seen.sealed = seen.sealed or seen.id
    if response.get("error"):
        seen.error = response
    seen.is_finished = seen.is_finished or response.get("status") in ("completed", "incomplete", "failed", "cancelled")
    usage = read_usage(response)
    seen.usage = usage.merged(seen.usage) if usage else seen.usage


def _item_size(item: Mapping[str, Any]) -> int:
    if item.get("type") == "image_generation_call":
        return PICTURE_BYTES if item.get("result") else 0
    return content_size(item)


def read_usage(response: Mapping[str, Any]) -> Usage | None:
    """Return the usage of a response, including searches and the tokens of pictures that a tool drew."""
    reported = read_openai_usage(response)
    used = mapping(response.get("tool_usage"))
    searches = count(mapping(used.get("web_search")).get("num_requests"))
    if searches is None:
        searches = sum(1 for item in items(response.get("output")) if _is_search(item))
    if searches:
        reported = replace(reported or Usage(), searches=max(searches, (reported and reported.searches) or 0))
    if looked := sum(1 for item in items(response.get("output")) if item.get("type") == "file_search_call"):
        reported = replace(reported or Usage(), file_searches=looked)
    if ran := _containers(response):
        reported = replace(reported or Usage(), containers=ran)
    drawn = mapping(used.get("image_gen"))
    taken, made = count(drawn.get("input_tokens")), count(drawn.get("output_tokens"))
    if reported is None or not (taken or made):
        return reported
    pictures = first_count(mapping(drawn.get("input_tokens_details")), "image_tokens") or 0
    return replace(
        reported,
        input_tokens=(reported.input_tokens or 0) + (taken or 0),
        image_input_tokens=(reported.image_input_tokens or 0) + pictures,
        output_tokens=(reported.output_tokens or 0) + (made or 0),
        image_output_tokens=(reported.image_output_tokens or 0) + (made or 0),
        drawn_input_tokens=taken,
        drawn_image_input_tokens=pictures,
        drawn_output_tokens=made,
    )


def _containers(response: Mapping[str, Any]) -> int:
    """Return the number of containers in which code ran: each costs a fee, however often it is used."""
    calls = [
        item for item in items(response.get("output")) if item.get("type") in ("code_interpreter_call", "shell_call")
    ]
    hosted = [item.get("container_id") or mapping(item.get("environment")).get("container_id") for item in calls]
    return len({name for name in hosted if isinstance(name, str)})


def _is_search(item: Mapping[str, Any]) -> bool:
    """Return whether a call is a search; opening a page, or searching within one, costs no fee."""
    return item.get("type") == "web_search_call" and mapping(item.get("action")).get("type", "search") == "search"
