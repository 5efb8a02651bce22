"""`reencrypt`: every secret under the first key, or listed and left alone."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import ExitStack

import pytest

from llmkeys.exceptions import DuplicateSecret, WrongEncryptionKey
from llmkeys.keys.adding import delete_key, update_key
from llmkeys.models import ApiKey
from llmkeys.vault import keyring, keys_in_use, reencryption
from tests.helpers import NOW, make_key, new_secret

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

OLD, NEW, LOST = "the old master key, long enough", "the new master key, long enough", "a lost master key, long enough"


@pytest.fixture(autouse=True)
def directory(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    settings.REFACTAI_ENCRYPTION_KEYS = [OLD]
    yield tmp_path
    if keys_in_use._open_file:
        keys_in_use._open_file.close()


@pytest.fixture
def rotate(settings):
    def call(*keys: str) -> None:
        settings.REFACTAI_ENCRYPTION_KEYS = list(keys or (NEW, OLD))

    return call


def test_it_puts_every_secret_under_the_first_key(run, rotate):
    secrets = {make_key(provider=provider, secret=secret).pk: secret for provider, secret in some_secrets()}
    rotate()
    ran = run("reencrypt")
    assert ran.code == 0 and "3 secrets re-encrypted, 0 already under the first key." in ran.out
    rotate(NEW)
    assert {key.pk: keyring.open_secret(key) for key in ApiKey.objects.all()} == secrets
    rotate(OLD)
    with pytest.raises(WrongEncryptionKey):
        keyring.verify()


def some_secrets() -> list[tuple[str, str]]:
    return [(provider, new_secret(provider)) for provider in ("openrouter", "openai", "google")]


def test_it_recomputes_fingerprints(run, rotate):
    secret = new_secret()
    key = make_key(secret=secret)
    rotate()
    run("reencrypt")
    rotate(NEW)
    key.refresh_from_db()
    assert key.fingerprint == keyring.fingerprint(secret, provider=key.provider)
    with pytest.raises(DuplicateSecret):
        make_key(secret=secret)


def test_it_changes_nothing_the_second_time(run, rotate):
    make_key()
    rotate()
    run("reencrypt")
    before = list(ApiKey.objects.values_list("secret", "fingerprint", "updated_at"))
    ran = run("reencrypt", "--json")
    assert json.loads(ran.out) == {"ok": True, "changed": 0, "current": 1, "leftAlone": []}
    assert list(ApiKey.objects.values_list("secret", "fingerprint", "updated_at")) == before


@pytest.mark.parametrize("keys", [(NEW, OLD), (OLD, NEW)], ids=["new first", "old first"])
def test_a_secret_is_found_under_either_key_half_way(rotate, keys):
    one, two = new_secret(), new_secret()
    make_key(name="One", secret=one)
    rotate(NEW)
    ApiKey.objects.update(enabled=True)
    rotate(NEW, OLD)
    make_key(name="Two", secret=two)  # under the new key, the other one still under the old
    rotate(*keys)
    for name, secret in (("One", one), ("Two", two)):
        with pytest.raises(DuplicateSecret, match=name):
            make_key(secret=secret)
        with pytest.raises(DuplicateSecret, match=name):
            update_key(make_key(), values={"apiKey": secret}, at=NOW)


def test_it_lists_what_does_not_open_and_leaves_it_alone(run, rotate):
    rotate(LOST)
    lost = make_key(name="Lost")
    before = bytes(lost.secret), lost.fingerprint
    rotate(OLD)
    ApiKey.objects.filter(pk=lost.pk).update(enabled=False)
    good = ApiKey(pk="key-1-1", provider="openai", name="Good", day=NOW.date(), month=NOW.date().replace(day=1))
    good.secret = keyring.seal_one_of_many("sk-proj-good", row_id=good.pk)
    good.save()
    rotate()
    ran = run("reencrypt")
    assert ran.code == 1 and "1 secret could not be re-encrypted" in ran.err
    assert lost.id in ran.out and "Lost" in ran.out and "No key in REFACTAI_ENCRYPTION_KEYS decrypts it" in ran.out
    lost.refresh_from_db()
    assert (bytes(lost.secret), lost.fingerprint) == before
    rotate(NEW)
    assert keyring.open_secret(ApiKey.objects.get(pk=good.pk)) == "sk-proj-good"
    shown = json.loads(run("reencrypt", "--json").out)
    assert (shown["ok"], [one["keyName"] for one in shown["leftAlone"]]) == (False, ["Lost"])


def test_it_does_not_overwrite_what_somebody_changed_meanwhile(rotate, monkeypatch):
    key, newer = make_key(secret=new_secret()), new_secret()
    rotate()
    reseal, calls = keyring.reseal, []

    def slowly(stored, *arguments, **options):
        sealed = reseal(stored, *arguments, **options)
        if not calls:
            update_key(key, values={"apiKey": newer}, at=NOW)
        calls.append(stored)
        return sealed

    monkeypatch.setattr(keyring, "reseal", slowly)
    reencryption.reencrypt()
    key.refresh_from_db()
    assert keyring.open_secret(key) == newer and len(calls) == 2


def test_a_key_that_is_deleted_meanwhile_stays_wiped(rotate, monkeypatch):
    key = make_key()
    rotate()
    reseal = keyring.reseal

    def slowly(*arguments, **options):
        sealed = reseal(*arguments, **options)
        delete_key(key, at=NOW)
        return sealed

    monkeypatch.setattr(keyring, "reseal", slowly)
    assert reencryption.reencrypt().changed == 0
    key.refresh_from_db()
    assert (bytes(key.secret), key.fingerprint) == (b"", None)


class TestRunningServer:
    def test_it_refuses_to_lock_out_a_server_that_has_only_the_old_key(self, run, rotate):
        key = make_key()
        before = bytes(key.secret)
        keys_in_use.announce()
        rotate()
        ran = run("reencrypt")
        assert ran.code == 1 and "does not have the first encryption key" in ran.err
        key.refresh_from_db()
        assert bytes(key.secret) == before

    def test_it_goes_on_beside_one_that_has_both(self, run, rotate):
        make_key()
        rotate()
        keys_in_use.announce()
        assert run("reencrypt").code == 0

    def test_it_clears_away_what_a_dead_server_left(self, run, rotate, directory):
        (directory / "server-1.keys").write_text('{"pid": 1, "keys": []}')
        rotate()
        assert run("reencrypt").code == 0
        assert not (directory / "server-1.keys").exists()

    @pytest.mark.parametrize("command", ["lists the servers", "is about to list them"])
    def test_a_command_at_the_same_moment_does_not_disturb_its_start(self, monkeypatch, directory, command):
        create, seen = keys_in_use.create_private_file, ExitStack()

        def watched(path, content):
            create(path, content)
            if command == "lists the servers":
                assert list(keys_in_use.running()) == []
            else:
                for file in directory.glob("server-*.keys"):
                    fcntl.flock(seen.enter_context(file.open()), fcntl.LOCK_SH)

        monkeypatch.setattr(keys_in_use, "create_private_file", watched)
        with seen:
            keys_in_use.announce()
        assert [server["pid"] for server in keys_in_use.running()] == [os.getpid()]
        assert [file.name for file in directory.glob(".server-*")] == []

    def test_two_containers_on_one_directory_may_have_the_same_process_id(self):
        keys_in_use.announce()
        with keys_in_use._open_file:
            keys_in_use.announce()
            assert [server["pid"] for server in keys_in_use.running()] == [os.getpid(), os.getpid()]

    def test_a_server_with_the_key_file_follows_it(self, run, rotate, directory, settings):
        settings.REFACTAI_ENCRYPTION_KEYS = []
        make_key()
        keys_in_use.announce()
        file = directory / "encryption.key"
        old = file.read_text().strip()
        rotate(NEW, old)
        assert "does not have the first encryption key" in run("reencrypt").err
        file.write_text(f"{NEW}\n{old}\n")
        settings.REFACTAI_ENCRYPTION_KEYS = []
        ran = run("reencrypt")
        assert ran.code == 0 and "1 secret re-encrypted" in ran.out
