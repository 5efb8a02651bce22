"""Access tokens: what programs hold."""

from __future__ import annotations
