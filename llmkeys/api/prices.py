"""/api/llm/prices and /api/llm/aliases: the operator's own prices, and the names that clients may send for models."""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import Model
from django.http import Http404
from drf_spectacular.utils import extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response

from llmkeys.api import operations
from llmkeys.api.serializers import AliasSerializer, PriceSerializer, StrictSerializer
from llmkeys.api.views import ApiViewSet
from llmkeys.exceptions import InvalidInput, KeyConflict
from llmkeys.models import ModelAlias, ModelPrice
from llmkeys.prices import catalogue


class _TableViewSet(ApiViewSet):
    """The common part of the operator's two tables; they have few rows, so a list contains all of them."""

    model: ClassVar[type[Model]]
    serializer: ClassVar[type[StrictSerializer]]
    unique: ClassVar[tuple[str, ...]]
    exists: ClassVar[str]  # the message if the row exists already
    deleted: ClassVar[str]

    def list(self, request: Request) -> Response:
        return Response(self.serializer(self.model._default_manager.all(), many=True).data)

    def create(self, request: Request) -> Response:
        return Response(self._stored(self.model(), request.data), status=201)

    def retrieve(self, request: Request, row_id: int) -> Response:
        return Response(self.serializer(self._row(row_id)).data)

    def update(self, request: Request, row_id: int) -> Response:
        return Response(self._stored(self._row(row_id), request.data))

    def destroy(self, request: Request, row_id: int) -> Response:
        self._row(row_id).delete()
        catalogue.forget()
        return Response({"success": True, "message": self.deleted})

    def _row(self, row_id: int) -> Any:
        row = self.model._default_manager.filter(pk=row_id).first()
        if row is None:
            raise Http404
        return row

    def _stored(self, row: Any, values: Any) -> Any:
        """Store the given values and return the row as JSON; what is left out stays as it is.

        Raises InvalidInput, KeyConflict.
        """
        for name, value in self.serializer.read(values, partial=row.pk is not None).items():
            setattr(row, name, value)
        try:
            row.clean()
        except ValidationError as error:
            names = {field.source: name for name, field in self.serializer().fields.items()}
            raise InvalidInput({names[source]: words for source, words in error.message_dict.items()}) from None
        with transaction.atomic():
            same = self.model._default_manager.filter(**{name: getattr(row, name) for name in self.unique})
            if same.exclude(pk=row.pk).exists():
                raise KeyConflict(self.exists)
            row.save()
        catalogue.forget()
        return self.serializer(row).data


@extend_schema_view(**operations.prices)
class PriceViewSet(_TableViewSet):
    permissions = {
        "list": "llmkeys.view_modelprice",
        "create": "llmkeys.add_modelprice",
        "retrieve": "llmkeys.view_modelprice",
        "update": "llmkeys.change_modelprice",
        "destroy": "llmkeys.delete_modelprice",
    }
    model, serializer = ModelPrice, PriceSerializer
    unique = ("provider", "model", "service_tier", "above_input_tokens", "valid_from")
    exists = "There is already a price for this model, tier and length from this time on. Change that one."
    deleted = "Price deleted"


@extend_schema_view(**operations.aliases)
class AliasViewSet(_TableViewSet):
    permissions = {
        "list": "llmkeys.view_modelalias",
        "create": "llmkeys.add_modelalias",
        "retrieve": "llmkeys.view_modelalias",
        "update": "llmkeys.change_modelalias",
        "destroy": "llmkeys.delete_modelalias",
    }
    model, serializer = ModelAlias, AliasSerializer
    unique = ("provider", "alias")
    exists = "There is already an alias of this name. Change that one."
    deleted = "Alias deleted"
