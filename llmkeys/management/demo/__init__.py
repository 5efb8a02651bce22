"""`manage.py demo`: the whole product for a look, with play money, in a directory that is thrown away.

stage → the directory, the simulator, the server and their end · history → past usage through the ledger · traffic →
the programs that ask without a pause.
"""

from __future__ import annotations
