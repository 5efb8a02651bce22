"""What the operator must hear of, and how it is delivered."""

from __future__ import annotations
