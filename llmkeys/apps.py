from __future__ import annotations

from django.apps import AppConfig


class LLMKeysConfig(AppConfig):
    name = "llmkeys"
    verbose_name = "LLM keys"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from llmkeys import checks  # noqa: F401  (registers the system checks)
