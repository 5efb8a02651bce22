"""The doors that programs use: the OpenAI chat dialect and the model list (contract 6)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt

from llmkeys import exceptions, ledger
from llmkeys.database import writer
from llmkeys.database.outages import recording_errors
from llmkeys.gateway.bodies import parse_body, read_body, read_to_the_end
from llmkeys.gateway.errors import GatewayError, error_response
from llmkeys.lib.money import nano_to_usd
from llmkeys.relay import Answer, ChatRequest, relay
from llmkeys.relay.candidates import Caller, caller_of
from llmkeys.relay.models import servable_models
from llmkeys.tokens.throttle import address_of, note_failure

# Headers of a client that a provider may see; everything else stays here.
_FORWARDED = ("HTTP-Referer", "X-Title", "X-OpenRouter-Title", "X-OpenRouter-Categories")


def gateway_view(method: str) -> Callable:
    """Wrap a view: method, token and scope first, every error in the dialect's own shape."""

    def decorate(view: Callable[[HttpRequest, Caller], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
        @csrf_exempt
        @wraps(view)
        def guarded(request: HttpRequest) -> HttpResponse:
            try:
                if request.method != method:
                    raise GatewayError(405, "method_not_allowed", f"This address takes {method} only.")
                return view(request, _caller(request))
            except (exceptions.LLMKeysError, GatewayError) as error:
                read_to_the_end(request)
                return error_response(error)

        return guarded

    return decorate


def _caller(request: HttpRequest) -> Caller:
    """Return who asks. Raises GatewayError 401 or 403, TooManyFailures."""
    token = _token(request)
    with recording_errors():
        caller = caller_of(token, timezone.now()) if token else None
    if caller is None:
        if token:
            note_failure(address_of(request.META), at=timezone.now())
        raise GatewayError(
            401,
            "invalid_token",
            "Invalid or missing access token. Send one as “Authorization: Bearer rfk_…”; "
            "`manage.py tokens create NAME` makes one.",
        )
    if not caller.may_gateway:
        raise GatewayError(403, "missing_scope", "This token may not send requests: it lacks the scope “gateway”.")
    return caller


def _token(request: HttpRequest) -> str:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    return request.headers.get("x-api-key", "") or request.headers.get("x-goog-api-key", "")


@gateway_view("POST")
def chat_completions(request: HttpRequest, caller: Caller) -> HttpResponse:
    """POST /v1/chat/completions"""
    raw = read_body(request)
    headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
    chat = ChatRequest(body=parse_body(raw), raw=raw, caller=caller, extra_headers=headers)
    chat.validate()
    try:
        with recording_errors():
            answer = relay(chat)
    except exceptions.LLMKeysError as error:
        return error_response(error, request_id=chat.id)
    return _response(answer)


def _response(answer: Answer) -> HttpResponse:
    response: HttpResponse | StreamingHttpResponse
    if answer.is_stream:
        response = StreamingHttpResponse(answer.content, status=answer.status, content_type=answer.content_type)
        response["Cache-Control"] = "no-cache"
        response["X-Accel-Buffering"] = "no"  # a proxy in front must not collect the stream
    else:
        response = HttpResponse(answer.content, status=answer.status, content_type=answer.content_type)
        response["Content-Length"] = str(len(answer.content))
    for name, value in answer.headers.items():
        response[name] = value
    response["X-LLM-Request-Id"] = answer.request_id
    response["X-LLM-Key-Id"] = answer.key_id
    response["X-LLM-Attempts"] = str(answer.attempts)
    if answer.cost_nano is not None:
        response["X-LLM-Cost-USD"] = f"{nano_to_usd(answer.cost_nano):f}"
    if answer.remaining_day_nano is not None:
        response["X-LLM-Remaining-Daily-USD"] = f"{nano_to_usd(answer.remaining_day_nano):f}"
    return response


@gateway_view("GET")
def models(request: HttpRequest, caller: Caller) -> HttpResponse:
    """GET /v1/models"""
    at = timezone.now()
    if caller.notes_use:
        writer.run_now(lambda cursor: ledger.note_token_use(cursor, caller.token_id, at))
    with recording_errors():
        return JsonResponse({"object": "list", "data": servable_models(caller, at=at)})


@csrf_exempt
def not_found(request: HttpRequest, *_parts: str) -> HttpResponse:
    """Answer an address below /v1 that is none of ours in the dialect's own shape."""
    message = "The gateway has no such address; it serves POST /v1/chat/completions and GET /v1/models."
    return error_response(GatewayError(404, "not_found", message))
