"""What can go wrong, by name; each carries its figures and tells a person what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


class LLMKeysError(Exception):
    """Base of all; `str()` is a sentence for people, free of secrets."""

    may_be_billed = False  # an attempt before it may have been billed: sending the request again could cost twice


class ClientGone(LLMKeysError):
    """The caller has gone: nobody waits for a further attempt."""


class WrongEncryptionKey(LLMKeysError):
    """A stored secret cannot be decrypted with the keys given: the product is sealed."""


class DataDirectoryProblem(LLMKeysError):
    """A file of the data directory cannot be read or written."""


class InvalidInput(LLMKeysError):
    """What a person or program gave is refused; `errors` maps field names to sentences."""

    def __init__(self, errors: dict[str, list[str]]):
        self.errors = errors
        super().__init__(" ".join(f"{field}: {text}" for field, texts in errors.items() for text in texts))


class DuplicateSecret(LLMKeysError):
    """The same secret is stored already for this provider."""

    def __init__(self, name: str):
        self.name = name
        super().__init__(f"This API key is already stored as “{name}”. Edit that key instead of adding it again.")


class KeyConflict(LLMKeysError):
    """The verb does not fit the state of the key (an expired default, an environment key to delete)."""


class TokenConflict(LLMKeysError):
    """The verb does not fit the state of the access token (it is revoked)."""


class BeyondItsMaker(LLMKeysError):
    """An access token may not make or change a token that could do more, or would hold longer, than itself."""


class SecretMissing(LLMKeysError):
    """The key has no secret that can be sent: its variable is gone, it was deleted, or no header can carry it."""


class RecordingUnavailable(LLMKeysError):
    """The database cannot record a request now, so nothing is sent."""


class TooManyFailures(LLMKeysError):
    """Too many wrong access tokens came from one address; `retry_seconds` until the next may be tried."""

    def __init__(self, retry_seconds: int):
        self.retry_seconds = retry_seconds
        super().__init__(
            f"Too many wrong access tokens came from this address. Try again in {retry_seconds} seconds; "
            "a valid token still works."
        )


# --- why no key serves a request -----------------------------------------------------------------------------------


@dataclass
class NoKey(LLMKeysError):
    """Base of the reasons why no key serves; `retry_at` is the earliest instant at which that may change."""

    message: str
    retry_at: datetime | None = None

    def __str__(self) -> str:
        return self.message


class NoKeyAvailable(NoKey):
    """No key is stored, or all are disabled, rejected or expired."""


class ModelNotAvailable(NoKey):
    """No stored key can serve the model."""


class ModelNotAllowed(NoKey):
    """The access token may not use the model."""


class TooManyRequests(NoKey):
    """The access token has sent as many requests in this minute as it may."""


class AllKeysAtLimit(NoKey):
    """Every usable key lacks room in a budget for this request."""


class AllKeysCooling(NoKey):
    """Every usable key rests (some may be spent besides)."""


class TokenAtLimit(NoKey):
    """The access token lacks room in a budget of its own for this request."""


class BudgetBusy(NoKey):
    """Only open holds of other requests stand in the way."""


class RequestExceedsBudget(NoKey):
    """The request may cost more than any key's whole limit."""


# --- what the provider did -----------------------------------------------------------------------------------------


class UpstreamFailed(LLMKeysError):
    """The provider's own failure, after all attempts; the message is scrubbed of secrets."""

    attempts = 0
    retry_after_seconds: float | None = None  # what the provider asked for
    final = False  # True: nothing may be tried after it, no other key and no other model


class UpstreamTimeout(UpstreamFailed):
    """The provider did not answer in time, and may be at work still."""

    final = True
