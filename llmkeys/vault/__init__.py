"""Secrets: how they are encrypted and with which keys, and what keys and settings the running servers have."""

from __future__ import annotations
