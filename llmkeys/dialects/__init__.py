"""What a request and an answer look like in each dialect, in plain data: no Django, no network."""

from __future__ import annotations
