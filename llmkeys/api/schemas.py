"""The JSON Schemas (OpenAPI 3.1) of what the API shares with commands, admin, exports and imports, by name.

These objects are read by `keys.fields` and `tokens.fields` and written by `presentation` and `usage.sums` for all of
them, so serializers would only repeat the fields; what only the API reads and writes is in `serializers`.
"""

from __future__ import annotations

from typing import Any

from llmkeys.key_state import STATUSES, TOKEN_STATUSES
from llmkeys.keys.fields import READ_ONLY
from llmkeys.models import ProviderName, UsageRecord
from llmkeys.tokens.fields import MOST_KEYS, MOST_MODELS, MOST_PER_MINUTE, SCOPES
from llmkeys.tokens.fields import READ_ONLY as TOKEN_READ_ONLY
from llmkeys.usage.sums import GROUPS

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
USD: Schema = {"type": "number", "description": "USD"}
WHEN: Schema = {"type": "string", "format": "date-time"}
PROVIDER: Schema = {"type": "string", "enum": ProviderName.values}
_NO_CONTROLS = r"[^\u0000-\u001f\u007f-\u009f]"
_MOST_ROWS = 2**63 - 1


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def nullable(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}


def words(most: int) -> Schema:
    """Return the schema of a string of at most `most` characters without control characters."""
    return {"type": "string", "maxLength": most, "pattern": f"^{_NO_CONTROLS}*$"}


def answer(**fields: Schema) -> Schema:
    """Return the schema of an object that always has exactly these fields."""
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def body(*required: str, **fields: Schema) -> Schema:
    """Return the schema of an object in which only these fields are accepted."""
    named = {"required": list(required)} if required else {}
    return {"type": "object", "properties": fields, **named, "additionalProperties": False}


_NAME: Schema = {
    "type": "string", "minLength": 1, "maxLength": 100, "pattern": rf"^[^\s\u0000-\u001f\u007f-\u009f]{_NO_CONTROLS}*$",
}  # fmt: skip
_SECRET: Schema = {
    "type": "string", "minLength": 8, "maxLength": 500, "pattern": "^[!-~]*$", "writeOnly": True,
    "description": "The provider's secret. No response contains it.",
}  # fmt: skip
_LIMIT: Schema = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1_000_000},
        {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9]{1,9})?$"},
    ],
    "description": "USD with at most nine decimals; 0 means no limit.",
}
_EXPIRY: Schema = {
    "anyOf": [WHEN, {"type": "string", "format": "date"}, {"type": "null"}, {"const": ""}],
    "description": "In the future and before the year 2200, or the stored date; null or an empty string: never.",
}
BUDGET_MODE: Schema = {
    "enum": ["strict", "soft", None],
    "description": "null: the value of REFACTAI_BUDGET_MODE.",
}
_OF_BOTH: dict[str, Schema] = {
    "name": _NAME,
    "dailyLimit": _LIMIT,
    "monthlyLimit": _LIMIT,
    "totalLimit": _LIMIT,
    "budgetMode": BUDGET_MODE,
    "expiresAt": _EXPIRY,
}
_WRITABLE: dict[str, Schema] = {
    **_OF_BOTH,
    "description": words(500),
    "priority": {"type": "integer", "minimum": -1_000_000, "maximum": 1_000_000},
    "billingGroup": words(100),
    "workspaceId": {"type": "string", "maxLength": 100, "pattern": "^[!-~]*$"},
    "enabled": TRUTH,
}
_SHOWN: Schema = {"description": "Returned by GET, ignored here."}

_ACCOUNT: dict[str, Schema] = {
    "dailyLimit": USD,
    "monthlyLimit": USD,
    "totalLimit": USD,
    "currentDailyCost": USD,
    "currentMonthlyCost": USD,
    "totalCost": USD,
    "reservedCost": USD,
    "remainingDailyBudget": nullable(USD),
    "remainingMonthlyBudget": nullable(USD),
    "remainingTotalBudget": nullable(USD),
    "totalRequests": COUNT,
    "successfulRequests": COUNT,
    "failedRequests": COUNT,
    "successRate": NUMBER,
    "createdAt": WHEN,
    "lastUsed": nullable(WHEN),
    "expiresAt": nullable(WHEN),
    "budgetMode": BUDGET_MODE,
    "projectedMonthlyCost": nullable(USD),
}
KEY = answer(
    id=TEXT,
    provider=PROVIDER,
    name=TEXT,
    description=TEXT,
    maskedApiKey=TEXT,
    source={"type": "string", "enum": ["database", "environment"]},
    isActive=TRUTH,
    isDefault=TRUTH,
    status={"type": "string", "enum": list(STATUSES)},
    priority={"type": "integer"},
    **_ACCOUNT,
    updatedAt=WHEN,
    coolingUntil=nullable(WHEN),
    billingGroup=TEXT,
    workspaceId=TEXT,
    lastError=TEXT,
    enabled=TRUTH,
)

_SUMS: dict[str, Schema] = {
    "cost": USD,
    "requests": COUNT,
    "successful": COUNT,
    "failed": COUNT,
    "inputTokens": COUNT,
    "outputTokens": COUNT,
    "successRate": NUMBER,
}

_USAGE = answer(
    id={"type": "integer"},
    requestId=TEXT,
    attempt=COUNT,
    createdAt=WHEN,
    finishedAt=nullable(WHEN),
    keyId=TEXT,
    keyName=TEXT,
    provider=TEXT,
    dialect=TEXT,
    requestedModel=TEXT,
    model=TEXT,
    token=TEXT,
    state={"type": "string", "enum": UsageRecord.State.values},
    success=nullable(TRUTH),
    httpStatus=nullable(COUNT),
    error=TEXT,
    inputTokens=nullable(COUNT),
    cachedInputTokens=nullable(COUNT),
    cacheWriteTokens=nullable(COUNT),
    outputTokens=nullable(COUNT),
    reasoningTokens=nullable(COUNT),
    cost=USD,
    costSource={"type": "string", "enum": UsageRecord.CostSource.values},
    held=USD,
    overrun=TRUTH,
    streamed=TRUTH,
    latencyMs=nullable(COUNT),
    firstByteMs=nullable(COUNT),
    skipped=array(answer(keyId=TEXT, reason=TEXT)),
    tokenId=nullable({"type": "integer"}),
    user=TEXT,
    maxTokens=nullable(COUNT),
)

_SCOPE: Schema = {"type": "string", "enum": list(SCOPES)}
_PATTERN: Schema = {
    "type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^\s\u0000-\u001f\u007f-\u009f]+$",
}  # fmt: skip
_TOKEN: dict[str, Schema] = {
    "id": {"type": "integer"},
    "name": TEXT,
    "user": TEXT,
    "scopes": array(_SCOPE),
    "keyIds": {**nullable(array(TEXT)), "description": "Only these keys serve it; null: every key; []: none is left."},
    "models": {**nullable(array(TEXT)), "description": "Names, or patterns such as openai/*; null: every model."},
    "requestsPerMinute": {**COUNT, "description": "0: no limit."},
    "status": {"type": "string", "enum": list(TOKEN_STATUSES)},
    **_ACCOUNT,
    "revokedAt": nullable(WHEN),
}
_TOKEN_WRITABLE: dict[str, Schema] = {
    **_OF_BOTH,
    "scopes": {"type": "array", "items": _SCOPE, "minItems": 1, "maxItems": 10},
    "keyIds": {"type": ["array", "null"], "items": TEXT, "minItems": 1, "maxItems": MOST_KEYS},
    "models": {"type": ["array", "null"], "items": _PATTERN, "minItems": 1, "maxItems": MOST_MODELS},
    "requestsPerMinute": {"type": "integer", "minimum": 0, "maximum": MOST_PER_MINUTE},
}
_TOKEN_CHANGEABLE: dict[str, Schema] = {
    **_TOKEN_WRITABLE,
    "keyIds": {
        **_TOKEN_WRITABLE["keyIds"],
        "minItems": 0,
        "description": "Empty only if the keys of the token were all deleted, which changes nothing.",
    },
}


SCHEMAS: dict[str, Schema] = {
    "Key": KEY,
    "NewKey": body("provider", "name", "apiKey", provider=PROVIDER, apiKey=_SECRET, isDefault=TRUTH, **_WRITABLE),
    "KeyChange": body(
        provider={**PROVIDER, "description": "Cannot be changed."},
        apiKey={"anyOf": [_SECRET, {"const": ""}, {"type": "null"}]},
        isDefault=_SHOWN,
        **_WRITABLE,
        **dict.fromkeys(sorted(READ_ONLY), _SHOWN),
    ),
    "NoKey": answer(available={"type": "boolean", "const": False}, message=TEXT),
    "Statistics": answer(
        totalKeys=COUNT,
        activeKeys=COUNT,
        totalCost=USD,
        totalRequests=COUNT,
        successfulRequests=COUNT,
        failedRequests=COUNT,
        successRate=NUMBER,
        dailyCost=USD,
        dailyLimit=USD,
        dailyBudgetUsed=NUMBER,
        monthlyCost=USD,
        monthlyLimit=USD,
        monthlyBudgetUsed=NUMBER,
        reservedCost=USD,
        dailyResetsAt=WHEN,
        monthlyResetsAt=WHEN,
    ),
    "Usage": _USAGE,
    "UsagePage": answer(results=array(ref("Usage")), next=nullable(TEXT), previous=nullable(TEXT)),
    "Sums": answer(**_SUMS),
    "SumsOfGroup": {
        "type": "object",
        "properties": {
            "group": TEXT,
            "keyId": TEXT,
            "keyName": TEXT,
            "tokenId": {"type": ["integer", "null"]},
            "tokenName": TEXT,
            "user": TEXT,
            **_SUMS,
        },
        "required": ["group", *_SUMS],
        "additionalProperties": False,
    },
    "UsageSummary": answer(
        groupBy={"type": "string", "enum": list(GROUPS)}, results=array(ref("SumsOfGroup")), total=ref("Sums")
    ),
    "Token": answer(**_TOKEN),
    "NewToken": body(
        "name",
        user={"type": ["string", "null"], "description": "The owner; only for administrators who are logged in."},
        **_TOKEN_WRITABLE,
        **dict.fromkeys(sorted(TOKEN_READ_ONLY - {"user"}), _SHOWN),
    ),
    "TokenChange": body(**_TOKEN_CHANGEABLE, **dict.fromkeys(sorted(TOKEN_READ_ONLY), _SHOWN)),
    "MadeToken": answer(**_TOKEN, token={**TEXT, "description": "The token itself, which is shown only here."}),
    "FieldErrors": {
        "type": "object",
        "additionalProperties": array(TEXT),
        "minProperties": 1,
        "description": "What is wrong with each field or parameter.",
    },
}


def row_number(description: str) -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": _MOST_ROWS, "description": description}


def add_components(result: Schema, **_: Any) -> Schema:
    """Add the schemas to the document; drf-spectacular calls this at the end."""
    result["components"]["schemas"] = {**result["components"].get("schemas", {}), **SCHEMAS}
    return result
