"""One request, from door to door: candidates → hold → send → classify → settle.

`turns.py` decides which key and model come next, `sending.py` makes one attempt, `streaming.py` passes a stream on,
`endings.py` writes how an attempt ended. The gateway, the `chat` command and the playground come in by `relay`.
"""

from __future__ import annotations

from django.utils import timezone

from llmkeys.alerts import outbox
from llmkeys.exceptions import AllKeysAtLimit, AllKeysCooling, NoKeyAvailable
from llmkeys.relay import turns
from llmkeys.relay.requests import Answer, ChatRequest

__all__ = ["Answer", "ChatRequest", "relay"]


def relay(request: ChatRequest) -> Answer:
    """Serve a validated request with the first key and model that can; where no key is left, the operator hears too.

    Raises a NoKey, UpstreamFailed, UpstreamTimeout, WrongEncryptionKey or RecordingUnavailable, each with its words.
    """
    try:
        return turns.relay(request)
    except (NoKeyAvailable, AllKeysAtLimit, AllKeysCooling) as error:
        outbox.no_key_left(error, model=request.requested_model or "auto", at=timezone.now())
        raise
