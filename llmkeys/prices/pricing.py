"""The price of a usage, and the highest price that a request can cause. Pure: no database, no network.

Every function that needs a price takes the same keyword arguments, the price context:

provider                 openrouter, openai, anthropic or google
model                    that provider's own name of the model
at                       when the request was admitted, aware: prices have start dates
operator_price           the operator's own price, which goes before the price data; None: there is none
fallback_usd_per_token   the price of a model that nobody knows
local                    the base URL is not the provider's own: a model that nobody knows costs nothing there

The arithmetic is on integers of 10⁻¹⁸ USD per million tokens, finer than any price in the data, so that a cost is
exact and is rounded once, up, to nano-dollars.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from llmkeys.dialects.base import Usage
from llmkeys.lib.money import usd_to_nano

if TYPE_CHECKING:  # the price data costs 15 MB and 0.1 s: only those who ask for a price pay
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

PROVIDER, COMPUTED, FALLBACK = "provider", "computed", "fallback"

_SCALE = 18
_PER_NANO = 10**15  # 10⁻¹⁸ USD per million tokens, times tokens → nano-dollars
_MOST_USD = 1_000_000  # a provider's cost above this is a mistake, not a bill
_LONGEST_NAME = 200
_PRICE_SECONDS = 900  # prices change at full quarters of an hour at the finest
_CACHED_TARIFFS = 4096

_VARIANTS = frozenset({"nitro", "floor", "online", "exacto", "thinking", "extended", "beta", "batch"})
_STANDARD_TIERS = frozenset({"", "default", "standard", "standard_only", "flex", "batch", "scale"})
_TIER_CONTEXT: Mapping[str, Mapping[str, str]] = {
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},  # Anthropic calls it a speed
    "batch": {"processing": "batch"},
}
_DEAR_TIERS = ("priority", "fast")

# The price data does not know output limits. These are the models whose limit is below what a default may well ask
# for: the provider refuses a request above it.
_SHORT_OUTPUTS = (
    (re.compile(r"gpt-4o-2024-05-13|gpt-4-turbo|gpt-4-.*preview|gpt-3\.5-turbo"), 4_096),
    (re.compile(r"gpt-4(-0613|-0314)?$"), 8_192),
    (re.compile(r"gpt-4o|chatgpt-4o"), 16_384),
    (re.compile(r"claude-3-(opus|sonnet|haiku)|claude-2|claude-instant"), 4_096),
    (re.compile(r"claude-3[-.]5-"), 8_192),
    (re.compile(r"gemini-(1\.|2\.0-flash|pro$)"), 8_192),
)


@dataclass(frozen=True, slots=True)
class Price:
    """An operator's price, or one to show: USD per million tokens; None costs what plain input costs."""

    input: Decimal
    output: Decimal
    cached_input: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request cost, and how that is known: `provider`, `computed` or `fallback`."""

    nano: int
    source: str


# --- what the rest of the product asks -------------------------------------------------------------------------------


def cost_of(
    usage: Usage,
    *,
    provider: str,
    model: str,
    at: datetime,
    operator_price: Price | None,
    fallback_usd_per_token: Decimal,
    local: bool,
) -> Cost | None:
    """Return the cost of a usage; None where the usage does not tell enough. Never raises."""
    told = usage.cost_usd
    if told is not None and told.is_finite() and 0 <= told <= _MOST_USD:
        return Cost(usd_to_nano(told), PROVIDER)
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    tariff = _tariff(provider, model, at, operator_price, _tier(usage.service_tier))
    if tariff is not None:
        return Cost(tariff.cost(usage), COMPUTED)
    tokens = max(0, usage.input_tokens) + max(0, usage.output_tokens)
    return Cost(_unknown(tokens, fallback_usd_per_token, local), FALLBACK)


def worst_case(
    *,
    input_tokens: int,
    output_tokens: int,
    can_write_cache: bool,
    provider: str,
    model: str,
    at: datetime,
    operator_price: Price | None,
    fallback_usd_per_token: Decimal,
    local: bool,
    service_tier: str | None = None,
) -> int:
    """Return the most, in nano-dollars, that a request with at most so many tokens can cost.

    `output_tokens` is the sum over all choices, `service_tier` what the client asked for. A provider that charges
    more than tokens (a fee for each search, say) can go above it.
    """
    if _tier(service_tier) in _STANDARD_TIERS:
        tariff = _tariff(provider, model, at, operator_price, "")
        tariffs = (tariff,) if tariff is not None else ()
    else:
        tariffs = _dear_tariffs(provider, model, at, operator_price)
    if not tariffs:
        return _unknown(input_tokens + output_tokens, fallback_usd_per_token, local)
    return max(tariff.most(input_tokens, output_tokens, can_write_cache) for tariff in tariffs)


def known_price(
    *,
    provider: str,
    model: str,
    at: datetime,
    operator_price: Price | None,
    fallback_usd_per_token: Decimal = Decimal(0),
    local: bool = False,
) -> bool:
    """True where the operator or the price data knows what the model costs."""
    return _tariff(provider, model, at, operator_price, "") is not None


def price_per_million(
    *,
    provider: str,
    model: str,
    at: datetime,
    operator_price: Price | None,
    fallback_usd_per_token: Decimal = Decimal(0),
    local: bool = False,
) -> Price | None:
    """Return the standard price for short prompts, to show to people; None where nobody knows it."""
    if operator_price is not None:
        return operator_price
    if _is_free(provider, model):
        return Price(Decimal(0), Decimal(0))
    found = _find(provider, model)
    data = found.get_prices(at) if found is not None else None
    if data is None or not _prices_tokens(data):
        return None
    return Price(
        input=_shown(data.input_mtok) or Decimal(0),
        output=_shown(data.output_mtok) or Decimal(0),
        cached_input=_shown(data.cache_read_mtok),
        cache_write=_shown(data.cache_write_mtok),
        cache_write_1h=_shown(data.cache_write_1h_mtok),
    )


def context_window(provider: str, model: str) -> int | None:
    """Return the most input tokens that the model takes, None where the data does not tell."""
    found = _find(provider, model)
    return found.context_window if found is not None else None


def max_output_tokens(provider: str, model: str) -> int | None:
    """Return the most output tokens that the model gives, where that is few; None: many, or not known."""
    name = model.rpartition("/")[2]
    return next((limit for pattern, limit in _SHORT_OUTPUTS if pattern.match(name)), None)


# --- arithmetic ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Step:
    """The rates of one length of prompt, in 10⁻¹⁸ USD per million tokens, and the highest of them."""

    input: int
    cached: int
    write: int
    write_1h: int
    output: int
    reasoning: int
    most_input: int
    most_input_written: int
    most_output: int


@dataclass(frozen=True, slots=True)
class _Tariff:
    """The rates of a model at one time and tier: `steps[i]` holds above `starts[i-1]` input tokens, for all tokens."""

    starts: tuple[int, ...]
    steps: tuple[_Step, ...]
    writes_unasked: bool

    def cost(self, usage: Usage) -> int:
        """Return nano-dollars. Counts that contradict each other are cut to what the inclusive totals allow."""
        total, output = max(0, usage.input_tokens or 0), max(0, usage.output_tokens or 0)
        hour = max(0, usage.cache_write_1h_tokens or 0)
        written = min(total, max(hour, usage.cache_write_tokens or 0))
        hour = min(written, hour)
        cached = min(total - written, max(0, usage.cached_input_tokens or 0))
        reasoning = min(output, max(0, usage.reasoning_tokens or 0))
        step = self.steps[bisect_left(self.starts, total)]
        return _round_up(
            (total - written - cached) * step.input
            + cached * step.cached
            + (written - hour) * step.write
            + hour * step.write_1h
            + (output - reasoning) * step.output
            + reasoning * step.reasoning
        )

    def most(self, input_tokens: int, output_tokens: int, can_write_cache: bool) -> int:
        """Return the most nano-dollars over every prompt of up to `input_tokens`.

        A shorter prompt can be dearer: a step may lower a price. So each step that can be reached counts.
        """
        written = can_write_cache or self.writes_unasked
        highest = 0
        for number, step in enumerate(self.steps):
            if number and input_tokens <= self.starts[number - 1]:
                break
            longest = min(input_tokens, self.starts[number]) if number < len(self.starts) else input_tokens
            rate = step.most_input_written if written else step.most_input
            highest = max(highest, longest * rate + output_tokens * step.most_output)
        return _round_up(highest)

    def doubled(self) -> _Tariff:
        steps = tuple(_Step(*(2 * rate for rate in _rates(step))) for step in self.steps)
        return _Tariff(self.starts, steps, self.writes_unasked)


def _rates(step: _Step) -> Iterator[int]:
    return (getattr(step, name) for name in step.__slots__)


def _round_up(amount: int) -> int:
    return -(-amount // _PER_NANO)


def _unknown(tokens: int, usd_per_token: Decimal, local: bool) -> int:
    return 0 if local else usd_to_nano(usd_per_token * tokens)


def _step(
    *,
    input: Decimal,
    output: Decimal,
    cached: Decimal | None,
    write: Decimal | None,
    write_1h: Decimal | None,
    reasoning: Decimal | None,
    claude: bool,
) -> _Step:
    plain, out = _scaled(input), _scaled(output)
    read = plain if cached is None else _scaled(cached)
    written = plain if write is None else _scaled(write)
    hour = written if write_1h is None else _scaled(write_1h)
    if claude and write is not None and write_1h is None:
        hour = max(written, 2 * plain)  # Anthropic's rule; the data has it for some models only
    thought = out if reasoning is None else _scaled(reasoning)
    most = max(plain, read)
    return _Step(plain, read, written, hour, out, thought, most, max(most, written, hour), max(out, thought))


def _scaled(usd_per_million: Decimal) -> int:
    return int(usd_per_million.scaleb(_SCALE).to_integral_value(ROUND_CEILING))


# --- which tariff ----------------------------------------------------------------------------------------------------


def _tariff(provider: str, model: str, at: datetime, operator_price: Price | None, tier: str) -> _Tariff | None:
    if operator_price is not None:
        return _operator_tariff(operator_price, _is_claude(model))
    return _data_tariff(provider, model, int(at.timestamp() // _PRICE_SECONDS), tier)


def _dear_tariffs(provider: str, model: str, at: datetime, operator_price: Price | None) -> tuple[_Tariff, ...]:
    """Return the tariffs that may apply where the client asked for a dearer tier, or left it to the provider."""
    if operator_price is not None:
        return (_operator_tariff(operator_price, _is_claude(model)).doubled(),)
    return _data_dear_tariffs(provider, model, int(at.timestamp() // _PRICE_SECONDS))


@lru_cache(maxsize=_CACHED_TARIFFS)
def _operator_tariff(price: Price, claude: bool) -> _Tariff:
    step = _step(
        input=price.input,
        output=price.output,
        cached=price.cached_input,
        write=price.cache_write,
        write_1h=price.cache_write_1h,
        reasoning=None,
        claude=claude,
    )
    return _Tariff((), (step,), not claude)


@lru_cache(maxsize=_CACHED_TARIFFS)
def _data_tariff(provider: str, model: str, quarter: int, tier: str) -> _Tariff | None:
    if _is_free(provider, model):
        return _operator_tariff(Price(Decimal(0), Decimal(0)), _is_claude(model))
    found = _find(provider, model)
    if found is None:
        return None
    at = datetime.fromtimestamp(quarter * _PRICE_SECONDS, UTC)
    prices = found.get_prices(at, dict(_TIER_CONTEXT.get(tier, {})))
    return _read_tariff(prices, _is_claude(model)) if _prices_tokens(prices) else None


@lru_cache(maxsize=_CACHED_TARIFFS)
def _data_dear_tariffs(provider: str, model: str, quarter: int) -> tuple[_Tariff, ...]:
    standard = _data_tariff(provider, model, quarter, "")
    if standard is None:
        return ()
    tiers = {_data_tariff(provider, model, quarter, tier) for tier in _DEAR_TIERS} - {standard, None}
    return (standard, *(tiers or {standard.doubled()}))


def _tier(told: str | None) -> str:
    """Return the tier in small letters, any name the data cannot know as one: names are the client's to invent."""
    tier = (told or "").strip().lower()
    return tier if tier in _STANDARD_TIERS or tier in _TIER_CONTEXT else "other"


def _is_claude(model: str) -> bool:
    """True for the models that write a cache only where the request has `cache_control`."""
    return "claude" in model.lower()


def _is_free(provider: str, model: str) -> bool:
    return provider == "openrouter" and model.endswith(":free")


# --- the price data --------------------------------------------------------------------------------------------------


@cache
def _snapshot() -> DataSnapshot:
    from genai_prices.data_snapshot import get_snapshot

    return get_snapshot()


@lru_cache(maxsize=_CACHED_TARIFFS)
def _find(provider: str, model: str) -> ModelInfo | None:
    """Return the data's entry of a model under any of its spellings."""
    if len(model) > _LONGEST_NAME:
        return None
    return next((found for place, name in _spellings(provider, model) if (found := _look_up(place, name))), None)


def _look_up(provider: str, name: str) -> ModelInfo | None:
    try:
        return _snapshot().find_provider_model(name, None, provider, None)[1]
    except (LookupError, ValueError):
        return None


def _spellings(provider: str, model: str) -> Iterator[tuple[str, str]]:
    name = model.removeprefix("models/") if provider == "google" else model
    yield provider, name
    if provider != "openrouter":
        return
    base, colon, variant = name.rpartition(":")
    if colon and variant in _VARIANTS:
        name = base
        yield provider, name
    vendor, slash, rest = name.partition("/")
    if slash and any(listed.id == vendor for listed in _snapshot().providers):
        yield vendor, rest  # OpenRouter charges the vendor's list price


def _prices_tokens(prices: ModelPrice) -> bool:
    """False for a price of minutes, characters or images only; an empty one is the data's way to say free."""
    given = [value for value in vars(prices).values() if value is not None]
    return not given or prices.input_mtok is not None or prices.output_mtok is not None


def _read_tariff(prices: ModelPrice, claude: bool) -> _Tariff:
    tiered = [value.tiers for value in vars(prices).values() if hasattr(value, "tiers")]
    starts = tuple(sorted({tier.start for tiers in tiered for tier in tiers}))
    steps = tuple(_read_step(prices, length, claude) for length in (0, *(start + 1 for start in starts)))
    return _Tariff(starts, steps, not claude)


def _read_step(prices: ModelPrice, length: int, claude: bool) -> _Step:
    return _step(
        input=_at_length(prices.input_mtok, length) or Decimal(0),
        output=_dearest_output(prices, length),
        cached=_at_length(prices.cache_read_mtok, length),
        write=_at_length(prices.cache_write_mtok, length),
        write_1h=_at_length(prices.cache_write_1h_mtok, length),
        reasoning=_at_length(prices.output_reasoning_mtok, length),
        claude=claude,
    )


def _dearest_output(prices: ModelPrice, length: int) -> Decimal:
    """A usage does not tell text from pictures and sound: a model that makes them is charged as if all were that."""
    kinds = (prices.output_mtok, prices.output_image_mtok, prices.output_audio_mtok, prices.output_video_mtok)
    return max((rate for kind in kinds if (rate := _at_length(kind, length)) is not None), default=Decimal(0))


def _at_length(price: Decimal | TieredPrices | None, input_tokens: int) -> Decimal | None:
    if price is None or isinstance(price, Decimal):
        return price
    reached = [tier.price for tier in price.tiers if input_tokens > tier.start]  # the data sorts them
    return reached[-1] if reached else price.base


def _shown(price: Decimal | TieredPrices | None) -> Decimal | None:
    base = _at_length(price, 0)
    return None if base is None else Decimal(f"{base.normalize():f}")
