"""The fields of an access token as people and programs send them, checked and converted to columns.

Names are the API's (camelCase). Shared by the REST API, the pages, the admin and the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from llmkeys import account_fields
from llmkeys.account_fields import BUDGET_READERS, BUDGETS, Checker, expiry_reader, read_name, read_whole
from llmkeys.models import AccessToken, ApiKey
from llmkeys.providers.names import is_valid

SCOPES = ("gateway", "read", "manage")
MOST_KEYS = 1000
MOST_MODELS = 100
MOST_PER_MINUTE = 1_000_000
MOST_OVERLAP_SECONDS = 30 * 86_400

# fields that may be written → columns
WRITABLE = {
    "name": "name",
    "scopes": "scopes",
    "keyIds": "key_ids",
    "models": "allowed_models",
    **BUDGETS,
    "requestsPerMinute": "requests_per_minute",
    "expiresAt": "expires_at",
}
# fields that a GET shows and a change ignores
READ_ONLY = account_fields.READ_ONLY | {"user", "revokedAt"}
_INSTEAD = "Revoke the token instead, or give a later date."


def clean_new(values: Mapping[str, Any], *, at: datetime) -> dict[str, Any]:
    """Return the columns of a new token, and `scopes`, `key_ids` and `user` if given. Raises InvalidInput."""
    check = Checker(values, allowed={*WRITABLE, *READ_ONLY})
    check.required("name")
    readers = {"name": _name_reader(), "expiresAt": expiry_reader(at, None, instead=_INSTEAD)}
    check.take_columns(WRITABLE, _READERS | readers)
    if values.get("user") is not None:
        check.columns["user"] = check.take("user", _user_name)
    check.finish()
    return check.columns


def clean_change(values: Mapping[str, Any], *, token: AccessToken, at: datetime) -> dict[str, Any]:
    """Return the columns to change, and `scopes` and `key_ids` if given. Raises InvalidInput."""
    check = Checker(values, allowed={*WRITABLE, *READ_ONLY})
    readers: dict[str, Callable[[Any], Any]] = {
        "name": _name_reader(token.name),
        "expiresAt": expiry_reader(at, token.expires_at, instead=_INSTEAD),
    }
    if values.get("keyIds") == [] and token.limited_to_keys and not token.stored_keys:
        readers["keyIds"] = list  # as a GET shows it, which can be sent back: no key, and not every key
    check.take_columns(WRITABLE, _READERS | readers)
    check.finish()
    return check.columns


def models_in(text: str) -> list[str] | None:
    """Return the models that a person typed, one a line or with commas between; None, which means all, for none."""
    return text.replace(",", " ").split() or None


def read_overlap(value: Any) -> int:
    """Return for how many seconds the old secret stays valid after a rotation. Raises ValueError."""
    words = f"Must be a whole number of seconds from 0 to {MOST_OVERLAP_SECONDS} (30 days)."
    return read_whole(value, least=0, most=MOST_OVERLAP_SECONDS, words=words)


def _name_reader(present: str = "") -> Callable[[Any], str]:
    """Return a reader that refuses a new name of digits, which filters and commands would take for an id."""

    def read(value: Any) -> str:
        name = read_name(value)
        if name.isascii() and name.isdigit() and name != present:
            raise ValueError("May not consist of digits only, because it could be taken for the id of another token.")
        return name

    return read


def _user_name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("Must be the name of a user.")
    return value


def _texts(value: Any, *, most: int) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ValueError("Must be a list of strings.")
    if len(value) > most:
        raise ValueError(f"May have at most {most} entries.")
    return list(dict.fromkeys(value))


def _scopes(value: Any) -> list[str]:
    scopes = _texts(value, most=10)
    if not scopes or not set(scopes) <= set(SCOPES):
        raise ValueError(f"Choose from: {', '.join(SCOPES)}.")
    return scopes


def _key_ids(value: Any) -> list[str] | None:
    if value is None:
        return None
    ids = _texts(value, most=MOST_KEYS)
    if not ids:
        raise ValueError("Name at least one key, or null for all keys.")
    unknown = set(ids) - set(ApiKey.objects.stored().filter(pk__in=ids).values_list("pk", flat=True))
    if unknown:
        raise ValueError(f"There is no such key: {', '.join(sorted(unknown))}")
    return ids


def _models(value: Any) -> list[str] | None:
    if value is None:
        return None
    names = _texts(value, most=MOST_MODELS)
    if not names:
        raise ValueError("Name at least one model or pattern, such as openai/* or gpt-6*, or null for every model.")
    if not all(is_valid(name) for name in names):
        raise ValueError("Each must be the name of a model or a pattern like openai/*: 1 to 200 characters, no spaces.")
    return names


def _requests_per_minute(value: Any) -> int:
    words = f"Must be a whole number from 0 (no limit) to {MOST_PER_MINUTE}."
    return read_whole(value, least=0, most=MOST_PER_MINUTE, words=words)


_READERS: dict[str, Callable[[Any], Any]] = {
    "scopes": _scopes,
    "keyIds": _key_ids,
    "models": _models,
    **BUDGET_READERS,
    "requestsPerMinute": _requests_per_minute,
}
