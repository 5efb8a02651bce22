"""A local stand-in for OpenRouter, OpenAI, Anthropic and Google, for trying the product without spending money.

It imports nothing of the product, so that what it says about money is a second opinion and not an echo.
Tests start it with `SimulatorThread`, people with `manage.py simulator`.
"""

from __future__ import annotations

from .server import Simulator
from .thread import SimulatorThread

__all__ = ["Simulator", "SimulatorThread"]
