"""The REST API: the views call services and return JSON. Each viewset lists its actions' permissions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from django.contrib.auth.models import User
from django.db.models import Prefetch
from django.http import Http404, HttpResponseBase, QueryDict
from django.utils import timezone
from rest_framework.exceptions import NotFound
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSet

from llmkeys.api import operations, serializers
from llmkeys.api.auth import ANY_TOKEN, actor_of
from llmkeys.api.pages import page
from llmkeys.exceptions import InvalidInput
from llmkeys.key_state import STATUSES
from llmkeys.keys import adding, testing
from llmkeys.lib.money import usd_json
from llmkeys.models import AccessToken, ApiKey, KeyEvent, UsageRecord
from llmkeys.presentation import csv_file, key_json, keys_json, token_json, tokens_json, usage_json
from llmkeys.relay.serving import serving_keys
from llmkeys.tokens import making
from llmkeys.tokens.rights import Caller
from llmkeys.usage import filters, voiding
from llmkeys.usage.filters import Filter, one_of
from llmkeys.usage.rows import csv_lines, in_chunks, newest_first
from llmkeys.usage.sums import GROUPS, Wanted, statistics, summary_of

KEY_FILTERS = {"provider": filters.PROVIDER, "status": Filter("status", one_of(STATUSES))}
EVENT_FILTERS = {"key": Filter("key_id"), "kind": Filter("kind", one_of(KeyEvent.Kind.values)), **filters.TIMES}
NO_KEY = {"available": False, "message": "No active API key available"}


class AlwaysJSON(BaseContentNegotiation):
    """Always answers in JSON, whatever the client accepts, because a 406 would not help anyone."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        wanted = (request.content_type or "").partition(";")[0].strip().lower()
        return next((parser for parser in parsers if parser.media_type == wanted), None)

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class ApiViewSet(ViewSet):
    """The base of all viewsets. `permissions` maps each action to the Django permission that it needs."""

    permissions: ClassVar[Mapping[str, str]] = {}
    content_negotiation_class = AlwaysJSON
    metadata_class = None
    schema = operations.Description()

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        # PostgreSQL cannot store NUL, so nothing has such an id or name.
        if any("\0" in value for value in kwargs.values() if isinstance(value, str)):
            raise Http404
        bad = [name for name, value in request.query_params.items() if "\0" in value]
        if bad:
            raise InvalidInput({name.replace("\0", ""): ["May not contain NUL characters."] for name in bad})

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response.headers["Cache-Control"] = "no-store"
        return super().finalize_response(request, response, *args, **kwargs)


class NothingHere(APIView):
    """Any other address: 401 without authentication, otherwise 404, both in JSON."""

    schema = None  # not documented
    permission_classes = (IsAuthenticated,)
    content_negotiation_class = AlwaysJSON

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise Http404


@operations.keys
class KeyViewSet(ApiViewSet):
    permissions = {
        "list": "llmkeys.view_apikey",
        "create": "llmkeys.add_apikey",
        "retrieve": "llmkeys.view_apikey",
        "update": "llmkeys.change_apikey",
        "destroy": "llmkeys.delete_apikey",
        "set_default": "llmkeys.change_apikey",
        "toggle": "llmkeys.change_apikey",
        "test": "llmkeys.change_apikey",
        "statistics": "llmkeys.view_apikey",
        "active": "llmkeys.view_apikey",
    }

    def list(self, request: Request) -> Response:
        at = timezone.now()
        rows = ApiKey.objects.stored().with_status(at).in_serving_order().defer("secret")
        return Response(keys_json(rows.filter(**filters.read(KEY_FILTERS, request.query_params)), at=at))

    def create(self, request: Request) -> Response:
        at = timezone.now()
        key = adding.add_key(values=_body(request), at=at, actor=actor_of(request))
        return Response(key_json(key, at=at), status=201)

    def retrieve(self, request: Request, key_id: str) -> Response:
        return Response(key_json(_key(key_id), at=timezone.now()))

    def update(self, request: Request, key_id: str) -> Response:
        at = timezone.now()
        key = adding.update_key(_key(key_id), values=_body(request), at=at, actor=actor_of(request))
        return Response(key_json(key, at=at))

    def destroy(self, request: Request, key_id: str) -> Response:
        adding.delete_key(_key(key_id), at=timezone.now(), actor=actor_of(request))
        return Response({"success": True, "message": "Key deleted"})

    def set_default(self, request: Request, key_id: str) -> Response:
        adding.set_default(_key(key_id), at=timezone.now(), actor=actor_of(request))
        return Response({"success": True, "message": "Key set as default"})

    def toggle(self, request: Request, key_id: str) -> Response:
        wanted = serializers.ToggleSerializer.read(_body(request)).get("active")
        key = adding.toggle(_key(key_id), active=wanted, at=timezone.now(), actor=actor_of(request))
        return Response({"success": True, "active": key.enabled})

    def test(self, request: Request, key_id: str) -> Response:
        result = testing.test_key(_key(key_id), at=timezone.now(), actor=actor_of(request))
        return Response(serializers.TestedSerializer(result).data)

    def statistics(self, request: Request) -> Response:
        return Response(statistics(at=timezone.now()))

    def active(self, request: Request) -> Response:
        at = timezone.now()
        serving = serving_keys(at=at, model=request.query_params.get("model", ""), caller=_caller(request))
        return Response(key_json(serving[0], at=at) if serving else NO_KEY)


def _key(key_id: str) -> ApiKey:
    key = ApiKey.objects.stored().filter(pk=key_id).first()
    if key is None:
        raise Http404
    return key


def _body(request: Request) -> dict[str, Any]:
    """Return the fields of the body. An empty form has none; as DRF reads it, it would set every switch to false."""
    return {} if isinstance(request.data, QueryDict) else cast(dict[str, Any], request.data)


def _user(request: Request) -> User:
    return cast(User, request.user)  # the permission check ensures it


def _caller(request: Request) -> Caller:
    """Return the caller whose next request is meant: a token may be limited to some keys and models."""
    token = _token(request)
    if token is None:
        return Caller()
    key_ids = frozenset(token.keys.values_list("pk", flat=True)) if token.limited_to_keys else None
    models = None if token.allowed_models is None else tuple(token.allowed_models)
    return Caller(name=token.name, token_id=token.pk, key_ids=key_ids, models=models)


def _token(request: Request) -> AccessToken | None:
    """Return the access token of the request; None for a session."""
    return request.auth if isinstance(request.auth, AccessToken) else None


@operations.usage
class UsageViewSet(ApiViewSet):
    permissions = {
        "list": "llmkeys.view_usagerecord",
        "summary": "llmkeys.view_usagerecord",
        "void": "llmkeys.change_usagerecord",
    }

    def list(self, request: Request) -> HttpResponseBase:
        wanted = request.query_params.get("format", "json")
        if wanted not in ("json", "csv"):
            raise InvalidInput({"format": ["Choose from: json, csv."]})
        first_page = wanted == "json" and "cursor" not in request.query_params
        lookups = filters.read(filters.ROWS, request.query_params)
        rows = newest_first(lookups, at=timezone.now(), first_page=first_page)
        if wanted == "csv":
            return csv_file("usage", csv_lines(in_chunks(rows)))
        return page(request, rows, usage_json)

    def summary(self, request: Request) -> Response:
        group_by = request.query_params.get("group_by") or GROUPS[0]
        if group_by not in GROUPS:
            raise InvalidInput({"group_by": [f"Choose from: {', '.join(GROUPS)}."]})
        wanted = Wanted(**filters.read(filters.SUMS, request.query_params))
        return Response(summary_of(wanted, group_by=group_by, at=timezone.now()))

    def void(self, request: Request, usage_id: int) -> Response:
        reason = serializers.VoidSerializer.read(_body(request)).get("reason", "")
        # Through the ORM, which handles numbers that are too large for the column.
        if not UsageRecord.objects.filter(pk=usage_id).exists():
            raise Http404
        amount = voiding.void_usage(usage_id, at=timezone.now(), actor=actor_of(request), reason=reason)
        return Response({"success": True, "message": "Charge taken back", "amount": usd_json(amount)})


@operations.events
class EventViewSet(ApiViewSet):
    permissions = {"list": "llmkeys.view_keyevent"}

    def list(self, request: Request) -> Response:
        rows = KeyEvent.objects.select_related("key").defer("key__secret").order_by("-id")
        wanted = filters.read(EVENT_FILTERS, request.query_params)
        return page(request, rows.filter(**wanted), serializers.EventSerializer().to_representation)


@operations.tokens
class TokenViewSet(ApiViewSet):
    permissions = {
        "list": "llmkeys.view_accesstoken",
        "create": "llmkeys.add_accesstoken",
        "retrieve": "llmkeys.view_accesstoken",
        "partial_update": "llmkeys.change_accesstoken",
        "rotate": "llmkeys.change_accesstoken",
        "destroy": "llmkeys.delete_accesstoken",
        "current": ANY_TOKEN,
    }

    def list(self, request: Request) -> Response:
        ids = Prefetch("keys", queryset=ApiKey.objects.defer("secret"))
        rows = making.visible_tokens(_user(request)).prefetch_related(ids).order_by("-created_at", "-id")
        return Response(tokens_json(rows, at=timezone.now()))

    def create(self, request: Request) -> Response:
        at = timezone.now()
        token, text = making.create_token(
            user=_user(request), values=_body(request), at=at, actor=actor_of(request), maker=_token(request)
        )
        return Response({**token_json(token, at=at), "token": text}, status=201)

    def retrieve(self, request: Request, token_id: int) -> Response:
        return Response(token_json(self._token_of(request, token_id), at=timezone.now()))

    def current(self, request: Request) -> Response:
        token = _token(request)
        if token is None:
            raise NotFound("This request has no access token: you are logged in.")
        return Response(token_json(token, at=timezone.now()))

    def partial_update(self, request: Request, token_id: int) -> Response:
        at, token = timezone.now(), self._token_of(request, token_id)
        changed = making.change_token(
            token, values=_body(request), at=at, actor=actor_of(request), maker=_token(request)
        )
        return Response(token_json(changed, at=at))

    def rotate(self, request: Request, token_id: int) -> Response:
        at, token = timezone.now(), self._token_of(request, token_id)
        seconds = serializers.RotationSerializer.read(_body(request)).get("overlapSeconds", 0)
        rotated, text = making.rotate_token(
            token, overlap_seconds=seconds, at=at, actor=actor_of(request), maker=_token(request)
        )
        return Response({**token_json(rotated, at=at), "token": text})

    def destroy(self, request: Request, token_id: int) -> Response:
        making.revoke_token(self._token_of(request, token_id), at=timezone.now(), actor=actor_of(request))
        return Response({"success": True, "message": "Token revoked"})

    @staticmethod
    def _token_of(request: Request, token_id: int) -> AccessToken:
        found = making.visible_tokens(_user(request)).select_related("user", "maker").filter(pk=token_id).first()
        if found is None:
            raise Http404
        return found
