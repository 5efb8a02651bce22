"""Leaves: plain Python that knows nothing of the product, nor of Django."""

from __future__ import annotations
