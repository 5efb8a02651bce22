"""Bodies and responses of the API only: parsed strictly, written, and documented for drf-spectacular.

Keys, access tokens, usage rows and sums are in `schemas` instead: they are used elsewhere too, and with serializers a
list of a thousand keys would take a quarter longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from llmkeys.account_fields import in_known_years, parse_instant, read_whole
from llmkeys.exceptions import InvalidInput
from llmkeys.keys.testing import TestResult
from llmkeys.models import MOST_ALIASED, KeyEvent, ModelPrice, ProviderName
from llmkeys.presentation import instant_json
from llmkeys.tokens.fields import MOST_OVERLAP_SECONDS, read_overlap

MOST_USD = 10**7
MOST_TOKENS = 2**31 - 1
_DECIMALS = 8
_MOST_REASON = 500


# No docstring, because the documentation would use it for every subclass.
class StrictSerializer(serializers.Serializer):
    @classmethod
    def read(cls, values: Mapping[str, Any], *, partial: bool = False) -> dict[str, Any]:
        """Return the given values, keyed by `source`. Raises InvalidInput naming every bad or unknown field."""
        read = cls(data=values, partial=partial)
        errors = {name: ["There is no such field."] for name in values if name not in read.fields}
        if not read.is_valid() or errors:
            raise InvalidInput(errors | {name: list(map(str, words)) for name, words in read.errors.items()})
        return read.validated_data


# --- fields ----------------------------------------------------------------------------------------------------------


class Plain(serializers.Field):
    """A field that is shown as it is stored."""

    def to_representation(self, value: Any) -> Any:
        return value


@extend_schema_field(
    {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"}
)
class Name(Plain):
    """A string of 1 to 200 printable characters."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str) or not data.strip() or len(data) > 200 or not data.isprintable():
            raise serializers.ValidationError("Must be a string of 1 to 200 printable characters.")
        return data.strip()


@extend_schema_field(
    {"type": "array", "minItems": 1, "maxItems": MOST_ALIASED, "uniqueItems": True, "items": {"type": "string"}}
)
class Names(Plain):
    """Names of models in order; the database model validates them."""

    def to_internal_value(self, data: Any) -> Any:
        return [item.strip() if isinstance(item, str) else item for item in data] if isinstance(data, list) else data


class Choice(serializers.ChoiceField):
    """One of several strings; unlike DRF's field it does not convert other types."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str) or data not in self.choices:
            words = ", ".join(value or "“”" for value in self.choices)
            raise serializers.ValidationError(f"Choose from: {words}.")
        return data


@extend_schema_field({"type": "integer", "minimum": 0, "maximum": MOST_TOKENS})
class Tokens(Plain):
    def to_internal_value(self, data: Any) -> int:
        words = f"Must be a whole number from 0 to {MOST_TOKENS:,}."
        try:
            return read_whole(data, least=0, most=MOST_TOKENS, words=words)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None


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


class Switch(serializers.BooleanField):
    """A boolean; unlike DRF's field it does not convert other types."""

    default_error_messages = dict.fromkeys(("invalid", "null"), "Must be true or false.")

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            self.fail("invalid")
        return data


@extend_schema_field({"type": "string", "maxLength": _MOST_REASON, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$"})
class Reason(serializers.Field):
    default_error_messages = {"null": "Must be a string."}

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("null")
        if len(data) > _MOST_REASON or not data.isprintable():
            raise serializers.ValidationError(
                f"May have at most {_MOST_REASON} characters, none of them a control character."
            )
        return data


@extend_schema_field({"type": "integer", "minimum": 0, "maximum": MOST_OVERLAP_SECONDS})
class Overlap(serializers.Field):
    def validate_empty_values(self, data: Any) -> tuple[bool, Any]:
        # null gets the same error as other values that are not numbers
        return (False, None) if data is None else super().validate_empty_values(data)

    def to_internal_value(self, data: Any) -> int:
        try:
            return read_overlap(data)
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None


class Instant(serializers.DateTimeField):
    def to_internal_value(self, data: Any) -> datetime:
        try:
            return in_known_years(parse_instant(data))
        except ValueError as error:
            raise serializers.ValidationError(str(error)) from None

    def to_representation(self, value: Any) -> Any:
        return instant_json(value)


class Details(serializers.DictField):
    """What a provider said, with Decimals as JSON numbers."""

    def to_representation(self, value: Any) -> Any:
        match value:
            case Decimal():
                return float(value) if value.is_finite() else None
            case dict():
                return {name: self.to_representation(item) for name, item in value.items()}
            case list() | tuple():
                return [self.to_representation(item) for item in value]
        return value


# --- bodies ----------------------------------------------------------------------------------------------------------


class ToggleSerializer(StrictSerializer):
    active = Switch(required=False)


class VoidSerializer(StrictSerializer):
    reason = Reason(required=False)


class RotationSerializer(StrictSerializer):
    overlapSeconds = Overlap(required=False)


# --- answers ---------------------------------------------------------------------------------------------------------


class TestedSerializer(serializers.Serializer):
    """The result of testing a key; if it failed, only the message."""

    __test__ = False  # not a test class, despite the name

    success = serializers.BooleanField(source="ok")
    message = serializers.CharField()
    latencyMs = serializers.IntegerField(source="latency_ms", min_value=0, required=False)
    details = Details(required=False)

    def to_representation(self, result: TestResult) -> dict[str, Any]:
        shown = super().to_representation(result)
        return shown if result.ok else {name: shown[name] for name in ("success", "message")}


class EventSerializer(serializers.Serializer):
    """What happened to a key or an access token."""

    id = serializers.IntegerField()
    kind = serializers.ChoiceField(KeyEvent.Kind.choices)
    keyId = serializers.CharField(source="key_id", allow_null=True)
    keyName = serializers.CharField(source="key.name", allow_null=True)
    tokenId = serializers.IntegerField(source="token_id", allow_null=True)
    message = serializers.CharField()
    actor = serializers.CharField()
    createdAt = Instant(source="created_at")


# --- both ------------------------------------------------------------------------------------------------------------


def _kind(source: str) -> Usd:
    return Usd(source=source, required=False, allow_null=True)


class PriceSerializer(StrictSerializer):
    """A price as in the providers' lists: USD per million tokens of each kind, fees in USD."""

    id = serializers.IntegerField(read_only=True)
    provider = Choice(choices=ProviderName.choices)
    model = Name()
    serviceTier = Choice(source="service_tier", choices=ModelPrice.Tier.choices, required=False)
    aboveInputTokens = Tokens(source="above_input_tokens", required=False)
    validFrom = Instant(source="valid_from", required=False)
    inputUsdPerMtok = Usd(source="input_usd_per_mtok")
    outputUsdPerMtok = Usd(source="output_usd_per_mtok")
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


class AliasSerializer(StrictSerializer):
    """A name that clients send, and the models that it stands for."""

    id = serializers.IntegerField(read_only=True)
    alias = Name()
    models = Names(source="model_names")
    provider = Choice(choices=[("", "every"), *ProviderName.choices], required=False)
