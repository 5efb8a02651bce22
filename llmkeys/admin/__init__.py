"""The Django admin: facts to read, prices and aliases to edit, keys and tokens through the services alone."""

from __future__ import annotations

from django.contrib import admin

from llmkeys.admin import facts, keys, models, tokens  # noqa: F401  (registers them)

admin.site.site_header = "RefactAI LLM key management"
admin.site.site_title = "RefactAI LLM key management"
admin.site.index_title = "Administration"
admin.site.site_url = "/llm-settings"
