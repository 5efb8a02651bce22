"""The documentation of each operation: descriptions, parameters, bodies, responses, examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, inline_serializer
from rest_framework.fields import BooleanField, CharField, FloatField
from rest_framework.viewsets import ViewSetMixin

from llmkeys.api import examples, serializers
from llmkeys.api.schemas import TEXT, Schema, array, ref, row_number
from llmkeys.key_state import STATUSES
from llmkeys.models import KeyEvent, ProviderName, UsageRecord
from llmkeys.usage.filters import COSTS
from llmkeys.usage.sums import GROUPS

_JSON = "application/json"


class AccessTokenScheme(OpenApiAuthenticationExtension):
    target_class = "llmkeys.api.auth.AccessTokenAuthentication"
    name = "accessToken"

    def get_security_definition(self, auto_schema: Any) -> Schema:
        return {
            "type": "http",
            "scheme": "bearer",
            "description": "An access token (rfk_…): scope read for GET, manage for everything else.",
        }


class ClosedObject(OpenApiSerializerExtension):
    """Declares that objects have no undescribed fields, except bodies in which the read-only fields are ignored."""

    target_class = "rest_framework.serializers.Serializer"
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: str) -> Schema:
        schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        ignores = direction == "request" and any(field.read_only for field in self.target.fields.values())
        return schema if ignores else {**schema, "additionalProperties": False}


class Description(AutoSchema):
    """drf-spectacular's schema of a view, but with responses as declared: a list action may return a page."""

    def _is_list_view(self, serializer: Any = None) -> bool:
        return False

    def get_operation_id(self) -> str:
        assert isinstance(self.view, ViewSetMixin)
        action = "partial_update" if self.method == "PATCH" else self.view.action
        return f"{self.get_tags()[0]}_{action}"


# --- the parts of an operation ----------------------------------------------------------------------------------------

_EXPIRED = {"detail": "Invalid or missing access token."}
_ERROR = inline_serializer("Error", {"detail": CharField(), "code": CharField(required=False)})
_PROBLEMS: dict[int, tuple[str, Any, Any]] = {
    400: ("Bad input", {"anyOf": [ref("FieldErrors"), ref("Error")]}, {"name": ["May not be empty."]}),
    401: ("No valid access token or session", _ERROR, _EXPIRED),
    403: ("Permission denied", _ERROR, {"detail": "This token may not do this: it lacks the scope “manage”."}),
    404: ("Not found", _ERROR, {"detail": "Not found."}),
    409: ("Conflict with what is stored", _ERROR, {"detail": "This API key is already stored as “Team”."}),
    413: ("The body is larger than 1 MB", _ERROR, {"detail": "The body is larger than 1 MB."}),
    415: ("The body is not JSON", _ERROR, {"detail": "Unsupported media type “text/plain” in request."}),
    429: ("Too many invalid tokens", _ERROR, {"detail": "Too many invalid access tokens came from this address."}),
    503: ("The database or the encryption key is unavailable", _ERROR, {"detail": "Try again in 10 seconds."}),
}
_ALWAYS = (400, 401, 403, 429, 503)
_WITH_BODY = (413, 415)


def _answer(schema: Any, *values: Any, description: str = "", media_type: str = _JSON) -> OpenApiResponse:
    return OpenApiResponse(
        schema,
        description=description,
        examples=[
            OpenApiExample(f"Example {number}", value, media_type=media_type) for number, value in enumerate(values, 1)
        ],
    )


_DONE = inline_serializer("Done", {"success": BooleanField(), "message": CharField()})


def _done(words: str) -> OpenApiResponse:
    return _answer(_DONE, {"success": True, "message": words})


def _operation(
    summary: str,
    good: dict[Any, OpenApiResponse],
    *problems: int,
    body: Any = "",
    example: Any = None,
    optional_body: bool = False,
    parameters: tuple[OpenApiParameter, ...] = (),
    description: str = "",
) -> Any:
    """Return the decorator for one operation; `problems` are the error statuses that not every operation has.

    `body` is a serializer, or the name of a component.
    """
    statuses = sorted({*_ALWAYS, *problems, *(_WITH_BODY if body else ())})
    responses = good | {
        status: _answer(schema, value, description=words)
        for status, (words, schema, value) in ((status, _PROBLEMS[status]) for status in statuses)
    }
    given = [OpenApiExample("Request", example, request_only=True)] if example is not None else None
    request = {_JSON: ref(body) if isinstance(body, str) else body} if body else None
    if optional_body:
        description = f"{description} The body may be left out.".strip()
    return extend_schema(
        summary=summary,
        description=description or summary,
        request=request,
        responses=responses,
        examples=given,
        parameters=list(parameters),
    )


def _query(name: str, schema: Schema, description: str = "") -> OpenApiParameter:
    return OpenApiParameter(name, schema, OpenApiParameter.QUERY, description=description)


def _choice(*values: str) -> Schema:
    """Return the schema of a filter; an empty value does not filter."""
    return {"type": "string", "enum": [*values, ""]}


_KEY_ID = OpenApiParameter("key_id", {"type": "string", "minLength": 1, "maxLength": 40}, OpenApiParameter.PATH)
_USAGE_ID = OpenApiParameter("usage_id", row_number("The id of a usage row"), OpenApiParameter.PATH)
_TOKEN_ID = OpenApiParameter("token_id", row_number("The id of an access token"), OpenApiParameter.PATH)
_A_DAY: Schema = {"type": "string", "format": "date"}
_DAY: Schema = {"anyOf": [_A_DAY, {"const": ""}]}
_TIME: Schema = {"anyOf": [{"type": "string", "format": "date-time"}, _A_DAY, {"const": ""}]}
_PROVIDER = _choice(*ProviderName.values)
_OF_USAGE = (
    _query("key", TEXT, "id"),
    _query("provider", _PROVIDER),
    _query("model", TEXT),
    _query("token", TEXT, "name"),
)
_SPAN = (
    _query("since", _TIME, "From this time; a date means the beginning of the day"),
    _query("until", _TIME, "Before this time; a date means the end of the day"),
)
_CURSOR = _query("cursor", TEXT, "As in “next” and “previous” of a response")


def _documented(**decorators: Callable[[Callable], Callable]) -> Callable[[type], type]:
    """Return a class decorator that documents actions by name; drf-spectacular's handles only `@action`s."""

    def decorate(view: type) -> type:
        for name, decorator in decorators.items():
            decorator(vars(view)[name])
        return view

    return decorate


# --- the operations --------------------------------------------------------------------------------------------------

_A_KEY = _answer(ref("Key"), examples.KEY)
_TOGGLED = inline_serializer("Toggled", {"success": BooleanField(), "active": BooleanField()})

keys = _documented(
    list=_operation(
        "List the keys",
        {200: _answer(array(ref("Key")), [examples.KEY])},
        parameters=(_query("provider", _PROVIDER), _query("status", _choice(*STATUSES))),
    ),
    create=_operation(
        "Add a key", {201: _A_KEY}, 409, body="NewKey", example=examples.NEW_KEY,
        description="The first key becomes the default. Limits that are left out come from the settings.",
    ),
    retrieve=_operation("Show a key", {200: _A_KEY}, 404, parameters=(_KEY_ID,)),
    update=_operation(
        "Change a key", {200: _A_KEY}, 404, 409, body="KeyChange", example=examples.KEY_CHANGE, parameters=(_KEY_ID,),
        description="What is left out stays as it is, and so does the secret if `apiKey` is empty.",
    ),
    destroy=_operation(
        "Delete a key", {200: _done("Key deleted")}, 404, 409, parameters=(_KEY_ID,),
        description="Its secret is wiped; its usage rows stay and still count in the sums.",
    ),
    set_default=_operation(
        "Make a key the default", {200: _done("Key set as default")}, 404, 409, parameters=(_KEY_ID,)
    ),
    toggle=_operation(
        "Enable or disable a key", {200: _answer(_TOGGLED, {"success": True, "active": True})}, 404, 409,
        body=serializers.ToggleSerializer, example={"active": True}, optional_body=True, parameters=(_KEY_ID,),
        description="Without `active` the state is toggled.",
    ),
    test=_operation(
        "Test a key", {200: _answer(serializers.TestedSerializer, examples.TESTED, examples.TEST_FAILED)}, 404, 409,
        parameters=(_KEY_ID,), description="Makes a call to the provider that costs nothing.",
    ),
    statistics=_operation("Statistics of all keys", {200: _answer(ref("Statistics"), examples.STATISTICS)}),
    active=_operation(
        "Show the key that serves next",
        {200: _answer({"anyOf": [ref("Key"), ref("NoKey")]}, examples.KEY)},
        parameters=(_query("model", TEXT, "Default: the primary model, then the fallbacks"),),
    ),
)  # fmt: skip

_VOIDED = inline_serializer(
    "Voided", {"success": BooleanField(), "message": CharField(), "amount": FloatField(help_text="USD")}
)

usage = _documented(
    list=_operation(
        "List usage rows",
        {
            (200, _JSON): _answer(ref("UsagePage"), examples.page(examples.USAGE)),
            (200, "text/csv"): _answer(TEXT, "id,requestId,attempt\r\n4711,req_1f0c8f2f,1\r\n", media_type="text/csv"),
        },
        description="One row for each attempt, newest first, in pages of 50; `format=csv` streams all of them.",
        parameters=(
            *_OF_USAGE, *_SPAN, _query("success", _choice("true", "false")),
            _query("state", _choice(*UsageRecord.State.values)),
            _query("cost", _choice(*COSTS), "how the cost is known: reported or computed, estimated, or lost"),
            _query("format", _choice("json", "csv")), _CURSOR,
        ),
    ),
    summary=_operation(
        "Sum usage up by group",
        {200: _answer(ref("UsageSummary"), examples.SUMMARY)},
        description="From the daily totals. Days and months come in order, other groups with the highest cost first.",
        parameters=(
            _query("group_by", _choice(*GROUPS), "Default: day"), *_OF_USAGE,
            _query("since", _DAY, "The first day"), _query("until", _DAY, "The last day"),
        ),
    ),
    void=_operation(
        "Take back the charge of a lost row",
        {200: _answer(_VOIDED, {"success": True, "message": "Charge taken back", "amount": 0.1669})}, 404, 409,
        body=serializers.VoidSerializer, example={"reason": "The provider billed nothing."}, optional_body=True,
        parameters=(_USAGE_ID,),
    ),
)  # fmt: skip

_LINKS = {name: CharField(allow_null=True) for name in ("next", "previous")}
_EVENTS = inline_serializer("EventPage", {"results": serializers.EventSerializer(many=True), **_LINKS})

events = _documented(
    list=_operation(
        "List events",
        {200: _answer(_EVENTS, examples.page(examples.EVENT))},
        parameters=(_query("key", TEXT, "id"), _query("kind", _choice(*KeyEvent.Kind.values)), *_SPAN, _CURSOR),
    )
)

_A_TOKEN = _answer(ref("Token"), examples.TOKEN)
_MADE = _answer(ref("MadeToken"), {**examples.TOKEN, "token": "rfk_shown-once"})

tokens = _documented(
    list=_operation("List access tokens", {200: _answer(array(ref("Token")), [examples.TOKEN])}),
    create=_operation(
        "Make an access token", {201: _MADE}, body="NewToken", example=examples.NEW_TOKEN,
        description="Limits that are left out come from the settings. An access token that has limits cannot "
        "create others; any other token cannot create one with more rights or a later expiry date, and revoking it "
        "revokes those that it created.",
    ),
    retrieve=_operation("Show an access token", {200: _A_TOKEN}, 404, parameters=(_TOKEN_ID,)),
    current=_operation(
        "Show the access token in use", {200: _A_TOKEN}, 404,
        description="With a token of any scope: its limits, its costs, and what is left. 404 for a session.",
    ),
    partial_update=_operation(
        "Change an access token", {200: _A_TOKEN}, 404, 409, body="TokenChange", example={"dailyLimit": 5},
        parameters=(_TOKEN_ID,), description="What is left out stays as it is. It applies from the next request on.",
    ),
    rotate=_operation(
        "Replace the secret of an access token", {200: _MADE}, 404, 409, body=serializers.RotationSerializer,
        example={"overlapSeconds": 3600}, optional_body=True, parameters=(_TOKEN_ID,),
        description="Limits, costs and history stay. The old secret stays valid for another `overlapSeconds`.",
    ),
    destroy=_operation(
        "Revoke an access token", {200: _done("Token revoked")}, 404,
        parameters=(_TOKEN_ID,), description="At once and for good, together with the tokens that it created.",
    ),
)  # fmt: skip

_ROW_ID = OpenApiParameter("row_id", row_number("The id of a row"), OpenApiParameter.PATH)


def _table(one: str, many: str, serializer: Any, example: dict[str, Any], description: str) -> dict[str, Any]:
    """Return the operations of one of the operator's tables, by action."""
    component = serializer.__name__.removesuffix("Serializer")
    row = {name: value for name, value in example.items() if name != "id"}
    done = _done(f"{one.split()[1].capitalize()} deleted")
    shown, at = _answer(serializer, example), (_ROW_ID,)
    return {
        "list": _operation(f"List the {many}", {200: _answer(array(ref(component)), [example])}),
        "create": _operation(
            f"Add {one}", {201: shown}, 409, body=serializer, example=row, description=description
        ),
        "retrieve": _operation(f"Show {one}", {200: shown}, 404, parameters=at),
        "update": _operation(
            f"Change {one}", {200: shown}, 404, 409, body=serializer(partial=True), example=row, parameters=at,
            description="What is left out stays as it is.",
        ),
        "destroy": _operation(f"Delete {one}", {200: done}, 404, parameters=at),
    }  # fmt: skip


prices = _table(
    "a price", "prices", serializers.PriceSerializer, examples.PRICE,
    "For requests admitted from `validFrom` on. It takes precedence over the price data. Prices that are left out: "
    "cached and written tokens cost as much as plain input, reasoning as much as output; audio, images and searches "
    "cost what the price data says, or else the highest price given.",
)  # fmt: skip

aliases = _table(
    "an alias", "aliases", serializers.AliasSerializer, examples.ALIAS,
    "The models are tried in order for requests that name the alias; `auto` is for requests that name no model. With a "
    "`provider` it is that provider's own name for one model.",
)  # fmt: skip

metrics = _documented(
    list=_operation(
        "Show the counters in Prometheus format",
        {(200, "text/plain"): _answer(TEXT, examples.METRICS, media_type="text/plain")},
    )
)
