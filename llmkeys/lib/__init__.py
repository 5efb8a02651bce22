"""Plain Python helpers that depend neither on the rest of the product nor on Django."""

from __future__ import annotations
