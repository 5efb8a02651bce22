"""How the product writes to its database, and the only room that asks which database it is."""

from __future__ import annotations
