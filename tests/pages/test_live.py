"""GET /llm-settings/live, and the page that asks it: only what changed travels, and nobody is disturbed."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlencode

import pytest
from playwright.sync_api import expect

from llmkeys.dashboard import views
from llmkeys.lib.money import NANO
from llmkeys.models import ApiKey, DailyUsage
from tests.helpers import NOW, make_key, new_secret
from tests.pages.browser import BROWSER, log_in
from tests.serving import wait_for

pytestmark = pytest.mark.django_db


def seen_in(page: str) -> str:
    return re.search(r'"seen": "([^"]*)"', page)[1]


def page_of(client, address: str = "/llm-settings") -> str:
    return client.get(address).content.decode()


def news(client, seen: str, address: str = "/llm-settings/live"):
    query = urlencode({"seen": seen})
    return client.get(f"{address}{'&' if '?' in address else '?'}{query}", headers={"HX-Request": "true"})


def regions_of(answer) -> list[str]:
    return re.findall(r'id="r-([^"]+)" hx-swap-oob', answer.content.decode())


@pytest.mark.usefixtures("frozen")
class TestAnswer:
    def test_it_answers_nothing_while_nothing_changes(self, operator):
        make_key()
        answer = news(operator, seen_in(page_of(operator)))
        assert (answer.status_code, answer.content) == (204, b"")

    def test_it_sends_the_card_that_changed_and_the_sums_alone(self, operator):
        make_key(name="Alpha")
        key = make_key(name="Beta")
        seen = seen_in(page_of(operator))
        ApiKey.objects.filter(pk=key.pk).update(total_requests=7, successful_requests=7)
        answer = news(operator, seen)
        assert regions_of(answer) == ["figures", f"card-{key.pk}"]
        assert "Alpha" not in answer.content.decode() and f'id="{key.pk}"' in answer.content.decode()
        assert news(operator, seen_in(answer.content.decode())).status_code == 204

    def test_it_sends_the_list_when_a_key_came_or_went(self, operator):
        make_key()
        seen = seen_in(page_of(operator))
        make_key(name="Newcomer")
        answer = news(operator, seen)
        assert "cards" in regions_of(answer) and "Newcomer" in answer.content.decode()

    def test_it_sends_the_links_to_the_other_pages_when_there_are_more(self, operator, monkeypatch):
        monkeypatch.setattr(views, "PAGE", 2)
        make_key(), make_key()
        page = page_of(operator)
        assert "1 to 2 of" not in page
        make_key()
        answer = news(operator, seen_in(page))
        assert "pages" in regions_of(answer) and "1 to 2 of 3" in answer.content.decode()
        assert page_of(operator).count("1 to 2 of 3") == 1

    def test_it_loads_the_page_anew_when_the_first_key_came(self, operator):
        seen = seen_in(page_of(operator))
        make_key()
        assert news(operator, seen).headers["HX-Refresh"] == "true"

    @pytest.mark.parametrize("seen", ["", "x", "-", ".", "a.b.c", "-".join("abcdefgh") + ".x-y-z", "%00", "é" * 5000])
    def test_it_stands_any_question(self, operator, seen):
        make_key()
        assert news(operator, seen).status_code == 200

    def test_it_leads_a_person_who_was_logged_out_to_the_login(self, client, with_rights):
        for somebody in (client, with_rights()):
            answer = news(somebody, "x")
            assert (answer.status_code, answer.headers["HX-Refresh"], answer.content) == (200, "true", b"")

    def test_it_says_in_title_and_icon_that_something_is_wrong(self, operator):
        key = make_key()
        seen = seen_in(page_of(operator))
        ApiKey.objects.filter(pk=key.pk).update(rejected_at=NOW)
        page = news(operator, seen).content.decode()
        assert page.lstrip().startswith("<title>No key can serve ·") and "favicon-alert" in page

    def test_it_keeps_to_the_keys_that_the_page_shows(self, operator):
        make_key(name="Alpha", provider="openai"), make_key(name="Beta")
        page = page_of(operator, "/llm-settings?provider=openai&by=model")
        assert 'hx-get="/llm-settings/live?provider=openai&amp;by=model"' in page
        answer = news(operator, seen_in(page), "/llm-settings/live?provider=openai&by=model")
        assert answer.status_code == 204


@pytest.mark.usefixtures("noon")
class TestBrowser:
    pytestmark = BROWSER

    def test_it_shows_what_happened_elsewhere(self, page):
        key = make_key(name="Production", at=datetime.now(UTC))
        log_in(page)
        card = page.locator(f"#{key.pk}")
        card.get_by_role("button", name="Disable").focus()
        page.locator(".chart-figures").evaluate_all("all => all.forEach(one => one.open = true)")
        page.evaluate("scrollTo(0, 200)")
        before = page.evaluate("scrollY")
        ApiKey.objects.filter(pk=key.pk).update(
            spent_day_nano=9 * NANO, total_requests=1234, last_used_at=datetime.now(UTC) - timedelta(seconds=1)
        )
        card.get_by_text("1,234").wait_for()
        assert "$9.00 of $10.00" in card.inner_text()
        assert page.evaluate("document.activeElement.id") == f"toggle-{key.pk}"
        assert page.evaluate("scrollY") == before
        assert page.title().startswith("Dashboard")

    def test_it_leaves_the_focus_where_it_was_though_the_region_around_it_is_exchanged(self, desk):
        now = datetime.now(UTC)
        keys = [make_key(name=name, at=now) for name in ("First", "Second")]
        costs = {"day": now.date(), "model": "gpt", "requests": 1}
        DailyUsage.objects.create(key=keys[0], cost_nano=NANO, **costs)
        log_in(desk)
        desk.locator(".chart-figures summary").focus()
        DailyUsage.objects.update(cost_nano=3 * NANO)
        desk.locator(".legend tfoot").get_by_text("$3.00").wait_for()
        assert desk.evaluate("document.activeElement.matches('.chart-figures summary')")

        desk.locator(".legend").get_by_role("link", name="First").focus()
        DailyUsage.objects.create(key=keys[1], cost_nano=9 * NANO, **costs)  # which comes before it in the legend
        desk.locator(".legend tfoot").get_by_text("$12.00").wait_for()
        assert desk.locator(".legend a").all_inner_texts() == ["Second", "First"]
        assert desk.evaluate("document.activeElement.textContent") == "First"

    def test_it_leaves_an_open_dialog_and_what_is_typed_in_it_alone(self, desk):
        key = make_key(name="Production", at=datetime.now(UTC))
        log_in(desk)
        desk.get_by_role("link", name="Add API Key").click()
        desk.get_by_label("Name", exact=True).fill("Half a na")
        ApiKey.objects.filter(pk=key.pk).update(rejected_at=datetime.now(UTC), last_error="User not found.")
        expect(desk).to_have_title(re.compile("^No key can serve"))
        assert desk.locator("dialog[open]").count() == 1
        assert desk.get_by_label("Name", exact=True).input_value() == "Half a na"
        assert desk.evaluate("document.activeElement.name") == "name"
        assert "alert" in desk.locator("#favicon").get_attribute("href")
        expect(desk.locator("#said")).to_contain_text("No key can serve")

    def test_it_keeps_figures_unfolded_and_leads_to_the_login_when_the_session_ends(self, desk):
        from django.contrib.sessions.models import Session

        now = datetime.now(UTC)
        key = make_key(name="Production", at=now)
        DailyUsage.objects.create(day=now.date(), key=key, model="gpt", requests=1, cost_nano=NANO)
        log_in(desk)
        desk.get_by_text("The figures as a table").click()
        DailyUsage.objects.update(cost_nano=3 * NANO)
        desk.locator(".legend tfoot").get_by_text("$3.00").wait_for()
        assert desk.locator(".chart-figures").evaluate("one => one.open")
        Session.objects.all().delete()
        desk.wait_for_url("**/login**")

    def test_it_asks_every_four_seconds_and_nothing_while_hidden(self, desk):
        """By a clock of the page's own, of which a minute takes no time."""
        seen_as = "Object.defineProperty(document, 'visibilityState', {value: '%s', configurable: true})"
        make_key(name=new_secret()[:20], at=datetime.now(UTC))
        desk.add_init_script(seen_as % "hidden")
        desk.clock.install()
        log_in(desk)
        desk.evaluate("window.asked = 0; document.addEventListener('htmx:beforeRequest', () => { asked += 1; })")
        desk.evaluate("window.answered = 0; document.addEventListener('htmx:afterRequest', () => { answered += 1; })")
        desk.clock.run_for(60_000)
        assert desk.evaluate("asked") == 0
        desk.evaluate(seen_as % "visible")
        for turn in (1, 2, 3):
            desk.clock.run_for(4_000)
            assert desk.evaluate("asked") >= turn
            wait_for(lambda turn=turn: desk.evaluate("answered") >= turn, what="an answer")
