"""What was asked and spent: rows, sums, and what is done with them later."""

from __future__ import annotations
