"""The addresses of the REST API, without trailing slashes; any other address gets a JSON 404."""

from __future__ import annotations

from django.urls import path, re_path

from llmkeys.api.prices import AliasViewSet, PriceViewSet
from llmkeys.api.views import EventViewSet, KeyViewSet, NothingHere, TokenViewSet, UsageViewSet

app_name = "api"
urlpatterns = [
    path("keys", KeyViewSet.as_view({"get": "list", "post": "create"}), name="keys"),
    path("keys/statistics", KeyViewSet.as_view({"get": "statistics"}), name="statistics"),
    path("keys/active", KeyViewSet.as_view({"get": "active"}), name="active"),
    path(
        "keys/<str:key_id>",
        KeyViewSet.as_view({"get": "retrieve", "put": "update", "patch": "update", "delete": "destroy"}),
        name="key",
    ),
    path("keys/<str:key_id>/set-default", KeyViewSet.as_view({"post": "set_default"}), name="set-default"),
    path("keys/<str:key_id>/toggle", KeyViewSet.as_view({"post": "toggle"}), name="toggle"),
    path("keys/<str:key_id>/test", KeyViewSet.as_view({"post": "test"}), name="test"),
    path("usage", UsageViewSet.as_view({"get": "list"}), name="usage"),
    path("usage/summary", UsageViewSet.as_view({"get": "summary"}), name="summary"),
    path("usage/<int:usage_id>/void", UsageViewSet.as_view({"post": "void"}), name="void"),
    path("events", EventViewSet.as_view({"get": "list"}), name="events"),
    path("tokens", TokenViewSet.as_view({"get": "list", "post": "create"}), name="tokens"),
    path("tokens/current", TokenViewSet.as_view({"get": "current"}), name="current-token"),
    path(
        "tokens/<int:token_id>",
        TokenViewSet.as_view({"get": "retrieve", "patch": "partial_update", "delete": "destroy"}),
        name="token",
    ),
    path("tokens/<int:token_id>/rotate", TokenViewSet.as_view({"post": "rotate"}), name="rotate-token"),
    path("prices", PriceViewSet.as_view({"get": "list", "post": "create"}), name="prices"),
    path(
        "prices/<int:row_id>",
        PriceViewSet.as_view({"get": "retrieve", "put": "update", "delete": "destroy"}),
        name="price",
    ),
    path("aliases", AliasViewSet.as_view({"get": "list", "post": "create"}), name="aliases"),
    path(
        "aliases/<int:row_id>",
        AliasViewSet.as_view({"get": "retrieve", "put": "update", "delete": "destroy"}),
        name="alias",
    ),
    re_path(r"", NothingHere.as_view(), name="nothing"),
]
