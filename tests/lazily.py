"""Large libraries that few tests use, imported when one is used: each process collects every test."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def lazily(name: str) -> Any:
    """Return a stand-in for the module of this name."""
    return _Later(name)


class _Later:
    """A module that is imported when a public name of it is used; pytest asks every module global for private ones."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(import_module(self._name), name)
