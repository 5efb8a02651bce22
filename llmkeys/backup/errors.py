"""What can go wrong with a backup, in words for the operator."""

from __future__ import annotations

from llmkeys.exceptions import LLMKeysError


class BackupFailed(LLMKeysError):
    """No good archive was written; whatever was there before is untouched."""


class CannotRestore(LLMKeysError):
    """Nothing was replaced, and why."""
