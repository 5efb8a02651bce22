"""The Django project: its settings, its doors to the web, and what they need."""

from __future__ import annotations

VERSION = "0.2.0"
