"""One request, from door to door: candidates → hold → send → classify → settle.

`turns.py` decides which key and model come next, `sending.py` makes one attempt, `streaming.py` passes a stream on,
`endings.py` writes how an attempt ended. The gateway, the `chat` command and the playground come in by `relay`.
"""

from __future__ import annotations

from llmkeys.relay.requests import Answer, ChatRequest
from llmkeys.relay.turns import relay

__all__ = ["Answer", "ChatRequest", "relay"]
