"""Which versions run, and what the database is: facts for the health page."""

from __future__ import annotations

import platform
import tomllib
from functools import cache
from importlib import metadata
from typing import Any

from django.conf import settings
from django.db import connection
from django.template.defaultfilters import filesizeformat


@cache
def product_version() -> str:
    with (settings.BASE_DIR / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]["version"]


def facts() -> list[tuple[str, str]]:
    """Return what runs, as pairs of a word and its value; at most two cheap queries."""
    return [
        ("Product", f"RefactAI LLM key management {product_version()}"),
        ("Database", _database()),
        ("Kept in", _place()),
        ("Python", platform.python_version()),
        ("Django", f"{metadata.version('django')}, django-q2 {metadata.version('django-q2')}"),
        ("Web server", f"granian {metadata.version('granian')}"),
        ("Price data", f"genai-prices {metadata.version('genai-prices')}"),
        ("Time zone", f"{settings.TIME_ZONE}: budget days and months begin at its midnight"),
        ("Budgets", _budgets()),
    ]


def _database() -> str:
    if connection.vendor == "sqlite":
        size = _value("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
        return f"SQLite {_value('SELECT sqlite_version()')}, {_size(size)}"
    version = int(_value("SHOW server_version_num"))
    size = _value("SELECT pg_database_size(current_database())")
    return f"PostgreSQL {version // 10_000}.{version % 10_000}, {_size(size)}"


def _size(size: int) -> str:
    return filesizeformat(size).replace("\xa0", " ")


def _place() -> str:
    """Return where the data is, without a user or a password."""
    if connection.vendor == "sqlite":
        return str(connection.settings_dict["NAME"])
    given = connection.settings_dict
    return f"database {given['NAME']} at {given['HOST'] or 'the local socket'}"


def _value(query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def _budgets() -> str:
    if not settings.COST_TRACKING:
        return "cost tracking is off: requests are counted, costs and budgets are not"
    if settings.BUDGET_MODE == "strict":
        return "strict: a request is sent only where its worst case fits"
    return "soft: checked before a request, charged after it"
