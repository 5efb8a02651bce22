"""The page of a request, attempt by attempt: why this key, what was held, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.contrib import messages
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required, permission_required
from django.db.models import Exists, OuterRef
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from llmkeys.dashboard.buttons import button_on
from llmkeys.dashboard.charts import Bar
from llmkeys.dashboard.usage_words import (
    Badge,
    Known,
    Skip,
    badge_of,
    known_of,
    seconds_words,
    skipped_ids,
    skips_of,
    whole_words,
)
from llmkeys.exceptions import LLMKeysError
from llmkeys.lib.money import nano_to_usd
from llmkeys.models import Adjustment, ApiKey, UsageRecord
from llmkeys.templatetags.llmkeys_format import usd
from llmkeys.usage.voiding import void_usage

_KINDS = {
    "void": "Taken back",
    "late": "True cost arrived late",
    "reconcile": "Corrected by its provider’s figure",
    "audit": "Corrected by the audit",
    "reset": "Reset",
    "opening": "Opening",
}


@dataclass(frozen=True, slots=True)
class Correction:
    """An adjustment of an attempt, with its label."""

    word: str
    row: Adjustment


@dataclass(frozen=True, slots=True)
class AttemptDetails:
    """One attempt. `facts` are pairs of label and value."""

    row: UsageRecord
    badge: Badge
    bar: Bar
    bar_words: str
    why: str
    skips: list[Skip]
    facts: list[tuple[str, str]]
    corrections: list[Correction]
    can_be_voided: bool

    @property
    def cost_nano(self) -> int:
        return self.row.cost_nano + sum(each.row.cost_nano for each in self.corrections)


@dataclass(frozen=True, slots=True)
class RequestDetails:
    """A request: its attempts in order, and the response headers as far as they are known."""

    id: str
    attempts: list[AttemptDetails]
    headers: list[tuple[str, str]]

    @property
    def first(self) -> UsageRecord:
        return self.attempts[0].row

    @property
    def last(self) -> UsageRecord:
        return self.attempts[-1].row

    @property
    def cost_nano(self) -> int:
        return sum(attempt.cost_nano for attempt in self.attempts)

    @property
    def held_nano(self) -> int:
        return sum(attempt.row.hold_nano for attempt in self.attempts if attempt.row.state == "HELD")

    @property
    def numbers(self) -> list[tuple[str, str, str]]:
        """The figures at the top: label, value, and the line below."""
        last, number = self.last, len(self.attempts)
        held = f"{usd(self.held_nano)} held" if self.held_nano else ""
        return [
            ("Cost", usd(self.cost_nano), held or "all attempts and corrections"),
            ("Attempts", f"{number}", "no retry" if number == 1 else "over keys and models"),
            ("Tokens in", whole_words(last.input_tokens), _cached(last)),
            ("Tokens out", whole_words(last.output_tokens), _reasoning(last)),
            ("Time", self._time(), _first_byte(last)),
            ("Answer", _answer(last), _shape(last)),
        ]

    def _time(self) -> str:
        if self.last.finished_at is None:
            return "in progress"
        return seconds_words(round((self.last.finished_at - self.first.created_at) / timedelta(milliseconds=1)))


def request_details(request_id: str) -> RequestDetails | None:
    """Return the request with this id, or None; three queries, however many attempts it has."""
    if "\0" in request_id:  # no id has one, and PostgreSQL would raise an error
        return None
    rows = list(
        UsageRecord.objects.filter(request_id=request_id)
        .select_related("key")
        .defer("key__secret", "key__fingerprint", "key__last_test")
        .prefetch_related("adjustments")
        # The playground records the person's name; rows of version 0.1.0 may have the name of a token without its id.
        .annotate(is_of_a_user=Exists(get_user_model().objects.filter(username=OuterRef("token_name"))))
        .order_by("attempt")
    )
    if not rows:
        return None
    names = dict(ApiKey.objects.filter(pk__in=skipped_ids(rows)).values_list("id", "name"))
    attempts = [_attempt(row, names, before) for before, row in zip([None, *rows], rows, strict=False)]
    return RequestDetails(request_id, attempts, _headers(rows))


def _attempt(row: UsageRecord, names: dict[str, str], before: UsageRecord | None) -> AttemptDetails:
    skips = skips_of(row, names)
    corrections = [Correction(_KINDS.get(each.kind, each.kind), each) for each in row.adjustments.all() if each.key_id]
    words = _bar_words(row)
    return AttemptDetails(
        row=row,
        badge=badge_of(row),
        bar=_bar(row, words),
        bar_words=words,
        why=_why(row, skips, before),
        skips=skips,
        facts=_facts(row, known_of(row, {each.row.kind: each.row.cost_source for each in corrections})),
        corrections=corrections,
        can_be_voided=row.state == "LOST" and not any(each.row.kind == "void" for each in corrections),
    )


def _why(row: UsageRecord, skips: list[Skip], before: UsageRecord | None) -> str:
    if skips:
        return f"“{row.key.name}” was the first in the serving order that could take it. Passed over before it:"
    if before is not None and before.key_id == row.key_id:
        return f"“{row.key.name}” was tried again: what failed before was not the key’s fault."
    return f"“{row.key.name}” was first in the serving order and had room."


def _bar(row: UsageRecord, words: str) -> Bar:
    """Return the bar of what was spent (solid) or is still held (hatched), relative to the hold."""
    whole = max(row.hold_nano, row.cost_nano)
    if not whole:
        return Bar(words, tone="idle")
    spent = 100 * row.cost_nano / whole
    return Bar(words, spent=spent, held=100.0 if row.state == "HELD" else 0.0, tone="full" if row.overrun else "")


def _bar_words(row: UsageRecord) -> str:
    if row.state == "HELD":
        return f"{usd(row.hold_nano)} held until the answer arrives"
    if row.state == "RELEASED":
        return f"{usd(row.hold_nano)} was held and given back: nothing was charged"
    if row.state == "LOST":
        return f"{usd(row.cost_nano)} charged at the hold: the provider may have billed it"
    over = ", more than the calculated maximum" if row.overrun else ""
    return f"{usd(row.cost_nano)} of {usd(row.hold_nano)} held{over}"


def _facts(row: UsageRecord, known: Known | None) -> list[tuple[str, str]]:
    status = f"{row.http_status}" if row.http_status else "–"
    facts = [
        ("Model", row.model),
        ("Cost source", known.title if known else "–"),
        ("Tokens in", _joined(whole_words(row.input_tokens), _cached(row), _written(row))),
        ("Tokens out", _joined(whole_words(row.output_tokens), _reasoning(row))),
        ("Latency", _joined(seconds_words(row.latency_ms), _first_byte(row))),
        *([("Output limit, lowered to fit", f"{row.max_tokens:,} tokens")] if row.max_tokens is not None else []),
        ("Status from the provider", status),
        ("Charged to", f"{row.day:%Y-%m-%d}"),
    ]
    return [*facts, ("The provider’s own id", row.upstream_id)] if row.upstream_id else facts


def _joined(*words: str) -> str:
    return ", ".join(word for word in words if word)


def _cached(row: UsageRecord) -> str:
    return f"{row.cached_input_tokens:,} cached" if row.cached_input_tokens else ""


def _written(row: UsageRecord) -> str:
    return f"{row.cache_write_tokens:,} written to the cache" if row.cache_write_tokens else ""


def _reasoning(row: UsageRecord) -> str:
    return f"{row.reasoning_tokens:,} reasoning" if row.reasoning_tokens else ""


def _first_byte(row: UsageRecord) -> str:
    return f"first byte {seconds_words(row.first_byte_ms)}" if row.first_byte_ms is not None else ""


def _shape(row: UsageRecord) -> str:
    return "streamed" if row.streamed else "in one piece"


def _answer(row: UsageRecord) -> str:
    if row.state == "HELD":
        return "in progress"
    if row.success:
        return "succeeded"
    return "refused" if row.success is None and row.http_status else "failed"


def _headers(rows: Sequence[UsageRecord]) -> list[tuple[str, str]]:
    """Return the product's own response headers, as far as they can be derived from the rows.

    A request that failed with every key has no key id; streams have no cost, because they begin before it is known.
    """
    last = rows[-1]
    headers = [("X-LLM-Request-Id", last.request_id)]
    reached = last.success is not False
    if reached and last.state != "LOST":
        headers.append(("X-LLM-Key-Id", last.key_id))
    headers.append(("X-LLM-Attempts", f"{last.attempt}"))
    if reached and last.state != "LOST" and last.max_tokens is not None:
        headers.append(("X-LLM-Max-Tokens", f"{last.max_tokens}"))
    if reached and last.state == "SETTLED" and not last.streamed:
        headers.append(("X-LLM-Cost-USD", f"{nano_to_usd(last.cost_nano):f}"))
    return headers


# --- the page ---------------------------------------------------------------------------------------------------------

_LONGEST_REASON = 400


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_usagerecord", raise_exception=True)
def request(http: HttpRequest, request_id: str) -> HttpResponse:
    """Show every attempt of one request."""
    found = request_details(request_id)
    if found is None:
        return render(http, "dashboard/request_unknown.html", {"request_id": request_id[:100]}, status=404)
    return render(http, "dashboard/request.html", {"details": found, "section": "usage"})


@button_on("usage")
@login_required
@permission_required("llmkeys.change_usagerecord", raise_exception=True)
def void(request: HttpRequest, usage_id: int) -> HttpResponse:
    """Void the charge of a lost attempt, recording who did it and why."""
    if usage_id >= 2**63:
        raise Http404
    row = get_object_or_404(UsageRecord.objects.only("request_id"), pk=usage_id)
    reason = "".join(letter for letter in request.POST.get("reason", "") if letter.isprintable())
    try:
        amount = void_usage(
            row.pk, at=timezone.now(), actor=request.user.get_username(), reason=reason.strip()[:_LONGEST_REASON]
        )
        messages.success(request, f"{usd(amount)} was taken back; the key can spend it again.")
    except LLMKeysError as error:
        messages.error(request, str(error))
    return redirect("request", row.request_id)
