"""What the tests of the pages share."""

from __future__ import annotations

import html
import re
from typing import Any

from django.test import Client

MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
EVERY_RIGHT = ("view_apikey", "add_apikey", "change_apikey", "delete_apikey")


def logged_in(user: Any, **options: Any) -> Client:
    client = Client(**options)
    client.force_login(user, backend=MODEL_BACKEND)
    return client


def messages_of(response: Any) -> list[str]:
    """Return the messages of a page that was reached by following a redirect."""
    return [str(message) for message in response.context["messages"]]


def text_of(page: str) -> str:
    """Return the text of a page without its tags, in one line."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))
