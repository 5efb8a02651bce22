"""Other names of models. An edit of them, or of a price, counts at once in this process."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from llmkeys.models import ModelAlias
from llmkeys.prices import catalogue


class CataloguedAdmin(admin.ModelAdmin):
    """Forgets the cached tables after every edit."""

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        catalogue.forget()

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        super().delete_model(request, obj)
        catalogue.forget()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        super().delete_queryset(request, queryset)
        catalogue.forget()


@admin.register(ModelAlias)
class ModelAliasAdmin(CataloguedAdmin):
    list_display = ("alias", "model", "provider")
    list_filter = ("provider",)
    search_fields = ("alias", "model")
