"""`manage.py demo`: the whole product to try out, without real money, in a temporary directory.

`stage` starts and ends the directory, the simulator and the server, `history` writes past usage through the ledger,
`traffic` has the programs that send requests.
"""

from __future__ import annotations
