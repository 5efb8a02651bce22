"""The verbs of a key. Admin, REST API, dashboard, tasks and commands all call these."""

from __future__ import annotations
