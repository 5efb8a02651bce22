"""Access tokens, which programs use instead of keys."""

from __future__ import annotations
