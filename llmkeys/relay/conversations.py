"""Conversations that are bound to an organisation: by encrypted reasoning, or by an answer that it has stored.

OpenAI's `encrypted_content` and Anthropic's signatures come back with the next turn, and so does the id of a response
(`previous_response_id`). The usage row of the answer keeps the digest, so that any process can find the key that
served, and try it first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmkeys.relay.candidates import Candidate

REASON = "another key produced the answer that this conversation continues"

_AUTHOR = """SELECT k.id, k.provider, k.billing_group
    FROM llmkeys_usagerecord u JOIN llmkeys_apikey k ON k.id = u.key_id
   WHERE u.sealed_thought = %s ORDER BY u.id DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Author:
    """The key that produced the answer; it may have been deleted since."""

    key_id: str
    provider: str
    billing_group: str

    def closeness(self, candidate: Candidate) -> int:
        """Return 0 for the key itself, 1 for another key of its billing group, 2 for any other key."""
        if candidate.id == self.key_id:
            return 0
        is_mate = candidate.provider == self.provider and candidate.billing_group == self.billing_group != ""
        return 1 if is_mate else 2


def digest(sealed: str) -> str:
    """Return the digest that the usage row of an answer keeps of its encrypted reasoning, or of its id."""
    return hashlib.blake2b(sealed.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def find_author(cursor: Any, sealed: str) -> Author | None:
    """Return the key that produced an encrypted reasoning block or a stored answer; None if no row has its digest."""
    cursor.execute(_AUTHOR, [digest(sealed)])
    row = cursor.fetchone()
    return Author(*row) if row is not None else None


def prefer(found: Sequence[Candidate], author: Author) -> list[Candidate]:
    """Return all candidates, with the author and the keys of its billing group first."""
    pool = []
    for place, candidate in enumerate(found):
        closeness = author.closeness(candidate)
        others = [other for other in found[:place] if author.closeness(other) > closeness]
        reasons = tuple({"keyId": other.id, "reason": other.obstacle or REASON} for other in others)
        pool.append(replace(candidate, preferred_to=reasons))
    return sorted(pool, key=author.closeness)
