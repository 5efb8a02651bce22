"""The hold covers what the provider bills, whatever a request asks for and whatever it gets.

Requests are drawn with everything that a bound can hold, for every model of the price data; then an answer that such a
request allows. What it is billed comes from the price library's own arithmetic.
300 requests in the ordinary run, 20,000 with `--hypothesis-profile=long`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.data_snapshot import get_snapshot
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llmkeys.dialects.base import Bound, Usage
from llmkeys.prices.cost import charge, estimate
from llmkeys.prices.limits import known_window, max_output_tokens
from llmkeys.prices.tariffs import OperatorPrice, Price, PriceList
from llmkeys.prices.worst_case import WorstCase, fitted, max_price, shrunk_hold, worst_case
from tests.pricing import oracle
from tests.pricing.helpers import LONG_AGO, NOBODYS, NOW, listed_models, price_list, sent_limit

IS_LONG = settings.get_current_profile_name() == "long"
many = settings(
    max_examples=20_000 if IS_LONG else 300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

MODELS = listed_models()
NAMES = {
    provider: [name for place, name in MODELS if place == provider] for provider in dict.fromkeys(p for p, _ in MODELS)
}
OTHERS = {
    "openrouter": [
        "openai/gpt-4o:nitro",
        "x-ai/grok-4",
        "deepseek/deepseek-reasoner",
        "openrouter/auto",
        "nobody/x:free",
    ],
    "google": ["models/gemini-4-argon", "nobody-knows"],
    "openai": ["nobody-knows", "gpt-4o-2024-08-06"],
    "anthropic": ["claude-nobody-knows"],
}
TIMES = st.datetimes(datetime(2025, 1, 1), datetime(2027, 12, 31), timezones=st.just(UTC))
# Counts near the thresholds of the data, and anywhere.
TOKENS = st.one_of(
    st.integers(0, 3_000),
    st.integers(0, 1_100_000),
    st.builds(
        lambda start, near: start + near,
        st.sampled_from([32_000, 100_000, 128_000, 200_000, 256_000, 272_000]),
        st.integers(-2, 2),
    ),
)
FEW = st.integers(0, 20_000)
DEAR = ("auto", "priority", "fast", "tomorrow")


@dataclass(frozen=True)
class Case:
    provider: str
    model: str
    others: tuple[str, ...]
    at: datetime
    bound: Bound
    answered: str
    usage: Usage
    tier: str  # that served, empty for the standard one

    def worst(self, prices: PriceList = NOBODYS) -> WorstCase:
        return worst_case(
            self.provider, self.model, self.bound, at=self.at, other_models=self.others, strict=True, prices=prices
        )

    def billed(self, tier: str) -> int | None:
        """Return what the price library makes of the usage at a tier; None where the data does not tell."""
        if not oracle.entries(self.provider, self.answered) or self.answered.endswith(":free"):
            return None
        if tier and not oracle.has_tier(self.provider, self.answered, self.at, tier):
            return None
        drawn_by = self.bound.drawing_models[0] if self.bound.drawing_models else "gpt-image-1"
        return oracle.bill(self.provider, self.answered, self.usage, self.at, tier, drawn_by=drawn_by)

    @property
    def has_fees(self) -> bool:
        """Fees are in the examples worked out by hand."""
        return bool(self.usage.searches or self.usage.containers) or any(
            word in self.answered for word in ("search", "sonar", ":online")
        )


@st.composite
def bounds(draw) -> Bound:
    sound, pictures = draw(st.just(0) | FEW), draw(st.just(0) | FEW)
    prediction = draw(st.sampled_from([0, 0, 0, 500]))
    limit = draw(st.none() | st.integers(1, 200_000))
    writes = draw(st.booleans())
    tools = draw(st.sampled_from([0, 0, 1, 5]))
    return Bound(
        input_tokens=draw(TOKENS) + sound + pictures,
        output_tokens=None if limit is None else limit + prediction,
        choices=draw(st.sampled_from([1, 1, 1, 2, 8])),
        prediction_tokens=prediction,
        audio_input_tokens=sound,
        image_input_tokens=pictures,
        whole_window=draw(st.sampled_from([False, False, True])),
        output_kinds=frozenset({"text"}) | draw(st.sets(st.sampled_from(["audio", "image"]))),
        can_write_cache=writes,
        can_write_cache_1h=writes and draw(st.booleans()),
        searches=tools,
        fees=draw(st.sampled_from([(), (), (), (("container 1g", 1),), (("container 64g", 1), ("page", 1_000))])),
        drawings=draw(st.sampled_from([0, 0, 0, 1, 5])),
        drawing_models=draw(st.sampled_from([(), ("gpt-image-1.5",), ("gpt-image-1-mini",)])),
        tool_input_tokens=tools * 16_000,
        service_tier=draw(st.sampled_from([None, None, "", "default", "flex", *DEAR])),
        region=draw(st.sampled_from(["", "", "us", "global"])),
    )


@st.composite
def cases(draw) -> Case:
    """Draw a request, and an answer that it allows."""
    provider = draw(st.sampled_from(sorted(NAMES)))
    names = st.sampled_from(NAMES[provider]) | st.sampled_from(OTHERS[provider])
    model = draw(names)
    others = tuple(draw(st.lists(names, max_size=3))) if provider == "openrouter" else ()
    bound, at = draw(bounds()), draw(TIMES)
    answered = draw(st.sampled_from([model, *others]))
    tier = ""
    if bound.service_tier in DEAR:
        tier = draw(st.sampled_from(["", "priority", "fast"]))
    elif bound.service_tier == "flex":
        tier = draw(st.sampled_from(["", "flex"]))
    told = tier or draw(st.sampled_from(["", "default", "standard"]))
    worst = worst_case(provider, model, bound, at=at, other_models=others, strict=True, prices=NOBODYS)
    usage = draw(usages(provider, answered, bound, at, told, sent_limit(worst)))
    if not others and draw(st.booleans()):
        usage = replace(usage, model="")  # who chooses among several always tells which
    return Case(provider, model, others, at, bound, answered, usage, tier)


@st.composite
def usages(draw, provider: str, model: str, bound: Bound, at: datetime, told: str, limit: int) -> Usage:
    rates = oracle.prices(provider, model, at)
    window = known_window(model) or oracle.window(provider, model)  # a longer prompt is refused
    if bound.whole_window:
        total = draw(st.integers(0, window or 1_000_000))
        sound = draw(st.integers(0, total)) if "input_audio_mtok" in rates else 0
        pictures = draw(st.integers(0, total - sound))
        video = draw(st.just(0) | st.integers(0, total - sound - pictures))
    else:
        total = draw(
            st.integers(0, min(bound.input_tokens, window or bound.input_tokens)) | st.just(bound.input_tokens)
        )
        total = min(total, window or total)
        sound = draw(st.integers(0, min(total, bound.audio_input_tokens)))
        pictures = draw(st.integers(0, min(total - sound, bound.image_input_tokens)))
        video = 0  # always fills the window, because nobody can count it
    total += draw(st.sampled_from([0, bound.tool_input_tokens]))
    text = total - sound - pictures - video
    may_write = bound.can_write_cache or "claude" not in model
    written = draw(st.integers(0, text)) if may_write and draw(st.booleans()) else 0
    hour = draw(st.integers(0, written)) if bound.can_write_cache_1h else 0
    cached = draw(st.integers(0, text - written))
    cached_sound = draw(st.integers(0, sound)) if sound and draw(st.booleans()) else 0

    own = max_output_tokens(model)
    limit = limit if own is None else min(limit, own)
    output = draw(st.sampled_from([limit, draw(st.integers(0, limit))])) * bound.choices
    output += draw(st.sampled_from([0, bound.prediction_tokens]))
    # Each picture that a tool draws takes and makes 16,000 tokens at most.
    drawn = draw(st.integers(0, bound.drawings * 16_000))
    taken = draw(st.integers(0, drawn))
    shown = draw(st.integers(0, taken))
    containers = sum(times for what, times in bound.fees if what.startswith("container"))
    makes = {kind for kind in ("audio", "image") if kind in bound.output_kinds or f"output_{kind}_mtok" in rates}
    spoken = draw(st.integers(0, output)) if "audio" in makes else 0
    painted = draw(st.integers(0, output - spoken)) if "image" in makes else 0
    return Usage(
        drawn_input_tokens=taken,
        drawn_image_input_tokens=shown,
        drawn_output_tokens=drawn - taken,
        containers=draw(st.integers(0, containers)),
        input_tokens=total + taken,
        cached_input_tokens=cached + cached_sound,
        cache_write_tokens=written,
        cache_write_1h_tokens=hour,
        audio_input_tokens=sound,
        cached_audio_tokens=cached_sound,
        image_input_tokens=pictures + shown,
        video_input_tokens=video,
        output_tokens=output + drawn - taken,
        reasoning_tokens=draw(st.integers(0, output - spoken - painted)),
        audio_output_tokens=spoken,
        image_output_tokens=painted + drawn - taken,
        searches=draw(st.integers(0, bound.searches)),
        service_tier="" if told == "fast" and provider == "anthropic" else told,
        speed="fast" if told == "fast" and provider == "anthropic" else "",
        region=bound.region or draw(_regions(model)) if provider == "anthropic" else "",
        model=model,
    )


def _regions(model: str) -> st.SearchStrategy[str]:
    """Return where a workspace may have its requests run that name no region: Claude 4.5 runs anywhere."""
    is_early = re.search(r"claude-[0-3]\b|-4(-[0-5])?(-2\d{7})?$|instant", model)
    return st.sampled_from(["", "not_available"] if is_early else ["", "us", "global"])


@many
@given(cases())
def test_the_hold_covers_what_is_billed_and_what_is_charged(case):
    """Where nothing had to be guessed and no fee is due, what is charged is what is billed, to the nano-dollar."""
    worst, usage = case.worst(), case.usage
    cost = charge(usage, worst, saw_content=False)
    assert cost is None or 0 <= cost.nano <= worst.nano
    asked = case.bound.service_tier
    tier = case.tier or (asked if asked in ("priority", "fast") and not usage.service_tier else "")
    billed = case.billed(tier)
    assert billed is None or billed <= worst.nano
    is_told = usage.model or case.answered == case.model
    if cost is not None and cost.source == "computed" and billed is not None and is_told and not case.has_fees:
        assert cost.nano == billed


# A request that is nothing but one kind: the rate that it is billed at, its bound, and what it used.
ALL_OF_ONE_KIND = {
    "sound in": ("input_audio_mtok", Bound(9_000, 1, audio_input_tokens=9_000), Usage(9_000, audio_input_tokens=9_000)),
    "pictures in": (
        "input_image_mtok",
        Bound(9_000, 1, image_input_tokens=9_000),
        Usage(9_000, image_input_tokens=9_000),
    ),
    "sound out": ("output_audio_mtok", Bound(1, 9_000), Usage(1, output_tokens=9_000, audio_output_tokens=9_000)),
    "pictures out": ("output_image_mtok", Bound(1, 9_000), Usage(1, output_tokens=9_000, image_output_tokens=9_000)),
}


@pytest.mark.parametrize("kind", ALL_OF_ONE_KIND)
def test_the_hold_covers_a_request_that_is_nothing_but_sound_or_pictures(kind):
    """Of every model that has a rate for it, which the requests above are too seldom for."""
    rate, bound, usage = ALL_OF_ONE_KIND[kind]
    with_rate = [place for place in MODELS if rate in oracle.prices(*place, NOW)]
    billed = {place: oracle.bill(*place, usage, NOW) for place in with_rate}
    assert sum(nano is not None for nano in billed.values()) > 5
    for (provider, model), nano in billed.items():
        worst = worst_case(provider, model, bound, at=NOW, strict=True, prices=NOBODYS)
        assert nano is None or nano <= worst.nano, (provider, model)


@many
@given(cases(), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_a_hold_that_was_fitted_or_shrunk_covers_the_rest(case, share, later, tells_kinds):
    worst = case.worst()
    room = int(worst.nano * share)
    found = fitted(worst, room)
    if found is not None:
        assert found.nano <= room
        assert max(4_096, worst.asked_output / 4) <= found.output_limit <= worst.asked_output or worst.nano <= room
        usage = _within(case, found.output_limit)
        cost = charge(usage, found, saw_content=False)
        assert cost is None or cost.nano <= found.nano
        worst = found
    # The first event of a stream tells the input; afterwards tools may add to it, and all output is still to come.
    # It may not tell yet of which kinds the input is.
    full = case.usage
    tools = min(int(case.bound.tool_input_tokens * later), _text_of(full))
    first = replace(full, input_tokens=full.input_tokens - tools, output_tokens=1)
    if not tells_kinds:
        first = replace(first, **dict.fromkeys(_KINDS))
    left = shrunk_hold(worst, first, worst.nano)
    assert left <= worst.nano
    cost = charge(_within(case, sent_limit(worst)), worst, saw_content=False)
    assert cost is None or cost.nano <= left


_KINDS = (
    "cached_input_tokens", "cache_write_tokens", "cache_write_1h_tokens", "audio_input_tokens", "cached_audio_tokens",
    "image_input_tokens", "video_input_tokens",
)  # fmt: skip


def _text_of(usage: Usage) -> int:
    """Return the plain text of an input: what tools bring is that."""
    named = (
        usage.cached_input_tokens, usage.cache_write_tokens, usage.audio_input_tokens, usage.image_input_tokens,
        usage.video_input_tokens,
    )  # fmt: skip
    return max(0, (usage.input_tokens or 0) - sum(count or 0 for count in named))


def _within(case: Case, limit: int) -> Usage:
    """Return the usage of the case with no more output than a limit allows."""
    own, usage = max_output_tokens(case.answered), case.usage
    most = (limit if own is None else min(own, limit)) * case.bound.choices
    made, drawn = usage.of_the_model(), usage.drawn_output_tokens
    output = min(made.output_tokens, most)
    kinds = ("reasoning_tokens", "audio_output_tokens", "image_output_tokens")
    less = {kind: min(output, getattr(made, kind)) for kind in kinds}
    less["image_output_tokens"] += drawn
    return replace(usage, output_tokens=output + drawn, **less)


@many
@given(cases(), st.integers(0, 10**7), st.integers(0, 10**6), st.booleans())
def test_an_estimate_is_above_nothing_and_below_the_hold(case, size, tokens, knows):
    worst = case.worst()
    known = case.usage if knows else None
    found = estimate(worst, input_bytes=size, output_tokens=tokens, hold_nano=worst.nano, usage=known)
    assert found.source == "estimated"
    assert min(1, worst.nano) <= found.nano <= worst.nano
    assert (max_price(worst) is None) == (worst.nano == 0)


RATES = st.decimals(0, 1000, places=8)
MAYBE = st.none() | RATES
ROWS = st.builds(
    OperatorPrice,
    st.builds(Price, RATES, RATES, *[MAYBE] * 9, search=st.none() | st.decimals(0, 1, places=4), request=MAYBE),
    st.just(LONG_AGO),
    service_tier=st.sampled_from(["", "", "flex", "priority", "fast"]),
    above_input_tokens=st.sampled_from([0, 0, 1_000, 200_000]),
)


@many
@given(cases(), st.lists(ROWS, min_size=1, max_size=6))
def test_the_hold_covers_the_cost_at_any_prices_of_the_operator(case, rows):
    prices = price_list([(case.provider, name, row) for name in {case.model, *case.others} for row in rows])
    worst, bound, usage = case.worst(prices), case.bound, case.usage
    # The answer was drawn at other prices: a model that was free may have answered without a limit.
    written = (usage.output_tokens or 0) - usage.drawn_output_tokens
    assume(written <= sent_limit(worst) * bound.choices + bound.prediction_tokens)
    cost = charge(usage, worst, saw_content=False)
    assert cost is None or 0 <= cost.nano <= worst.nano


@settings(max_examples=300)
@given(st.sampled_from(["openrouter", "openai", "anthropic", "google"]), st.text(max_size=300))
def test_it_takes_any_name_of_a_model(provider, model):
    worst = worst_case(provider, model, Bound(10, 10), at=NOW, strict=True, prices=NOBODYS)
    cost = charge(Usage(1, output_tokens=1, model=model[::-1]), worst, saw_content=True)
    assert 0 <= cost.nano <= worst.nano
    assert NOBODYS.knows(provider, model, NOW) == (NOBODYS.shown(provider, model, NOW) is not None)


@pytest.mark.parametrize("tier", ["default", "flex", "standard", "scale"])
def test_the_data_has_no_ordinary_tier_above_the_standard_price(tier):
    for provider, model in MODELS:
        worst = worst_case(provider, model, Bound(300_000, 1_000), at=NOW, strict=True, prices=NOBODYS)
        usage = Usage(300_000, cached_input_tokens=2_000, output_tokens=1_000)
        served = charge(replace(usage, service_tier=tier), worst, saw_content=True)
        assert served.nano <= charge(usage, worst, saw_content=True).nano, (provider, model)


def test_no_window_of_our_table_is_below_the_price_datas():
    for provider, model in MODELS:
        known, listed = known_window(model), oracle.window(provider, model)
        assert known is None or listed is None or known >= listed, (provider, model, known, listed)


def test_every_digit_of_the_price_data_is_kept():
    for listed in get_snapshot().providers:
        for model in listed.models:
            prices = [model.prices] if not isinstance(model.prices, list) else [each.prices for each in model.prices]
            for value in (value for price in prices for value in vars(price).values() if value is not None):
                for rate in (value,) if isinstance(value, Decimal) else (value.base, *(t.price for t in value.tiers)):
                    assert -rate.normalize().as_tuple().exponent <= 18, (listed.id, model.id)
