"""Google's own methods: generating (not streamed, as SSE, or as one JSON array), counting and embedding."""

from __future__ import annotations

from typing import Any

from ..generation import MAX_CHOICES, Asked, Generation, Tool, Unacceptable
from ..http import Request
from ..signatures import signature
from ..wire import encoded
from .base import Dialect, Reply, Stream, objects, texts_of, whole_number
from .openai_embeddings import DIMENSIONS, MOST_DIMENSIONS, vector_of

METHODS = ("generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents")
_KINDS = {"countTokens": "count", "embedContent": "embed", "batchEmbedContents": "embed"}


class GoogleGenerate(Dialect):
    prefix = "simulated"

    def read(self, body: dict[str, Any], request: Request, action: str) -> Asked:
        """Return what the request asks for; fields may be camelCase or snake_case, and the model is in the path."""
        model, _, method = action.rpartition(":")
        bodies = [body]
        if method == "batchEmbedContents":
            bodies = objects(body.get("requests"))
        elif method == "countTokens" and isinstance(inner := _field(body, "generateContentRequest"), dict):
            bodies = [inner]
        contents = [content for one in bodies for name in ("contents", "content") for content in objects(one.get(name))]
        if not contents:
            raise Unacceptable("* GenerateContentRequest.contents: contents is not specified")
        config = _object(body, "generationConfig")
        choices = whole_number(config, "candidateCount", most=MAX_CHOICES) or 1
        limit = whole_number(config, "maxOutputTokens") or whole_number(config, "max_output_tokens")
        users = [content for content in contents if content.get("role", "user") == "user" and _texts(content)]
        declared = [_field(tool, "functionDeclarations") for tool in objects(body.get("tools"))]
        systems = [_object(one, "systemInstruction") for one in bodies]
        parts = [part for content in contents for part in objects(content.get("parts"))]
        return Asked(
            model=model.removeprefix("models/"),
            texts=[text for content in (*systems, *contents) for text in _texts(content)],
            last_user_text=" ".join(_texts(users[-1])) if users else "",
            output_limit=None if limit is None else limit * choices,
            choices=choices,
            is_streamed=method == "streamGenerateContent",
            is_array=method == "streamGenerateContent" and request.parameter("alt") != "sse",
            wants_usage=True,
            tools=tuple(Tool(str(function.get("name"))) for listed in declared for function in objects(listed)),
            follows_tool=any(_field(part, "functionResponse") for part in objects(contents[-1].get("parts"))),
            shows_thinking=_field(_object(config, "thinkingConfig"), "includeThoughts") is True,
            signatures=tuple(str(found) for part in parts if (found := _field(part, "thoughtSignature"))),
            kind=_KINDS.get(method, "generate"),
            inputs=len(bodies),
            is_batch=method == "batchEmbedContents",
            dimensions=whole_number(bodies[0], "outputDimensionality", most=MOST_DIMENSIONS) or DIMENSIONS,
        )

    def whole(self, reply: Reply) -> dict[str, Any]:
        asked, tokens = reply.asked, reply.generation.tokens
        if asked.kind == "count":
            details = [{"modality": "TEXT", "tokenCount": tokens.prompt}]
            return {"totalTokens": tokens.prompt, "promptTokensDetails": details}
        if asked.kind == "embed":
            vector = {"values": vector_of(asked.dimensions)}
            made: dict[str, Any] = {"embeddings": [vector] * asked.inputs} if asked.is_batch else {"embedding": vector}
            usage = reply.falsified({"promptTokenCount": tokens.prompt, "totalTokenCount": tokens.prompt})
            return made | ({"usageMetadata": usage} if reply.reports_usage else {})
        parts = _thoughts(reply) + [{"text": reply.generation.text}] * bool(reply.generation.pieces) + _call(reply)
        return _answer(reply, parts, finish_reason=_finish_reason(reply.generation), made=1.0)

    def stream(self, reply: Reply) -> Stream:
        """Return the elements, each with the usage so far."""
        pieces = reply.generation.pieces
        opening = [_answer(reply, [part], made=0.0) for part in _thoughts(reply)]
        contents = [
            _answer(reply, [{"text": piece}], made=number / len(pieces)) for number, piece in enumerate(pieces, 1)
        ]
        last = _call(reply) or [{"text": ""}]
        closing = [_answer(reply, last, finish_reason=_finish_reason(reply.generation), made=1.0)]
        return Stream([*opening], [*contents], [*closing, *([b"]"] if reply.asked.is_array else [])])

    def written(self, value: Any, reply: Reply, *, first: bool) -> bytes:
        """Return an event with Google's CRLF line ends."""
        if isinstance(value, bytes):
            return value
        if reply.asked.is_array:
            return (b"[" if first else b",\r\n") + encoded(value)
        return b"data: " + encoded(value) + b"\r\n\r\n"

    def broken(self, reply: Reply, *, first: bool) -> bytes:
        if reply.asked.is_array:
            return (b"[" if first else b",\r\n") + b'{"candidates":['
        return b'data: {"candidates":[\r\n\r\n'


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)


def _field(body: dict[str, Any], name: str) -> Any:
    return body.get(name, body.get(_snake(name)))


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    found = _field(body, name)
    return found if isinstance(found, dict) else {}


def _texts(content: dict[str, Any]) -> list[str]:
    return texts_of(content.get("parts"))


def _thoughts(reply: Reply) -> list[dict[str, Any]]:
    shown = reply.generation.tokens.reasoning and reply.asked.shows_thinking
    return [{"text": "simulated thinking", "thought": True}] if shown else []


def _call(reply: Reply) -> list[dict[str, Any]]:
    generation = reply.generation
    if generation.call is None:
        return []
    part: dict[str, Any] = {"functionCall": {"name": generation.call.name, "args": generation.call.values}}
    if generation.tokens.reasoning:
        part["thoughtSignature"] = signature(generation.organisation)
    return [part]


def _finish_reason(generation: Generation) -> str:
    return "MAX_TOKENS" if generation.is_cut_short else "STOP"


def _answer(
    reply: Reply, parts: list[dict[str, Any]], *, made: float, finish_reason: str | None = None
) -> dict[str, Any]:
    """Return an answer or an element of a stream; `made` is the share of the output (0 to 1) counted so far."""
    ended = {"finishReason": finish_reason} if finish_reason else {}
    candidates = [
        {"content": {"parts": parts, "role": "model"}, "index": index, **ended}
        for index in range(reply.generation.choices)
    ]
    body: dict[str, Any] = {"candidates": candidates, "modelVersion": reply.generation.model_name}
    if reply.reports_usage:
        body["usageMetadata"] = _usage(reply, made)
    return body | {"responseId": reply.id}


def _usage(reply: Reply, made: float) -> dict[str, Any]:
    """Return the usage, without zero counts; thinking is counted separately from the candidates."""
    tokens = reply.generation.tokens
    spoken = int((tokens.completion - tokens.reasoning) * made)
    counts = {
        "promptTokenCount": tokens.prompt,
        "cachedContentTokenCount": tokens.cached,
        "candidatesTokenCount": spoken,
        "thoughtsTokenCount": tokens.reasoning,
        "totalTokenCount": tokens.prompt + spoken + tokens.reasoning,
    }
    usage: dict[str, Any] = {name: number for name, number in counts.items() if number}
    usage["promptTokensDetails"] = [{"modality": "TEXT", "tokenCount": tokens.prompt}]
    usage["serviceTier"] = "standard"
    return reply.falsified(usage)
