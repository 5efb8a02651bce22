"""Who may come in: access tokens, sessions with their CSRF token, and nobody else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection

from llmkeys.api import auth
from llmkeys.database import writer
from llmkeys.models import AccessToken
from tests.api import checks
from tests.helpers import NOW, JsonClient, make_key, make_token, make_user

PATH = "/api/llm/keys"

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer rfk_", "Bearer rfk_ü", "Basic YTpi", "Token rfk_x", "Bearer a b c"]
)
def test_a_bad_header_is_401(anonymous, header):
    answer = anonymous.get(PATH, headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == "Bearer"
    assert list(answer.json()) == ["detail"]


def test_the_scheme_may_be_written_in_small_letters(anonymous, administrator):
    header = f"bearer  {make_token(administrator, 'read')}"
    assert anonymous.get(PATH, headers={"Authorization": header}).status_code == 200


def test_a_token_is_compared_whole(administrator):
    text = make_token(administrator, "read")
    for other in (text[:-1], text + "x", text.upper(), text[4:]):
        assert JsonClient(other).get(PATH).status_code == 401


def test_a_token_ends_with_its_user(administrator):
    client = JsonClient(make_token(administrator, "read"))
    administrator.is_active = False
    administrator.save()
    assert client.get(PATH).status_code == 401


def test_a_token_has_no_right_that_its_user_lacks():
    user = make_user("reader", "view_apikey")
    client = JsonClient(make_token(user, "manage"))
    assert client.get(PATH).status_code == 200
    assert client.post(PATH, {}).status_code == 403


def test_a_token_that_may_only_read_changes_nothing(administrator):
    answer = JsonClient(make_token(administrator, "read")).delete(f"{PATH}/{make_key().id}")
    assert answer.status_code == 403
    assert "“manage”" in answer.json()["detail"]


def test_a_bad_token_is_not_saved_by_a_session(administrator):
    client = JsonClient("rfk_wrong")
    client.force_login(administrator)
    assert client.get(PATH).status_code == 401


def test_the_last_use_is_noted_once_a_minute(administrator, frozen):
    client = JsonClient(make_token(administrator, "read"))

    def last_use(seconds):
        frozen.move_to(NOW + timedelta(seconds=seconds))
        assert client.get(PATH).status_code == 200
        return (AccessToken.objects.get().last_used_at - NOW).total_seconds()

    assert [last_use(0), last_use(59), last_use(61), last_use(62)] == [0, 0, 61, 61]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/api/llm/keys/statistics", "/metrics"])
def test_reading_needs_no_database_that_can_be_written(administrator, path, monkeypatch):
    """The lock is held until the answer is there; how long a note waits at most, it says to the writer."""
    assert auth.NOTE_SECONDS <= 1
    monkeypatch.setattr(auth, "NOTE_SECONDS", 0.1)
    run_now, patiences = writer.run_now, []

    def watched(work, **options):
        patiences.append(options.get("patience"))
        return run_now(work, **options)

    monkeypatch.setattr(writer, "run_now", watched)
    client = JsonClient(make_token(administrator, "read"))  # never used: its use is to be noted
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("BEGIN IMMEDIATE" if connection.vendor == "sqlite" else "BEGIN")
            cursor.execute("UPDATE llmkeys_accesstoken SET name = 'locked'")
            answer = client.get(path)
    finally:
        other.close()
        writer.forget()
    assert answer.status_code == 200, answer.content
    assert patiences == [0.1]


def test_a_session_reads(administrator):
    client = JsonClient()
    client.force_login(administrator)
    assert client.get(PATH).status_code == 200


def test_a_session_needs_the_csrf_token_to_change(administrator):
    client = JsonClient(enforce_csrf_checks=True)
    client.force_login(administrator)
    toggle = f"{PATH}/{make_key().id}/toggle"
    answer = client.post(toggle)
    assert answer.status_code == 403
    assert "CSRF" in answer.json()["detail"]
    client.cookies["refactai_csrf"] = "a" * 32
    assert client.post(toggle, headers={"X-CSRFToken": "a" * 32}).json() == {"success": True, "active": False}


def test_a_token_needs_no_csrf_token(administrator):
    client = JsonClient(make_token(administrator, "manage"), enforce_csrf_checks=True)
    assert client.post(f"{PATH}/{make_key().id}/toggle").status_code == 200


@pytest.mark.parametrize("path", ["", "nothing", "keys/", "keys/a/b/c", "usage/1", "tokens/1/x"])
def test_any_other_address_is_unknown_in_json(api, path):
    checks.needs_authentication("get", f"/api/llm/{path}")
    checks.is_unknown(api.get(f"/api/llm/{path}"))
    checks.is_unknown(api.post(f"/api/llm/{path}"))
