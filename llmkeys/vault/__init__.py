"""Secrets: how they are encrypted, and with which encryption keys."""

from __future__ import annotations
