"""A local stand-in for OpenRouter, OpenAI, Anthropic and Google, for trying the product without spending money.

It imports nothing from the product, so that its costs are computed independently. Tests start it with
`SimulatorThread`, people with `manage.py simulator`.
"""

from __future__ import annotations

from .server import Simulator
from .thread import SimulatorThread

__all__ = ["Simulator", "SimulatorThread"]
