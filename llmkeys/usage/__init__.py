"""Usage: the rows, their sums, and what is done with them later."""

from __future__ import annotations
