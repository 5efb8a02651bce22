"""The list of models that the stored keys can serve, in the shape of each dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Entry = dict[str, Any]
_ADDED = "2020-01-01T00:00:00Z"  # nobody tells when: clients only want a date there


def bare(name: str) -> str:
    """Return a model's name without its vendor."""
    return name.rpartition("/")[2]


def openai_list(found: Sequence[Entry]) -> Entry:
    return {"object": "list", "data": list(found)}


def anthropic_list(found: Sequence[Entry]) -> Entry:
    data = [anthropic_entry(entry) for entry in found]
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"data": data, "has_more": False, "first_id": first, "last_id": last}


def anthropic_entry(entry: Entry) -> Entry:
    return {"type": "model", "id": entry["id"], "display_name": entry["id"], "created_at": _ADDED}


def google_list(found: Sequence[Entry]) -> Entry:
    return {"models": [google_entry(entry) for entry in found]}


def google_entry(entry: Entry) -> Entry:
    """Return an entry as Google has it; limits that are not known are left out."""
    limits = {"inputTokenLimit": entry["context_length"], "outputTokenLimit": entry["max_output_tokens"]}
    return {
        "name": f"models/{entry['id']}",
        "displayName": entry["id"],
        "supportedGenerationMethods": ["generateContent", "countTokens"],
        **{name: limit for name, limit in limits.items() if limit is not None},
    }
