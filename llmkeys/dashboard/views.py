"""The dashboard: figures, the serving order and the matching keys; and the view that it polls to refresh itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any, cast
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.text import capfirst
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from llmkeys.alerts.outbox import dismiss_with_older, open_alerts
from llmkeys.dashboard.accounts import CHART_DAYS
from llmkeys.dashboard.buttons import button_on
from llmkeys.dashboard.charts import Bar, budget_bar
from llmkeys.dashboard.live import Region, answer, asked, digests, for_the_page, listing, region
from llmkeys.dashboard.login import first_page
from llmkeys.dashboard.overview import Card, Overview, overview, spend_chart, top_tokens, turns
from llmkeys.dashboard.usage_words import Part, guessed_parts, whole_words
from llmkeys.exceptions import LLMKeysError
from llmkeys.key_state import STATUSES, current_windows
from llmkeys.lib.windows import day_end, month_end
from llmkeys.models import Alert, ProviderName
from llmkeys.scheduling import scheduler_last_ran
from llmkeys.templatetags.llmkeys_format import moment, percent, relative, usd, usd_short
from llmkeys.usage.closed_days import first_day
from llmkeys.usage.sums import Sums
from llmkeys.vault import keyring


def home(request: HttpRequest) -> HttpResponse:
    return redirect(first_page(request.user))


def favicon(request: HttpRequest) -> HttpResponse:
    """Redirect what browsers request for pages without an icon."""
    return redirect(static("img/favicon.svg"))


@require_safe
@never_cache
@login_required
@permission_required("llmkeys.view_apikey", raise_exception=True)
def dashboard(request: HttpRequest) -> HttpResponse:
    """Show the figures, the serving order and the matching keys."""
    context = _context(request)
    regions = _regions(request, context)
    context |= {"regions": {one.name: one.markup for one in regions}, "seen": digests(regions)}
    return render(request, "dashboard/dashboard.html", context)


@require_safe
@never_cache
@for_the_page("llmkeys.view_apikey")
def live(request: HttpRequest) -> HttpResponse:
    """Return what has changed since the dashboard was last refreshed."""
    context = _context(request)
    return answer(request, _regions(request, context), context)


@button_on("dashboard")
@login_required
@permission_required("llmkeys.change_apikey", raise_exception=True)
def alert_away(request: HttpRequest, alert_id: int) -> HttpResponse:
    """Dismiss a banner: its alert and the older ones of its key. Pressing twice does no harm."""
    dismiss_with_older(alert_id, timezone.now())
    return redirect(f"{reverse('dashboard')}?{query}" if (query := asked(request)) else "dashboard")


def _context(request: HttpRequest) -> dict[str, Any]:
    view = overview(at=timezone.now())
    wanted, notices = Wanted.of(request.GET), banners(view, cast(User, request.user))
    keys = key_list(view.cards, wanted)
    for card in keys.cards:
        card.projected = view.paces.of(card.key)
    return {
        "view": view,
        "banners": notices,
        "keys": keys,
        "wanted": wanted,
        "title": _title(view, notices),
        "is_wrong": bool(view.attention or any(banner.is_urgent or banner.alert_id for banner in notices)),
        "asked": asked(request),
        "live_url": f"{reverse('live')}?{asked(request)}",
        "gateway_url": request.build_absolute_uri("/v1"),
        "searchable": len(view.cards) >= SEARCHED_FROM or wanted.is_filtered,
        "provider_choices": ProviderName.choices,
        "statuses": STATUSES,
    }


def _title(view: Overview, notices: list[Banner]) -> str:
    """Return the title of the tab: the worst problem, if any."""
    urgent = next((banner.title for banner in notices if banner.is_urgent), "")
    if urgent:
        return urgent.rstrip(".").removesuffix(" right now").partition(":")[0]
    if view.attention:
        number = len(view.attention)
        return f"{number} key{'s' if number > 1 else ''} need{'' if number > 1 else 's'} attention"
    return "Dashboard"


def _regions(request: HttpRequest, context: dict[str, Any]) -> list[Region]:
    """Return the page's regions in order."""
    view = context["view"]
    parts = {"head": "_top.html", "said": "_said.html", "banners": "_banners.html", "figures": "_figures.html"}
    more: dict[str, Any] = {"figures": figures(view)}
    if view.cards:
        parts |= {"turns": "_turns.html", "spend": "_spend.html", "tokens": "_top_tokens.html", "keys": "_keys.html"}
        parts["pages"] = "_pages.html"
        more |= {
            "turns": turns(view),
            "chart": spend_chart(view, context["wanted"].by or "key"),
            "tokens": top_tokens(cast(User, request.user), view.at),
        }
    found = [region(request, name, f"dashboard/{file}", {**context, **more}) for name, file in parts.items()]
    cards = ((f"card-{card.key.id}", {"card": card, "asked": context["asked"]}) for card in context["keys"].cards)
    return [*found, listing(request, "cards", "dashboard/_card.html", cards)]


# --- the banners on top -----------------------------------------------------------------------------------------------


_ALERTS_SHOWN = 3
_ALERTS_READ = 50
_EARLIER = 4  # alerts in one banner; the key's events show all
_TONES: dict[str, str] = {
    Alert.Kind.NO_KEY_LEFT: "bad",
    Alert.Kind.KEY_REJECTED: "bad",
    Alert.Kind.BACKUP_FAILED: "bad",
    Alert.Kind.FALLBACK_PRICE: "",
}
_SEES_TOKENS = "llmkeys.view_accesstoken"
_PAUSE = re.compile(r"[.:;] ")
_QUOTED = re.compile("“[^”]*”")


@dataclass(frozen=True, slots=True)
class Banner:
    """A note across the page. `alert_id` is the id of the newest alert in it, if it can be dismissed."""

    tone: str
    title: str
    text: Any
    earlier: list[Any] = field(default_factory=list)
    link: str = ""
    link_words: str = ""
    alert_id: int | None = None

    @property
    def is_urgent(self) -> bool:
        return self.tone == "bad" and self.alert_id is None


def banners(view: Overview, user: User) -> list[Banner]:
    """Return general problems, the worst first, then the newest alerts that were not dismissed."""
    return [*_sealed(), *_no_key(view), *_stalled(view), *_alerts(user)]


def _sealed() -> Iterator[Banner]:
    try:
        keyring.verify()
    except LLMKeysError as error:
        yield Banner("bad", "Sealed: nothing can be sent.", str(error))


def _no_key(view: Overview) -> Iterator[Banner]:
    if view.trouble:
        yield Banner("bad", "No key can serve right now.", view.trouble)


def _stalled(view: Overview) -> Iterator[Banner]:
    ran = scheduler_last_ran(view.at)
    if ran.is_stalled:
        when = format_html("It last ran {}.", relative(ran.at)) if ran.at else "It has never run."
        text = format_html(
            "{} Budgets do not depend on it; alerts, key tests and clean-up wait until it is started again.", when
        )
        yield Banner("full", "The scheduler has stopped.", text, [], reverse("health"), "See what is late")


def _alerts(user: User) -> Iterator[Banner]:
    found: dict[tuple[Any, ...], list[Alert]] = {}
    for alert in open_alerts(_ALERTS_READ):
        found.setdefault(alert.of or (alert.pk,), []).append(alert)
    for alerts in list(found.values())[:_ALERTS_SHOWN]:
        yield _of(alerts, user)
    if len(found) > _ALERTS_SHOWN:
        yield Banner("", "There are more alerts.", "", [], reverse("health"), "See them all")


def _of(alerts: list[Alert], user: User) -> Banner:
    """Return one banner for the alerts of a key or token (newest first), or for one alert of neither."""
    newest = alerts[0]
    title, text = _parted(newest)
    link, words = _remedy(newest, user)
    earlier = [format_html("{} ({})", _parted(alert)[1], moment(alert.created_at)) for alert in alerts[1:_EARLIER]]
    if len(alerts) > _EARLIER:
        earlier.append(format_html("And {} more before.", len(alerts) - _EARLIER))
    tones = [_TONES.get(alert.kind, "full") for alert in alerts]
    return Banner(
        tone="bad" if "bad" in tones else tones[0],
        title=f"{title}.",
        text=format_html("{} ({})", text, moment(newest.created_at)) if text else moment(newest.created_at),
        earlier=earlier,
        link=link,
        link_words=words,
        alert_id=newest.pk,
    )


def _parted(alert: Alert) -> tuple[str, str]:
    """Return the first clause of an alert, without a full stop, and the rest as sentences.

    The clause does not end inside a quoted name; that of the key or token itself may contain a quotation mark.
    """
    message, account = alert.message, alert.key or alert.token
    shown = message.replace(f"“{account.name}”", f"“{'_' * len(account.name)}”") if account else message
    pause = _PAUSE.search(_QUOTED.sub(lambda quoted: "_" * len(quoted[0]), shown))
    if pause is None:
        return message.rstrip("."), ""
    return message[: pause.start()].rstrip("."), capfirst(message[pause.end() :])


def _remedy(alert: Alert, user: User) -> tuple[str, str]:
    """Return a link and its words; none to the token of somebody else, whose page this user may not see."""
    if alert.kind == Alert.Kind.FALLBACK_PRICE:
        return reverse("admin:llmkeys_modelprice_add"), "Enter its price"
    if alert.key is not None and alert.key.deleted_at is None:
        return reverse("key", args=[alert.key.pk]), f"See “{alert.key.name}”"
    token = alert.token
    if token is not None and (user.is_superuser or token.user_id == user.pk) and user.has_perm(_SEES_TOKENS):
        return reverse("token", args=[token.pk]), f"See “{token.name}”"
    return "", ""


# --- the four figures -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A period compared with the one before: `direction` is `up`, `down` or empty; `now` and `before` are texts."""

    direction: str
    now: str
    before: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the four cards."""

    title: str
    value: str
    beside: str
    bar: Bar
    change: Change | None = None
    lines: list[Any] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    resets_at: datetime | None = None
    projected: int | None = None  # nano-dollars: the month's cost at this pace, if it is to be shown
    pace_is_too_high: bool = False
    held: int = 0
    open_requests: int = 0


def figures(view: Overview) -> list[Figure]:
    """Return the four cards: total cost, daily and monthly budget, requests."""
    return [
        _total(view),
        _window(view, "Daily Budget", 0, "today", _against_yesterday(view)),
        replace(_window(view, "Monthly Budget", 1, "this month", _against_last_month(view)), **_pace(view)),
        _requests(view),
    ]


def _sums(view: Overview, index: int) -> tuple[int, int, int]:
    """Return the spent, held and limit amounts of the keys that have this limit, in nano-dollars."""
    budgets = [card.facts[index] for card in view.cards if card.facts[index].limit]
    return sum(one.spent for one in budgets), sum(one.held for one in budgets), sum(one.limit for one in budgets)


def _cost(view: Overview, index: int) -> int:
    """Return what all keys cost in a window, including deleted ones and those without a limit."""
    return sum(card.facts[index].spent for card in view.everyone)


def _deleted_cost(view: Overview, index: int) -> int:
    return sum(card.facts[index].spent for card in view.everyone if card.key.deleted_at is not None)


def _resets_at(view: Overview, index: int) -> datetime:
    windows = current_windows(view.at)
    ends = (day_end(windows.day, settings.TIME_ZONE), month_end(windows.month, settings.TIME_ZONE))
    return ends[index]


def _total(view: Overview) -> Figure:
    cost, (spent, held, limit) = _cost(view, 2), _sums(view, 2)
    beside = (
        f"of {usd_short(limit)}" if limit and cost == spent else f"limits {usd_short(limit)}" if limit else "no limit"
    )
    return Figure(
        title="Total Cost",
        value=usd(cost),
        beside=beside if view.cards else "",
        bar=budget_bar(f"Total cost: {usd(cost)}, {beside}", spent=spent, held=held, limit=limit),
        change=_against_last_days(view, lambda day: day.cost_nano, usd),
        lines=_reset_since(cost, view.ever) or ([] if cost else ["Nothing spent yet"]),
        parts=_parts(view.ever, {"since": f"{first_day()}"}) if view.ever.estimated_nano or view.ever.lost_nano else [],
        held=view.held,
        open_requests=sum(card.open_requests for card in view.everyone),
    )


def _pace(view: Overview) -> dict[str, Any]:
    """Return the projected cost of the month, and whether the keys with a monthly limit will exceed their limits.

    It is the sum of what the keys' cards say. A key that is too young for a projection, or deleted, counts with what it
    has cost already; without any projection there is no sum.
    """
    rests = {card.key.pk: view.paces.rest_of(card.key) for card in view.cards}
    if all(rest is None for rest in rests.values()):
        return {}
    projected = _cost(view, 1) + sum(rest or 0 for rest in rests.values())
    spent, _, limit = _sums(view, 1)
    limited = sum(rests[card.key.pk] or 0 for card in view.cards if card.facts[1].limit and not card.is_dim)
    return {"projected": projected, "pace_is_too_high": bool(limit) and spent + limited > limit}


def _window(view: Overview, title: str, index: int, when: str, change: Change | None) -> Figure:
    cost, (spent, held, limit) = _cost(view, index), _sums(view, index)
    beside = f"{usd(spent)} of {usd_short(limit)}" if limit else f"{when}, no limit"
    deleted = _deleted_cost(view, index) if limit else 0
    unlimited = cost - spent - deleted if limit else 0
    windows = current_windows(view.at)
    first, since = ((windows.day, "today"), (windows.month, "month"))[index]
    sums = Sums.over(one for day, one in view.days.items() if day >= first)
    return Figure(
        title=title,
        value=percent(100 * spent / limit) if limit else usd(cost),
        beside=beside,
        bar=budget_bar(f"{title}: {beside}, {usd(held)} held", spent=spent, held=held, limit=limit),
        change=change,
        lines=[
            *([f"and {usd(unlimited)} by keys without this limit"] if unlimited > 0 else []),
            *([f"and {usd(deleted)} by deleted keys"] if deleted > 0 else []),
            *_reset_since(cost, sums),
        ],
        parts=_parts(sums, {"range": since}),
        resets_at=_resets_at(view, index),
    )


def _reset_since(cost: int, sums: Sums) -> list[str]:
    """Return a line with the sum of the daily totals if that is higher: a reset moves only the budgets' counters.

    The parts of the sum follow it.
    """
    return [f"{usd(sums.cost_nano)} including what was reset"] if sums.cost_nano > cost else []


def _parts(sums: Sums, span: Mapping[str, str]) -> list[Part]:
    return guessed_parts(sums, lambda **cost: f"?{urlencode({**span, **cost})}")


def _requests(view: Overview) -> Figure:
    keys = [card.key for card in view.everyone]
    successful, failed = sum(key.successful_requests for key in keys), sum(key.failed_requests for key in keys)
    tried = successful + failed
    # Not rounded, because one failure in a million is not 100 %.
    rate = 100 * successful / tried if tried else 0.0
    beside = f"{percent(rate)} succeeded" if tried else ""
    return Figure(
        title="Total Requests",
        value=f"{sum(key.total_requests for key in keys):,}",
        beside=beside,
        bar=Bar(f"Success rate: {beside or 'nothing sent yet'}", spent=rate),
        change=_against_last_days(view, lambda day: day.requests, whole_words),
        lines=[f"{failed:,} failed" if failed else "None failed" if tried else "No request yet"],
    )


# --- changes -------------------------------------------------------------------------------------------------------


def _between(view: Overview, first: date, last: date, take: Callable[[Sums], int]) -> int:
    return sum(take(one) for day, one in view.days.items() if first <= day <= last)


def _against_last_days(view: Overview, take: Callable[[Sums], int], words: Callable[[int], str]) -> Change | None:
    middle = view.today - timedelta(days=CHART_DAYS)
    now = _between(view, middle + timedelta(days=1), view.today, take)
    before = _between(view, middle - timedelta(days=CHART_DAYS - 1), middle, take)
    return _change(now, before, f"{words(now)} in {CHART_DAYS} days", f"{words(before)} in the {CHART_DAYS} before")


def _against_yesterday(view: Overview) -> Change | None:
    yesterday = view.today - timedelta(days=1)
    before = _between(view, yesterday, yesterday, lambda day: day.cost_nano)
    now = _between(view, view.today, view.today, lambda day: day.cost_nano)
    return _change(now, before, f"{usd(now)} so far", f"{usd(before)} in all of yesterday")


def _against_last_month(view: Overview) -> Change | None:
    """Compare this month so far with the same days of the month before, or with all of it if it was shorter."""
    first = view.today.replace(day=1)
    end = first - timedelta(days=1)
    last = end.replace(day=min(view.today.day, end.day))
    now = _between(view, first, view.today, lambda day: day.cost_nano)
    before = _between(view, end.replace(day=1), last, lambda day: day.cost_nano)
    return _change(now, before, f"{usd(now)} so far", f"{usd(before)} by {last.day} {end:%B}")


def _change(now: int, before: int, now_words: str, before_words: str) -> Change | None:
    """Return the comparison of two amounts; None if there is nothing to compare with."""
    if before <= 0:
        return None
    direction = "up" if now > before else "down" if now < before else ""
    return Change(direction, now_words, f"against {before_words}")


# --- the list of keys -------------------------------------------------------------------------------------------------


PAGE = 30  # cards; for the rest, a search is quicker than a longer page
SEARCHED_FROM = 10  # fewer keys need no search
_SHOWS = ("", "available", "attention")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the query string asks for; invalid values are ignored."""

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
        """Return the URL with `changes`, which also go back to the first page."""
        now = {"show": self.show, "q": self.words, "provider": self.provider, "status": self.status, "by": self.by}
        asked = {name: value for name, value in {**now, **changes}.items() if value and (name, value) != ("page", 1)}
        return reverse("dashboard") + ("?" + urlencode(asked) if asked else "")

    @property
    def stacks(self) -> list[tuple[str, str, str, bool]]:
        """The id, label, URL and state of each way to stack the chart."""
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
    """A page of the matching cards, with links to the adjacent pages."""

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
    """Return the requested page of the matching cards, or the last one if there are fewer."""
    found = [card for card in cards if wanted.matches(card)]
    pages = max(1, -(-len(found) // PAGE))
    page = min(wanted.page, pages)
    return KeyList(wanted, len(found), found[(page - 1) * PAGE : page * PAGE], page, pages)
