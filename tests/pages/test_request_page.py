"""GET /llm-settings/usage/{request id}, and the button that takes a lost charge back."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, Adjustment, ApiKey
from tests.helpers import NOW, make_account, make_key, make_usage
from tests.pages.helpers import logged_in, messages_of, text_of

pytestmark = pytest.mark.django_db
PATH = "/llm-settings/usage"


@pytest.fixture(autouse=True)
def _present(frozen):
    """Every page of this file is asked for at `NOW`."""


def page_of(client, request_id: str) -> str:
    answer = client.get(f"{PATH}/{request_id}")
    assert answer.status_code == 200
    return answer.content.decode()


def make_lost(**columns):
    row = make_usage(
        make_key(name="Production"), state="LOST", success=False, cost_nano=NANO, hold_nano=NANO,
        cost_source="estimated", http_status=None, error="The provider was silent for 120 s.", **columns,
    )  # fmt: skip
    ApiKey.objects.filter(pk=row.key_id).update(
        spent_day_nano=NANO, spent_month_nano=NANO, spent_total_nano=NANO, day=row.day, month=row.month
    )
    return row


class TestPage:
    def test_it_tells_each_attempt_and_why_this_key(self, operator):
        first, second, third = (make_key(name=name) for name in ("Production", "Research", "Batch"))
        make_usage(
            first, request_id="req_1", state="RELEASED", success=False, cost_nano=0, cost_source="", http_status=429,
            error="Rate limit reached <b>60</b>", input_tokens=None, output_tokens=None,
        )  # fmt: skip
        make_usage(
            second, request_id="req_1", attempt=2, cost_nano=13_100_000, hold_nano=245_800_000, reasoning_tokens=7,
            cached_input_tokens=90, latency_ms=2410, first_byte_ms=380, upstream_id="gen-1", streamed=False,
            skipped=[
                {"keyId": first.id, "reason": "rate limited"},
                {"keyId": third.id, "reason": "daily budget: needs $0.25, $0.10 left"},
            ],
        )  # fmt: skip
        page = page_of(operator, "req_1")
        text = text_of(page)
        for words in (
            "Attempt 1 · Production", "“Production” was first in the serving order and had room.",
            "$0.50 was held and given back: nothing was charged", "Attempt 2 · Research",
            "Production hit its rate limit in this request", "Batch – daily budget: needs $0.25, $0.10 left",
            "$0.01 of $0.25 held", "100, 90 cached", "20, 7 reasoning", "2.41 s, first byte 0.38 s",
            "reported by the provider", "Rate limit reached <b>60</b>", "gen-1", "Answer succeeded", "Cost $0.01",
        ):  # fmt: skip
            assert words in text, words
        assert "<b>60</b>" not in page

    def test_it_says_why_a_key_is_tried_again(self, operator):
        key = make_key(name="Production")
        make_usage(key, request_id="req_1", state="RELEASED", success=False, cost_nano=0)
        make_usage(key, request_id="req_1", attempt=2)
        assert "“Production” was tried again" in text_of(page_of(operator, "req_1"))

    def test_it_says_that_the_key_of_the_next_model_was_the_first_for_it(self, operator):
        make_usage(make_key(name="Production"), request_id="req_1", state="RELEASED", success=False, cost_nano=0)
        make_usage(make_key(name="Other"), request_id="req_1", attempt=2, model="m2")
        text = text_of(page_of(operator, "req_1"))
        assert "“Other” was first in the serving order" in text and "tried again" not in text
        text = text_of(operator.get("/llm-settings/usage").content.decode())
        assert "First in line attempt 2 of 2" in text and "Tried again" not in text

    def test_it_shows_an_open_hold(self, operator):
        make_usage(
            make_key(), request_id="req_1", state="HELD", success=None, cost_nano=0, lease_until=NOW, finished_at=None,
            cost_source="",
        )  # fmt: skip
        page = page_of(operator, "req_1")
        assert (
            "$0.50 held until the answer arrives" in page and 'width="100.00%" height="100%" fill="url(#hatch)"' in page
        )
        assert "in progress" in page

    def test_it_tells_the_headers_as_far_as_they_are_known(self, operator):
        key = make_key(name="Production")
        make_usage(key, request_id="whole", cost_nano=1200)
        make_usage(key, request_id="stream", streamed=True)
        make_usage(key, request_id="lost", state="LOST", success=False)
        make_usage(key, request_id="own", state="RELEASED", success=None, cost_nano=0, http_status=400)
        names = {
            name: re.findall(r"<dt>(X-LLM-[\w-]+)</dt>", page_of(operator, name))
            for name in ("whole", "stream", "lost", "own")
        }
        always = ["X-LLM-Request-Id", "X-LLM-Key-Id", "X-LLM-Attempts"]
        assert names == {
            "whole": [*always, "X-LLM-Cost-USD"], "stream": always, "own": always,
            "lost": ["X-LLM-Request-Id", "X-LLM-Attempts"],
        }  # fmt: skip
        assert "0.000001200" in page_of(operator, "whole")

    def test_it_tells_that_the_output_limit_was_lowered(self, operator):
        key = make_key()
        make_usage(key, request_id="fitted", max_tokens=4096)
        make_usage(key, request_id="failed", max_tokens=4096, state="RELEASED", success=False, cost_nano=0)
        make_usage(key, request_id="plain")
        text = text_of(page_of(operator, "fitted"))
        assert "Output limit, lowered to fit 4,096 tokens" in text
        assert "X-LLM-Attempts 1 X-LLM-Max-Tokens 4096 X-LLM-Cost-USD" in text
        text = text_of(page_of(operator, "failed"))
        assert "lowered to fit 4,096 tokens" in text and "X-LLM-Max-Tokens" not in text
        text = text_of(page_of(operator, "plain"))
        assert "lowered to fit" not in text and "X-LLM-Max-Tokens" not in text

    def test_it_counts_corrections_into_the_cost(self, operator):
        row = make_lost(request_id="req_1")
        Adjustment.objects.create(
            kind="late", key=row.key, usage=row, day_nano=-NANO // 4, month_nano=-NANO // 4, total_nano=-NANO // 4,
            cost_nano=-NANO // 4, day=row.day, month=row.month, reason="The true cost arrived.",
        )  # fmt: skip
        text = text_of(page_of(operator, "req_1"))
        assert "Cost $0.75" in text and "True cost arrived late" in text and "-$0.25" in text

    def test_it_says_who_sent_it_and_links_to_that_token_alone(self, operator, administrator):
        key, (first, _), (second, _) = make_key(), make_account(administrator), make_account(administrator)
        AccessToken.objects.filter(pk=second.pk).update(name=f"{first.pk}")
        for token, name in ((first, "a"), (second, f"{first.pk}"), (None, "admin"), (None, "of 0.1.0")):
            make_usage(key, request_id=f"req_{name}", token=token, token_name=name)
        page = page_of(operator, f"req_{first.pk}")
        assert f"by token {first.pk} " in text_of(page)
        link = re.search(r'by token <a href="([^"]*)"', page)[1]
        assert re.findall(r'"model" href="/llm-settings/usage/([^"]+)"', operator.get(link).content.decode()) == [
            f"req_{first.pk}"
        ]
        assert "· by user admin" in text_of(page_of(operator, "req_admin"))
        assert "· by token of 0.1.0" in text_of(page_of(operator, "req_of 0.1.0"))

    def test_it_bears_a_list_of_reasons_that_makes_no_sense(self, operator):
        for number, skipped in enumerate(("text", {"a": 1}, [1, None], [{}], [{"keyId": None}])):
            make_usage(make_key(), request_id=f"req_{number}", skipped=skipped)
            page_of(operator, f"req_{number}")
        assert operator.get(PATH).status_code == 200

    def test_it_shows_no_secret(self, operator):
        secret = "sk-or-v1-" + "ab12" * 16
        make_usage(make_key(secret=secret), request_id="req_1")
        assert secret not in page_of(operator, "req_1") and secret[:-4] not in page_of(operator, "req_1")

    def test_its_queries_do_not_grow(self, operator, django_assert_max_num_queries):
        key = make_key()
        for attempt in range(1, 9):
            make_usage(key, request_id="req_1", attempt=attempt, skipped=[{"keyId": key.id, "reason": "cooling"}])
        with django_assert_max_num_queries(6):  # session, user, rows, adjustments, names, one more of the frame
            page_of(operator, "req_1")

    @pytest.mark.parametrize("request_id", ["req_gone", "%00", "a" * 400, "%3Cscript%3E", "1795"])
    def test_it_knows_no_other_request(self, operator, request_id):
        answer = operator.get(f"{PATH}/{request_id}")
        assert answer.status_code == 404 and "No such request" in answer.content.decode()

    def test_it_needs_the_right_to_see_usage(self, with_rights):
        make_usage(make_key(), request_id="req_1")
        assert with_rights("view_apikey").get(f"{PATH}/req_1").status_code == 403
        assert with_rights("view_usagerecord").get(f"{PATH}/req_1").status_code == 200
        assert Client().get(f"{PATH}/req_1").headers["Location"].startswith("/login")


class TestVoid:
    def void(self, client, number: int, **fields: str):
        return client.post(f"{PATH}/{number}/void", fields, follow=True)

    def test_it_takes_the_charge_back_with_who_and_why(self, operator):
        row = make_lost(request_id="req_1")
        answer = self.void(operator, row.pk, reason="Not on the bill.\0")
        assert messages_of(answer) == ["$1.00 was taken back; the key can spend it again."]
        adjustment = Adjustment.objects.get(usage=row)
        assert (adjustment.kind, adjustment.created_by, adjustment.reason) == ("void", "admin", "Not on the bill.")
        assert ApiKey.objects.get(pk=row.key_id).spent_total_nano == 0
        text = text_of(answer.content.decode())
        assert "Cost $0.00" in text and "Taken back" in text and "by admin: Not on the bill." in text
        assert "Take $1.00 back" not in text

    def test_it_does_so_once(self, operator):
        row = make_lost(request_id="req_1")
        self.void(operator, row.pk)
        assert "already been taken back" in messages_of(self.void(operator, row.pk))[0]
        assert Adjustment.objects.count() == 1

    def test_it_refuses_another_state_in_words(self, operator):
        row = make_usage(make_key(), request_id="req_1")
        assert "Only the charge of a LOST" in messages_of(self.void(operator, row.pk))[0]
        assert "Take " not in page_of(operator, "req_1")

    def test_it_needs_its_right(self, with_rights):
        row = make_lost(request_id="req_1")
        reader = with_rights("view_usagerecord")
        assert self.void(reader, row.pk).status_code == 403 and "Take $1.00 back" not in page_of(reader, "req_1")
        assert Client().post(f"{PATH}/{row.pk}/void").headers["Location"].startswith("/login")
        assert not Adjustment.objects.exists()

    def test_it_demands_post_and_the_csrf_token(self, administrator):
        row, client = make_lost(request_id="req_1"), logged_in(administrator, enforce_csrf_checks=True)
        assert client.get(f"{PATH}/{row.pk}/void").headers["Location"] == PATH
        assert not Adjustment.objects.exists()
        assert client.post(f"{PATH}/{row.pk}/void").status_code == 403

    @pytest.mark.parametrize("number", [0, 2**62, 2**64, 10**30])
    def test_it_knows_no_other_row(self, operator, number):
        assert self.void(operator, number).status_code == 404
