"""What a request can cost at most, and what it did cost."""

from __future__ import annotations
