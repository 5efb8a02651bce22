"""GET /metrics in Prometheus format: the stored counters, read at each scrape, so all web processes give the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils import timezone
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from rest_framework.request import Request

from llmkeys.api import operations
from llmkeys.api.views import ApiViewSet
from llmkeys.key_state import STATUSES
from llmkeys.lib.money import usd_json
from llmkeys.models import ApiKey

_KEY = ("key_id", "name", "provider")


@operations.metrics
class MetricsViewSet(ApiViewSet):
    permissions = {"list": "llmkeys.view_usagerecord"}

    def list(self, request: Request) -> HttpResponse:
        keys = ApiKey.objects.stored().order_by("created_at", "id").defer("secret")
        registry = CollectorRegistry()
        registry.register(KeyCollector(keys, at=timezone.now()))
        return HttpResponse(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


class KeyCollector:
    """The counters of the stored keys at a given time; amounts are in USD."""

    def __init__(self, keys: QuerySet[ApiKey], *, at: datetime):
        self._keys, self._at = keys, at

    def describe(self) -> list[Metric]:
        """Describe nothing in advance, or else the registry would read the database twice."""
        return []

    def collect(self) -> Iterator[Metric]:
        keys = list(self._keys)
        yield from self._budgets(keys)
        yield self._held(keys)
        yield self._requests(keys)
        yield self._statuses(keys)

    def _budgets(self, keys: list[ApiKey]) -> tuple[Metric, Metric]:
        # A gauge, because a new window begins at 0 and corrections can lower it.
        cost = GaugeMetricFamily("llmkeys_key_cost_usd", "What a window has cost so far.", labels=(*_KEY, "window"))
        limit = GaugeMetricFamily(
            "llmkeys_key_limit_usd", "The limit of a window, where it has one.", labels=(*_KEY, "window")
        )
        for key in keys:
            for budget in key.budgets(self._at):
                cost.add_metric((*_labels(key), budget.window), usd_json(budget.spent))
                if budget.limit:
                    limit.add_metric((*_labels(key), budget.window), usd_json(budget.limit))
        return cost, limit

    def _held(self, keys: list[ApiKey]) -> Metric:
        held = GaugeMetricFamily("llmkeys_key_held_usd", "The most that requests in progress can cost.", labels=_KEY)
        for key in keys:
            held.add_metric(_labels(key), usd_json(key.held_nano))
        return held

    def _requests(self, keys: list[ApiKey]) -> Metric:
        sent = CounterMetricFamily("llmkeys_key_requests", "Attempts that were sent.", labels=(*_KEY, "result"))
        for key in keys:
            other = key.total_requests - key.successful_requests - key.failed_requests
            counts = {"successful": key.successful_requests, "failed": key.failed_requests, "other": max(0, other)}
            for result, count in counts.items():
                sent.add_metric((*_labels(key), result), count)
        return sent

    def _statuses(self, keys: list[ApiKey]) -> Metric:
        found = GaugeMetricFamily("llmkeys_key_status", "1 for the status of the key.", labels=(*_KEY, "status"))
        for key in keys:
            now = key.status_at(self._at)
            for status in STATUSES:
                found.add_metric((*_labels(key), status), status == now)
        return found


def _labels(key: ApiKey) -> tuple[str, str, str]:
    return key.id, key.name, key.provider
