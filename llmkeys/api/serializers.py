"""Bodies that only the API knows, and answers that have no other door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from llmkeys.exceptions import InvalidInput
from llmkeys.models import KeyEvent
from llmkeys.presentation import instant_json
from llmkeys.tokens.fields import read_overlap

Readers = Mapping[str, Callable[[Any], Any]]


def clean(values: Mapping[str, Any], readers: Readers, *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the given fields as read. Raises InvalidInput naming every unknown, missing or bad one."""
    errors = {name: ["There is no such field."] for name in values if name not in readers}
    errors |= {name: ["This field is required."] for name in required if name not in values}
    cleaned: dict[str, Any] = {}
    for name in values.keys() & readers.keys():
        try:
            cleaned[name] = readers[name](values[name])
        except ValueError as error:
            errors[name] = [str(error)]
    if errors:
        raise InvalidInput(errors)
    return cleaned


def _short_text(value: object, *, most: int) -> str:
    if not isinstance(value, str):
        raise ValueError("Must be a text.")
    if len(value) > most or not value.isprintable():
        raise ValueError(f"May have at most {most} characters, none of them a control character.")
    return value


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("Must be true or false.")
    return value


TOGGLE: Readers = {"active": _switch}
VOID: Readers = {"reason": lambda value: _short_text(value, most=500)}
ROTATION: Readers = {"overlapSeconds": read_overlap}


def event_json(event: KeyEvent) -> dict[str, Any]:
    """Return an event; its `key` must be selected along."""
    return {
        "id": event.id,
        "kind": event.kind,
        "keyId": event.key_id,
        "keyName": event.key.name if event.key else None,
        "tokenId": event.token_id,
        "message": event.message,
        "actor": event.actor,
        "createdAt": instant_json(event.created_at),
    }


def with_numbers(value: Any) -> Any:
    """Return the same value with every Decimal as a number that JSON can hold."""
    match value:
        case Decimal():
            return float(value) if value.is_finite() else None
        case dict():
            return {name: with_numbers(item) for name, item in value.items()}
        case list() | tuple():
            return [with_numbers(item) for item in value]
    return value
