"""The Django project: settings, web entry points, and what they need."""

from __future__ import annotations

VERSION = "0.2.0"
