"""Conversations that carry encrypted reasoning: only the organisation that wrote them can read them.

OpenAI's `encrypted_content` and Anthropic's signatures come back with the next turn. The usage row of the answer that
brought one keeps its digest, so that any process finds the key that served, and asks it first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmkeys.relay.candidates import Candidate

REASON = "another key produced the encrypted reasoning of this conversation"

_WRITER = """SELECT k.id, k.provider, k.billing_group
    FROM llmkeys_usagerecord u JOIN llmkeys_apikey k ON k.id = u.key_id
   WHERE u.sealed_thought = %s ORDER BY u.id DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Writer:
    """The key that wrote an encrypted reasoning block; it may have been deleted since."""

    key_id: str
    provider: str
    billing_group: str

    def closeness(self, candidate: Candidate) -> int:
        """Return 0 for the key itself, 1 for one of its billing group, 2 for any other."""
        if candidate.id == self.key_id:
            return 0
        is_mate = candidate.provider == self.provider and candidate.billing_group == self.billing_group != ""
        return 1 if is_mate else 2


def digest(sealed: str) -> str:
    """Return what a row keeps of an encrypted reasoning block."""
    return hashlib.blake2b(sealed.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def find_writer(cursor: Any, sealed: str) -> Writer | None:
    """Return who wrote an encrypted reasoning block; None if no row knows it."""
    cursor.execute(_WRITER, [digest(sealed)])
    row = cursor.fetchone()
    return Writer(*row) if row is not None else None


def prefer(found: Sequence[Candidate], writer: Writer) -> list[Candidate]:
    """Return the candidates with the writer and its billing group first: a preference, nobody is left out."""
    pool = []
    for place, candidate in enumerate(found):
        closeness = writer.closeness(candidate)
        others = [other for other in found[:place] if writer.closeness(other) > closeness]
        reasons = tuple({"keyId": other.id, "reason": other.obstacle or REASON} for other in others)
        pool.append(replace(candidate, preferred_to=reasons))
    return sorted(pool, key=writer.closeness)
