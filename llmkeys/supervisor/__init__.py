"""`manage.py serve`: one process tree of the web server and the scheduler, started, watched and stopped together.

address → the port · prepare → everything before the first request · processes → one child · web, scheduler → what the
two children run · watchdog → is the scheduler wedged · tree → the loop above them all.
"""

from __future__ import annotations
