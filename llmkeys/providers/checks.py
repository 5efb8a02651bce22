"""The outcome of the free key test in words: what happened, and what a person can do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmkeys.providers.failures import Failure, FailureKind

if TYPE_CHECKING:
    from llmkeys.providers.base import Provider

TESTED = "Key tested successfully"


def in_words(provider: Provider, failure: Failure) -> str:
    """Return why a key test failed and the remedy, in one line."""
    cause = f" ({failure.status}): {failure.message}" if failure.status else f": {failure.message}"
    begin, remedy = _sentences(provider, failure)
    end = "" if cause.endswith((".", "!", "?", "…")) else "."
    return f"{begin}{cause}{end} {remedy}"


def _sentences(provider: Provider, failure: Failure) -> tuple[str, str]:
    label, page = provider.label, provider.keys_page
    match failure.kind:
        case FailureKind.REJECTED:
            return f"{label} does not accept this key", f"Create a new one at {page} and replace the secret."
        case FailureKind.EXHAUSTED | FailureKind.TOO_EXPENSIVE:
            return (
                f"{label} knows this key, but has no money or quota left for it",
                f"Top up or raise the limit at {label}.",
            )
        case FailureKind.FORBIDDEN_HERE:
            return (
                f"{label} refused the call, not the key itself",
                "Look at the key's permissions and the allowed locations and addresses there; the key stays as it is.",
            )
        case FailureKind.RATE_LIMITED:
            return f"{label} limits the rate of calls right now", "The key stays as it is; test it again later."
        case FailureKind.RETRY:
            return f"{label} is busy or broken right now", "The key stays as it is; test it again in a moment."
        case _:
            return (
                f"{label} refused the test",
                f"Check the key at {page}, and {provider.base_url_variable} if it is set.",
            )
