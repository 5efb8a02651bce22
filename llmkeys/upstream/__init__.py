"""The two doors outward: what is relayed, and what is asked of providers."""

from __future__ import annotations
