"""Examples of request and response bodies, for the documentation."""

from __future__ import annotations

from typing import Any

KEY: dict[str, Any] = {
    "id": "key-1795478400123-4821", "provider": "openrouter", "name": "Production", "description": "",
    "maskedApiKey": "sk-or-v1-12345678...abcd", "source": "database",
    "isActive": True, "isDefault": True, "status": "ACTIVE", "priority": 100,
    "dailyLimit": 10.0, "monthlyLimit": 100.0, "totalLimit": 1000.0,
    "currentDailyCost": 2.5, "currentMonthlyCost": 15.75, "totalCost": 15.75, "reservedCost": 0.0,
    "remainingDailyBudget": 7.5, "remainingMonthlyBudget": 84.25, "remainingTotalBudget": 984.25,
    "totalRequests": 142, "successfulRequests": 138, "failedRequests": 4, "successRate": 97.18,
    "createdAt": "2026-11-22T09:55:00Z", "updatedAt": "2026-11-22T09:57:30Z", "lastUsed": "2026-11-22T09:57:30Z",
    "expiresAt": None, "coolingUntil": None, "billingGroup": "", "workspaceId": "", "lastError": "",
    "enabled": True, "budgetMode": None, "projectedMonthlyCost": 41.3,
}  # fmt: skip
NEW_KEY = {"provider": "openrouter", "name": "Production", "apiKey": "sk-or-v1-your-own-secret", "dailyLimit": 10}
KEY_CHANGE = {"dailyLimit": 20, "priority": 50}
STATISTICS = {
    "totalKeys": 2, "activeKeys": 2, "totalCost": 15.75, "totalRequests": 142, "successfulRequests": 138,
    "failedRequests": 4, "successRate": 97.18, "dailyCost": 2.5, "dailyLimit": 20.0, "dailyBudgetUsed": 12.5,
    "monthlyCost": 15.75, "monthlyLimit": 200.0, "monthlyBudgetUsed": 7.88, "reservedCost": 0.0,
    "dailyResetsAt": "2026-11-23T00:00:00Z", "monthlyResetsAt": "2026-12-01T00:00:00Z",
}  # fmt: skip
TESTED = {
    "success": True, "message": "Key tested successfully", "latencyMs": 41,
    "details": {"limit": 50.0, "limitRemaining": 34.25, "limitReset": "monthly", "usage": 15.75, "usageDaily": 2.5,
                "usageMonthly": 15.75, "isFreeTier": False, "expiresAt": None, "effectiveBudget": None},
}  # fmt: skip
TEST_FAILED = {"success": False, "message": "OpenRouter rejects this API key: User not found."}
USAGE = {
    "id": 4711, "requestId": "req_1f0c8f2f4a5b6c7d8e9fa0b1c", "attempt": 1, "createdAt": "2026-11-22T09:57:28.117Z",
    "finishedAt": "2026-11-22T09:57:30.020Z", "keyId": "key-1795478400123-4821", "keyName": "Production",
    "provider": "openrouter", "dialect": "openai-chat", "requestedModel": "auto", "model": "openai/gpt-6.1-terra",
    "token": "my-program", "state": "SETTLED", "success": True, "httpStatus": 200, "error": "", "inputTokens": 812,
    "cachedInputTokens": None, "cacheWriteTokens": None, "outputTokens": 164, "reasoningTokens": None, "cost": 0.00213,
    "costSource": "provider", "held": 0.1669, "overrun": False, "streamed": False, "latencyMs": 1903,
    "firstByteMs": 1880, "skipped": [], "tokenId": 1, "user": "admin", "maxTokens": None,
}  # fmt: skip
SUMS = {
    "cost": 15.75, "requests": 142, "successful": 138, "failed": 4, "inputTokens": 115304, "outputTokens": 23288,
    "successRate": 97.18,
}  # fmt: skip
SUMMARY = {"groupBy": "model", "results": [{"group": "openai/gpt-6.1-terra", **SUMS}], "total": SUMS}
EVENT = {
    "id": 12, "kind": "rotated", "keyId": "key-1795478400123-4821", "keyName": "Production",
    "tokenId": None, "message": "Rotated from “Reserve” to “Production” for openai/gpt-6.1-terra.", "actor": "",
    "createdAt": "2026-11-22T09:57:28Z",
}  # fmt: skip
TOKEN: dict[str, Any] = {
    "id": 3, "name": "my-program", "user": "admin", "scopes": ["gateway"], "keyIds": None,
    "models": ["openai/*", "claude-sonnet-5.5"], "requestsPerMinute": 60, "status": "ACTIVE",
    "dailyLimit": 5.0, "monthlyLimit": 50.0, "totalLimit": 0.0,
    "currentDailyCost": 2.5, "currentMonthlyCost": 15.75, "totalCost": 15.75, "reservedCost": 0.0,
    "remainingDailyBudget": 2.5, "remainingMonthlyBudget": 34.25, "remainingTotalBudget": None,
    "totalRequests": 142, "successfulRequests": 138, "failedRequests": 4, "successRate": 97.18,
    "createdAt": "2026-11-22T09:55:00Z", "lastUsed": "2026-11-22T09:57:30Z", "expiresAt": None, "budgetMode": None,
    "projectedMonthlyCost": 41.3, "revokedAt": None,
}  # fmt: skip
NEW_TOKEN = {"name": "my-program", "scopes": ["gateway"], "dailyLimit": 5, "models": ["openai/*"]}
METRICS = 'llmkeys_key_held_usd{key_id="key-1795478400123-4821",name="Production",provider="openrouter"} 0.0\n'


def page(row: dict[str, Any]) -> dict[str, Any]:
    return {"results": [row], "next": None, "previous": None}


PRICE = {
    "id": 3, "provider": "openai", "model": "gpt-audio", "serviceTier": "", "aboveInputTokens": 0,
    "validFrom": "2026-11-01T00:00:00Z", "inputUsdPerMtok": 2.5, "outputUsdPerMtok": 10.0,
    "cachedInputUsdPerMtok": None, "cacheWriteUsdPerMtok": None, "cacheWrite1hUsdPerMtok": None,
    "audioInputUsdPerMtok": 32.0, "cachedAudioInputUsdPerMtok": None, "imageInputUsdPerMtok": None,
    "reasoningOutputUsdPerMtok": None, "audioOutputUsdPerMtok": 64.0, "imageOutputUsdPerMtok": None,
    "searchUsd": 0.01, "requestUsd": None,
}  # fmt: skip

ALIAS = {
    "id": 2, "alias": "auto", "models": ["openai/gpt-6.1-terra", "anthropic/claude-sonnet-5.5"], "provider": "",
}  # fmt: skip
