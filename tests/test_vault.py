"""The master keys in force: made once, read at need, never made anew where secrets are stored."""

from __future__ import annotations

import os
import stat

import pytest

from llmkeys.exceptions import DataDirectoryProblem, SecretMissing, WrongEncryptionKey
from llmkeys.keys.environment import register_environment_keys
from llmkeys.models import ApiKey
from llmkeys.vault import keyring
from tests.helpers import NOW, make_key, new_secret

pytestmark = pytest.mark.django_db

OTHER = "another master key, long enough"


@pytest.fixture(autouse=True)
def directory(settings, tmp_path):
    settings.DATA_DIR = tmp_path
    return tmp_path


def test_it_opens_what_it_stored():
    secret = new_secret()
    key = make_key(secret=secret)
    assert secret.encode() not in bytes(key.secret)
    assert keyring.open_secret(key) == secret


def test_it_makes_a_private_key_file(directory):
    make_key()
    file = directory / "encryption.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    make_key()
    assert file.read_text() == before


def test_it_makes_no_new_file_where_secrets_are_stored(directory):
    key = make_key()
    (directory / "encryption.key").unlink()
    for refused in (lambda: keyring.open_secret(key), lambda: make_key(), keyring.verify):
        with pytest.raises(WrongEncryptionKey, match="Put back the file"):
            refused()
    assert list(directory.iterdir()) == []


def test_it_sees_a_file_that_was_put_back(directory):
    secret = new_secret()
    key, file = make_key(secret=secret), directory / "encryption.key"
    text = file.read_text()
    file.write_text(OTHER)
    os.utime(file, (1, 1))
    with pytest.raises(WrongEncryptionKey):
        keyring.open_secret(key)
    file.write_text(text)
    assert keyring.open_secret(key) == secret


def test_an_empty_file_is_told(directory):
    make_key()
    (directory / "encryption.key").write_text("")
    with pytest.raises(WrongEncryptionKey, match="is empty"):
        keyring.keyring()


def test_a_file_that_cannot_be_read_is_told(directory):
    (directory / "encryption.key").mkdir()
    with pytest.raises(DataDirectoryProblem, match="cannot be used"):
        keyring.keyring()


def test_keys_of_the_environment_go_before_the_file(directory, settings):
    settings.REFACTAI_ENCRYPTION_KEYS = [OTHER]
    make_key()
    assert list(directory.iterdir()) == []


def test_it_stores_nothing_while_it_is_sealed(settings):
    key = make_key(name="Production")
    settings.REFACTAI_ENCRYPTION_KEYS = [OTHER]
    with pytest.raises(WrongEncryptionKey, match="Affected: “Production”"):
        make_key()
    assert list(ApiKey.objects.values_list("pk", flat=True)) == [key.pk]


def test_the_first_key_encrypts_and_all_open(settings, directory):
    secret = new_secret()
    key = make_key(secret=secret)
    settings.REFACTAI_ENCRYPTION_KEYS = [OTHER, (directory / "encryption.key").read_text().strip()]
    assert keyring.open_secret(key) == secret
    newer = make_key()
    settings.REFACTAI_ENCRYPTION_KEYS = [OTHER]
    assert keyring.open_secret(newer)


def test_a_secret_copied_to_another_row_does_not_open():
    one, two = make_key(), make_key()
    two.secret = one.secret
    with pytest.raises(WrongEncryptionKey):
        keyring.open_secret(two)


def test_a_key_without_a_secret_is_told():
    key = make_key(secret=new_secret())
    key.secret = b""
    with pytest.raises(SecretMissing, match="has no secret"):
        keyring.open_secret(key)


def test_an_environment_keys_secret_is_never_stored(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "e" * 40)
    (key,) = register_environment_keys(at=NOW)
    assert (bytes(key.secret), key.fingerprint) == (b"", None)
    assert keyring.open_secret(key) == "sk-proj-" + "e" * 40
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(SecretMissing, match="OPENAI_API_KEY is not set any more"):
        keyring.open_secret(key)
