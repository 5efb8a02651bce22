"""Large libraries that few tests use, imported when one is used: each process collects every test."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


def lazily(name: str) -> Any:
    """Return a module that is executed at the first look into it."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None, name
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
