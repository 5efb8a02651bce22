"""Every route and method says which permission it needs; nothing is open by oversight."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission

from llmkeys.api import urls
from llmkeys.api.auth import ANY_TOKEN
from llmkeys.api.views import ApiViewSet, NothingHere
from refactai_site.urls import urlpatterns

ROUTES = [
    *(pattern for pattern in urls.urlpatterns if pattern.callback.cls is not NothingHere),
    *(pattern for pattern in urlpatterns if getattr(pattern, "name", "") == "metrics"),
]


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
def test_every_action_is_declared(route):
    view = route.callback.cls
    assert issubclass(view, ApiViewSet)
    assert set(route.callback.actions.values()) <= view.permissions.keys()


@pytest.mark.parametrize("view", dict.fromkeys(route.callback.cls for route in ROUTES), ids=lambda view: view.__name__)
def test_nothing_is_declared_that_no_route_has(view):
    routed = {action for route in ROUTES if route.callback.cls is view for action in route.callback.actions.values()}
    assert set(view.permissions) == routed


@pytest.mark.django_db
def test_every_permission_exists():
    known = {f"llmkeys.{name}" for name in Permission.objects.values_list("codename", flat=True)}
    assert {needed for route in ROUTES for needed in route.callback.cls.permissions.values()} <= known | {ANY_TOKEN}


def test_an_action_that_is_not_declared_is_refused(rf, monkeypatch, administrator):
    view = next(route.callback.cls for route in ROUTES if route.name == "keys")
    monkeypatch.setattr(view, "permissions", {})
    request = rf.get("/api/llm/keys")
    request.user = administrator
    assert view.as_view({"get": "list"})(request).status_code == 403
