"""A conversation that carries sealed thoughts stays with the key that wrote them, or with its billing group.

So does one that continues an answer which its provider has stored.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmkeys.models import ApiKey, KeyEvent
from llmkeys.relay.conversations import REASON
from tests.gateway.door import Pieces, event, rows
from tests.helpers import make_key, new_secret
from tests.spoken import SPOKEN, Spoken, values

THINKS = "[[reasoning_tokens=5]] Think."
WISHES: dict[str, dict[str, Any]] = {
    "responses": {"include": ["reasoning.encrypted_content"], "store": False},
    "messages": {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000},
}
both_dialects = pytest.mark.parametrize("name", list(WISHES))


class Conversation:
    """Turns of one conversation; each brings the sealed thoughts of the one before."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name, self.spoken = client, name, SPOKEN[name]
        self.said: list[dict[str, Any]] = []

    def turn(self, *, stream: bool = False) -> Any:
        """Send the next turn; return the usage row of the attempt that served it, or was refused."""
        user = {"role": "user", "content": THINKS}
        field = "input" if self.name == "responses" else "messages"
        more = WISHES[self.name] | {field: [*self.said, user]}
        body = self.spoken.asked(stream=stream, **more)
        answer = self.client.post(self.spoken.path(), json.dumps(body))
        self.status = answer.status_code
        if answer.status_code == 200:
            self.said += [user, *self.brought(answer.content)]
        return rows()[-1]

    def brought(self, answer: bytes) -> list[dict[str, Any]]:
        """Return the items that the client keeps of an answer, whole or streamed."""
        found = values(answer)
        if self.name == "responses":
            return found[-1].get("response", found[-1])["output"]
        blocks = found[0].get("content")
        if blocks is None:
            deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
            signature = next(delta["signature"] for delta in deltas if "signature" in delta)
            blocks = [{"type": "thinking", "thinking": "simulated thinking", "signature": signature}]
        return [{"role": "assistant", "content": blocks}]


def make_pair(spoken: Spoken, **second: Any) -> tuple[ApiKey, ApiKey]:
    """Store the default key, which cannot serve for now, and the key that begins the conversation."""
    first = make_key(provider=spoken.provider, name="First", enabled=False)
    return first, make_key(provider=spoken.provider, name="Second", **second)


def enable(key: ApiKey, *, enabled: bool = True) -> None:
    ApiKey.objects.filter(pk=key.pk).update(enabled=enabled)


@both_dialects
@pytest.mark.parametrize("stream", [False, True])
def test_it_stays_with_its_key(client: Any, simulator: Any, name: str, stream: bool) -> None:
    first, second = make_pair(SPOKEN[name])
    conversation = Conversation(client, name)
    assert conversation.turn(stream=stream).key_id == second.id
    enable(first)
    row = conversation.turn(stream=stream)
    assert (conversation.status, row.key_id) == (200, second.id)
    assert row.skipped == [{"keyId": first.id, "reason": REASON}]
    assert Conversation(client, name).turn(stream=stream).key_id == first.id


@both_dialects
def test_it_goes_to_the_billing_group_of_its_key(client: Any, simulator: Any, name: str) -> None:
    provider = SPOKEN[name].provider
    first, second = make_pair(SPOKEN[name], billing_group="team", secret=f"{new_secret(provider)}-org-team-ok")
    mate = make_key(
        provider=provider, name="Mate", billing_group="team", secret=f"{new_secret(provider)}-org-team-ok", priority=900
    )
    conversation = Conversation(client, name)
    assert conversation.turn().key_id == second.id
    enable(first)
    enable(second, enabled=False)
    row = conversation.turn()
    assert (conversation.status, row.key_id) == (200, mate.id)
    assert {"keyId": first.id, "reason": REASON} in row.skipped
    assert {"keyId": second.id, "reason": "disabled"} in row.skipped


@both_dialects
def test_it_is_a_preference_and_no_condition(client: Any, simulator: Any, name: str) -> None:
    first, second = make_pair(SPOKEN[name])
    conversation = Conversation(client, name)
    conversation.turn()
    enable(first)
    enable(second, enabled=False)
    assert conversation.turn().key_id == first.id
    assert conversation.status == 400  # the provider's own words: another organisation wrote the thoughts


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_turn_goes_to_the_key_whose_answer_it_continues(client: Any, provider: Any, stream: bool) -> None:
    first, second = make_pair(SPOKEN["responses"])
    made = {"id": "resp_1", "object": "response", "status": "completed", "store": True, "output": [], "usage": None}
    told = [{"type": kind, "response": made} for kind in ("response.created", "response.completed")]
    answer = Pieces(*map(event, told)) if stream else Pieces.whole(json=made)
    provider.post("https://api.openai.com/v1/responses", answer)

    def turn(**more: Any) -> Any:
        answer = client.post("/v1/responses", json.dumps(SPOKEN["responses"].asked(stream=stream) | more))
        assert answer.status_code == 200 and answer.content
        return rows()[-1]

    assert turn().key_id == second.id
    enable(first)
    row = turn(previous_response_id="resp_1")
    assert (row.key_id, row.skipped) == (second.id, [{"keyId": first.id, "reason": REASON}])
    assert turn(previous_response_id="resp_of_others").key_id == turn().key_id == first.id


def test_it_leaves_no_event_of_rotation_behind(client: Any, simulator: Any) -> None:
    first, _ = make_pair(SPOKEN["messages"])
    old, new = Conversation(client, "messages"), Conversation(client, "messages")
    old.turn()
    enable(first)
    new.turn()
    before = KeyEvent.objects.count()
    for conversation in (old, new, old, new):
        conversation.turn()
    assert KeyEvent.objects.count() == before


def test_it_knows_no_thoughts_of_others(client: Any, simulator: Any) -> None:
    first, second = make_pair(SPOKEN["messages"])
    enable(first)
    conversation = Conversation(client, "messages")
    block = {"type": "thinking", "thinking": "x", "signature": "written elsewhere"}
    conversation.said = [{"role": "user", "content": "x"}, {"role": "assistant", "content": [block]}]
    row = conversation.turn()
    assert (row.key_id, row.skipped) == (first.id, [])
    assert second.id != first.id
