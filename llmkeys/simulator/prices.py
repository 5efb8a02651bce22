"""The simulator's own price table, in USD per million tokens, and the calculation of a bill."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates in USD per million tokens; missing cache prices equal the input price."""

    input: Decimal
    cache_read: Decimal
    cache_write: Decimal
    output: Decimal


@dataclass(frozen=True, slots=True)
class Model:
    """A model: its name at its vendor, its name at OpenRouter, and its rates.

    `long` replaces `base` for the whole request when the prompt has more than `long_above` tokens.
    """

    vendor: str
    name: str
    routed_name: str
    context: int
    max_output: int
    base: Rates
    long_above: int | None = None
    long: Rates | None = None
    embeds: bool = False  # returns vectors instead of text

    def rates(self, prompt_tokens: int) -> Rates:
        if self.long is not None and self.long_above is not None and prompt_tokens > self.long_above:
            return self.long
        return self.base


def _rates(prices: str) -> Rates:
    """Parse "input cache_read cache_write output", with "-" for prices that the provider does not have."""
    fresh, read, write, output = prices.split()
    return Rates(
        input=Decimal(fresh),
        cache_read=Decimal(fresh if read == "-" else read),
        cache_write=Decimal(fresh if write == "-" else write),
        output=Decimal(output),
    )


def _model(
    vendor: str,
    name: str,
    context: int,
    max_output: int,
    base: str,
    *,
    routed: str | None = None,
    above: int | None = None,
    long: str | None = None,
) -> Model:
    routed_name = f"{vendor}/{routed or name}"
    return Model(vendor, name, routed_name, context, max_output, _rates(base), above, _rates(long) if long else None)


def _embedding(vendor: str, name: str, context: int, price: str) -> Model:
    return Model(vendor, name, f"{vendor}/{name}", context, 0, _rates(f"{price} - - 0"), embeds=True)


# input, cache read, cache write, output: from the vendors' price pages in November 2026.
MODELS = (
    _model("openai", "gpt-6.1-sol", 1_050_000, 128_000, "2 0.1 2.5 10", above=272_000, long="4 0.2 5 15"),
    _model("openai", "gpt-6.1-terra", 1_050_000, 128_000, "1 0.05 1.25 5", above=272_000, long="2 0.1 2.5 7.5"),
    _model("openai", "gpt-6-luna", 1_050_000, 128_000, "0.1 0.01 0.125 0.5", above=272_000, long="0.2 0.02 0.25 0.75"),
    _model("openai", "gpt-5.6-sol", 1_050_000, 128_000, "4 0.4 5 20", above=272_000, long="8 0.8 10 30"),
    _model("openai", "gpt-5-mini", 400_000, 128_000, "0.25 0.025 - 2"),
    _model("openai", "gpt-4.1-mini", 1_000_000, 32_768, "0.4 0.1 - 1.6"),
    _model("openai", "gpt-4o", 128_000, 16_384, "2.5 1.25 - 10"),
    _model("openai", "gpt-4o-mini", 128_000, 16_384, "0.15 0.075 - 0.6"),
    _model("anthropic", "claude-opus-5-5", 1_000_000, 128_000, "4 0.2 5 20", routed="claude-opus-5.5"),
    _model("anthropic", "claude-sonnet-5-5", 1_000_000, 128_000, "2 0.1 2.5 10", routed="claude-sonnet-5.5"),
    _model(
        "anthropic",
        "claude-sonnet-4-5",
        1_000_000,
        64_000,
        "3 0.3 3.75 15",
        routed="claude-sonnet-4.5",
        above=200_000,
        long="6 0.6 7.5 22.5",
    ),
    _model(
        "anthropic",
        "claude-haiku-5-5",
        1_000_000,
        64_000,
        "0.1 0.01 0.125 0.5",
        routed="claude-haiku-5.5",
        above=100_000,
        long="0.5 0.05 0.625 2.5",
    ),
    _model("anthropic", "claude-haiku-4-5", 200_000, 64_000, "1 0.1 1.25 5", routed="claude-haiku-4.5"),
    _model("google", "gemini-4-argon", 1_048_576, 65_536, "2 0.1 - 10"),
    _model("google", "gemini-3.8-flash", 1_000_000, 65_536, "0.75 0.075 - 3.75"),
    _model("google", "gemini-2.5-pro", 1_048_576, 65_536, "1.25 0.125 - 10", above=200_000, long="2.5 0.25 - 15"),
    _model("google", "gemini-2.5-flash", 1_048_576, 65_536, "0.3 0.03 - 2.5"),
    _model("google", "gemini-2.5-flash-lite", 1_048_576, 65_536, "0.1 0.01 - 0.4"),
    _embedding("openai", "text-embedding-3-small", 8_192, "0.02"),
    _embedding("openai", "text-embedding-3-large", 8_192, "0.13"),
    _embedding("google", "gemini-embedding-001", 2_048, "0.15"),
)
_BY_NAME = {(model.vendor, model.name): model for model in MODELS} | {
    ("openrouter", model.routed_name): model for model in MODELS
}


def find_model(*, provider: str, name: str) -> Model | None:
    """Return the provider's model with this name, or None."""
    if provider == "google":
        name = name.removeprefix("models/")
    return _BY_NAME.get((provider, name))


def models_of(provider: str) -> list[Model]:
    """Return a vendor's own models; for OpenRouter all but embedding models, which it lists elsewhere."""
    if provider == "openrouter":
        return [model for model in MODELS if not model.embeds]
    return [model for model in MODELS if provider == model.vendor]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a generation; `prompt` includes cached and written ones, `completion` includes reasoning."""

    prompt: int
    completion: int
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """A cost in exact USD."""

    prompt: Decimal
    completion: Decimal

    @property
    def total(self) -> Decimal:
        return self.prompt + self.completion


def bill(model: Model, tokens: Tokens) -> Bill:
    """Return what the provider charges for these tokens; never negative, even for absurd counts from a test."""
    rates = model.rates(tokens.prompt)
    fresh = max(tokens.prompt - tokens.cached - tokens.cache_write, 0)
    prompt = fresh * rates.input + tokens.cached * rates.cache_read + tokens.cache_write * rates.cache_write
    return Bill(prompt=prompt / MILLION, completion=tokens.completion * rates.output / MILLION)
