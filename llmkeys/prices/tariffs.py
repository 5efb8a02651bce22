"""What a model costs: the operator's own prices first, then the price data. Pure: no database, no network.

Rates are integers in 10⁻²⁴ USD per token and fees are integers in 10⁻²⁴ USD, finer than any price in the data: a cost
is exact, and is rounded only once, up to nano-dollars.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import TYPE_CHECKING

from django.conf import settings

from llmkeys import providers
from llmkeys.dialects.base import FILE_SEARCH_FEE, PAGE_FEE, PROMPT_CONTAINER_FEE, Usage, container_fee
from llmkeys.prices import data

if TYPE_CHECKING:  # loading the price data takes 15 MB and 0.1 s, so it is imported only when needed
    from genai_prices.types import ModelInfo

PER_NANO = 10**15  # 10⁻²⁴ USD in a nano-dollar

_RATE_DIGITS, _FEE_DIGITS = 18, 24  # USD per million tokens, or USD, to 10⁻²⁴ USD
_EPOCH = datetime.fromtimestamp(0, UTC)
_PRICE_SECONDS = 900  # the prices of the data change at most every quarter of an hour
_CACHED_TARIFFS = 4096

STANDARD_TIERS = frozenset({"", "default", "standard", "standard_only", "scale", "unspecified"})
CHEAP_TIERS = frozenset({"flex", "batch"})
DEAR_TIERS = ("priority", "fast")
_TWICE = "twice"  # the tier name for twice the standard rates, used if no rates of a higher tier are known
_SAME_TIER = {"priority": "fast", "fast": "priority"}  # OpenAI renamed it; an operator's row counts under either name

INPUT_KINDS = ("text", "cached", "write", "write_1h", "audio_in", "cached_audio", "image_in", "video_in")
OUTPUT_KINDS = ("text_out", "reasoning", "audio_out", "image_out")
# Rates that the price data lacks, USD per million tokens. A row priced with one of them is still flagged.
# Audio: platform.openai.com/docs/pricing, "Audio tokens". Images: the same page, "Image tokens".
_DOCUMENTED_RATES: tuple[tuple[re.Pattern[str], Mapping[str, Decimal]], ...] = (
    (re.compile(r"gpt-4o-audio-preview-2024-10-01"), {"audio_in": Decimal(100), "audio_out": Decimal(200)}),
    (re.compile(r"gpt-4o-audio-preview"), {"audio_in": Decimal(40), "audio_out": Decimal(80)}),
    (re.compile(r"gpt-4o-mini-audio-preview"), {"audio_in": Decimal(10), "audio_out": Decimal(20)}),
    (re.compile(r"gpt-5-image-mini"), {"image_out": Decimal(8)}),
    (re.compile(r"gpt-5-image"), {"image_out": Decimal(40)}),
    (re.compile(r"gpt-5\.4-image"), {"image_out": Decimal(30)}),
)
# Tenths of the price. platform.claude.com, "Data residency", US-only inference; platform.openai.com/docs/pricing,
# regional processing, which costs more for models since GPT-5.4.
_REGIONAL_TENTHS = 11
_OPENAI_HALF_DAY_WRITE = Decimal("2.5")  # times the input price: platform.openai.com/docs/pricing, 12-hour retention
_ANTHROPIC_HOUR_WRITE = 2  # times the input price: platform.claude.com, "Prompt caching", Pricing

# Fees in USD per call. Models that search for every answer: platform.openai.com/docs/pricing, "Web search preview".
_SEARCH_MODELS: tuple[tuple[re.Pattern[str], Decimal], ...] = (
    (re.compile(r"gpt-4o(-mini)?-search"), Decimal("0.025")),
    (re.compile(r"gpt-5.*-search"), Decimal("0.010")),
)
_REQUEST_FEES: tuple[tuple[re.Pattern[str], Decimal], ...] = (
    (re.compile(r"sonar-pro-search"), Decimal("0.018")),  # openrouter.ai/perplexity/sonar-pro-search
)
# USD; platform.openai.com/docs/pricing, containers by memory and the file search tool by call; openrouter.ai/docs, the
# PDF engine `mistral-ocr`.
OTHER_FEES = {
    container_fee("1g"): Decimal("0.03"),
    container_fee("4g"): Decimal("0.12"),
    container_fee("16g"): Decimal("0.48"),
    container_fee("64g"): Decimal("1.92"),
    PROMPT_CONTAINER_FEE: Decimal("1.92"),  # held; `cost.py` charges the usual one if it ran
    FILE_SEARCH_FEE: Decimal("0.0025"),
    PAGE_FEE: Decimal("0.002"),
}
# The models that OpenAI's image tool may use if the request names none, most expensive first.
DRAWING_MODELS = ("gpt-image-1", "gpt-image-1.5")


@dataclass(frozen=True, slots=True)
class Price:
    """A price in the usual units: USD per million tokens, and fees in USD.

    If a field is None, cached and cache-write tokens cost as much as plain input, reasoning as much as output; audio,
    images and searches are priced by the price data, or else at the highest price given here.
    """

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    audio_input: Decimal | None = None
    cached_audio_input: Decimal | None = None
    image_input: Decimal | None = None
    reasoning_output: Decimal | None = None
    audio_output: Decimal | None = None
    image_output: Decimal | None = None
    search: Decimal | None = None  # USD per call
    request: Decimal | None = None  # USD per request


@dataclass(frozen=True, slots=True)
class OperatorPrice:
    """One row of the operator's table."""

    price: Price
    valid_from: datetime
    service_tier: str = ""
    above_input_tokens: int = 0  # for longer prompts only


@dataclass(frozen=True, slots=True)
class Step:
    """The rates for prompts of a certain length; `dearest_in` covers input whose kind is not known in advance."""

    text: int
    cached: int
    write: int
    write_1h: int
    audio_in: int
    cached_audio: int
    image_in: int
    video_in: int
    text_out: int
    reasoning: int
    audio_out: int
    image_out: int
    dearest_in: int

    def cost(self, usage: Usage) -> int:
        """Return what the tokens cost. Contradictory counts are reduced so that the kinds never exceed the total."""
        total, output = _whole(usage.input_tokens), _whole(usage.output_tokens)
        # Audio, images and video that cost as much as text are treated as text, which may be cached.
        audio = min(total, _whole(usage.audio_input_tokens)) if self.audio_in != self.text else 0
        image = min(total - audio, _whole(usage.image_input_tokens)) if self.image_in != self.text else 0
        video = min(total - audio - image, _whole(usage.video_input_tokens)) if self.video_in != self.text else 0
        text = total - audio - image - video
        hour = _whole(usage.cache_write_1h_tokens)
        written = min(text, max(_whole(usage.cache_write_tokens), hour))
        hour = min(written, hour)
        cached_audio = min(audio, _whole(usage.cached_audio_tokens))
        cached = max(0, min(text - written, _whole(usage.cached_input_tokens) - cached_audio))
        amount = (
            (text - written - cached) * self.text
            + cached * self.cached
            + (written - hour) * self.write
            + hour * self.write_1h
            + (audio - cached_audio) * self.audio_in
            + cached_audio * self.cached_audio
            + image * self.image_in
            + video * self.video_in
        )
        audio = min(output, _whole(usage.audio_output_tokens))
        image = min(output - audio, _whole(usage.image_output_tokens))
        reasoning = min(output - audio - image, _whole(usage.reasoning_tokens))
        return (
            amount
            + (output - audio - image - reasoning) * self.text_out
            + reasoning * self.reasoning
            + audio * self.audio_out
            + image * self.image_out
        )


@dataclass(frozen=True, slots=True)
class Tariff:
    """The rates of a model at a time and tier: above `starts[i-1]` input tokens, `steps[i]` applies to all tokens."""

    starts: tuple[int, ...]
    steps: tuple[Step, ...]
    guessed: frozenset[str] = frozenset()  # kinds, and `search`, whose rate the source lacks
    search: int = 0
    search_most: int = 0  # of the dearer of two tools
    searches_always: bool = False  # for search models, every answer is a search
    search_per_answer: bool = False  # billed once per answer, however many queries
    request: int = 0
    writes_unasked: bool = True  # may write a cache without being asked to
    has_tier: bool = True  # False: the source has no rates for the requested tier; these are the standard ones
    is_fallback: bool = False  # the model is unknown

    def twice(self) -> Tariff:
        steps = tuple(Step(*(2 * getattr(step, each.name) for each in fields(Step))) for step in self.steps)
        return replace(self, steps=steps)

    def step(self, usage: Usage) -> Step:
        """Return the rates for a prompt of this length."""
        return self.steps[bisect_left(self.starts, _whole(usage.input_tokens))] if self.starts else self.steps[0]

    def fees(self, usage: Usage, *, dearer_tool: bool = False) -> int:
        """Return what the answer costs in addition to its tokens."""
        searches = _whole(usage.searches)
        if self.searches_always:
            searches = max(1, searches)
        if self.search_per_answer:
            searches = min(1, searches)
        return searches * (self.search_most if dearer_tool else self.search) + self.request

    def is_guessed(self, usage: Usage) -> bool:
        """Return whether part of the cost is based on a rate that the source lacks."""
        if not self.guessed:
            return False
        hour = _whole(usage.cache_write_1h_tokens)
        used = {
            "write": _whole(usage.cache_write_tokens) - hour,
            "write_1h": hour,
            "audio_in": _whole(usage.audio_input_tokens),
            "audio_out": _whole(usage.audio_output_tokens),
            "image_out": _whole(usage.image_output_tokens),
            "text_out": _whole(usage.output_tokens),
            "search": max(_whole(usage.searches), self.searches_always),
        }
        return any(used[kind] > 0 for kind in self.guessed)


def _whole(count: int | None) -> int:
    return count if count is not None and count > 0 else 0


def in_region(amount: int, provider: str, model: str, region: str) -> int:
    """Return the cost of tokens with the surcharge of a tenth for regional processing, if it applies."""
    base_url = settings.PROVIDER_BASE_URLS[provider]
    is_dearer = providers.get(provider).costs_more_in_region(model, region=region, base_url=base_url)
    return -(-amount * _REGIONAL_TENTHS // 10) if is_dearer else amount


def other_fee(what: str) -> int:
    """Return a fee in 10⁻²⁴ USD."""
    return _fee(OTHER_FEES[what])


def to_nano(amount: int) -> int:
    """Return 10⁻²⁴ USD as nano-dollars, rounded up."""
    return -(-amount // PER_NANO)


def tier_name(name: str | None) -> str:
    """Return the tier in one spelling: empty for the standard one, `other` for an unknown name."""
    tier = (name or "").strip().lower().removeprefix("service_tier_")
    if tier in STANDARD_TIERS:
        return ""
    return tier if tier in data.TIER_CONTEXT or tier == "auto" else "other"


# --- the list of prices ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class PriceList:
    """The operator's prices, then the price data, then the fallback price for unknown models."""

    operator: Mapping[tuple[str, str], Sequence[OperatorPrice]]  # (provider, model)
    fallback_usd_per_token: Decimal
    local: frozenset[str] = frozenset()  # providers at someone else's server, where unknown models are free
    _tariffs: dict[tuple[str, str, str, int, int], Tariff] = field(default_factory=dict, repr=False, compare=False)

    def tariff(self, provider: str, model: str, at: datetime, tier: str = "") -> Tariff:
        """Return the tariff of a model at `at`, when the request was admitted; `tier` as returned by `tier_name`."""
        quarter = int(at.timestamp() // _PRICE_SECONDS)
        # The operator's rows begin at any instant, so the number that have begun is part of the key.
        begun = sum(row.valid_from <= at for row in self.operator.get((provider, model), ()))
        key = (provider, model, tier, quarter, begun)
        found = self._tariffs.get(key)
        if found is None:
            found = self._made(provider, model, at, tier, quarter)
            if len(self._tariffs) >= _CACHED_TARIFFS:  # clients may send any name
                self._tariffs.clear()
            self._tariffs[key] = found
        return found

    def dear_tariffs(self, provider: str, model: str, at: datetime) -> tuple[Tariff, ...]:
        """Return the tariffs of the tiers above the standard one that have rates, or else twice the standard tariff."""
        tariffs = [self.tariff(provider, model, at, tier) for tier in DEAR_TIERS]
        return tuple(found for found in tariffs if found.has_tier) or (self.tariff(provider, model, at, _TWICE),)

    def served(self, provider: str, model: str, at: datetime, *, served: str, asked: str | None) -> tuple[Tariff, bool]:
        """Return the tariff of the tier that served, and whether the source lacks its rates.

        If no tier was reported, the requested one counts if it is more expensive.
        """
        standard, wanted = self.tariff(provider, model, at), tier_name(asked)
        is_dear = bool(wanted) and wanted not in CHEAP_TIERS
        tier = tier_name(served) if served else wanted if is_dear and wanted != "auto" else ""
        if not tier or standard.is_fallback:
            return standard, False
        found = self.tariff(provider, model, at, tier)
        if found.has_tier:
            return found, False
        if tier in CHEAP_TIERS or not is_dear:
            return standard, True
        return max(self.dear_tariffs(provider, model, at), key=lambda dear: dear.steps[-1].text_out), True

    def knows(self, provider: str, model: str, at: datetime) -> bool:
        """Return whether the operator or the price data has a price for the model."""
        return not self.tariff(provider, model, at).is_fallback

    def is_free(self, provider: str, model: str, at: datetime) -> bool:
        """Return whether it is a model of a local server that is unknown, or whose text the operator has priced at 0.

        Nothing costs anything there, tools included.
        """
        if provider not in self.local:
            return False
        tariff = self.tariff(provider, model, at)
        return tariff.is_fallback or not any(step.text or step.text_out for step in tariff.steps)

    def has_operator_price(self, provider: str, model: str, at: datetime) -> bool:
        return bool(self._in_force(provider, model, at, ""))

    def shown(self, provider: str, model: str, at: datetime) -> Price | None:
        """Return the standard price for short prompts, to show to people, or None if unknown."""
        rows = self._in_force(provider, model, at, "")
        return next((row.price for row in rows if not row.above_input_tokens), None) or shown_by_data(
            provider, model, at
        )

    def _made(self, provider: str, model: str, at: datetime, tier: str, quarter: int) -> Tariff:
        if tier == _TWICE:
            return self.tariff(provider, model, at).twice()
        rows = self._in_force(provider, model, at, tier)
        has_tier = bool(rows) or not tier
        rows = rows or self._in_force(provider, model, at, "")
        if rows:
            return _operator_tariff(rows, provider, model, quarter, has_tier)
        return _data_tariff(provider, model, quarter, tier) or self._fallback(provider, model)

    def _in_force(self, provider: str, model: str, at: datetime, tier: str) -> tuple[OperatorPrice, ...]:
        """Return the operator's rows in force, one per prompt length, shortest first."""
        rows = self.operator.get((provider, model), ())
        for name in (tier, _SAME_TIER.get(tier)):
            newest: dict[int, OperatorPrice] = {}
            for row in rows:
                if row.service_tier != name or row.valid_from > at:
                    continue
                known = newest.get(row.above_input_tokens)
                if known is None or known.valid_from < row.valid_from:
                    newest[row.above_input_tokens] = row
            if 0 in newest:
                return tuple(newest[above] for above in sorted(newest))
        return ()

    def _fallback(self, provider: str, model: str) -> Tariff:
        rate = 0 if provider in self.local else _fee(self.fallback_usd_per_token)  # a price per token
        step = Step(*(rate for _ in fields(Step)))
        fees = _fees(provider, model, (), _EPOCH) if rate else _Fees()
        return _tariff(model, (), [step], set(), fees, is_fallback=True, has_tier=False)


# --- the operator's table --------------------------------------------------------------------------------------------

_MODALITIES = frozenset({"audio_in", "cached_audio", "image_in", "video_in", "audio_out", "image_out"})


def _operator_tariff(rows: Sequence[OperatorPrice], provider: str, model: str, quarter: int, has_tier: bool) -> Tariff:
    entries, at = data.entries(provider, model), datetime.fromtimestamp(quarter * _PRICE_SECONDS, UTC)
    steps, guessed = [], set()
    first = rows[0].price
    is_free = not any(value for value in _known_to_operator(first).values())
    for row in rows:
        known = _known_to_operator(row.price)
        if not is_free:  # where text is free, audio is free too
            known_to_data = data.known_rates(entries, at, "", row.above_input_tokens + 1)
            known = {kind: rate for kind, rate in known_to_data.items() if kind in _MODALITIES} | known
        step, lacking = _step(known, model)
        steps.append(step)
        guessed |= lacking
    fees = _Fees() if is_free else _fees(provider, model, entries, at)
    if first.search is not None:
        fees = replace(fees, search=first.search, search_most=first.search, search_guessed=False)
    if first.request is not None:
        fees = replace(fees, request=first.request)
    starts = tuple(row.above_input_tokens for row in rows[1:])
    return _tariff(model, starts, steps, guessed, fees, has_tier=has_tier)


def _known_to_operator(price: Price) -> dict[str, Decimal]:
    plain = price.input
    named = {
        "text": plain,
        "cached": plain if price.cached_input is None else price.cached_input,
        "write": plain if price.cache_write is None else price.cache_write,
        "write_1h": plain if price.cache_write is None and price.cache_write_1h is None else price.cache_write_1h,
        "audio_in": price.audio_input,
        "cached_audio": price.cached_audio_input,
        "image_in": price.image_input,
        "text_out": price.output,
        "reasoning": price.reasoning_output,
        "audio_out": price.audio_output,
        "image_out": price.image_output,
    }
    return {kind: rate for kind, rate in named.items() if rate is not None}


# --- from rates to a tariff ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Fees:
    """Fees in USD, and how searches are billed; by default nothing costs a fee."""

    search: Decimal = Decimal(0)
    search_most: Decimal = Decimal(0)  # of the dearer of two tools
    search_guessed: bool = False
    searches_always: bool = False
    search_per_answer: bool = False
    request: Decimal = Decimal(0)


def _step(known: Mapping[str, Decimal], model: str) -> tuple[Step, set[str]]:
    """Return the rates for prompts of one length, and the kinds that had to be guessed.

    Cached tokens, images and video without a rate cost as much as plain input, as the vendors' lists intend. Any other
    missing rate is taken to be the highest one of input or output.
    """
    rates = {kind: _rate(value) for kind, value in known.items()}
    text, out = rates.get("text", 0), rates.get("text_out", 0)
    dearest_in = max((rates[kind] for kind in INPUT_KINDS if kind in rates), default=0)
    dearest_out = max((rates[kind] for kind in (*OUTPUT_KINDS, "video_out") if kind in rates), default=0)
    documented = _documented_rates(model)
    guessed: set[str] = set()

    def guess(kind: str, dearest: int) -> int:
        if kind in rates:
            return rates[kind]
        if dearest:
            guessed.add(kind)
        return max(dearest, documented.get(kind, 0)) if dearest else 0

    write = rates.get("write")
    if write is None:
        write = guess("write", max(text, rates.get("cached", 0)))
    hour = rates.get("write_1h")
    if hour is None and _is_claude(model):
        hour = max(write, _ANTHROPIC_HOUR_WRITE * text)
    elif hour is None:
        hour = guess("write_1h", max(write, int(text * _OPENAI_HALF_DAY_WRITE)))
    audio_in = guess("audio_in", dearest_in)
    if "video_out" in rates and rates["video_out"] > out:  # usage does not report it: all output may be video
        out = rates["video_out"]
        guessed.add("text_out")
    step = Step(
        text=text,
        cached=rates.get("cached", text),
        write=write,
        write_1h=hour,
        audio_in=audio_in,
        cached_audio=rates.get("cached_audio", audio_in),
        image_in=rates.get("image_in", text),
        video_in=rates.get("video_in", text),
        text_out=out,
        reasoning=rates.get("reasoning", out),
        audio_out=guess("audio_out", dearest_out),
        image_out=guess("image_out", dearest_out),
        dearest_in=max(dearest_in, audio_in, text),
    )
    return step, guessed


def _tariff(
    model: str,
    starts: tuple[int, ...],
    steps: Sequence[Step],
    guessed: set[str],
    fees: _Fees,
    **flags: bool,
) -> Tariff:
    if fees.search_guessed:
        guessed = guessed | {"search"}
    return Tariff(
        starts,
        tuple(steps),
        frozenset(guessed),
        search=_fee(fees.search),
        search_most=_fee(max(fees.search, fees.search_most)),
        searches_always=fees.searches_always,
        search_per_answer=fees.search_per_answer,
        request=_fee(fees.request),
        writes_unasked=not _is_claude(model),
        **flags,
    )


@lru_cache(maxsize=_CACHED_TARIFFS)
def _documented_rates(model: str) -> Mapping[str, int]:
    name = model.rpartition("/")[2]
    found = next((rates for pattern, rates in _DOCUMENTED_RATES if pattern.match(name)), {})
    return {kind: _rate(value) for kind, value in found.items()}


def _fees(provider: str, model: str, entries: Sequence[ModelInfo], at: datetime) -> _Fees:
    """Return the fees per search and per request, in USD, and how searches are billed."""
    seller = providers.get(provider)
    name, _, variant = model.rpartition("/")[2].partition(":")
    prices = [entry.get_prices(at) for entry in entries]
    thousand = next(
        (found for each in prices if (found := data.at_length(each.web_searches_kcount, 0)) is not None), None
    )
    of_model = next((fee for pattern, fee in _SEARCH_MODELS if pattern.match(name)), None)
    search = of_model if of_model is not None else thousand / 1000 if thousand is not None else None
    is_own_search = seller.has_own_search and of_model is None
    if is_own_search:
        search = max(search or Decimal(0), seller.search_usd)
    thousand_requests = next((found for each in prices if (found := data.at_length(each.requests_kcount, 0))), None)
    request = thousand_requests / 1000 if thousand_requests else Decimal(0)
    return _Fees(
        search=seller.search_usd if search is None else search,
        search_most=seller.most_search_usd(name),
        search_guessed=search is None or is_own_search,
        searches_always=of_model is not None or variant == "online",
        search_per_answer=thousand is not None and thousand / 1000 == seller.search_usd_per_answer,
        request=next((fee for pattern, fee in _REQUEST_FEES if pattern.match(name)), request),
    )


def _rate(usd_per_million: Decimal) -> int:
    return int(usd_per_million.scaleb(_RATE_DIGITS).to_integral_value(ROUND_CEILING))


def _fee(usd: Decimal) -> int:
    return int(usd.scaleb(_FEE_DIGITS).to_integral_value(ROUND_CEILING))


def _is_claude(model: str) -> bool:
    """Return whether the model writes a cache only if the request has `cache_control`."""
    return "claude" in model.lower()


# --- the price data --------------------------------------------------------------------------------------------------


def shown_by_data(provider: str, model: str, at: datetime) -> Price | None:
    """Return the price data's price of short prompts at the standard tier, or None if it has none."""
    if providers.get(provider).is_free(model):
        return Price(Decimal(0), Decimal(0))
    entries = data.entries(provider, model)
    if not entries or not data.prices_tokens(entries[0], at):
        return None
    known = {kind: Decimal(f"{rate.normalize():f}") for kind, rate in data.known_rates(entries, at, "", 0).items()}
    return Price(
        input=known.get("text", Decimal(0)),
        output=known.get("text_out", Decimal(0)),
        cached_input=known.get("cached"),
        cache_write=known.get("write"),
        cache_write_1h=known.get("write_1h"),
        audio_input=known.get("audio_in"),
        cached_audio_input=known.get("cached_audio"),
        image_input=known.get("image_in"),
        reasoning_output=known.get("reasoning"),
        audio_output=known.get("audio_out"),
        image_output=known.get("image_out"),
    )


@lru_cache(maxsize=_CACHED_TARIFFS)
def _data_tariff(provider: str, model: str, quarter: int, tier: str) -> Tariff | None:
    if providers.get(provider).is_free(model):
        step, _ = _step({"text": Decimal(0), "text_out": Decimal(0)}, model)
        return _tariff(model, (), [step], set(), _Fees())
    entries, at = data.entries(provider, model), datetime.fromtimestamp(quarter * _PRICE_SECONDS, UTC)
    if not entries or not data.prices_tokens(entries[0], at):
        return None
    has_tier = True
    if tier:
        with_tier = [entry for entry in entries if data.has_tier(entry, at, tier)]
        has_tier = bool(with_tier)
        entries = tuple(with_tier) or entries  # only the vendor's entry has tiers, OpenRouter's does not
        tier = tier if has_tier else ""
    prices = entries[0].get_prices(at, dict(data.TIER_CONTEXT.get(tier, {})))
    starts = tuple(
        sorted({tier.start for value in vars(prices).values() if hasattr(value, "tiers") for tier in value.tiers})
    )
    steps, guessed = [], set()
    for length in (0, *(start + 1 for start in starts)):
        step, lacking = _step(data.known_rates(entries, at, tier, length), model)
        steps.append(step)
        guessed |= lacking
    return _tariff(model, starts, steps, guessed, _fees(provider, model, entries, at), has_tier=has_tier)
