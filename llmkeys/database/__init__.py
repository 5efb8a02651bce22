"""How the product reads and writes its database; no other package needs to know which database it is."""

from __future__ import annotations
