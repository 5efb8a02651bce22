"""The pages that only say something, and what holds for every template and style sheet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.db import IntegrityError
from django.template.loader import get_template
from django.test import RequestFactory
from django.views.defaults import server_error

from tests.helpers import make_key

TEMPLATES = sorted((Path(settings.BASE_DIR) / "templates").rglob("*.html"))
STYLES = sorted((Path(settings.BASE_DIR) / "static").rglob("*.css"))


@pytest.mark.django_db
def test_it_answers_an_unknown_address_in_our_look(client):
    answer = client.get("/nothing/here")
    assert answer.status_code == 404
    assert "Page not found" in answer.content.decode() and "components.css" in answer.content.decode()


def test_it_renders_the_page_of_a_failure_without_context_and_database():
    answer = server_error(RequestFactory().get("/"))
    assert answer.status_code == 500
    assert "Something went wrong" in answer.content.decode() and "tokens.css" in answer.content.decode()


def test_a_lost_race_is_a_conflict(admin_client, monkeypatch):
    """Another operator deletes the key between the look at it and the change, which a constraint refuses."""
    key = make_key()

    def fail(*args, **options):
        raise IntegrityError("apikey_deleted_is_wiped")

    monkeypatch.setattr("llmkeys.keys.adding.toggle", fail)
    admin_client.raise_request_exception = False
    answer = admin_client.post(f"/llm-settings/keys/{key.id}/toggle")
    assert answer.status_code == 409
    assert "Someone else got there first" in answer.content.decode() and "apikey" not in answer.content.decode()


@pytest.mark.parametrize(
    "name", ["400.html", "403.html", "404.html", "409.html", "500.html", "503.html", "403_csrf.html", "locked_out.html"]
)
def test_it_renders_without_context(name):
    page = get_template(name).render()
    assert page.count("<h1") == 1 and "RefactAI" in page


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["favicon.svg", "favicon-alert.svg"])
def test_it_has_an_icon(client, name):
    assert (Path(settings.BASE_DIR) / "static/img" / name).is_file()
    assert client.get("/favicon.ico").headers["Location"] == "/static/img/favicon.svg"


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_it_has_nothing_that_the_policy_forbids(template):
    """A script may come from a file of ours, never stand in the page."""
    text = template.read_text()
    assert not re.search(r"<script(?! src=\"{[{%] )|<style|\sstyle=|\son[a-z]+=|\|safe|https?://", text)


@pytest.mark.parametrize("style", STYLES, ids=lambda path: path.name)
def test_it_loads_nothing_from_elsewhere(style):
    assert not re.search(r"url\(|@import|https?://", style.read_text())
