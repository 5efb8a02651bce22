"""Messages of failed key tests: what happened, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmkeys.providers.failures import Failure, FailureKind

if TYPE_CHECKING:
    from llmkeys.providers.base import Provider

TESTED = "Key tested successfully"


def explain(provider: Provider, failure: Failure) -> str:
    """Return in one line why a key test failed and what to do."""
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
                f"{label} accepts this key, but its credit or quota is used up",
                f"Add credit or raise the limit at {label}.",
            )
        case FailureKind.FORBIDDEN_HERE:
            return (
                f"{label} refused the request, although the key itself is valid",
                "Check the key's permissions and its allowed locations and IP addresses there; the key stays as it is.",
            )
        case FailureKind.RATE_LIMITED:
            return f"{label} is limiting the rate of requests right now", "The key stays as it is; test it again later."
        case FailureKind.RETRY:
            return f"{label} is overloaded or down right now", "The key stays as it is; test it again in a moment."
        case _:
            return (
                f"{label} refused the test request",
                f"Check the key at {page}, and {provider.base_url_variable} if it is set.",
            )
