from __future__ import annotations

import json

import pytest

from llmkeys.lib.money import NANO, format_usd
from llmkeys.models import UsageRecord
from tests.helpers import make_key, new_secret
from tests.provider import RESET, Pieces, delta

pytestmark = pytest.mark.django_db(transaction=True)  # the ledger's writer has a connection of its own

MODEL = "openai/gpt-6.1-terra"
JSON = {"Content-Type": "application/json"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
OPENROUTER = "https://openrouter.ai/api/v1/chat/completions"


def ask(run, *options: str, prompt: str = "Say hello [[prompt_tokens=10 completion_tokens=5 cost=0.0123]]"):
    return run("chat", prompt, "--model", MODEL, "--max-tokens", "50", *options)


class TestChat:
    def test_it_prints_the_answer_and_what_it_cost(self, run, simulator):
        make_key(name="Production")
        ran = ask(run)
        assert ran.code == 0
        assert ran.out.strip()
        assert (
            "“Production” · 10 input and 5 output tokens · $0.0123 (as the provider reports it) · 1 attempt" in ran.err
        )
        assert len(ran.err.splitlines()) == 1
        assert UsageRecord.objects.get().cost_nano == 12_300_000

    def test_it_streams_the_same_answer(self, run, simulator):
        make_key(name="Production")
        whole, streamed = ask(run), ask(run, "--stream")
        assert streamed.code == 0
        assert streamed.out == whole.out
        assert "$0.0123" in streamed.err
        assert set(UsageRecord.objects.values_list("state", "streamed")) == {("SETTLED", False), ("SETTLED", True)}

    @pytest.mark.parametrize("options", [(), ("--stream",)])
    def test_it_prints_json(self, run, simulator, options):
        key = make_key(name="Production")
        ran = ask(run, "--json", *options)
        shown = json.loads(ran.out)
        row = UsageRecord.objects.get()
        assert ran.err == ""
        assert shown.pop("answer")
        assert shown == {
            "requestId": row.request_id,
            "keyId": key.id,
            "keyName": "Production",
            "provider": "openrouter",
            "model": MODEL,
            "inputTokens": 10,
            "outputTokens": 5,
            "cost": 0.0123,
            "costSource": "provider",
            "attempts": 1,
        }

    def test_it_reads_the_question_from_stdin(self, run, simulator):
        make_key()
        ran = run("chat", "-", "--model", MODEL, stdin="hello [[prompt_tokens=17]]")
        assert "17 input" in ran.err

    def test_it_rotates_and_counts_the_attempts(self, run, simulator):
        make_key(name="Bad", secret=new_secret() + "-402")
        make_key(name="Good")
        ran = ask(run)
        assert ran.code == 0 and "“Good”" in ran.err and ran.err.endswith("2 attempts\n")

    @pytest.mark.parametrize("options", [(), ("--json",)])
    def test_it_counts_what_a_lost_attempt_is_charged(self, run, provider, options):
        make_key()
        answer = {"choices": [{"message": {"content": "Hi"}}], "usage": USAGE | {"cost": 0.01}}
        provider.sends(Pieces(b'{"id":', RESET, headers=JSON), Pieces.whole(body=json.dumps(answer).encode()))
        ran = ask(run, *options)
        lost, answered = UsageRecord.objects.order_by("attempt")
        assert (lost.state, answered.cost_nano) == ("LOST", NANO // 100) and lost.cost_nano > 0
        whole = lost.cost_nano + answered.cost_nano
        if options:
            assert json.loads(ran.out)["cost"] == round(whole / NANO, 9)
        else:
            of_it = f"as the provider reports it; {format_usd(lost.cost_nano)} of it charged at the hold"
            assert f"{format_usd(whole)} ({of_it}" in ran.err and ran.err.endswith("2 attempts\n")

    def test_it_tells_what_a_lost_attempt_is_charged_where_there_is_no_answer(self, run, provider):
        make_key()
        refusal = Pieces.whole(status=400, body=b'{"error": {"code": 400, "message": "Too odd"}}')
        provider.sends(Pieces(b'{"id":', RESET, headers=JSON), refusal)
        ran = ask(run)
        lost = UsageRecord.objects.get(state="LOST")
        assert (ran.code, ran.out) == (1, "") and ran.err.startswith("Too odd")
        assert f"It cost {format_usd(lost.cost_nano)} (charged at the hold, because it is unknown" in ran.err

    def test_it_says_that_no_key_is_stored(self, run, simulator):
        ran = ask(run)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("No API key available")

    @pytest.mark.usefixtures("frozen")
    def test_it_says_that_the_budget_is_spent(self, run, simulator):
        make_key(daily_limit_nano=NANO, spent_day_nano=NANO)
        ran = ask(run)
        assert ran.code == 1 and ran.err.startswith("All keys have reached their limits")

    def test_it_passes_the_providers_refusal_on(self, run, simulator):
        make_key(secret=new_secret() + "-400")
        ran = ask(run)
        assert (ran.code, ran.out) == (1, "")
        assert ran.err and "{" not in ran.err

    def test_it_tells_of_a_stream_that_broke(self, run, simulator):
        secret = new_secret() + "-cut"
        make_key(secret=secret)
        ran = ask(run, "--stream")
        assert ran.code == 1
        assert ran.out.strip()  # what had come
        assert ran.err and secret not in ran.err
        assert UsageRecord.objects.get().state == "LOST"

    def test_it_prints_a_last_event_without_its_empty_line(self, run, provider):
        make_key()
        provider.post(OPENROUTER, Pieces(delta("Hel") + b"\n\n", delta("lo", finish_reason="stop") + b"\n"))
        ran = ask(run, "--stream")
        assert (ran.code, ran.out) == (0, "Hello\n")

    def test_it_tells_of_an_error_in_a_last_event_without_its_empty_line(self, run, provider):
        make_key()
        provider.post(
            OPENROUTER, Pieces(delta("Hel") + b"\n\n", b'data: {"error":{"code":503,"message":"Overloaded"}}')
        )
        ran = ask(run, "--stream")
        assert (ran.code, ran.out) == (1, "Hel\n")
        assert ran.err.startswith("Overloaded")

    def test_it_prints_a_stream_that_it_did_not_ask_for(self, run, provider):
        make_key()
        provider.post(OPENROUTER, Pieces(delta("Hel") + b"\n\n" + delta("lo", finish_reason="stop")))
        ran = ask(run)
        assert (ran.code, ran.out) == (0, "Hello\n")

    def test_it_refuses_a_limit_that_no_provider_takes(self, run, simulator):
        make_key()
        ran = run("chat", "hello", "--max-tokens", "-5")
        assert (ran.code, ran.out) == (1, "")
        assert ran.err == "--max-tokens must be at least 1."
        assert not UsageRecord.objects.exists()
