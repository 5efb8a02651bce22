"""One request from start to end: candidates → hold → send → classify → settle, on the event loop.

`turns.py` decides which key and model come next, and `attempt.py` makes one attempt: `outgoing.py` knows what is sent,
`whole.py` and `stream.py` read the answer, `ending.py` ends the hold. The gateway, the `chat` command and the
playground all call `relay`.
"""

from __future__ import annotations

from django.utils import timezone

from llmkeys.alerts import outbox
from llmkeys.exceptions import AllKeysAtLimit, AllKeysCooling, NoKeyAvailable
from llmkeys.relay import background
from llmkeys.relay.candidates import Stored
from llmkeys.relay.requests import Answer, Client, RelayRequest, Tracked
from llmkeys.relay.turns import Turns

__all__ = ["Answer", "Client", "RelayRequest", "Tracked", "relay"]


async def relay(
    request: RelayRequest, client: Client, tracked: Tracked | None = None, stored: Stored | None = None
) -> Answer:
    """Serve a validated request with the first key and model that can; if none can, notify the operator as well.

    `tracked` is kept up to date while the request is in progress; `stored` are the keys as read together with the
    access token. Raises a NoKey, UpstreamFailed, UpstreamTimeout,
    WrongEncryptionKey, RecordingUnavailable, ServerStopping or ClientGone, each with a message for the client.
    """
    try:
        return await Turns(request, client, tracked or Tracked(), stored).run()
    except (NoKeyAvailable, AllKeysAtLimit, AllKeysCooling) as error:
        model, caller = request.request.model or "auto", request.caller
        limited = caller.token_id if caller.key_ids is not None else None
        report = background.in_thread(outbox.no_key_left, error, model=model, at=timezone.now(), token_id=limited)
        background.start(report)
        raise
