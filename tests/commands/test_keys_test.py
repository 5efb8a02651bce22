from __future__ import annotations

import json

import pytest

from llmkeys.models import ApiKey
from tests.helpers import make_key, new_secret

pytestmark = pytest.mark.django_db


class TestKeysTest:
    def test_it_says_that_the_key_works(self, run, simulator):
        make_key(name="Production", secret=new_secret())
        ran = run("keys", "test", "Production")
        assert ran.code == 0
        assert ran.out.startswith("“Production”: Key tested successfully") and " ms)" in ran.out

    def test_it_ends_with_1_where_the_provider_rejects_the_key(self, run, simulator):
        make_key(name="Production", secret=new_secret() + "-401")
        ran = run("keys", "test", "Production")
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.startswith("“Production”: ")
        assert ApiKey.objects.get().rejected_at is not None

    def test_it_repeats_no_secret_that_the_provider_echoes(self, run, simulator):
        secret = new_secret() + "-echo"
        make_key(name="Production", secret=secret)
        ran = run("keys", "test", "Production", "--json")
        assert ran.code == 1
        assert json.loads(ran.out)["success"] is False
        assert secret not in ran.out + ran.err

    def test_it_says_that_nobody_answers(self, run, simulator):
        simulator.stop()
        make_key(name="Production")
        ran = run("keys", "test", "Production")
        assert ran.code == 1 and "“Production”" in ran.err

    def test_it_prints_json(self, run, simulator):
        make_key(name="Production")
        shown = json.loads(run("keys", "test", "Production", "--json").out)
        assert (shown["success"], shown["message"]) == (True, "Key tested successfully")
        assert shown["latencyMs"] >= 0 and isinstance(shown["details"], dict)
