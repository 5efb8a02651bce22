"""Upper bounds of a request's input and output, shared by all dialects: parsed bodies in, numbers out.

A token is at least one byte, so the bytes of the client's JSON bound its text. Media are handled in `media`, what a
provider adds is handled here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

from llmkeys.dialects.base import PAGE_FEE, Bound
from llmkeys.dialects.media import OWN_VENDORS, image_tokens, survey
from llmkeys.dialects.vocabulary import counted_tokens
from llmkeys.lib.reading import whole_number

OVERHEAD_TOKENS = 256  # what a provider's own template puts around the messages
TOOL_TOKENS = 400  # for each tool, in addition to its own bytes: the instructions that explain it to a model
PROVIDER_TOOL_TOKENS = 4_000  # for each tool whose description is the provider's own
ROUNDS = 5  # of a tool that the provider runs, if the client sets no number
ROUND_TOKENS = 16_000
RESULTS = 10  # search results covered by one fee, and by one round
MOST_PAGES = 1_000  # in a file for which OpenRouter charges per page: Mistral's parser accepts no longer ones
_FREE_PARSERS = ("native", "pdf-text", "cloudflare-ai")
COMPACTION_TOKENS = 16_000  # a summary of the conversation that the provider writes in addition to the answer
MOST_ROUNDS = 1_000
MAX_OUTPUT_LIMIT = 100_000_000
MAX_CHOICES = 128

_BYTES_PER_TOKEN = 3


class BadCount(ValueError):
    """A number that no provider would accept; `param` names its field, `words` says what it must be."""

    def __init__(self, param: str, words: str):
        self.param, self.words = param, words
        super().__init__(f"{param} {words}")


def estimate_tokens(text_bytes: int) -> int:
    """Return the likely number of tokens of a text, for an answer without a usage."""
    return -(-text_bytes // _BYTES_PER_TOKEN)


def most_tokens(bound: Bound) -> int:
    """Return the most tokens that a request can take and make, with all choices and the rounds of all tools."""
    return bound.input_tokens + bound.tool_input_tokens + bound.choices * (bound.output_tokens or 0)


# --- fields ----------------------------------------------------------------------------------------------------------


def whole(body: Mapping[str, Any], name: str, most: int, *, least: int = 1, param: str = "") -> int | None:
    """Return the whole number in a field (256.0 is one too), or None if the field is missing. Raises BadCount."""
    value = body.get(name)
    if value is None:
        return None
    number = whole_number(value)
    if number is None:
        raise BadCount(param or name, "must be a whole number.")
    if not least <= number <= most:
        raise BadCount(param or name, f"must be from {least} to {most:,}.")
    return number


def output_limit(body: Mapping[str, Any], *names: str, least: int = 1, prefix: str = "") -> tuple[int | None, str]:
    """Return the output limit of one choice (the largest if there are several), and the field that is -1, if any.

    The limit is None if the client sets none, or -1, as clients of local servers do. Raises BadCount.
    """
    limits: list[int] = []
    unlimited = ""
    for name in names:
        if _is_minus_one(body.get(name)):
            unlimited = prefix + name
        elif (limit := whole(body, name, MAX_OUTPUT_LIMIT, least=least, param=prefix + name)) is not None:
            limits.append(limit)
    return (None if unlimited else max(limits, default=None)), unlimited


def _is_minus_one(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool) and value == -1


def mapping_in(body: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return the first of these fields that is an object, or an empty one."""
    for name in names:
        if isinstance(found := body.get(name), dict):
            return found
    return {}


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the objects of a list, leaving out everything else."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def names_in(*values: Any) -> tuple[str, ...]:
    """Return the nonempty strings among values and lists of values."""
    flat = (item for value in values for item in (value if isinstance(value, list) else (value,)))
    return tuple(item for item in flat if isinstance(item, str) and item)


# --- what a provider adds --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Added:
    """What the provider adds to a request: instructions, and the rounds and fees of tools that it runs itself."""

    tokens: int = OVERHEAD_TOKENS
    round_tokens: int = 0
    searches: int = 0
    fees: dict[str, int] = field(default_factory=dict)
    drawings: int = 0
    drawing_models: list[Any] = field(default_factory=list)  # as the client names them, None if it does not

    @property
    def beside(self) -> dict[str, Any]:
        """Return the fields of a bound for what tools cost in addition to the model."""
        named = names_in(self.drawing_models)
        return {
            "searches": self.searches,
            "fees": tuple(self.fees.items()),
            "drawings": self.drawings,
            "drawing_models": named if len(named) == len(self.drawing_models) else (),
            "tool_input_tokens": self.round_tokens,
        }

    def drawing_tool(self, model: Any, uses: Any = None) -> None:
        """Add a tool that lets another model draw; `model` is the one that the client names, if any."""
        self.drawings += self.server_tool(uses, has_fee=False)
        self.drawing_models.append(model)

    def fee(self, what: str, times: int = 1) -> None:
        """Add a fee that is charged at most `times` times."""
        self.fees[what] = self.fees.get(what, 0) + times

    def server_tool(
        self, uses: Any = None, *, tokens_each: Any = None, has_fee: bool = True, fees_each: int = 1
    ) -> int:
        """Add a tool that the provider runs; return its rounds. `uses` and `tokens_each` are the client's limits."""
        rounds = up_to(MOST_ROUNDS, uses, ROUNDS)
        each = max(ROUND_TOKENS, up_to(MAX_OUTPUT_LIMIT, tokens_each, ROUND_TOKENS))
        self.tokens += PROVIDER_TOOL_TOKENS
        self.round_tokens += rounds * each
        self.searches += rounds * fees_each if has_fee else 0
        return rounds


def up_to(most: int, value: Any, default: int) -> int:
    """Return a limit that a client set, but at most `most`; `default` for anything but a whole number."""
    number = whole_number(value)
    return default if number is None or number < 0 else min(number, most)


def add_openrouter_extras(added: Added, body: Mapping[str, Any], models: Sequence[str]) -> None:
    """Add OpenRouter's plugins and its `:online` variants, which it accepts in every dialect."""
    parsers: list[Any] = []
    for plugin in objects_in(body.get("plugins")):
        if plugin.get("enabled") is not False:
            add_openrouter_search(added, plugin)
            parsers += [plugin] if plugin.get("id") == "file-parser" else []
    files = _count_files(body)
    # Other vendors' models cannot read files, so OpenRouter parses them, for a fee unless a free parser was chosen.
    if parsers or any(map(_is_of_another_vendor, models)):
        free = [plugin for plugin in parsers if mapping_in(plugin, "pdf").get("engine") in _FREE_PARSERS]
        if files and not free:
            added.fee(PAGE_FEE, MOST_PAGES * files)
    if any(map(_searches_online, models)):
        added.server_tool()


def _is_of_another_vendor(model: str) -> bool:
    return "/" in model and not model.startswith(OWN_VENDORS)


def _searches_online(model: str) -> bool:
    return model.endswith(":online")


def _count_files(body: Mapping[str, Any]) -> int:
    """Return the number of files in the messages, in any of OpenRouter's dialects."""
    contents = [item.get("content") for name in ("messages", "input") for item in objects_in(body.get(name))]
    return sum(part.get("type") in _FILES for content in contents for part in objects_in(content))


_FILES = ("file", "input_file", "document")


def add_openrouter_search(added: Added, options: Mapping[str, Any], uses: Any = None) -> None:
    """Add OpenRouter's search, whose fee and input grow with the number of results that the client wants."""
    tens = max(1, -(-up_to(MOST_ROUNDS, options.get("max_results"), RESULTS) // RESULTS))
    added.server_tool(uses, tokens_each=tens * ROUND_TOKENS, fees_each=tens)


def is_kept_elsewhere(body: Mapping[str, Any], models: Sequence[str]) -> bool:
    """Return whether part of the prompt is stored at the provider, as with OpenRouter's presets."""
    return bool(body.get("preset")) or any(map(_is_preset, models))


def _is_preset(model: str) -> bool:
    return "@preset" in model


_SEARCHES_ITSELF = re.compile(r"(?:^|/)sonar|-search-(?:preview|api)")


@lru_cache(1024)
def searches_itself(model: str) -> bool:
    """Return whether the model searches the web for every answer, each time for a fee."""
    return bool(_SEARCHES_ITSELF.search(model.lower()))


_MAKES_PICTURES = re.compile(r"image|banana")
_MAKES_SOUND = re.compile(r"audio|realtime|-tts|lyria")


def output_kinds(modalities: Any, models: Sequence[str]) -> frozenset[str]:
    """Return the kinds of output: those that the client wants, and those that the models produce anyway."""
    kinds = _TEXT.union(*map(_made_by, models))
    if modalities is not None:
        kinds |= {kind.lower() for kind in names_in(modalities) if kind.lower() in ("audio", "image")}
    return kinds


@lru_cache(1024)
def _made_by(model: str) -> frozenset[str]:
    name = model.lower()
    pictures, sound = bool(_MAKES_PICTURES.search(name)), bool(_MAKES_SOUND.search(name))
    return frozenset(["image"] * pictures + ["audio"] * sound)


_TEXT = frozenset({"text"})


@lru_cache(1024)
def traits(model: str) -> tuple[Any, ...]:
    """Return all that a bound takes from a model's name (see `Dialect.traits`)."""
    asked = (_is_of_another_vendor, _searches_online, _is_preset, searches_itself, _made_by)
    return image_tokens((model,)), *(ask(model) for ask in asked)


# --- reasoning -------------------------------------------------------------------------------------------------------


def reasoning(body: Mapping[str, Any]) -> tuple[bool | None, int]:
    """Return whether the client switched reasoning on or off (or neither), and its budget, in OpenAI's dialects."""
    if _REASONING_FIELDS.isdisjoint(body):
        return None, 0
    google = mapping_in(_google_options(body), "thinking_config", "thinkingConfig")
    google_budget = google.get("thinking_budget", google.get("thinkingBudget"))
    options = mapping_in(body, "reasoning")
    thinking = mapping_in(body, "thinking")
    budgets = (options.get("max_tokens"), thinking.get("budget_tokens"), google_budget)
    budget = max(up_to(MAX_OUTPUT_LIMIT, value, 0) for value in budgets)
    efforts = [value for value in (body.get("reasoning_effort"), options.get("effort")) if isinstance(value, str)]
    if budget or any(effort != "none" for effort in efforts) or options.get("enabled") is True:
        return True, budget
    if thinking.get("type") not in (None, "disabled") or google_budget == -1:
        return True, budget
    off = efforts or options.get("enabled") is False or thinking.get("type") == "disabled" or google_budget == 0
    return (False if off else None), 0


def _google_options(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields that Google's OpenAI layer takes in addition, from either place."""
    return {**mapping_in(body, "google"), **mapping_in(mapping_in(body, "extra_body"), "google")}


_REASONING_FIELDS = frozenset({"reasoning", "reasoning_effort", "thinking", "google", "extra_body"})
_THINKS = re.compile(
    r"(?:o\d|codex|gpt-(?:[5-9]|\d\d|oss|latest)|claude-(?:[a-z]+-)?(?:[5-9]|latest)|claude-(?:fable|mythos)"
    r"|gemini-(?:2\.5|[3-9]|\d\d|pro-latest|flash-latest)|grok-(?:3-mini|[4-9]|code)|deepseek-(?:r|v3\.[1-9]|v[4-9])"
    r"|qwen-?3|qwq|kimi-k2-t|kimi-k[3-9]|glm-(?:4\.[5-9]|[5-9])|minimax-m|magistral|auto$)"
    r"|.*(?:thinking|reason)"
)
_CANNOT_STOP = re.compile(
    r"(?:o\d|gpt-5(?![.\d])|gpt-oss|gemini-(?:2\.5-pro|[3-9]|\d\d)|grok-[4-9]|deepseek-r|qwq|minimax-m|.*thinking)"
)


def may_reason_unseen(model: str, bound: Bound) -> bool:
    """Return whether the model may have produced hidden output before a stream was cut off.

    Reasoning is hidden, or only summarised; models that reason by default are recognised by their names.
    """
    name = model.lower().removeprefix("~").rpartition("/")[2]
    if bound.may_reason is False:
        return bool(_CANNOT_STOP.match(name))
    return bound.may_reason is True or bool(_THINKS.match(name))


# --- OpenAI chat -----------------------------------------------------------------------------------------------------


def chat_bound(body: Mapping[str, Any], *, body_size: int, model: str | None = None) -> Bound:
    """Return the bounds of a chat body whose JSON has `body_size` bytes, even if it is malformed. Raises BadCount.

    `model` is the one that serves, None if it is the one that the body names.
    """
    # Some servers generate `best_of` answers and return `n` of them.
    choices = max(whole(body, name, MAX_CHOICES) or 1 for name in ("n", "best_of"))
    limit, unlimited = output_limit(body, "max_tokens", "max_completion_tokens")
    models = names_in(body.get("model") if model is None else model, body.get("models"))
    found = survey(body, size=body_size, places=_chat_parts(body), models=models)
    added, prediction = _added_to_chat(body, models), _prediction_tokens(body)
    may_reason, thinking = reasoning(body)
    return Bound(
        input_tokens=found.tokens + added.tokens,
        text_tokens=found.text_bytes,
        output_tokens=None if limit is None else limit + prediction,
        choices=choices,
        prediction_tokens=prediction,
        audio_input_tokens=found.audio_tokens,
        image_input_tokens=found.image_tokens,
        images=found.images,
        file_tokens=found.file_tokens,
        unseen_bytes=found.unseen_bytes,
        whole_window=found.whole_window or is_kept_elsewhere(body, models) or _is_kept(body),
        output_kinds=output_kinds(body.get("modalities"), models),
        can_write_cache=found.can_write_cache,
        can_write_cache_1h=found.can_write_cache_1h or keeps_cache_long(body),
        **added.beside,
        service_tier=service_tier(body),
        may_reason=may_reason,
        thinking_tokens=thinking,
        unlimited_field=unlimited,
    )


def tighter_chat_bound(body: Mapping[str, Any], bound: Bound, *, model: str) -> Bound:
    """Return the bound with the text counted with the models' vocabulary, if that is public; never above `bound`."""
    return tighter(body, bound, models=(model, *names_in(body.get("models"))), places=_chat_parts(body))


def tighter(body: Mapping[str, Any], bound: Bound, *, models: Sequence[str], places: Iterable[Any]) -> Bound:
    """Return the bound with its text counted with the vocabulary that all of `models` share, or unchanged."""
    media = survey(body, size=0, places=places, models=()).media
    counted = counted_tokens(body, models=models, media=media)
    if counted is None or counted >= bound.text_tokens:
        return bound
    return replace(bound, input_tokens=bound.input_tokens - bound.text_tokens + counted, text_tokens=0)


def service_tier(body: Mapping[str, Any]) -> str | None:
    tier = body.get("service_tier")
    if body.get("speed") == "fast":  # Anthropic's way to ask for it
        return "fast"
    return tier if isinstance(tier, str) else None


def keeps_cache_long(body: Mapping[str, Any]) -> bool:
    """Return whether the client wants OpenAI to cache for longer, which makes cache writes more expensive."""
    ttl = mapping_in(body, "prompt_cache_options").get("ttl")
    return body.get("prompt_cache_retention") == "24h" or ttl not in (None, "30m")


def _chat_parts(body: Mapping[str, Any]) -> Iterator[Any]:
    for message in objects_in(body.get("messages")):
        if isinstance(content := message.get("content"), list):
            yield from content


def _added_to_chat(body: Mapping[str, Any], models: Sequence[str]) -> Added:
    added = Added()
    for tool in objects_in(body.get("tools")):
        if tool.get("type", "function") in ("function", "custom"):
            added.tokens += TOOL_TOKENS
        else:
            limits = mapping_in(tool, "parameters")
            uses = tool.get("max_uses", limits.get("max_uses"))
            if str(tool.get("type")).endswith("image_generation"):
                added.drawing_tool(limits.get("model"), uses)
            else:
                add_openrouter_search(added, limits, uses)
    added.tokens += TOOL_TOKENS * sum(1 for _ in objects_in(body.get("functions")))
    if body.get("web_search_options") is not None or any(map(searches_itself, models)):
        added.server_tool()
    add_openrouter_extras(added, body, models)
    return added


def _is_kept(body: Mapping[str, Any]) -> bool:
    """Return whether the prompt goes on from a cache of Google's, or refers to an earlier spoken answer by its id."""
    google = _google_options(body)
    if any(google.get(name) is not None for name in ("cached_content", "cachedContent")):
        return True
    return any(isinstance(message.get("audio"), dict) for message in objects_in(body.get("messages")))


def _prediction_tokens(body: Mapping[str, Any]) -> int:
    """Return the bytes of the predicted answer, because a rejected prediction is billed as output."""
    if "prediction" not in body:
        return 0
    total, stack = 0, [mapping_in(body, "prediction").get("content")]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            total += len(node) if node.isascii() else len(node.encode(errors="surrogatepass"))
        elif isinstance(node, dict | list):
            stack.extend(node.values() if isinstance(node, dict) else node)
    return total
