from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from llmkeys.models import Alert
from tests.helpers import NOW, make_key
from tests.serving import manage
from tests.targets import SECRET, Target

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]


@pytest.fixture
def target(settings) -> Iterator[Target]:
    target = Target()
    settings.ALERT_URLS = [target.url]
    yield target
    target.close()


class TestTest:
    def test_it_sends_to_every_target(self, run, target):
        ran = run("alert", "--test")
        assert (ran.code, ran.out) == (0, f"{target.name}  delivered\n")
        assert target.heard[0]["title"] == "RefactAI: test alert"
        assert "alerts of RefactAI LLM key management arrive here" in target.heard[0]["message"]

    def test_it_ends_with_1_where_one_target_did_not_get_it(self, run, target, settings):
        other = Target()
        other.status = 401
        settings.ALERT_URLS = [target.url, other.url]
        ran = run("alert", "--test")
        assert ran.code == 1
        assert ran.out.splitlines()[0] == f"{target.name}  delivered"
        assert ran.out.splitlines()[1].startswith(f"{other.name}  failed: ")
        assert ran.err.startswith("1 of 2 targets did not receive the test alert.")
        assert SECRET not in ran.out + ran.err
        other.close()

    def test_two_targets_of_one_server_are_told_apart(self, run, target, settings):
        settings.ALERT_URLS = [target.url, f"{target.url}/second"]
        assert run("alert", "--test").out.splitlines() == [
            f"{target.name}  delivered", f"{target.name} (2)  delivered",
        ]  # fmt: skip

    def test_it_prints_json(self, run, target):
        shown = json.loads(run("alert", "--test", "--json").out)
        assert shown == {"ok": True, "targets": [{"target": target.name, "delivered": True, "error": ""}]}

    def test_it_says_how_to_set_a_target_where_there_is_none(self, run):
        ran = run("alert", "--test")
        assert (ran.code, ran.out) == (1, "")
        assert "REFACTAI_ALERT_URLS=mailtos://" in ran.err

    def test_it_is_no_open_alert(self, run, target):
        run("alert", "--test")
        assert not Alert.objects.filter(seen_at=None).exists()


class TestList:
    def test_it_lists_the_newest_first(self, run):
        Alert.objects.create(kind="no_key_left", message="older", created_at=NOW)
        Alert.objects.create(kind="key_rejected", message="newer", created_at=NOW, key=make_key())
        lines = run("alert").out.splitlines()
        assert lines[1].split("  ") == ["2026-11-23 20:30 UTC", "Key rejected", "waiting to be sent", "newer"]
        assert lines[2].endswith("older")
        assert len(run("alert", "--limit", "1").out.splitlines()) == 2

    def test_it_lists_them_as_json(self, run):
        key = make_key()
        Alert.objects.create(kind="key_rejected", message="Look.", created_at=NOW, key=key, sent_at=NOW)
        (shown,) = json.loads(run("alert", "--json").out)
        assert shown.pop("id")
        assert shown == {
            "kind": "key_rejected",
            "keyId": key.id,
            "message": "Look.",
            "createdAt": "2026-11-23T20:30:00Z",
            "deliveredAt": None,
            "delivery": "dashboard only",
            "seen": False,
        }

    def test_it_says_that_there_are_none(self, run):
        assert run("alert").out == "No alerts yet.\n"

    def test_it_wants_a_number(self, run):
        for odd in ("0", "99999999999999999999"):
            ran = run("alert", "--limit", odd)
            assert (ran.code, ran.err) == (1, "--limit must be between 1 and 999,999,999.")


class TestConfiguration:
    @pytest.mark.parametrize(
        ("urls", "words"),
        [
            (f"{SECRET},slack://x", "target 1 of 2 is not a notification address."),
            (f"json://127.0.0.1:9/{SECRET}, nonsense://{SECRET}", "target 2 of 2 is not an address"),
        ],
    )
    def test_a_target_that_is_none_is_named_by_its_place(self, tmp_path, urls, words):
        ran = manage(tmp_path, "check", REFACTAI_ALERT_URLS=urls)
        assert ran.returncode == 1
        assert f"REFACTAI_ALERT_URLS: {words}" in ran.stderr
        assert "For example REFACTAI_ALERT_URLS=mailtos://" in ran.stderr
        assert SECRET not in ran.stderr + ran.stdout

    def test_an_address_may_hold_a_comma(self, monkeypatch):
        from refactai_site import env

        monkeypatch.setenv("REFACTAI_ALERT_URLS", f"mailtos://u:p@example.com?to=a@b.org,c@d.org , json://{SECRET}")
        found = env.alert_urls("REFACTAI_ALERT_URLS")
        assert found == ["mailtos://u:p@example.com?to=a@b.org,c@d.org", f"json://{SECRET}"]
        assert repr(found) == "['***', '***']"
