"""Is the process up, can it serve: for load balancers, without authentication and without details."""

from __future__ import annotations

from django.db import Error, connection
from django.http import HttpRequest, JsonResponse

from llmkeys.database import sqlite
from llmkeys.exceptions import LLMKeysError
from llmkeys.vault import keyring


def healthz(request: HttpRequest) -> JsonResponse:
    """GET /healthz: the process answers."""
    return JsonResponse({"status": "ok"})


def readyz(request: HttpRequest) -> JsonResponse:
    """GET /readyz: the database answers and the stored secrets decrypt."""
    try:
        sqlite.require_the_file()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM llmkeys_apikey WHERE 1 = 0")
        keyring.verify()
    except (Error, LLMKeysError):
        return JsonResponse({"status": "unavailable"}, status=503)
    return JsonResponse({"status": "ok"})
