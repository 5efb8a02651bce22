"""Prices and aliases as JSON, read strictly: no number that is written as a text, no text that is a number."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from llmkeys.models import MOST_ALIASED, ModelPrice, ProviderName

MOST_USD = 10**7
MOST_TOKENS = 2**31 - 1
_DECIMALS = 8


@extend_schema_field(
    {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}
)
class Name(serializers.Field):
    """A text of 1 to 200 printable characters."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str) or not data.strip() or len(data) > 200 or not data.isprintable():
            raise serializers.ValidationError("Must be a text of 1 to 200 printable characters.")
        return data.strip()

    def to_representation(self, value: str) -> str:
        return value


@extend_schema_field(
    {"type": "array", "minItems": 1, "maxItems": MOST_ALIASED, "uniqueItems": True, "items": {"type": "string"}}
)
class Names(serializers.Field):
    """Names of models in turn; what is wrong with them the model says."""

    def to_internal_value(self, data: Any) -> Any:
        return [item.strip() if isinstance(item, str) else item for item in data] if isinstance(data, list) else data

    def to_representation(self, value: list[str]) -> list[str]:
        return value


class Choice(serializers.ChoiceField):
    """One of some texts, and nothing that only looks like one when written as text."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str) or data not in self.choices:
            words = ", ".join(value or "“”" for value in self.choices)
            raise serializers.ValidationError(f"Choose from: {words}.")
        return data


@extend_schema_field({"type": "integer", "minimum": 0, "maximum": MOST_TOKENS})
class Tokens(serializers.Field):
    def to_internal_value(self, data: Any) -> int:
        whole = isinstance(data, int) and not isinstance(data, bool)
        if isinstance(data, Decimal) and data.is_finite() and data == data.to_integral_value():
            data, whole = int(data), True  # 256.0 is a whole number in JSON
        if not whole or not 0 <= data <= MOST_TOKENS:
            raise serializers.ValidationError(f"Must be a whole number from 0 to {MOST_TOKENS:,}.")
        return data

    def to_representation(self, value: int) -> int:
        return value


@extend_schema_field({"type": "number", "minimum": 0, "maximum": MOST_USD})
class Usd(serializers.Field):
    """An amount with at most eight decimals."""

    def to_internal_value(self, data: Any) -> Decimal:
        if isinstance(data, bool) or not isinstance(data, int | Decimal):
            raise serializers.ValidationError("Must be a number in USD.")
        amount = Decimal(data)
        if not amount.is_finite() or not 0 <= amount <= MOST_USD:
            raise serializers.ValidationError(f"Must be from 0 to {MOST_USD:,} USD.")
        if amount != round(amount, _DECIMALS):
            raise serializers.ValidationError(f"Must have at most {_DECIMALS} decimals.")
        return amount

    def to_representation(self, value: Decimal) -> float:
        return float(value)


def _amount(source: str, **options: Any) -> Usd:
    return Usd(source=source, **options)


def _kind(source: str) -> Usd:
    return _amount(source, required=False, allow_null=True)


class PriceSerializer(serializers.Serializer):
    """A price as the providers' lists have it: USD per million tokens by kind, fees in USD."""

    id = serializers.IntegerField(read_only=True)
    provider = Choice(choices=ProviderName.choices)
    model = Name()
    serviceTier = Choice(source="service_tier", choices=ModelPrice.Tier.choices, required=False)
    aboveInputTokens = Tokens(source="above_input_tokens", required=False)
    validFrom = serializers.DateTimeField(source="valid_from", required=False)
    inputUsdPerMtok = _amount("input_usd_per_mtok")
    outputUsdPerMtok = _amount("output_usd_per_mtok")
    cachedInputUsdPerMtok = _kind("cached_input_usd_per_mtok")
    cacheWriteUsdPerMtok = _kind("cache_write_usd_per_mtok")
    cacheWrite1hUsdPerMtok = _kind("cache_write_1h_usd_per_mtok")
    audioInputUsdPerMtok = _kind("audio_input_usd_per_mtok")
    cachedAudioInputUsdPerMtok = _kind("cached_audio_input_usd_per_mtok")
    imageInputUsdPerMtok = _kind("image_input_usd_per_mtok")
    reasoningOutputUsdPerMtok = _kind("reasoning_output_usd_per_mtok")
    audioOutputUsdPerMtok = _kind("audio_output_usd_per_mtok")
    imageOutputUsdPerMtok = _kind("image_output_usd_per_mtok")
    searchUsd = _kind("search_usd")
    requestUsd = _kind("request_usd")


class AliasSerializer(serializers.Serializer):
    """A name that clients send, and the models for which it stands."""

    id = serializers.IntegerField(read_only=True)
    alias = Name()
    models = Names(source="model_names")
    provider = Choice(choices=[("", "every"), *ProviderName.choices], required=False)
