"""Errors of backups, with messages for the operator."""

from __future__ import annotations

from llmkeys.exceptions import LLMKeysError


class BackupFailed(LLMKeysError):
    """No good archive was written; whatever was there before is untouched."""


class CannotRestore(LLMKeysError):
    """Nothing was replaced; the message says why."""
