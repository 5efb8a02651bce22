"""The operator's prices and aliases of models. Edits apply immediately in this process, and within seconds in others.

A price form shows the cost of a typical request, so that a price in the wrong unit is noticed before it is saved.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from llmkeys.account_fields import EditForm, in_known_years
from llmkeys.lib.money import plain_usd
from llmkeys.models import OPTIONAL_PRICES, PRICES, ModelAlias, ModelPrice
from llmkeys.prices import catalogue, tariffs

TYPICAL_INPUT, TYPICAL_OUTPUT = 2_000, 500  # tokens of a request, for the preview
_MILLION = Decimal(1_000_000)
_CACHE = ("cached_input_usd_per_mtok", "cache_write_usd_per_mtok", "cache_write_1h_usd_per_mtok")
_OTHER_KINDS = tuple(name for name in OPTIONAL_PRICES if name.endswith("_mtok") and name not in _CACHE)
_FAR_OFF = 20  # times the known price: more likely a mistake than a discount


def price_column(name: str, title: str) -> Callable[[ModelPrice], str]:
    @admin.display(description=title, ordering=name)
    def column(row: ModelPrice) -> str:
        return plain_usd(getattr(row, name))

    column.__name__ = f"{name}_nano"  # the cell's class in the list, which aligns amounts to the right
    return column


def typical_usd(price: ModelPrice) -> Decimal:
    return (price.input_usd_per_mtok * TYPICAL_INPUT + price.output_usd_per_mtok * TYPICAL_OUTPUT) / _MILLION


class RowForm(EditForm, forms.ModelForm):
    """Takes what was not edited from the database, so that the row is checked and stored as others have left it."""

    def clean(self) -> dict[str, Any]:
        super().clean()
        if self.instance.pk is not None:
            for name in set(self.cleaned_data) - {"shown", *self.changed_data}:
                self.cleaned_data[name] = getattr(self.instance, name)
        return self.cleaned_data


class CataloguedAdmin(admin.ModelAdmin):
    """Drops the cached tables after every edit."""

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        found = super().get_fieldsets(request, obj)
        if obj is None or not self.has_change_permission(request, obj):
            return found
        return (*found, (None, {"fields": ("shown",), "classes": ("hidden",)}))

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        obj.save(update_fields=form.changed_data if change else None)
        catalogue.forget()

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        super().delete_model(request, obj)
        catalogue.forget()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet) -> None:
        super().delete_queryset(request, queryset)
        catalogue.forget()


class PriceForm(RowForm):
    """Shows amounts without the trailing zeros of a column with eight decimals."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for name in (*PRICES, *OPTIONAL_PRICES):
            amount = self.initial.get(name)
            if isinstance(amount, Decimal):
                self.initial[name] = f"{amount.normalize():f}"
        if "above_input_tokens" in self.fields:  # not for a reader
            self.fields["above_input_tokens"].required = False

    def clean_above_input_tokens(self) -> int:
        return self.cleaned_data["above_input_tokens"] or 0

    def clean_valid_from(self) -> datetime:
        try:
            return in_known_years(self.cleaned_data["valid_from"])
        except ValueError as error:
            raise forms.ValidationError(str(error)) from None


@admin.register(ModelPrice)
class ModelPriceAdmin(CataloguedAdmin):
    form = PriceForm
    list_display = (
        "model",
        "provider",
        "service_tier",
        "above_input_tokens",
        "valid_from",
        price_column("input_usd_per_mtok", "per million in"),
        price_column("output_usd_per_mtok", "per million out"),
        price_column("cached_input_usd_per_mtok", "cached in"),
        price_column("cache_write_usd_per_mtok", "cache write"),
        "typical_nano",
        "in_force",
    )
    list_filter = ("provider", "service_tier")
    search_fields = ("model",)
    fieldsets = (
        (None, {"fields": ("provider", "model", "service_tier", "above_input_tokens", "valid_from")}),
        (
            "USD per million tokens",
            {
                "description": "As in the providers’ price lists: 1.25 means 1.25 USD per million tokens. Your price "
                "takes precedence over the price data for requests admitted from its date on; earlier charges do not "
                "change. A price of 0 means free. Without a cache price, cached tokens cost as much as plain "
                "input; without a price for reasoning, it costs as much as output.",
                "fields": (*PRICES, *_CACHE, "preview"),
            },
        ),
        (
            "Audio, images and reasoning, USD per million tokens",
            {
                "description": "The price data applies to empty fields; if it has no price either, the highest price "
                "given here applies, and the cost of the request is marked as estimated.",
                "fields": _OTHER_KINDS,
            },
        ),
        (
            "Fees in USD",
            {
                "description": "Per search (10 USD per thousand is 0.01) and per request.",
                "fields": ("search_usd", "request_usd"),
            },
        ),
    )
    readonly_fields = ("preview",)

    class Media:
        js = ("js/price-preview.js",)

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        same = ModelPrice.objects.filter(
            provider=OuterRef("provider"),
            model=OuterRef("model"),
            service_tier=OuterRef("service_tier"),
            above_input_tokens=OuterRef("above_input_tokens"),
        )
        present = same.filter(valid_from__lte=timezone.now()).order_by("-valid_from").values("pk")[:1]
        return super().get_queryset(request).annotate(present=Subquery(present))

    @admin.display(description="typical request")
    def typical_nano(self, price: ModelPrice) -> str:
        return plain_usd(typical_usd(price))

    @admin.display(description="in force")
    def in_force(self, price: ModelPrice) -> str:
        if price.valid_from > timezone.now():
            return "Not yet"
        return "Yes" if vars(price)["present"] == price.pk else "Replaced"

    @admin.display(description="Preview")
    def preview(self, price: ModelPrice) -> SafeString:
        """Return example costs, which the page's script updates, and the known price for comparison."""
        known = price.pk is not None
        lines = format_html_join(
            "",
            '<div><dt>{}</dt><dd data-tokens="{}">{}</dd></div>',
            (
                ("A million input tokens", f"{10**6} 0", plain_usd(price.input_usd_per_mtok) if known else "–"),
                ("A million output tokens", f"0 {10**6}", plain_usd(price.output_usd_per_mtok) if known else "–"),
                (
                    f"A typical request: {TYPICAL_INPUT:,} tokens in, {TYPICAL_OUTPUT:,} out",
                    f"{TYPICAL_INPUT} {TYPICAL_OUTPUT}",
                    plain_usd(typical_usd(price)) if known else "–",
                ),
            ),
        )
        return format_html('<dl class="price-preview">{}</dl>{}', lines, known_words(price) if known else "")


def known_words(price: ModelPrice) -> SafeString:
    """Return the price data's price of the model, with a warning if the operator's price is far from it."""
    data = tariffs.shown_by_data(price.provider, price.model, timezone.now())
    if data is None:
        return format_html('<p class="price-known">{}</p>', "The price data does not have this model.")
    words = format_html(
        '<p class="price-known">The price data has {} in and {} out.</p>',
        plain_usd(data.input),
        plain_usd(data.output),
    )
    pairs = ((price.input_usd_per_mtok, data.input), (price.output_usd_per_mtok, data.output))
    if any(_far_off(own, known) for own, known in pairs):
        words += format_html(
            '<p class="price-known price-slip">This is more than {} times off the price data. Prices are per million '
            "tokens, not per token or per thousand.</p>",
            _FAR_OFF,
        )
    return words


def _far_off(own: Decimal, known: Decimal) -> bool:
    return bool(own and known) and not known / _FAR_OFF <= own <= known * _FAR_OFF


class NamesField(forms.CharField):
    """A list of names, one per line."""

    widget = forms.Textarea(attrs={"rows": 4, "class": "vLargeTextField"})

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(map(str, value)) if isinstance(value, list) else value

    def to_python(self, value: Any) -> Any:
        return [line.strip() for line in str(value or "").splitlines() if line.strip()]

    def has_changed(self, initial: Any, data: Any) -> bool:
        return self.to_python(data) != (initial or [])


class AliasForm(RowForm):
    model_names = NamesField(
        label="Models", help_text="One name per line, such as openai/gpt-6.1-terra, in the order in which to try them."
    )


@admin.register(ModelAlias)
class ModelAliasAdmin(CataloguedAdmin):
    form = AliasForm
    fields = ("alias", "provider", "model_names")
    list_display = ("alias", "provider", "models")
    list_filter = ("provider",)
    search_fields = ("alias",)

    @admin.display(description="models")
    def models(self, alias: ModelAlias) -> str:
        return ", ".join(alias.model_names)
