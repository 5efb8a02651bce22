"""What can be done with keys; called by the admin, the REST API, the dashboard, scheduled tasks and commands."""

from __future__ import annotations
