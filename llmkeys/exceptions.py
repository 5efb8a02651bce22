"""The product's exceptions; their messages have figures and say what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


class LLMKeysError(Exception):
    """Base of all; `str()` is a sentence for people, without secrets."""

    may_be_billed = False  # an earlier attempt may have been billed: sending the request again could cost twice
    is_lasting = False  # sending the request again is pointless until a person has changed something


class ClientGone(LLMKeysError):
    """The client has gone, so there is no further attempt."""


class WrongEncryptionKey(LLMKeysError):
    """A stored secret cannot be decrypted with the encryption keys given: the product is sealed."""


class DataDirectoryProblem(LLMKeysError):
    """A file in the data directory cannot be read or written."""


class InvalidInput(LLMKeysError):
    """Invalid input from a person or program; `errors` maps field names to sentences."""

    def __init__(self, errors: dict[str, list[str]]):
        self.errors = errors
        super().__init__(" ".join(f"{field}: {text}" for field, texts in errors.items() for text in texts))


class DuplicateSecret(LLMKeysError):
    """The same secret is stored already for this provider."""

    def __init__(self, name: str):
        self.name = name
        super().__init__(f"This API key is already stored as “{name}”. Edit that key instead of adding it again.")


class KeyConflict(LLMKeysError):
    """The operation is not possible in the key's state (an expired default, deleting an environment key)."""


class TokenConflict(LLMKeysError):
    """The operation is not possible in the access token's state (it is revoked)."""


class BeyondItsMaker(LLMKeysError):
    """An access token may not create or change a token with more rights or a later expiry date than its own."""


class SecretMissing(LLMKeysError):
    """The key has no usable secret: its variable is not set, it was deleted, or no header can carry it."""


class RecordingUnavailable(LLMKeysError):
    """The database cannot record a request now, so nothing is sent."""


class ServerStopping(LLMKeysError):
    """The server stops before the request was answered, or sent at all."""


class TooManyFailures(LLMKeysError):
    """Too many invalid access tokens came from one address; the next may be tried after `retry_seconds`."""

    def __init__(self, retry_seconds: int):
        self.retry_seconds = retry_seconds
        super().__init__(
            f"Too many invalid access tokens came from this address. Try again in {retry_seconds} seconds; "
            "a valid token still works."
        )


# --- why no key serves a request -----------------------------------------------------------------------------------


@dataclass
class NoKey(LLMKeysError):
    """Base of the reasons why no key serves a request; `retry_at` is the earliest time at which that may change."""

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
    """The access token has used up its requests of this minute."""


class AllKeysAtLimit(NoKey):
    """Every usable key lacks room in a budget for this request."""


class AllKeysCooling(NoKey):
    """Every usable key is cooling (some may be spent as well)."""


class TokenAtLimit(NoKey):
    """The access token lacks room in one of its own budgets for this request."""


class BudgetBusy(NoKey):
    """There would be room without the open holds of other requests."""


class RequestExceedsBudget(NoKey):
    """The request can cost more than any key's whole limit."""


# --- what the provider did -----------------------------------------------------------------------------------------


class UpstreamFailed(LLMKeysError):
    """The provider failed in all attempts; the message contains no secrets."""

    attempts = 0
    retry_after_seconds: float | None = None  # what the provider asked for
    final = False  # True: no other key or model may be tried


class UpstreamTimeout(UpstreamFailed):
    """The provider did not answer in time, and may still be working."""

    final = True
