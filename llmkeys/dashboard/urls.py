"""The URLs of the pages."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import path

from llmkeys.dashboard import (
    health_page,
    key_page,
    login,
    playground,
    request_page,
    token_page,
    tokens_page,
    usage_page,
    views,
)

urlpatterns = [
    path("", views.home, name="home"),
    path("favicon.ico", views.favicon),
    path("login", login.Login.as_view(), name="login"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("account/password", login.Password.as_view(), name="password"),
    path("llm-settings/playground", playground.playground, name="playground"),
    path("llm-settings/playground/run", playground.run, name="playground-run"),
    path("llm-settings/health", health_page.health, name="health"),
    path("llm-settings/health/alert-test", health_page.alert_test, name="alert-test"),
    path("llm-settings/health/alert-seen", health_page.alert_seen, name="alert-seen"),
    path("llm-settings", views.dashboard, name="dashboard"),
    path("llm-settings/live", views.live, name="live"),
    path("llm-settings/alerts/<int:alert_id>/away", views.alert_away, name="alert-away"),
    path("llm-settings/keys/add", key_page.add, name="key-add"),
    path("llm-settings/keys/try", key_page.try_secret, name="key-try"),
    path("llm-settings/keys/<str:key_id>", key_page.key_page, name="key"),
    path("llm-settings/keys/<str:key_id>/live", key_page.live, name="key-live"),
    path("llm-settings/keys/<str:key_id>/edit", key_page.edit, name="key-edit"),
    path("llm-settings/keys/<str:key_id>/try", key_page.try_again, name="key-try-again"),
    path("llm-settings/keys/<str:key_id>/test", key_page.test, name="key-test"),
    path("llm-settings/keys/<str:key_id>/default", key_page.set_default, name="key-default"),
    path("llm-settings/keys/<str:key_id>/toggle", key_page.toggle, name="key-toggle"),
    path("llm-settings/keys/<str:key_id>/delete", key_page.delete, name="key-delete"),
    path("llm-settings/usage", usage_page.usage, name="usage"),
    path("llm-settings/usage.csv", usage_page.csv, name="usage-csv"),
    path("llm-settings/usage/<int:usage_id>/void", request_page.void, name="usage-void"),
    path("llm-settings/usage/<str:request_id>", request_page.request, name="request"),
    path("llm-settings/tokens", tokens_page.tokens, name="tokens"),
    path("llm-settings/tokens/create", tokens_page.create, name="token-create"),
    path("llm-settings/tokens/<int:token_id>", token_page.token_page, name="token"),
    path("llm-settings/tokens/<int:token_id>/live", token_page.live, name="token-live"),
    path("llm-settings/tokens/<int:token_id>/edit", token_page.edit, name="token-edit"),
    path("llm-settings/tokens/<int:token_id>/rotate", token_page.rotate, name="token-rotate"),
    path("llm-settings/tokens/<int:token_id>/reset", token_page.reset, name="token-reset"),
    path("llm-settings/tokens/<int:token_id>/revoke", token_page.revoke, name="token-revoke"),
    path("llm-settings/tokens/<int:token_id>/statement", token_page.statement, name="token-statement"),
    path("llm-settings/tokens/<int:token_id>/statement.csv", token_page.statement_csv, name="token-statement-csv"),
]
