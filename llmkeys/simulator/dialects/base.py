"""What a dialect of the simulator is: how it reads a request, and how it writes an answer, whole and streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from ..generation import Asked, Generation, Unacceptable
from ..http import Request
from ..refusals import Occasion, refuse
from ..wire import encoded


@dataclass(frozen=True, slots=True)
class Reply:
    """One generation on its way out of one provider; `distortion` is a behaviour that falsifies the usage."""

    provider: str
    id: str
    created: int
    generation: Generation
    asked: Asked
    distortion: str = ""

    @property
    def is_routed(self) -> bool:
        """True at OpenRouter, which tells the cost."""
        return self.provider == "openrouter"

    @property
    def tells_usage(self) -> bool:
        return self.distortion != "nousage"

    @property
    def is_falsified(self) -> bool:
        return self.distortion in _DISTORTIONS

    def falsified(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The usage object as it goes out: as it is, or as the behaviour wants it."""
        change = _DISTORTIONS.get(self.distortion)
        return _changed(usage, change) if change else usage

    def with_cost(self, usage: dict[str, Any], *, input_name: str, output_name: str) -> dict[str, Any]:
        """The usage with what only OpenRouter tells: USD, exact."""
        if not self.is_routed:
            return usage
        generation = self.generation
        details = {
            "upstream_inference_cost": generation.cost,
            f"upstream_inference_{input_name}_cost": generation.bill.prompt,
            f"upstream_inference_{output_name}_cost": generation.bill.completion,
        }
        return usage | {"cost": generation.cost, "is_byok": False, "cost_details": details}


@dataclass(frozen=True, slots=True)
class Stream:
    """The events of a stream: before the text, the text, and after it (finish reason, usage, end marker).

    Bytes go out as they are, anything else as the dialect writes an event.
    """

    opening: list[Any]
    contents: list[Any]
    closing: list[Any]


class Dialect:
    """One dialect; which provider speaks it, and where, is said in `__init__.py`."""

    prefix: ClassVar[str]  # of an answer's id
    stream_type: ClassVar[str] = "text/event-stream"

    def caches_at(self, provider: str) -> bool:
        """Whether the provider can report in this dialect what it read from a cache or wrote to one."""
        return True

    def read(self, body: dict[str, Any], request: Request, action: str) -> Asked:
        """What the body asks for; raises Unacceptable."""
        raise NotImplementedError

    def whole(self, reply: Reply) -> Any:
        """The body of an answer that is not streamed; without usage where the behaviour withholds it."""
        raise NotImplementedError

    def stream(self, reply: Reply) -> Stream:
        """All events of an undisturbed stream."""
        raise NotImplementedError

    def written(self, value: Any, reply: Reply, *, first: bool) -> bytes:
        """One event."""
        return value if isinstance(value, bytes) else b"data: " + encoded(value) + b"\n\n"

    def broken(self, reply: Reply, *, first: bool) -> bytes:
        """One event whose JSON ends too early."""
        return self.written({"id": reply.id, "choices": []}, reply, first=first).rstrip()[:-2] + b"\n\n"

    def error_inside(self, reply: Reply) -> Any:
        """The error of a generation that failed after its answer had begun with status 200."""
        if reply.is_routed:
            error = {
                "code": 502,
                "message": "Provider returned error",
                "metadata": {"error_type": "provider_unavailable"},
            }
            return {"error": error}
        kind = {"openai": "500", "anthropic": "503", "google": "503"}[reply.provider]
        return refuse(Occasion(reply.provider, kind, native=True)).body

    def error_event(self, reply: Reply) -> Any:
        """The same as the last event of a stream."""
        return self.error_inside(reply)


# --- false usage --------------------------------------------------------------------------------------------------

_DISTORTIONS: dict[str, Callable[[Any], Any]] = {
    "zerousage": lambda number: 0,
    "negusage": lambda number: -(number or 1),
    "strusage": lambda number: "abc",
}


def _changed(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: _changed(inner, change) for name, inner in value.items()}
    if isinstance(value, list):
        return [_changed(inner, change) for inner in value]
    return change(value) if isinstance(value, int | Decimal) and not isinstance(value, bool) else value


# --- reading a body -----------------------------------------------------------------------------------------------


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a list; one object counts as a list of one."""
    if isinstance(value, dict):
        return [value]
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def texts_of(content: object) -> list[str]:
    """The texts of a content, which is a string, a list of parts, or one part."""
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in objects(content) if isinstance(part.get("text"), str)]


def whole_number(body: dict[str, Any], name: str, *, most: int | None = None) -> int | None:
    """A count of at least 1; raises Unacceptable."""
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (most is not None and value > most):
        raise Unacceptable(f"Invalid value for '{name}': expected a whole number of at least 1.")
    return value


def smallest(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def named_model(body: dict[str, Any]) -> str:
    """The model; OpenRouter's list of models stands in for a missing one. Raises Unacceptable."""
    model = body.get("model")
    if "model" not in body and isinstance(body.get("models"), list) and body["models"]:
        model = body["models"][0]
    if not isinstance(model, str) or not model:
        raise Unacceptable("The model is missing.")
    return model


def listed(body: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of objects that must not be empty; raises Unacceptable."""
    if not isinstance(body.get(name), list) or not body[name]:
        raise Unacceptable(f"The {name} are missing.")
    return objects(body[name])


def halves(text: str) -> Iterable[str]:
    """A text in two pieces, as tools' arguments are streamed."""
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]
