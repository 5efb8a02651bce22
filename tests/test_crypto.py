"""Secrets at rest: what was encrypted comes back, anything else is refused, and nothing shows a secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkeys.vault.crypto import (
    DecryptionFailed,
    Keyring,
    MasterKey,
    mask,
    new_access_token,
    new_master_key,
    token_digest,
)

ONE, TWO = MasterKey("the first master key of all"), MasterKey("the second master key of all")
RING = Keyring((ONE,))


@given(st.text(max_size=200).filter(lambda text: text.isprintable()))
def test_it_gives_back_what_was_encrypted(plain):
    assert RING.decrypt(RING.encrypt(plain, row_id="key-1"), row_id="key-1") == plain


def test_it_never_encrypts_twice_alike():
    assert RING.encrypt("secret", row_id="key-1") != RING.encrypt("secret", row_id="key-1")


def test_it_does_not_open_for_another_row():
    with pytest.raises(DecryptionFailed):
        RING.decrypt(RING.encrypt("secret", row_id="key-1"), row_id="key-2")


def test_it_does_not_open_with_another_key():
    with pytest.raises(DecryptionFailed):
        Keyring((TWO,)).decrypt(RING.encrypt("secret", row_id="key-1"), row_id="key-1")


def test_the_first_key_encrypts_and_all_decrypt():
    stored = RING.encrypt("secret", row_id="key-1")
    both = Keyring((TWO, ONE))
    assert both.decrypt(stored, row_id="key-1") == "secret"
    assert Keyring((TWO,)).decrypt(both.encrypt("secret", row_id="key-1"), row_id="key-1") == "secret"


@pytest.mark.parametrize("at", range(0, 43, 3))
def test_no_changed_byte_goes_unnoticed(at):
    stored = bytearray(RING.encrypt("secret", row_id="key-1"))
    stored[at % len(stored)] ^= 1
    with pytest.raises(DecryptionFailed):
        RING.decrypt(bytes(stored), row_id="key-1")


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\x01",
        b"plain text",
        b"\x01" + ONE.id,
        b"\x01" + ONE.id + b"0" * 12,
    ],
)
def test_what_was_never_encrypted_is_refused(stored):
    with pytest.raises(DecryptionFailed):
        RING.decrypt(stored, row_id="key-1")


def test_a_fingerprint_is_keyed_and_of_one_provider():
    assert RING.fingerprint("secret", provider="openai") == RING.fingerprint("secret", provider="openai")
    different = {
        RING.fingerprint("secret", provider="openai"),
        RING.fingerprint("secret", provider="google"),
        RING.fingerprint("secret2", provider="openai"),
        Keyring((TWO,)).fingerprint("secret", provider="openai"),
    }
    assert len(different) == 4 and all("secret" not in text for text in different)


def test_no_repr_shows_a_key():
    assert ONE.text not in repr(ONE) + repr(RING) + str(ONE)


def test_a_new_master_key_has_256_bits():
    assert len(new_master_key()) == 44 and new_master_key() != new_master_key()


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("sk-or-v1-12345678" + "x" * 40 + "abcd", "sk-or-v1-12345678...abcd"),
        ("sk-ant-api03-12345678" + "x" * 40 + "abcd", "sk-ant-api03-12345678...abcd"),
        ("AIza12345678" + "x" * 20 + "abcd", "AIza12345678...abcd"),
        ("12345678" + "x" * 12 + "abcd", "12345678...abcd"),
        ("12345678" + "x" * 11 + "abcd", "***"),  # fewer than 12 characters would stay hidden
        ("sk-or-v1-12345678" + "x" * 11 + "abcd", "***"),
        ("", "***"),
    ],
)
def test_it_masks(secret, shown):
    assert mask(secret, ("sk-or-v1-", "sk-ant-api03-", "AIza")) == shown


def test_a_token_is_random_and_its_digest_is_of_the_whole():
    token = new_access_token()
    assert token.startswith("rfk_") and len(token) == 47 and token != new_access_token()
    assert token_digest(token) == token_digest(token) != token_digest(token[:-1])
    assert token_digest("rfk_\ud83d")  # whatever a client sends
