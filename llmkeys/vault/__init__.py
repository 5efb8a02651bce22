"""Secrets: how they are encrypted, and under which master key."""

from __future__ import annotations
