"""Everything that `serve` does before the first request, in order; each step raises an error for the operator."""

from __future__ import annotations

import os
import secrets
import shlex
import sys

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import checks
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import DatabaseError, transaction
from django.utils import timezone

from llmkeys import backup
from llmkeys.backup import running
from llmkeys.backup.errors import BackupFailed
from llmkeys.checks import in_one_line, leads_back_here
from llmkeys.database import outages, preparation, sqlite
from llmkeys.exceptions import LLMKeysError
from llmkeys.models import ApiKey
from llmkeys.vault import keys_in_use
from refactai_site.data_dir import create_private_file


class CannotServe(LLMKeysError):
    """Why the product cannot be started, and what to do."""


def check_settings() -> None:
    """Run the system checks. Raises CannotServe with one sentence for each error."""
    problems = [message for message in checks.run_checks() if message.is_serious() and not message.is_silenced()]
    if problems:
        raise CannotServe("\n".join(in_one_line(problem) for problem in problems))


def check_providers(bind: str) -> None:
    """Refuse a provider address that is this server's own, which would cause an endless loop. Raises CannotServe."""
    for provider, url in settings.PROVIDER_BASE_URLS.items():
        if leads_back_here(url, bind):
            raise CannotServe(f"{provider.upper()}_BASE_URL leads back to this server; name the provider's address.")


def keep_restores_out() -> None:
    """Keep `restore` from running while this process tree lives. Raises CannotServe during a restore."""
    try:
        if running.announce_serving(settings.DATA_DIR) is not None:
            return
    except OSError as error:
        raise CannotServe(f"The data directory {settings.DATA_DIR} cannot be written: {error.strerror}.") from None
    raise CannotServe("A backup is being restored here; start again when that has finished.")


def open_database(*, may_be_new: bool = False) -> None:
    """Open the database and check that it can be written.

    Raises CannotServe, also if a database that was here before is missing or empty, unless it `may_be_new`.
    """
    try:
        lost = "" if may_be_new else backup.lost_database()
        if lost:
            raise CannotServe(keys_in_use.another_database() or lost)
        preparation.require_writable()
    except DatabaseError as error:
        raise CannotServe(explain(error)) from None
    sqlite.remember_file()
    if file := sqlite.file():
        file.chmod(0o600)  # its -wal and -shm files get the same mode


def migrate() -> None:
    """Run the migrations, after a backup unless the database is new. Raises CannotServe."""
    try:
        backup.backup_before_migration(at=timezone.now())
    except BackupFailed as error:
        raise CannotServe(
            f"No backup could be made before the update of the database, so nothing was changed. {error}"
        ) from None
    try:
        call_command("migrate", interactive=False, verbosity=0)
    except DatabaseError as error:
        raise CannotServe(explain(error)) from None


def explain(error: DatabaseError) -> str:
    """Return what is wrong with the database and what to do, in one or two sentences without the database URL."""
    words = outages.explain(error)
    return f"{words} {backup.how_to_restore()}" if sqlite.file() and outages.is_damaged(error) else words


def offer_import() -> str:
    """Return how to import the older product's keys if its file is here and no key is stored; otherwise ""."""
    file = settings.DATA_DIR / "llm_api_keys.json"
    if not file.is_file() or ApiKey.objects.stored().filter(source=ApiKey.Source.DATABASE).exists():
        return ""
    command = f"./manage.py import_keys {shlex.quote(str(file))}"
    return f"Keys of the older product were found. Import them, with their costs, with: {command}\n"


def ensure_first_administrator(url: str) -> str:
    """Create the first administrator if there is none; return what to print on the terminal, or "".

    The name and password come from DJANGO_SUPERUSER_USERNAME and DJANGO_SUPERUSER_PASSWORD; by default they are `admin`
    and a random password that is shown once: on the terminal or, if stdout is not a terminal, in the file `first-login`
    (0600). File and user are created together, so that there is never an administrator with an unknown password.
    """
    given = os.environ.pop("DJANGO_SUPERUSER_PASSWORD", "")  # removed, because no child needs it
    name = os.environ.get("DJANGO_SUPERUSER_USERNAME", "").strip() or "admin"
    users = get_user_model()
    with transaction.atomic():
        if users.objects.filter(is_superuser=True).exists():
            return ""
        password = given or secrets.token_urlsafe(15)
        _create_administrator(name, password)
        return "" if given else _show_login(url, name, password)


def _create_administrator(name: str, password: str) -> None:
    users = get_user_model()
    try:
        users(username=name, email="").full_clean(exclude=["password"])
    except ValidationError as error:
        raise CannotServe(f"DJANGO_SUPERUSER_USERNAME cannot be used: {' '.join(error.messages)}") from None
    users.objects.create_superuser(name, "", password)


def _show_login(url: str, name: str, password: str) -> str:
    text = f"Address: {url}\nUser: {name}\nPassword: {password}\n"
    if sys.stdout.isatty():
        return f"The first administrator was created. This password is shown only once.\n{text}"
    file = settings.DATA_DIR / "first-login"
    try:
        file.unlink(missing_ok=True)  # from an earlier database, whose password is no longer valid
        create_private_file(file, text)
    except OSError as error:
        raise CannotServe(f"The file {file} cannot be written: {error.strerror}.") from None
    return f"The first administrator was created; its name and password are in {file}\n"
