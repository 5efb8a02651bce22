"""Loaded by schemathesis: it may do whatever it likes but revoke the token that it works with."""

from __future__ import annotations

import os
import secrets

import schemathesis

_OWN_TOKEN = os.environ.get("FUZZING_TOKEN_ID", "")
_PREFIXES = {"openrouter": "sk-or-v1-", "openai": "sk-proj-", "anthropic": "sk-ant-api03-", "google": "AIza"}


@schemathesis.hook
def before_call(context, case, kwargs):
    # A client of its own each time: a wrong token is tried at every operation, which is more than one address may.
    address = ".".join(str(secrets.randbelow(254) + 1) for _ in range(4))
    case.headers = {**(case.headers or {}), "X-Forwarded-For": address}
    if case.method == "DELETE" and str(case.path_parameters.get("token_id")) == _OWN_TOKEN:
        case.path_parameters["token_id"] = 2**62
    if case.method == "POST" and _has_secret(case.body):
        # A secret has its provider's look and is stored once: made up at random, hardly any key would come about.
        case.body = {**case.body, "apiKey": _PREFIXES[case.body["provider"]] + secrets.token_hex(24)}


def _has_secret(body):
    if not isinstance(body, dict):
        return False
    provider, secret = body.get("provider"), body.get("apiKey")
    known = isinstance(provider, str) and provider in _PREFIXES
    return known and isinstance(secret, str) and len(secret) >= 8 and secret.isascii() and secret.isprintable()
