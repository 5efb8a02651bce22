"""What the operator is notified of, and how it is delivered."""

from __future__ import annotations
