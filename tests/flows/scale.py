"""How large a proof is: short in `make test`, long in `make proof`, and any size by a variable of its own.

`PROOF_KILLS=500 make proof` sets one size; `PROOF_SEED` repeats a run whose seed was printed.
"""

from __future__ import annotations

import os
import random


def size(name: str, *, short: int, long: int) -> int:
    """Return `PROOF_<name>` where it is set, else the long size under `PROOF=1`, else the short one."""
    return int(os.environ.get(f"PROOF_{name}") or (long if os.environ.get("PROOF") else short))


SEED = size("SEED", short=1, long=random.SystemRandom().randrange(2**32))


def seeded() -> random.Random:
    """Return a source of chance that `PROOF_SEED` repeats."""
    return random.Random(SEED)
