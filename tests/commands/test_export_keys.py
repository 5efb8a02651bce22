"""`export_keys`: all keys in the format that `import_keys` reads; secrets only where they are asked for."""

from __future__ import annotations

import json
import stat
from datetime import timedelta

import pytest

from llmkeys import ledger
from llmkeys.key_state import current_windows
from llmkeys.keys.adding import delete_key
from llmkeys.keys.environment import register_environment_keys
from llmkeys.ledger import audit
from llmkeys.lib.money import NANO
from llmkeys.lib.windows import DAY, MONTH, TOTAL
from llmkeys.models import Adjustment, ApiKey, KeyEvent
from llmkeys.presentation import key_json
from llmkeys.vault import keyring
from tests.helpers import NOW, make_key, new_secret

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


def test_it_writes_no_secret_unless_asked(run, file):
    secret = new_secret()
    make_key(name="Production", secret=secret)
    assert run("export_keys", str(file)).code == 0
    assert secret not in file.read_text()
    (key,) = json.loads(file.read_text())
    assert key == json.loads(json.dumps(key_json(ApiKey.objects.get(), at=NOW)))
    ran = run("import_keys", str(file))
    assert ran.code == 1 and "Export again with --include-secrets" in ran.err


def test_it_writes_secrets_into_a_private_file(run, file):
    secret = new_secret()
    make_key(secret=secret)
    ran = run("export_keys", str(file), "--include-secrets")
    assert ran.code == 0 and secret not in ran.out
    assert json.loads(file.read_text())[0]["apiKey"] == secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_never_writes_a_secret_of_the_environment(run, file, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", secret := "sk-proj-" + "e" * 40)
    register_environment_keys(at=NOW)
    run("export_keys", str(file), "--include-secrets")
    assert secret not in file.read_text()
    assert "it is an environment key" in run("import_keys", str(file)).out


def test_it_replaces_a_file_only_by_force(run, file):
    file.write_text("mine")
    ran = run("export_keys", str(file))
    assert ran.code == 1 and "already exists" in ran.err and file.read_text() == "mine"
    assert run("export_keys", str(file), "--force").code == 0
    assert json.loads(file.read_text()) == []
    assert [one.name for one in file.parent.iterdir()] == ["keys.json"]


def test_it_says_where_it_cannot_write(run, tmp_path):
    ran = run("export_keys", str(tmp_path / "nowhere" / "keys.json"))
    assert ran.code == 1 and "cannot be written: No such file or directory" in ran.err


def test_it_leaves_deleted_keys_out(run, file):
    delete_key(make_key(), at=NOW)
    run("export_keys", str(file))
    assert json.loads(file.read_text()) == []


def every_kind_of_key() -> list[ApiKey]:
    """Keys in every state, with costs that are explained, and what people may write into the fields."""
    from django.db import connection

    keys = [
        make_key(name="Spent “today” ☃", description="wide", daily_limit_nano=NANO, last_used_at=NOW),
        make_key(name="Off", enabled=False, priority=-3, billing_group="team", last_error="told"),
        make_key(name="Rejected", rejected_at=NOW, last_error="401 User not found.", provider="openai"),
        make_key(name="Rejected and off", rejected_at=NOW, enabled=False, provider="google"),
        make_key(name="Expired", expires_at=NOW - timedelta(days=1), provider="anthropic", workspace_id="w-1"),
        make_key(name="Later", expires_at=NOW + timedelta(days=1), total_limit_nano=0),
    ]
    with connection.cursor() as cursor:
        for number, key in enumerate(keys):
            amounts = {DAY: NANO + 1, MONTH: 3 * NANO + 7, TOTAL: 123_456_789_012_345 + number}
            ledger.adjust(cursor, "audit", ledger.Account(ledger.KEYS, key.id), current_windows(NOW), amounts, NOW)
    counters = {"total_requests": 9, "successful_requests": 7, "failed_requests": 1, "last_used_at": NOW}
    counters["updated_at"] = NOW - timedelta(hours=3)
    ApiKey.objects.update(**counters)
    return keys


def everything() -> dict[str, dict]:
    return {
        key.id: key_json(key, at=NOW)
        | {"secret": keyring.open_secret(key), "rejected": key.rejected_at, "enabled": key.enabled}
        for key in ApiKey.objects.stored()
    }


@pytest.mark.django_db(transaction=True)  # the audit reads on a connection of its own
def test_an_empty_database_gets_everything_back(run, file):
    every_kind_of_key()
    before = everything()
    run("export_keys", str(file), "--include-secrets")
    KeyEvent.objects.all().delete()
    Adjustment.objects.all().delete()
    ApiKey.objects.all().delete()
    ran = run("import_keys", str(file))
    assert ran.code == 0 and "6 keys imported, 0 skipped." in ran.out, ran.err
    assert everything() == before
    report = audit.audit()
    assert (report.keys, report.differences) == (6, [])
    run("export_keys", str(file.with_name("again.json")), "--include-secrets")
    assert file.read_text() == file.with_name("again.json").read_text()
