"""The encryption keys, and the stored keys: can anything be served, and for how long?"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings

from llmkeys import providers
from llmkeys.doctor.finding import FAIL, WARN, About, Finding, count, good, listed
from llmkeys.exceptions import LLMKeysError
from llmkeys.key_state import ACTIVE, DISABLED, EXPIRED, LIMIT_REACHED
from llmkeys.keys import environment
from llmkeys.models import ApiKey
from llmkeys.presentation import Coolings, error_words
from llmkeys.vault import keyring

SOON = timedelta(days=7)
ADD = "Add one on the dashboard, or: ./manage.py keys add --provider openrouter --name Production"


def encryption(about: About) -> Iterable[Finding]:
    stored = list(ApiKey.objects.stored().exclude(secret=b"").values_list("secret", flat=True))
    if not stored:
        yield good("Encryption key", "No secret is stored yet.")
        return
    try:
        keyring.verify()
        ring = keyring.keyring()
    except LLMKeysError as error:
        yield Finding(FAIL, "Encryption key", str(error), "Until then every request is answered with 503 `sealed`.")
        return
    older = sum(not ring.is_current(secret) for secret in stored)
    if older:
        words = f"{older} of {count(len(stored), 'stored secret')} still needs an older encryption key."
        yield Finding(WARN, "Encryption key", words, "Run: ./manage.py reencrypt")
        return
    where = "REFACTAI_ENCRYPTION_KEYS" if settings.REFACTAI_ENCRYPTION_KEYS else str(keyring.key_file())
    yield good("Encryption key", f"{count(len(stored), 'stored secret')} can be decrypted with the key in {where}.")


def usable_keys(about: About) -> Iterable[Finding]:
    keys = list(ApiKey.objects.stored().defer("secret").in_serving_order())
    if not keys:
        yield Finding(WARN, "API keys", "No key is stored, so nothing can be served.", ADD)
        return
    by_status: dict[str, list[ApiKey]] = {status: [] for status in _REMEDIES}
    for key in keys:
        by_status[key.status_at(about.at)].append(key)
    coolings = Coolings(about.at)
    ready = [key for key in by_status[ACTIVE] if coolings.until(key) is None]
    if ready:
        yield good("API keys", f"{len(ready)} of {count(len(keys), 'key')} can serve now.")
    elif by_status[ACTIVE]:
        yield Finding(
            WARN,
            "API keys",
            "Every active key is cooling down.",
            "This ends automatically; until then a key of another account would help.",
        )
    else:
        yield Finding(FAIL, "API keys", f"None of {count(len(keys), 'key')} can serve.", ADD)
    for status, remedy in _REMEDIES.items():
        for key in by_status[status] if remedy else ():
            yield _trouble(key, status, remedy, about)


_REMEDIES = {
    ACTIVE: "",
    LIMIT_REACHED: "Raise its limit, or wait until the window ends.",
    EXPIRED: "Change its expiry date, or replace it.",
    DISABLED: "",  # intended, unless the provider rejected the key (below)
}


def _trouble(key: ApiKey, status: str, remedy: str, about: About) -> Finding:
    words = error_words(key)
    return Finding(WARN, f"Key “{key.name}”", f"{status}." + (f" {words}" if words else ""), remedy)


def rejected_keys(about: About) -> Iterable[Finding]:
    for key in ApiKey.objects.stored().defer("secret").filter(rejected_at__isnull=False):
        words = f"{key.get_provider_display()} rejects it: {key.last_error or 'no reason was given.'}"
        remedy = f'Replace its secret, then: ./manage.py keys test "{key.name}"'
        yield Finding(WARN, f"Key “{key.name}”", words, remedy)


def variables(about: About) -> Iterable[Finding]:
    for provider in providers.PROVIDERS.values():
        seen = environment.look(provider)
        for variable, words in seen.faults:
            yield Finding(FAIL, variable, words, "Correct it, or unset it and add the key on the dashboard.")
        if seen.dress:
            yield Finding(WARN, seen.variable, seen.dress, "Set it to just the key.")


def missing_secrets(about: About) -> Iterable[Finding]:
    for key in ApiKey.objects.stored().defer("secret").filter(secret_missing=True):
        if key.environment_variable:
            words = key.last_error or f"The variable {key.environment_variable} is not set any more."
            remedy = f"Set it in {settings.DATA_DIR / 'settings.env'} and restart the server, or leave it disabled."
        else:
            words = "Its secret was lost together with the encryption key."
            remedy = f"Run: ./manage.py keys edit {shlex.quote(key.name)} --new-secret"
        yield Finding(WARN, f"Key “{key.name}”", words, remedy)


def expiring_keys(about: About) -> Iterable[Finding]:
    soon = ApiKey.objects.stored().filter(enabled=True, expires_at__gt=about.at, expires_at__lte=about.at + SOON)
    for name, expires in soon.values_list("name", "expires_at"):
        words = f"It expires on {expires:%Y-%m-%d %H:%M} UTC."
        yield Finding(WARN, f"Key “{name}”", words, "Change its expiry date, or add a replacement.")


def default_key(about: About) -> Iterable[Finding]:
    stored = ApiKey.objects.stored()
    name = stored.filter(is_default=True).values_list("name", flat=True).first()
    if name is None and stored.usable(about.at).exists():
        yield Finding(WARN, "Default key", "No key is the default.", "Run: ./manage.py keys set-default NAME")
    elif name is not None:
        fill, spread = "serves first.", "is the default; with REFACTAI_KEY_ORDER=spread that only breaks ties."
        yield good("Default key", f"“{name}” {fill if settings.KEY_ORDER == 'fill' else spread}")


def same_names(about: About) -> Iterable[Finding]:
    names = list(ApiKey.objects.stored().values_list("name", flat=True))
    twins = sorted({name for name in names if names.count(name) > 1}) if len(names) <= 2000 else []
    if twins:
        words = f"More than one key is named {listed([f'“{name}”' for name in twins])}."
        yield Finding(WARN, "Names", words, "Commands then need the id; consider renaming them.")


CHECKS = (encryption, usable_keys, rejected_keys, variables, missing_secrets, expiring_keys, default_key, same_names)
