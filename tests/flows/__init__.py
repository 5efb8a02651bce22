"""The product's promises, proved with real processes over real sockets. All of them are slow."""

from __future__ import annotations
