"""`manage.py serve`: the web server and the scheduler as one process tree, started, watched and stopped together.

`address` is about the port, `prepare` does everything before the first request, `processes` is about one child, `web`
and `scheduler` are what the two children run, `watchdog` detects a scheduler that hangs, `tree` is the main loop.
"""

from __future__ import annotations
