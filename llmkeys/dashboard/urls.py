"""The addresses of the pages for people."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from llmkeys.dashboard import key_views, views

urlpatterns = [
    path("", views.home, name="home"),
    path("favicon.ico", views.favicon),
    path("login", views.Login.as_view(), name="login"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("llm-settings", views.dashboard, name="dashboard"),
    path("llm-settings/keys/add", key_views.add, name="key-add"),
    path("llm-settings/keys/<str:key_id>/test", key_views.test, name="key-test"),
    path("llm-settings/keys/<str:key_id>/default", key_views.set_default, name="key-default"),
    path("llm-settings/keys/<str:key_id>/toggle", key_views.toggle, name="key-toggle"),
    path("llm-settings/keys/<str:key_id>/delete", key_views.delete, name="key-delete"),
]
