"""Prices: what a request can cost at most, and what it cost."""

from __future__ import annotations
