"""Requests to providers: those that are relayed, and our own."""

from __future__ import annotations
