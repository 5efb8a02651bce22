"""The API's errors as JSON: `{"field": ["what is wrong"]}` for bad input, `{"detail": …}` for everything else."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import BadRequest, SuspiciousOperation
from django.db import Error, IntegrityError
from django.http import UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from rest_framework import status
from rest_framework.exceptions import APIException, PermissionDenied
from rest_framework.response import Response
from rest_framework.views import exception_handler

from llmkeys import exceptions
from llmkeys.database import outages
from llmkeys.database.outages import UNAVAILABLE
from refactai_site import origins

_RETRY = {"Retry-After": str(outages.RETRY_SECONDS)}
_CSRF_FAILED = "CSRF Failed: "  # how DRF's SessionAuthentication begins its message
_UNREADABLE = (BadRequest, MultiPartParserError, SuspiciousOperation, UnreadablePostError)


class BodyTooLarge(APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_detail = "The body is larger than 1 MB."


def handle(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the response for an error that a view raised, or None for a bug of ours, which is left to Django."""
    match error:
        case exceptions.InvalidInput():
            return Response(error.errors, status=400)
        case exceptions.DuplicateSecret() | exceptions.KeyConflict() | exceptions.TokenConflict():
            return Response({"detail": str(error)}, status=409)
        case exceptions.BeyondItsMaker():
            return Response({"detail": str(error)}, status=403)
        case exceptions.TooManyFailures():
            return Response({"detail": str(error)}, status=429, headers={"Retry-After": str(error.retry_seconds)})
        case exceptions.WrongEncryptionKey() | exceptions.DataDirectoryProblem():
            return Response({"detail": str(error), "code": "sealed"}, status=503)
        case exceptions.RecordingUnavailable():
            return Response({"detail": UNAVAILABLE}, status=503, headers=_RETRY)
        case Error() if outages.is_outage(error):
            outages.note(error)
            return Response({"detail": UNAVAILABLE}, status=503, headers=_RETRY)
        case IntegrityError():
            return Response({"detail": "Somebody else has just changed the same thing. Try again."}, status=409)
        case PermissionDenied() if str(error.detail).startswith(_CSRF_FAILED):
            words = origins.about_origin(context["request"]._request, str(error.detail).removeprefix(_CSRF_FAILED))
            return Response({"detail": words or str(error.detail)}, status=403)
        case _ if isinstance(error, _UNREADABLE):
            return Response({"detail": "The request cannot be read."}, status=400)
    return exception_handler(error, context)
