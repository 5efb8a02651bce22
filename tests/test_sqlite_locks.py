"""SQLite's locks belong to the process: whoever opens and closes a file of the database by other means gives them up.

Another program would then take the database for unused and delete its log, with all that is committed to it later.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.serving import ROOT, START_SECONDS, environment, prepare

pytestmark = pytest.mark.only_on("sqlite")

# A program that wants the database for itself gets it only if no connection of another process holds its lock.
ALONE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=0)
database.execute("PRAGMA locking_mode=EXCLUSIVE")
try:
    database.execute("BEGIN EXCLUSIVE")
except sqlite3.OperationalError as error:
    print(error)
else:
    print("nobody uses it")
"""
WORK = f"""
import subprocess, sys
import django
django.setup()
from django.conf import settings
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection
from django.test import Client

def seen_from_outside():
    asked = [sys.executable, "-c", {ALONE!r}, connection.settings_dict["NAME"]]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

settings.ALLOWED_HOSTS = ["testserver"]
client = Client()
client.force_login(User.objects.create_superuser("admin"))
assert seen_from_outside() == "database is locked", "the test sees no lock"
for path in sys.argv[1].split():
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    b"".join(answer)
    assert seen_from_outside() == "database is locked", path
for words in sys.argv[2].split(","):
    try:
        call_command(*words.split())
    except SystemExit:
        pass
    assert seen_from_outside() == "database is locked", words
"""
PAGES = """
/llm-settings /llm-settings/usage /llm-settings/usage.csv /llm-settings/tokens /llm-settings/playground
/llm-settings/health /admin/ /admin/llmkeys/apikey/
"""
COMMANDS = "doctor --offline,audit,stats,usage,keys list,tokens list,backup {}"


def test_no_page_and_no_command_gives_them_up(tmp_path):
    data = prepare(tmp_path / "in-memory")  # a name like another
    (data / "beside").symlink_to(data / "llmkeys.sqlite3")
    (data / "backups").mkdir()
    (data / "backups" / "linked").hardlink_to(data / "llmkeys.sqlite3")
    (data / "backups" / "loop.tar.gz").symlink_to("loop.tar.gz")
    done = subprocess.run(
        [sys.executable, "-c", WORK, PAGES, COMMANDS.format(tmp_path / "monday.tar")],
        cwd=ROOT,
        env=environment(data, DJANGO_SETTINGS_MODULE="refactai_site.settings"),
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-2000:]
