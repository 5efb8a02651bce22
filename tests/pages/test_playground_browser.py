"""The playground in a real browser: the answer as it arrives, Stop, the models, and no script at all."""

from __future__ import annotations

import threading

import pytest
from django.contrib.sessions.models import Session

from llmkeys.dashboard.playground_run import StreamedAnswer
from llmkeys.models import UsageRecord
from tests.gateway.door import DONE, chunk, usage_chunk
from tests.helpers import make_key
from tests.pages.browser import BROWSER, fits, log_in
from tests.provider import Gate, Pieces

pytestmark = [*BROWSER, pytest.mark.usefixtures("simulator")]
PROMPT = "Say hello [[prompt_tokens=10 completion_tokens=80 cost=0.0123]]"
WORDS, USAGE = chunk("A simulated answer. "), usage_chunk(prompt=10, completion=80, cost=0.0123)


@pytest.fixture
def site_url(real_site_url):
    return real_site_url


def test_it_streams_an_answer_and_tells_its_cost(page, openrouter):
    looked = Gate()
    openrouter.sends(Pieces(WORDS, looked, WORDS, USAGE, DONE))
    make_key(name="Production")
    log_in(page)
    page.goto("/llm-settings/playground")
    assert fits(page) and not page.get_by_role("button", name="Stop").is_visible()
    page.get_by_label("Prompt", exact=True).fill("Say hello")
    page.get_by_role("button", name="Send").click()
    page.locator("#answer", has_text="simulated").wait_for()
    assert page.locator("#progress").inner_text() == "Answering …", "words come before the answer is complete"
    assert (
        page.get_by_role("button", name="Stop").is_visible() and page.get_by_role("button", name="Send").is_disabled()
    )
    looked.open()
    page.get_by_text("Complete").wait_for()
    facts = page.locator("#facts").inner_text()
    assert "$0.0123" in facts and "10 in, 80 out" in facts and "Production" in facts
    assert not page.get_by_role("button", name="Stop").is_visible() and fits(page)
    assert UsageRecord.objects.get().state == "SETTLED"


def test_it_stops_an_answer_and_tells_what_it_cost_all_the_same(page, openrouter, monkeypatch):
    """The provider goes on until the product has heard that nobody reads any more; what it cost comes only then."""
    stopped, is_left = Gate(), threading.Event()
    close = StreamedAnswer.close
    monkeypatch.setattr(StreamedAnswer, "close", lambda answer: (close(answer), is_left.set()))

    def pieces():
        yield WORDS
        yield stopped
        while not is_left.is_set():
            yield WORDS
            yield lambda: is_left.wait(0.05)
        yield from (USAGE, DONE)

    answer = Pieces()
    answer.pieces = pieces()
    openrouter.sends(answer)
    make_key(name="Production")
    log_in(page)
    page.goto("/llm-settings/playground")
    page.get_by_label("Prompt", exact=True).fill("Say hello")
    page.get_by_role("button", name="Send").click()
    page.locator("#answer", has_text="simulated").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("is charged all the same").wait_for()
    stopped.open()
    page.locator("#facts", has_text="$0.0123").wait_for(timeout=60_000)
    assert page.locator("#progress").inner_text() == "Stopped"
    assert UsageRecord.objects.get().cost_nano == 12_300_000


def test_it_says_in_words_why_nobody_serves(page):
    log_in(page)
    page.goto("/llm-settings/playground")
    page.get_by_label("Prompt", exact=True).fill("hello")
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    page.locator("#progress", has_text="Not answered").wait_for()  # said last, when the answer has ended
    assert "No API key available" in page.locator("#failure").inner_text() and fits(page)
    assert page.get_by_role("button", name="Send").is_enabled()


def test_it_says_whether_a_prompt_is_too_large_or_the_session_has_ended(desk):
    log_in(desk)
    desk.goto("/llm-settings/playground")
    desk.get_by_label("Prompt", exact=True).fill("x" * 3_000_000)
    desk.get_by_role("button", name="Send").click()
    desk.locator("#failure", has_text="The body is larger than 2.5 MB.").wait_for()
    desk.get_by_label("Prompt", exact=True).fill("hello")
    Session.objects.all().delete()
    desk.get_by_role("button", name="Send").click()
    desk.locator("#failure", has_text="You are no longer logged in.").wait_for()
    complaints, desk.complaints[:] = desk.complaints[:], []
    assert all("413" in words for words in complaints)


def test_it_writes_an_answer_as_text(desk):
    make_key(name="<img src=x onerror=alert(1)>")
    log_in(desk)
    desk.goto("/llm-settings/playground")
    desk.get_by_label("Prompt", exact=True).fill(PROMPT)
    desk.get_by_role("button", name="Send").click()
    desk.get_by_text("Complete").wait_for()
    assert "<img src=x onerror=alert(1)>" in desk.locator("#facts").inner_text()


def test_it_lets_a_person_choose_a_model_with_its_price(page):
    make_key()
    log_in(page)
    page.goto("/llm-settings/playground")
    page.locator("summary", has_text="models").click()
    page.get_by_text("Ask the providers what else").wait_for(state="detached")
    page.get_by_role("link", name="anthropic/claude-sonnet-5.5", exact=True).first.click()
    assert page.locator("#id_model").input_value() == "anthropic/claude-sonnet-5.5"
    assert "out per million tokens" in page.locator("#model-words").inner_text() and fits(page)
    page.locator("#id_model").fill("my-own-model")
    assert "Not in the list" in page.locator("#model-words").inner_text()
