"""What runs in the background, and what it left undone: schedules, holds, prices, alerts."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from llmkeys import scheduling
from llmkeys.alerts import outbox
from llmkeys.doctor.finding import FAIL, WARN, About, Finding, count, good, listed
from llmkeys.key_state import current_windows
from llmkeys.models import UsageRecord
from llmkeys.prices import catalogue
from llmkeys.usage.rows import lost_rows
from llmkeys.usage.sums import Wanted, daily_sums

LOOK_BACK = timedelta(days=30)
FORGOTTEN = timedelta(minutes=3)
AHEAD = timedelta(minutes=2)
_MOST = 1000

START = "Start it: ./manage.py serve (without --no-scheduler)"


def schedules(about: About) -> Iterable[Finding]:
    states = scheduling.schedule_states(about.at)
    missing = sorted({planned.name for planned in scheduling.PLANNED} - {state.name for state in states})
    if missing:
        words = f"Not created yet: {listed(missing, 10)}. Budgets do not depend on them."
        yield Finding(WARN, "Schedules", words, START)
    is_stalled = scheduling.scheduler_last_ran(about.at).is_stalled
    if is_stalled:
        late = [state.name for state in states if state.is_late]
        why = f"{listed(late)} should have started" if late else "a task has waited for more than five minutes"
        words = f"The scheduler is not running: {why}. Budgets do not depend on it."
        yield Finding(FAIL, "Schedules", words, START)
    for state in states:
        if state.has_failed:
            words = f"Its last run failed: {state.failure}"
            yield Finding(
                WARN, f"Schedule {state.name}", words, "It will run again as scheduled; the log has the traceback."
            )
        if state.is_paused:
            remedy = "In the admin under “Scheduled tasks”, select it and choose the action “Resume”."
            yield Finding(WARN, f"Schedule {state.name}", "It is paused.", remedy)
    bad = is_stalled or missing or any(state.is_late or state.has_failed or state.is_paused for state in states)
    if states and not bad:
        yield good("Schedules", f"All {len(states)} are on time.")


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def clock_set_back(about: About) -> Iterable[Finding]:
    """Warn of requests in the future."""
    newest = UsageRecord.objects.order_by("-created_at").values_list("created_at", flat=True).first()
    if newest is not None and newest > about.at + AHEAD:
        words = (
            f"The newest request is dated {newest:%Y-%m-%d %H:%M} UTC, {(newest - about.at) / timedelta(hours=1):,.1f} "
            "h ahead of this machine's clock: the clock was set back, or was wrong then."
        )
        remedy = "Synchronise it with NTP. If it is right now, do nothing: `serve` has planned its schedules again."
        yield Finding(WARN, "Clock", words, remedy)


def lost_requests(about: About) -> Iterable[Finding]:
    """Report lost requests, which were charged at their hold because it is unknown what the provider billed.

    Only those that `void --lost` takes back, so that its remedy helps.
    """
    lost = lost_rows().filter(created_at__gte=about.at - LOOK_BACK)
    number = lost.order_by()[:_MOST].count()
    if number:
        requests = f"{count(number, 'request')} of the last 30 days"
        words = f"{requests} ended with an unknown outcome and {_were(number)} charged at the hold."
        yield Finding(
            WARN, "Lost requests", words, "Compare with the provider's bill, then run: ./manage.py void --lost"
        )
    else:
        yield good("Lost requests", "None in the last 30 days.")


def forgotten_holds(about: About) -> Iterable[Finding]:
    dead = UsageRecord.objects.filter(state="HELD", lease_until__lt=about.at - FORGOTTEN)
    number = dead.order_by()[:_MOST].count()
    if number:
        words = f"{count(number, 'hold')} left by dead processes still {'takes' if number == 1 else 'take'} up budget."
        yield Finding(WARN, "Open holds", words, f"The schedule settle_lost_holds frees them. {START}")
    else:
        yield good("Open holds", "No hold was left behind by a dead process.")


def unpriced_models(about: About) -> Iterable[Finding]:
    sums = daily_sums(Wanted(since=current_windows(about.at - LOOK_BACK).day), "provider", "model", at=about.at)
    # A model that was only ever refused needs no price.
    models = sorted(pair for pair, of_it in sums.items() if of_it.successful > 0 or of_it.cost_nano > 0)[:_MOST]
    unknown = [f"{model} ({provider})" for provider, model in models if not _is_priced(provider, model, about)]
    if unknown:
        words = f"No price is known for {listed(unknown)}: charged at the fallback price, or at 0 on a local server."
        yield Finding(WARN, "Prices", words, "Add a price in the admin under “Model prices”.")
    else:
        yield good("Prices", "Every model used in the last 30 days has a known price.")


def _is_priced(provider: str, model: str, about: About) -> bool:
    return catalogue.price_list().knows(provider, model, about.at)


def alert_targets(about: About) -> Iterable[Finding]:
    names = outbox.target_names()
    if not names:
        words = "Nobody is notified when a key is spent or rejected; alerts stay on the dashboard."
        yield Finding(WARN, "Alerts", words, f"For example {outbox.EXAMPLE}")
        return
    failing = outbox.undelivered_alerts()
    if failing:
        words = (
            f"{count(len(failing), 'alert')} {_were(len(failing))} not delivered: {outbox.delivery_words(failing[0])}"
        )
        yield Finding(WARN, "Alerts", words, "Fix the target, then run: ./manage.py alert --test")
    else:
        yield good("Alerts", f"Sent to {listed(names)}.")


def unseen_alerts(about: About) -> Iterable[Finding]:
    unseen = outbox.open_alerts()
    if unseen:
        words = f"{count(len(unseen), 'alert')} not dismissed yet; the newest: {unseen[0].message}"
        yield Finding(WARN, "Open alerts", words, "Look at them on the dashboard's page “Health”.")


CHECKS = (schedules, clock_set_back, lost_requests, forgotten_holds, unpriced_models, alert_targets, unseen_alerts)
