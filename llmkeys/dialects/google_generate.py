"""The dialect *Google generate*: Gemini's own methods, with the model in the path.

Google accepts field names in camelCase and in snake_case, so both are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmkeys.dialects import bounds, checks
from llmkeys.dialects.base import (
    MAX_MODEL_NAME,
    Bound,
    Dialect,
    Door,
    Events,
    Request,
    Rewrite,
    Seen,
    Usage,
    dump,
    one_line,
)
from llmkeys.dialects.content import content_size
from llmkeys.dialects.json_array import ArraySplitter
from llmkeys.dialects.media import survey
from llmkeys.dialects.usage import first_count, word
from llmkeys.exceptions import InvalidInput
from llmkeys.lib.reading import count, items, mapping, text, whole_number
from llmkeys.lib.sse import EventSplitter, documents, load_json

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    415: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPE = "type.googleapis.com/google.rpc."
_MODEL = re.compile(r"(?:google/)?[A-Za-z0-9._-]+")
_SSE = re.compile(r"(?:^|&)(?:\$|%24)?alt=sse(?:&|$)", re.IGNORECASE)
# Credentials, the project that is billed instead of the key's own, who the client is (Google's proxies add that), and
# what selects the fields of the answer, which would then lack the usage that it is charged by.
_WITHHELD = (
    "x-goog-api-key", "x-goog-user-project", "x-goog-iam-", "x-goog-iap-", "x-goog-authenticated-user-",
    "x-goog-fieldmask",
)  # fmt: skip
_LIMITS = ("maxOutputTokens", "max_output_tokens")
_FIELDS = {  # the two names of fields
    "generationConfig": "generation_config",
    "systemInstruction": "system_instruction",
    "cachedContent": "cached_content",
    "serviceTier": "service_tier",
}
_FUNCTIONS = ("functionDeclarations", "function_declarations")
_CLIENT_TOOLS = frozenset({"computerUse", "computer_use"})
_WITHOUT_FEE = frozenset(
    {"urlContext", "url_context", "codeExecution", "code_execution", "fileSearch", "file_search", "retrieval"}
    | {"mcpServers", "mcp_servers"}
)
_SEARCHED = frozenset({"web", "image", "maps"})  # kinds of sources
GENERATES = frozenset({"generate", "stream"})


class GoogleGenerate(Dialect):
    name = "google-generate"
    doors = tuple(
        Door(
            f"/{version}/models/{{model:path}}:{method}", operation, f":{method}", always_streams=operation == "stream"
        )
        for version in ("v1beta", "v1")  # Google's own clients have begun to use the latter
        for method, operation in (
            ("generateContent", "generate"),
            ("streamGenerateContent", "stream"),
            ("countTokens", "count_tokens"),
            ("embedContent", "embed"),
            ("batchEmbedContents", "batch_embed"),
        )
    )
    limit_names = ("max_output_tokens",)  # or in camel case
    passed_headers = frozenset({"x-server-timeout"})

    # --- the request -------------------------------------------------------------------------------------------------

    def passes(self, header: str) -> bool:
        is_googles = header.startswith("x-goog-") and not header.startswith(_WITHHELD)
        return is_googles or super().passes(header)

    def validate(self, request: Request) -> None:
        body, operation = request.body, request.door.operation
        if not _MODEL.fullmatch(request.model) or len(request.model) > MAX_MODEL_NAME:
            raise InvalidInput({"model": ["must be letters, digits, “.”, “_” and “-”, as in models/gemini-2.5-flash."]})
        checks.check_other_models(request)
        for name, other in _FIELDS.items():
            if name in body and other in body:
                raise InvalidInput({name: [f"appears twice: as {name} and as {other}. Send only one of them."]})
        if operation in GENERATES:
            if not isinstance(body.get("contents"), dict):
                checks.check_objects(body, "contents", "must be a list of objects with role and parts.", "content")
        elif operation == "batch_embed":
            checks.check_objects(body, "requests", "must be a list of objects with model and content.", "request")
        elif operation == "embed" and not isinstance(body.get("content"), dict):
            raise InvalidInput({"content": [checks.missing(body, "content", "give an object with parts.")]})
        elif operation == "count_tokens" and not any(name in body for name in ("contents", *_INNER)):
            raise InvalidInput({"contents": [checks.missing(body, "contents", "give at least one content.")]})
        for pair in ("generationConfig", "generation_config", "systemInstruction", "system_instruction"):
            checks.check_object(body, pair)
        checks.check_bound(request)

    def named_model(self, request: Request) -> str:
        return request.path_model.removeprefix("models/")

    def is_streamed(self, request: Request) -> bool:
        return request.door.always_streams

    def bound(self, request: Request, model: str) -> Bound:
        body, operation, models = request.body, request.door.operation, (model,)
        found = survey(body, size=len(request.raw), places=_parts(body), models=models)
        made = Bound(
            input_tokens=found.tokens + bounds.OVERHEAD_TOKENS,
            text_tokens=found.text_bytes,
            output_tokens=0,
            inputs=max(1, sum(1 for _ in bounds.objects_in(body.get("requests")))),
            audio_input_tokens=found.audio_tokens,
            image_input_tokens=found.image_tokens,
            images=found.images,
            file_tokens=found.file_tokens,
            unseen_bytes=found.unseen_bytes,
            whole_window=found.whole_window,
            is_free=operation == "count_tokens",
        )
        if operation not in GENERATES:
            return made
        config = _field(body, "generationConfig")
        limit, unlimited = bounds.output_limit(config, *_LIMITS, prefix="generationConfig.")
        names = ("candidateCount", "candidate_count")
        counts = [bounds.whole(config, name, bounds.MAX_CHOICES, param=f"generationConfig.{name}") for name in names]
        added = _added(body)
        may_reason, thinking = _thinking(config)
        return replace(
            made,
            input_tokens=found.tokens + added.tokens,
            output_tokens=limit,
            choices=max((number for number in counts if number), default=1),
            whole_window=found.whole_window or _field(body, "cachedContent", None) is not None,
            output_kinds=bounds.output_kinds(_either(config, "responseModalities", "response_modalities"), models),
            **added.beside,
            service_tier=word(_field(body, "serviceTier", None)).lower() or None,
            may_reason=may_reason,
            thinking_tokens=thinking,
            unlimited_field=unlimited,
        )

    def traits(self, model: str) -> Any:
        return bounds.traits(model)

    def rewritten(self, request: Request, change: Rewrite) -> bytes:
        """Return the body with the output limit and, wherever it repeats the model of the path, with the new name."""
        body, changes = request.body, {}
        if change.output_limit is not None and request.door.operation in GENERATES:
            place = next((name for name in ("generationConfig", "generation_config") if name in body), _CONFIG)
            config = {name: value for name, value in (body.get(place) or {}).items() if name not in _LIMITS}
            changes[place] = config | {_LIMITS[0]: change.output_limit}
        if change.model != request.model:
            changes |= _renamed(body, f"models/{change.model}")
        return dump({**body, **changes}) if changes else request.raw

    # --- the answer --------------------------------------------------------------------------------------------------

    def events(self, request: Request) -> Events:
        return EventSplitter() if _is_sse(request) else ArraySplitter()

    def see_event(self, event: bytes, request: Request) -> Seen:
        seen = Seen(is_end=event.strip() == b"]")
        for found in _documents(event):
            if isinstance(found, Mapping):
                _see(seen, found)
        return seen

    def see_answer(self, body: Any) -> Seen:
        seen = Seen()
        for found in body if isinstance(body, list) else (body,):
            if isinstance(found, Mapping):
                _see(seen, found)
        return seen

    # --- to the client ------------------------------------------------------------------------------------------------

    def error_body(self, status: int, code: str, message: str, param: str | None = None) -> bytes:
        details: list[dict[str, Any]] = [{"@type": f"{_TYPE}ErrorInfo", "reason": code, "domain": "llmkeys"}]
        if param:
            violations = [{"field": param, "description": message}]
            details.append({"@type": f"{_TYPE}BadRequest", "fieldViolations": violations})
        name = _STATUSES.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
        return dump({"error": {"code": status, "message": message, "status": name, "details": details}})

    def error_event(self, status: int, code: str, message: str, request: Request) -> bytes:
        body = self.error_body(status, code, message)
        return b"data: " + body + b"\r\n\r\n" if _is_sse(request) else b",\n" + body + b"]"

    def first_error_event(self, status: int, code: str, message: str, request: Request) -> bytes:
        event = self.error_event(status, code, message, request)
        return event if _is_sse(request) else b"[" + event.removeprefix(b",\n")

    def as_event(self, body: bytes, request: Request) -> bytes:
        if _is_sse(request):
            return b"data: " + one_line(body) + b"\r\n\r\n"
        return body if body.lstrip().startswith(b"[") else b"[" + body.strip() + b"]"

    def keep_alive(self, request: Request) -> bytes:
        """Return an empty line, or white space, because Google's clients do not understand comments."""
        return b"\r\n" if _is_sse(request) else b" "

    def model(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "name": f"models/{entry['id']}",
            "displayName": entry["id"],
            "inputTokenLimit": entry["context_length"],
            "outputTokenLimit": entry["max_output_tokens"],
            "supportedGenerationMethods": ["generateContent", "countTokens"],
            "providers": entry["providers"],
            "pricing": entry["pricing"],
        }

    def model_list(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"models": [self.model(entry) for entry in entries]}

    def stream_type(self, request: Request) -> str:
        return "text/event-stream" if _is_sse(request) else "application/json"


_CONFIG = "generationConfig"
_INNER = ("generateContentRequest", "generate_content_request")


def _is_sse(request: Request) -> bool:
    return bool(_SSE.search(request.query))


# --- what goes in ----------------------------------------------------------------------------------------------------


def _either(body: Mapping[str, Any], *names: str) -> Any:
    return next((body[name] for name in names if body.get(name) is not None), None)


_NOTHING: Mapping[str, Any] = {}


def _field(body: Mapping[str, Any], name: str, default: Any = _NOTHING) -> Any:
    """Return a field by either of its names; without a `default`, an object, which is empty if the field is not one."""
    found = _either(body, name, _FIELDS[name])
    if default is _NOTHING:
        return found if isinstance(found, dict) else _NOTHING
    return default if found is None else found


def _listed(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a list; Google accepts a single object instead of a list of one."""
    return [value] if isinstance(value, dict) else list(bounds.objects_in(value))


def _parts(body: Mapping[str, Any]) -> Iterator[Any]:
    """Yield the parts that may be media: of contents, of function responses, and of what is embedded or counted."""
    bodies = [body, *bounds.objects_in(body.get("requests")), *(bounds.mapping_in(body, name) for name in _INNER)]
    for one in bodies:
        for name in ("content", "contents", "systemInstruction", "system_instruction"):
            for content in _listed(one.get(name)):
                for part in _listed(content.get("parts")):
                    yield part
                    yield from _listed(bounds.mapping_in(part, "functionResponse", "function_response").get("parts"))


def _added(body: Mapping[str, Any]) -> bounds.Added:
    added = bounds.Added()
    for tool in _listed(body.get("tools")):
        for name, value in tool.items():
            if name in _FUNCTIONS:
                added.tokens += bounds.TOOL_TOKENS * (len(value) if isinstance(value, list) else 1)
            elif name in _CLIENT_TOOLS:
                added.tokens += bounds.PROVIDER_TOOL_TOKENS
            elif value is not None:
                added.server_tool(has_fee=name not in _WITHOUT_FEE)
    return added


def _thinking(config: Mapping[str, Any]) -> tuple[bool | None, int]:
    """Return whether the client switched thinking on or off, and its budget; -1 leaves the budget to the model."""
    thinking = bounds.mapping_in(config, "thinkingConfig", "thinking_config")
    budget = whole_number(_either(thinking, "thinkingBudget", "thinking_budget"))
    if budget is not None:
        return budget != 0, max(0, min(budget, bounds.MAX_OUTPUT_LIMIT))
    return (True if _either(thinking, "thinkingLevel", "thinking_level") else None), 0


def _renamed(body: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the fields of a body that name the model, with another name."""
    changes: dict[str, Any] = {"model": model} if "model" in body else {}
    for name in _INNER:
        if "model" in bounds.mapping_in(body, name):
            changes[name] = {**body[name], "model": model}
    if any("model" in one for one in bounds.objects_in(body.get("requests"))):
        changes["requests"] = [{**one, "model": model} for one in bounds.objects_in(body["requests"])]
    return changes


# --- what comes out --------------------------------------------------------------------------------------------------


def _documents(event: bytes) -> list[Any]:
    """Return the parsed content of an event: an element after a comma or bracket, a whole array, or SSE."""
    begin = event.lstrip()
    if begin[:1] not in (b"[", b",", b"{", b"]"):
        return documents(event)
    found = load_json(begin)
    if found is None:
        found = load_json(begin.lstrip(b"[, \r\n\t").rstrip(b"] \r\n\t"))
    return found if isinstance(found, list) else [found]


def _see(seen: Seen, body: Mapping[str, Any]) -> None:
    """Add to `seen` what an answer, or an element of a stream, says."""
    seen.body = body
    if body.get("error"):
        seen.error = body
    seen.id = text(body.get("responseId"), limit=200) or seen.id
    candidates = items(body.get("candidates"))
    for candidate in candidates:
        for part in items(mapping(candidate.get("content")).get("parts")):
            seen.content_bytes += content_size(part)
    if any(candidate.get("finishReason") for candidate in candidates) or mapping(body.get("promptFeedback")).get(
        "blockReason"
    ):
        seen.is_finished = True
    is_vector = "embedding" in body or "embeddings" in body
    seen.has_content = seen.has_content or seen.content_bytes > 0 or is_vector or "totalTokens" in body
    usage = _count(body) if "totalTokens" in body else read_usage(body, is_vector=is_vector)
    if usage is not None:
        seen.usage, seen.is_running_total = usage.merged(seen.usage), True


def _count(body: Mapping[str, Any]) -> Usage:
    cached = count(body.get("cachedContentTokenCount"))
    return Usage(input_tokens=count(body.get("totalTokens")), cached_input_tokens=cached, output_tokens=0)


def read_usage(body: Mapping[str, Any], *, is_vector: bool = False) -> Usage | None:
    """Return the running totals of an answer; thoughts count as output, and tool results as input.

    Counters that are zero are left out, so missing ones are derived from the total.
    """
    found = mapping(body.get("usageMetadata"))
    prompt, tools = count(found.get("promptTokenCount")), count(found.get("toolUsePromptTokenCount"))
    total, thoughts = count(found.get("totalTokenCount")), count(found.get("thoughtsTokenCount"))
    made = first_count(found, "candidatesTokenCount", "responseTokenCount")
    output = None if made is None and thoughts is None else (made or 0) + (thoughts or 0)
    if prompt is None and total is not None and output is not None:
        prompt = max(0, total - output - (tools or 0))
    if total is not None and prompt is not None:
        output = max(total - prompt - (tools or 0), output or 0)
    taken = [found.get("promptTokensDetails"), found.get("toolUsePromptTokensDetails")]
    came = [found.get("candidatesTokensDetails"), found.get("responseTokensDetails")]
    reported = Usage(
        input_tokens=None if prompt is None else prompt + (tools or 0),
        cached_input_tokens=count(found.get("cachedContentTokenCount")),
        audio_input_tokens=_modality(taken, "audio"),
        cached_audio_tokens=_modality([found.get("cacheTokensDetails")], "audio"),
        image_input_tokens=_modality(taken, "image"),
        video_input_tokens=_modality(taken, "video"),
        output_tokens=0 if is_vector and prompt is not None else output,
        reasoning_tokens=thoughts,
        audio_output_tokens=_modality(came, "audio"),
        image_output_tokens=_modality(came, "image"),
        searches=_searches(body),
        service_tier=word(found.get("serviceTier")).lower(),
        model=text(body.get("modelVersion"), limit=200).removeprefix("models/"),
    )
    return reported if reported != Usage() else None


def _modality(details: list[Any], wanted: str) -> int | None:
    """Return the tokens of one modality, or None if no list contains it."""
    found = [
        number
        for listed in details
        for entry in items(listed)
        if word(entry.get("modality")).lower() == wanted and (number := count(entry.get("tokenCount"))) is not None
    ]
    return sum(found) if found else None


def _searches(body: Mapping[str, Any]) -> int | None:
    """Return the number of searches behind an answer; at least one if it names sources that a search found."""
    most = 0
    for candidate in items(body.get("candidates")):
        grounding = mapping(candidate.get("groundingMetadata"))
        asked = [grounding.get(name) for name in ("webSearchQueries", "imageSearchQueries")]
        queries = sum(len(listed) for listed in asked if isinstance(listed, list))
        # The client's own files (`retrievedContext`) are sources too, but looking into them costs no fee.
        most += queries or any(_SEARCHED & chunk.keys() for chunk in items(grounding.get("groundingChunks")))
    return most or None
