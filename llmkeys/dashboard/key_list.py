"""Which of the keys are shown: those that are asked for by words, provider and status, a page at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from django.urls import reverse

from llmkeys.dashboard.cards import Card
from llmkeys.key_state import STATUSES
from llmkeys.models import ProviderName

PAGE = 30  # cards; a search finds the rest faster than a longer page
SEARCHED_FROM = 10  # fewer keys need no search
_SHOWS = ("", "available", "attention")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the address asks for; what makes no sense in it is as good as left out."""

    show: str = ""
    words: str = ""
    provider: str = ""
    status: str = ""
    by: str = ""  # what the chart is stacked by: `model`, or empty for keys
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Wanted:
        show, provider, status = (query.get(name, "") for name in ("show", "provider", "status"))
        page = query.get("page", "")
        return cls(
            show=show if show in _SHOWS else "",
            words=query.get("q", "").strip()[:100],
            provider=provider if provider in ProviderName.values else "",
            status=status if status in STATUSES else "",
            by="model" if query.get("by") == "model" else "",
            page=int(page) if page.isascii() and page.isdecimal() and len(page) < 6 and int(page) else 1,
        )

    @property
    def is_filtered(self) -> bool:
        return bool(self.words or self.provider or self.status)

    def address(self, **changes: str | int) -> str:
        """Return the address that asks for the same with `changes`, which lead back to the first page."""
        now = {"show": self.show, "q": self.words, "provider": self.provider, "status": self.status, "by": self.by}
        asked = {name: value for name, value in {**now, **changes}.items() if value and (name, value) != ("page", 1)}
        return reverse("dashboard") + ("?" + urlencode(asked) if asked else "")

    @property
    def stacks(self) -> list[tuple[str, str, str, bool]]:
        """Return id, words, address and whether it is chosen, of each way to stack the chart."""
        return [
            ("by-key", "By key", self.address(by=""), self.by == ""),
            ("by-model", "By model", self.address(by="model"), self.by == "model"),
        ]

    @property
    def shows(self) -> list[tuple[str, str, bool]]:
        return [(show or "all", self.address(show=show), self.show == show) for show in _SHOWS]

    def matches(self, card: Card) -> bool:
        if (self.provider and card.key.provider != self.provider) or (self.status and card.status != self.status):
            return False
        if (self.show == "available" and not card.is_available) or (
            self.show == "attention" and not card.needs_attention
        ):
            return False
        words = self.words.casefold()
        return not words or any(words in text.casefold() for text in _searched(card))


def _searched(card: Card) -> Iterable[str]:
    key = card.key
    return key.name, key.description, key.masked_secret, key.billing_group, key.id


@dataclass(frozen=True, slots=True)
class KeyList:
    """One page of the cards that were asked for, with the links to the pages beside it."""

    wanted: Wanted
    found: int
    cards: list[Card]
    page: int
    pages: int

    @property
    def first(self) -> int:
        return (self.page - 1) * PAGE + 1

    @property
    def last(self) -> int:
        return self.first + len(self.cards) - 1

    @property
    def before(self) -> str:
        return self.wanted.address(page=self.page - 1) if self.page > 1 else ""

    @property
    def after(self) -> str:
        return self.wanted.address(page=self.page + 1) if self.page < self.pages else ""


def key_list(cards: Iterable[Card], wanted: Wanted) -> KeyList:
    """Return the page that is wanted; one too far is the last."""
    found = [card for card in cards if wanted.matches(card)]
    pages = max(1, -(-len(found) // PAGE))
    page = min(wanted.page, pages)
    return KeyList(wanted, len(found), found[(page - 1) * PAGE : page * PAGE], page, pages)
