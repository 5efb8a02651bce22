"""/llm-settings/playground: a question through the relay, with and without a script."""

from __future__ import annotations

import json
import logging

import pytest
from django.db import connection

from llmkeys.lib.money import NANO, format_usd
from llmkeys.models import ModelPrice, UsageRecord
from llmkeys.upstream import asked
from tests.helpers import make_key, make_user, new_secret
from tests.pages.helpers import text_of
from tests.provider import RESET, Pieces, delta
from tests.serving import wait_for
from tests.web import Person

pytestmark = pytest.mark.django_db(transaction=True)  # the ledger's writer has a connection of its own

PAGE, RUN = "/llm-settings/playground", "/llm-settings/playground/run"
LINES = {"Accept": "application/x-ndjson"}
MODEL = "openai/gpt-6.1-terra"
PROMPT = "Say hello [[prompt_tokens=10 completion_tokens=5 cost=0.0123]]"


@pytest.fixture
def person(administrator):
    """The administrator, whose questions go through a real web server: the relay belongs to its loop."""
    return Person(administrator)


@pytest.fixture
def lists_asked(monkeypatch):
    """The keys whose providers were asked for their model lists."""
    seen, list_models = [], asked.list_models
    monkeypatch.setattr(asked, "list_models", lambda key: seen.append(key.pk) or list_models(key))
    return seen


def given(**fields: str) -> dict[str, str]:
    return {"model": MODEL, "prompt": PROMPT, "max_tokens": "50", **fields}


def told(client: Person, **fields: str) -> dict:
    """Return what the script would get, with the pieces of text joined."""
    answer = client.send_form(RUN, given(**fields), **LINES)
    assert answer.status_code == 200 and answer["Content-Type"] == LINES["Accept"]
    lines = [json.loads(line) for line in answer.content.splitlines()]
    pieces = [line.pop("text") for line in lines if "text" in line]
    return {"text": "".join(pieces), "pieces": len(pieces), **{name: it for line in lines for name, it in line.items()}}


class TestPage:
    def test_it_offers_the_primary_model_with_its_price_and_asks_no_provider(self, operator, simulator, lists_asked):
        make_key()
        ModelPrice.objects.create(
            provider="openrouter", model=MODEL, valid_from="2020-01-01T00:00Z", input_usd_per_mtok="1.25",
            output_usd_per_mtok="10",
        )  # fmt: skip
        page = operator.get(PAGE).content.decode()
        assert f'value="{MODEL}"' in page and "$1.25 in, $10.00 out per million tokens" in page
        assert not lists_asked

    def test_it_asks_the_providers_for_their_lists_when_told_to(self, operator, simulator, lists_asked):
        make_key(), make_key()
        page = operator.get(PAGE, {"models": "ask"}).content.decode()
        assert page.count('value="google/gemini-3.8-flash"') == 1
        assert len(lists_asked) == 1, "one key of a provider is enough"
        alone = operator.get(PAGE, headers={"Accept": "text/fragment"}).content.decode()
        assert "<datalist" in alone and "<html" not in alone

    def test_it_takes_a_model_from_the_address(self, operator, simulator):
        make_key()
        page = operator.get(PAGE, {"model": MODEL}).content.decode()
        assert f'name="model" value="{MODEL}"' in page and "OpenRouter ·" in page

    def test_it_tells_the_output_limit_that_an_empty_field_means(self, operator, settings):
        settings.DEFAULT_MAX_TOKENS = 5000
        assert 'placeholder="5,000"' in operator.get(PAGE).content.decode()

    def test_it_says_that_no_key_can_serve(self, operator):
        assert "no stored key can serve the primary model" in operator.get(PAGE).content.decode()

    def test_it_needs_a_login_and_the_right_to_look_and_to_spend(self, client, with_rights):
        assert client.get(PAGE).headers["Location"] == f"/login?next={PAGE}"
        assert with_rights().get(PAGE).status_code == 403
        looker = with_rights("view_apikey")
        assert "You cannot send prompts" in looker.get(PAGE).content.decode()
        assert looker.post(RUN, given()).status_code == 403
        assert not UsageRecord.objects.exists()

    def test_it_asks_the_database_as_often_for_many_keys_as_for_few(self, operator, simulator):
        from django.test.utils import CaptureQueriesContext

        make_key(), make_key()
        operator.get(PAGE)  # prices and aliases are read once for some seconds
        with CaptureQueriesContext(connection) as few:
            operator.get(PAGE)
        for _ in range(10):
            make_key()
        with CaptureQueriesContext(connection) as many:
            operator.get(PAGE)
        assert len(many) == len(few) <= 24


class TestRun:
    def test_it_streams_the_answer_and_tells_cost_tokens_and_key(self, person, simulator):
        make_key(name="Production")
        answer = told(person)
        row = UsageRecord.objects.get()
        assert answer["pieces"] > 1 and answer["text"].startswith("simulated")
        assert answer["request"] == row.request_id and row.request_id in answer["facts"]
        for words in ("$0.01", "$0.0123", "10 in, 5 out", "Production", "as the provider reports it", "had been held"):
            assert words in answer["facts"], words
        assert (row.state, row.cost_nano, row.token_name, row.streamed) == ("SETTLED", 12_300_000, "admin", True)

    def test_it_shows_a_last_event_without_its_empty_line(self, person, openrouter):
        make_key()
        openrouter.sends(Pieces(delta("Hel") + b"\n\n", delta("lo", finish_reason="stop") + b"\n"))
        answer = told(person)
        assert (answer["text"], "error" in answer) == ("Hello", False)

    def test_it_shows_an_error_in_a_last_event_without_its_empty_line(self, person, openrouter):
        make_key()
        openrouter.sends(Pieces(delta("Hel") + b"\n\n", b'data: {"error":{"code":503,"message":"Overloaded"}}'))
        answer = told(person)
        assert (answer["text"], answer["error"]) == ("Hel", "Overloaded")

    def test_it_sends_the_system_prompt_and_the_limit(self, person, simulator):
        make_key()
        told(person, system="Be brief.", prompt="one two three", max_tokens="7")
        (sent,) = simulator.journal()  # it counts words as tokens, and speaks twenty where nothing limits it
        assert (sent["promptTokens"], sent["completionTokens"]) == (5, 7)

    def test_it_answers_a_plain_form_in_one_piece(self, person, simulator):
        make_key(name="Production")
        answer = person.send_form(RUN, given(prompt=PROMPT + "<b>"))
        page = answer.content.decode()
        assert "simulated" in page and "10 in, 5 out" in page and "Production" in page
        assert "&lt;b&gt;" in page and "<b>]" not in page, "the prompt stays in its field, as text"
        assert "no-store" in answer.headers["Cache-Control"]
        assert not UsageRecord.objects.get().streamed

    def test_it_shows_the_attempts_and_who_was_passed_over(self, person, simulator):
        make_key(name="Spent", secret=new_secret() + "-402")
        make_key(name="Good")
        facts = told(person)["facts"]
        assert "Spent" in facts and "Good" in facts and "402" in facts and "Attempts" in facts

    @pytest.mark.parametrize("is_answered", [True, False])
    def test_it_shows_what_a_lost_attempt_is_charged(self, person, openrouter, is_answered):
        make_key()
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": 0.01}
        answer = json.dumps({"choices": [{"message": {"content": "Hi"}}], "usage": usage}).encode()
        refusal = b'{"error": {"code": 400, "message": "Too odd"}}'
        second = Pieces.whole(body=answer) if is_answered else Pieces.whole(status=400, body=refusal)
        openrouter.sends(Pieces(b'{"id":', RESET, headers={"Content-Type": "application/json"}), second)
        page = text_of(person.send_form(RUN, given()).content.decode())
        lost = UsageRecord.objects.get(state="LOST").cost_nano
        assert lost > 0 and "nothing billed" not in page
        at_the_hold = "charged at the hold, because it is unknown whether the provider billed it"
        if is_answered:
            of_it = f"as the provider reports it; {format_usd(lost)} of it {at_the_hold}"
            assert f"{format_usd(lost + NANO // 100)} {of_it}" in page
        else:
            assert f"{format_usd(lost)} {at_the_hold}" in page

    @pytest.mark.parametrize("headers", [{}, LINES], ids=["plain", "script"])
    def test_it_says_in_words_why_nobody_serves(self, person, simulator, headers):
        assert "No API key available" in self.failure(person, headers)
        make_key(daily_limit_nano=NANO // 1000, total_limit_nano=NANO // 1000)
        words = self.failure(person, headers, max_tokens="100000")
        assert "$0.001" in words and "may cost" in words

    @pytest.mark.parametrize("headers", [{}, LINES], ids=["plain", "script"])
    def test_it_passes_on_what_the_provider_says(self, person, simulator, headers):
        make_key(secret=new_secret() + "-400")
        words = self.failure(person, headers)
        assert words and "{" not in words
        assert UsageRecord.objects.get().cost_nano == 0

    @pytest.mark.parametrize("headers", [{}, LINES], ids=["plain", "script"])
    @pytest.mark.parametrize("fields", [{"prompt": ""}, {"prompt": "a\0b"}, {"max_tokens": "0"}, {"max_tokens": "x"}])
    def test_it_refuses_what_makes_no_sense_and_spends_nothing(self, person, simulator, headers, fields):
        make_key()
        answer = person.send_form(RUN, given(**fields), **headers)
        body = answer.content.decode()
        assert answer.status_code == 200 and ('"error"' in body if headers else 'class="error"' in body)
        assert not UsageRecord.objects.exists()

    @staticmethod
    def failure(client, headers, **fields) -> str:
        import html

        if headers:
            return told(client, **fields)["error"]
        page = client.send_form(RUN, given(**fields)).content.decode()
        return html.unescape(page.partition('id="failure"')[2].partition("<p>")[2].partition("</p>")[0])

    def test_it_charges_what_a_reader_left(self, person, simulator):
        make_key()
        answer = person.send_form(RUN, given(prompt=PROMPT + "[[chunk_delay_ms=50]]"), **LINES)
        first, *more = next(answer.pieces).splitlines()
        request_id = json.loads(first)["request"]
        assert "text" in json.loads(more[0] if more else next(answer.pieces))
        answer.close()
        assert wait_for(lambda: person.look(RUN, request=request_id).content)
        row = UsageRecord.objects.get()
        assert row.state == "SETTLED" and row.cost_nano == 12_300_000 and row.request_id == request_id

    def test_it_holds_nothing_for_a_reader_who_never_began(self, operator, simulator):
        make_key()
        operator.post(RUN, given(), headers=LINES).close()
        assert not UsageRecord.objects.exists()

    def test_it_tells_what_became_of_a_request(self, person, simulator):
        make_key()
        request_id = told(person)["request"]
        assert "10 in, 5 out" in person.look(RUN, request=request_id).content.decode()
        assert person.look(RUN, request="req_unknown").status_code == 204
        assert person.look(RUN)["Location"] == PAGE

    def test_it_serves_a_user_with_a_very_long_name(self, simulator):
        make_key()
        client = Person(make_user("n" * 150, "view_apikey", "use_gateway"))
        assert told(client)["text"]
        assert UsageRecord.objects.get().token_name == "n" * 100

    def test_it_logs_no_prompt(self, person, simulator, caplog):
        caplog.set_level(logging.DEBUG)
        make_key(secret=new_secret() + "-400")
        told(person, prompt="a very private matter")
        assert "private matter" not in caplog.text
        assert "private matter" not in str(list(UsageRecord.objects.values()))
