"""Trouble that is nobody's bad field: bodies too large, other media, a database that does not answer."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, OperationalError

from llmkeys.exceptions import DataDirectoryProblem, RecordingUnavailable
from llmkeys.keys import adding, testing
from llmkeys.models import AccessToken
from tests.api.checks import HIDDEN, SECRET
from tests.helpers import make_key, make_usage

PATH = "/api/llm/keys"
MEGABYTE = 1024 * 1024

pytestmark = pytest.mark.django_db


def test_a_body_of_more_than_one_megabyte_is_413(api):
    answer = api.post(PATH, b'{"name": "' + b"x" * MEGABYTE + b'"}')
    assert answer.status_code == 413
    assert answer.json() == {"detail": "The body is larger than 1 MB."}


def test_a_body_of_one_megabyte_is_read(api):
    body = b'{"name": "' + b"x" * (MEGABYTE - 12) + b'"}'
    assert len(body) == MEGABYTE
    answer = api.post(PATH, body)
    assert answer.status_code == 400
    assert "name" in answer.json()
    assert len(answer.content) < 1000


LONG = "May have at most 500 characters, none of them a control character."
SECONDS = "Must be a whole number of seconds from 0 to 2592000 (30 days)."


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("keys/{key}/toggle", {"active": 1}, ["Must be true or false."]),
        ("keys/{key}/toggle", {"active": None}, ["Must be true or false."]),
        ("keys/{key}/toggle", {"Active": True}, ["There is no such field."]),
        ("usage/{row}/void", {"reason": 5}, ["Must be a string."]),
        ("usage/{row}/void", {"reason": None}, ["Must be a string."]),
        ("usage/{row}/void", {"reason": "x" * 501}, [LONG]),
        ("usage/{row}/void", {"reason": "a\nb"}, [LONG]),
        ("tokens/{token}/rotate", {"overlapSeconds": None}, [SECONDS]),
        ("tokens/{token}/rotate", {"overlapSeconds": True}, [SECONDS]),
        ("tokens/{token}/rotate", {"overlapSeconds": 2_592_001}, [SECONDS]),
    ],
)
def test_a_small_body_says_what_is_wrong_with_each_field(api, path, body, words):
    key = make_key()
    row, token = make_usage(key, state="LOST", success=False), AccessToken.objects.latest("id")
    body["other"] = None
    answer = api.post(f"/api/llm/{path.format(key=key.id, row=row.id, token=token.id)}", body)
    assert answer.status_code == 400
    assert answer.json() == {next(iter(body)): words, "other": ["There is no such field."]}


@pytest.mark.parametrize(
    "media", ["text/plain", "application/xml", "", "multipart/form-data", "multipart/form-data; boundary=x"]
)
def test_another_media_type_is_415(api, media):
    answer = api.post(PATH, b"name=x", content_type=media)
    assert answer.status_code == 415, answer.content
    assert list(answer.json()) == ["detail"]


def test_a_charset_beside_the_media_type_is_fine(api):
    answer = api.post(PATH, {"name": ""}, content_type="application/json; charset=utf-8")
    assert answer.status_code == 400


def test_a_broken_form_from_a_session_is_no_server_error(administrator):
    from tests.helpers import JsonClient

    client = JsonClient(enforce_csrf_checks=True)
    client.force_login(administrator)
    client.cookies["refactai_csrf"] = "a" * 32
    answer = client.post(PATH, b"x", content_type="multipart/form-data")
    assert answer.status_code in (400, 403, 415)
    assert list(answer.json()) == ["detail"]


@pytest.mark.parametrize("error", [OperationalError("disk I/O error"), RecordingUnavailable("no")])
@pytest.mark.parametrize(("room", "verb"), [(adding, "add_key"), (testing, "test_key")])
def test_a_database_that_does_not_answer_is_503(api, monkeypatch, room, verb, error):
    def fail(*args, **kwargs):
        raise error

    key = make_key()
    monkeypatch.setattr(room, verb, fail)
    path = PATH if verb == "add_key" else f"{PATH}/{key.id}/test"
    answer = api.post(path, {"apiKey": SECRET})
    assert answer.status_code == 503
    assert answer["Retry-After"] == "10"
    assert list(answer.json()) == ["detail"]
    assert HIDDEN not in answer.content.decode()


def test_it_is_503_while_the_token_is_looked_up_too(api, monkeypatch):
    def fail(*args):
        raise OperationalError("database is locked")

    monkeypatch.setattr("llmkeys.api.auth.caller_of", fail)
    answer = api.get(PATH)
    assert (answer.status_code, answer["Retry-After"]) == (503, "10")


def test_a_data_directory_that_cannot_be_read_is_sealed(api, monkeypatch):
    def fail(**kwargs):
        raise DataDirectoryProblem("The encryption key file cannot be used.")

    monkeypatch.setattr(adding, "add_key", fail)
    answer = api.post(PATH, {})
    assert answer.status_code == 503
    assert answer.json() == {"detail": "The encryption key file cannot be used.", "code": "sealed"}


def test_a_lost_race_is_a_conflict(api, monkeypatch):
    def fail(**kwargs):
        raise IntegrityError("apikey_secret_stored_once")

    monkeypatch.setattr(adding, "add_key", fail)
    answer = api.post(PATH, {})
    assert answer.status_code == 409
    assert "apikey" not in answer.content.decode()
