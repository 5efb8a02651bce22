"""`doctor`: one finding for each thing that can be wrong, with its remedy, and none that stops the others."""

from __future__ import annotations

import json
import shutil
import uuid
from collections import namedtuple
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.test.utils import CaptureQueriesContext
from django_q.models import OrmQ, Task

from llmkeys import doctor, scheduling
from llmkeys.backup import archive
from llmkeys.doctor import Finding, database
from llmkeys.keys.environment import register_environment_keys
from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, Alert, ApiKey, DailyUsage
from llmkeys.scheduling import ensure_schedules
from llmkeys.upstream import asked
from tests.helpers import NOW, make_account, make_key, make_usage, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

OTHER = "another master key, long enough"


@pytest.fixture(autouse=True)
def directory(settings, tmp_path: Path) -> Path:
    """A data directory of its own; the database of the tests is elsewhere, and private."""
    settings.DATA_DIR = tmp_path / "data"
    settings.DATA_DIR.mkdir(0o700)
    if connection.vendor == "sqlite":
        for file in Path(connection.settings_dict["NAME"]).parent.glob("*.sqlite3*"):
            file.chmod(0o600)
    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]
    return settings.DATA_DIR


def found(title: str, **options) -> list[Finding]:
    options = {"offline": True} | options
    return [finding for finding in doctor.examine(NOW, **options) if finding.title == title]


def levels(title: str, **options) -> list[str]:
    return [finding.level for finding in found(title, **options)]


def make_archive(path: Path, at=NOW, *, keys: int = 1) -> None:
    """Write a whole archive that says of itself that it was made then; what is in its database does not matter here."""
    path.parent.mkdir(0o700, exist_ok=True)
    with archive.private_directory(path) as directory:
        (directory / "database").touch()
        manifest = archive.Manifest(at.isoformat(), "1", connection.vendor, [], keys, 0, 0)
        archive.write(
            path, manifest, {archive.DATABASES[connection.vendor]: directory / "database"}, directory=directory
        )


def backed_up(at: datetime) -> None:
    """Leave what the scheduler leaves of a daily backup."""
    Task.objects.create(
        id=uuid.uuid4().hex, name="x", func="llmkeys.tasks.backup_database", group="backup_database", started=at,
        stopped=at, success=True,
    )  # fmt: skip


class TestWell:
    def test_it_finds_nothing_wrong_with_a_good_installation(self, run, settings):
        settings.ALERT_URLS = ["json://127.0.0.1:1/"]
        make_key(name="Production")
        ensure_schedules()
        make_archive(settings.DATA_DIR / "backups" / "llmkeys-20261123-000000-daily.tar.gz")
        ran = run("doctor", "--offline")
        assert ran.code == 0, ran.out
        assert [line for line in ran.out.splitlines() if line.startswith(("WARN", "FAIL"))] == []
        assert "0 warnings, 0 failed." in ran.out

    def test_it_counts_one_warning_as_one(self, run, settings):
        make_key(name="Production")
        ensure_schedules()
        make_archive(settings.DATA_DIR / "backups" / "llmkeys-20261123-000000-daily.tar.gz")
        assert ", 1 warning, 0 failed." in run("doctor", "--offline").out  # of the alerts, which go nowhere

    def test_it_prints_json_for_programs(self, run):
        make_key(rejected_at=NOW, last_error="User not found.", name="Production")
        shown = json.loads(run("doctor", "--offline", "--json").out)
        assert shown["ok"] is False
        assert {"level", "title", "detail", "remedy"} == set(shown["findings"][0])
        assert {finding["level"] for finding in shown["findings"]} == {"PASS", "WARN", "FAIL"}

    def test_every_trouble_has_a_remedy(self):
        make_key(rejected_at=NOW, expires_at=NOW + timedelta(days=1))
        make_usage(make_key(), state="LOST")
        troubles = [finding for finding in doctor.examine(NOW, offline=True) if finding.level != doctor.PASS]
        assert len(troubles) > 4 and all(finding.remedy and finding.detail for finding in troubles)

    def test_its_exit_code_tells_of_failures_alone(self, run):
        assert run("doctor", "--offline").code == 0  # no key, no schedule: warnings
        make_key(enabled=False)
        ran = run("doctor", "--offline")
        assert ran.code == 1 and "None of 1 key can serve." in ran.out


class TestByItself:
    def test_a_check_that_fails_stops_no_other(self, monkeypatch, caplog):
        def broken(about):
            yield Finding(doctor.PASS, "never", "shown")
            raise RuntimeError("its words may hold anything")

        before = doctor.examine(NOW, offline=True)
        monkeypatch.setattr(doctor, "CHECKS", (broken, *doctor.CHECKS))
        first, *others = doctor.examine(NOW, offline=True)
        assert (first.level, first.title) == ("FAIL", "Broken") and "RuntimeError" in first.detail
        assert "its words" not in first.detail and others == before

    def test_a_database_that_is_down_is_told_once(self, monkeypatch):
        def down(*_):
            raise OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(type(connection._connections["default"]), "cursor", down)
            findings = doctor.examine(NOW, offline=True)
        assert [finding.title for finding in findings if finding.level == "FAIL"] == ["Database"]
        assert "Disk space" in [finding.title for finding in findings]


class TestDatabase:
    def test_it_names_migrations_that_are_missing(self):
        executor = MigrationExecutor(connection)
        ((_, newest),) = executor.loader.graph.leaf_nodes("llmkeys")
        executor.recorder.record_unapplied("llmkeys", newest)
        (finding,) = found("Migrations")
        assert finding.level == "FAIL" and f"llmkeys {newest}" in finding.detail and "migrate" in finding.remedy

    @pytest.mark.only_on("sqlite")
    def test_it_tells_of_settings_that_could_lose_data(self, monkeypatch):
        from llmkeys.doctor import database

        assert levels("SQLite") == ["PASS"]
        monkeypatch.setitem(database._WANTED, "synchronous", 3)
        (finding,) = found("SQLite")
        assert finding.level == "FAIL" and "synchronous is 2 instead of 3" in finding.detail

    @pytest.mark.only_on("sqlite")
    def test_it_reads_everything_only_when_thorough(self):
        assert levels("Integrity") == []
        assert levels("Integrity", thorough=True) == ["PASS"]

    def test_it_warns_where_budgets_are_not_kept(self, settings):
        settings.BUDGET_MODE = "soft"
        assert levels("Budgets") == ["WARN"]
        settings.COST_TRACKING = False
        assert levels("Cost tracking") == ["WARN"]


Usage = namedtuple("Usage", "total used free")


class TestFiles:
    @pytest.mark.parametrize(("free", "level"), [(10**8 - 1, "FAIL"), (10**9 - 1, "WARN"), (10**9, "PASS")])
    def test_it_looks_at_the_disk(self, monkeypatch, free, level):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free))
        assert levels("Disk space") == [level]

    def test_it_names_files_that_others_may_read(self, directory):
        make_key()
        assert levels("File modes") == ["PASS"]
        directory.chmod(0o755)
        assert levels("File modes") == ["WARN"]
        (directory / "encryption.key").chmod(0o644)
        (finding,) = found("File modes")
        assert finding.level == "FAIL" and "encryption.key (0644)" in finding.detail
        assert f"chmod go= {directory} {directory}/encryption.key" in finding.remedy

    @pytest.mark.parametrize(
        ("kind", "warns"),
        {
            "ext4": False,
            "overlay": False,
            "fuseblk": False,
            "nfs4": True,
            "cifs": True,
            "9p": True,
            "virtiofs": True,
            "fuse.sshfs": True,
        }.items(),
    )
    def test_it_warns_of_a_database_on_a_network_file_system(self, monkeypatch, tmp_path, kind, warns):
        mounts = tmp_path / "mountinfo"
        mounts.write_text(
            "22 1 8:1 / / rw - ext4 /dev/sda rw\n"
            f"36 22 0:33 / {str(tmp_path).replace(' ', chr(92) + '040')} rw,relatime shared:9 - {kind} server:/x rw\n"
        )
        assert database.file_system_of(tmp_path / "data" / "llmkeys.sqlite3", mounts) == kind
        monkeypatch.setattr(database, "file_system_of", lambda _: kind)
        if connection.vendor == "sqlite":
            assert bool(levels("File system")) is warns

    def test_it_reminds_of_the_first_password(self, directory):
        (directory / "first-login").touch(0o600)
        assert levels("First login") == ["WARN"]

    def test_it_reminds_of_the_old_key_file_as_long_as_it_is_there(self, directory):
        make_key()
        assert levels("Old key file") == []
        (directory / "llm_api_keys.json").touch(0o600)
        assert levels("Old key file") == ["WARN"] and levels("File modes") == ["PASS"]

    def test_it_tells_of_a_directory_that_cannot_be_used(self, settings):
        settings.DATA_DIR_PROBLEM = "It cannot be read."
        assert levels("Data directory") == ["FAIL"]

    def test_it_counts_every_readable_backup(self, directory):
        make_key()
        (directory / "backups").mkdir(0o700)
        (directory / "backups" / "broken.tar").write_bytes(b"not an archive")
        assert found("Backups")[0].detail == "There is no backup of these keys yet."
        make_archive(directory / "backups" / "monday.tar", NOW - timedelta(hours=51))
        assert levels("Backups") == ["WARN"]
        make_archive(directory / "empty.tar", NOW, keys=0)
        assert levels("Backups") == ["WARN"]
        make_archive(directory / "tuesday.tar")
        (finding,) = found("Backups")
        assert finding.level == doctor.PASS and finding.detail.startswith("2 backups kept, the newest from 2026-11-")

    @pytest.mark.parametrize(("hours", "level"), [(20, "PASS"), (51, "WARN")])
    @pytest.mark.parametrize("own", ["none", "old"])
    @pytest.mark.only_on("postgresql")
    def test_it_knows_of_backups_on_the_machine_that_runs_the_scheduler(self, directory, own, hours, level):
        make_key()
        ensure_schedules()
        if own == "old":
            make_archive(directory / "backups" / "monday.tar", NOW - timedelta(days=9))
        backed_up(NOW - timedelta(hours=hours))
        (finding,) = found("Backups")
        assert finding.level == level
        words = "The last daily backup was made 2026-11-23 00:30 UTC, on the machine that runs the scheduler."
        assert (finding.detail == words) == (level == "PASS")

    @pytest.mark.only_on("sqlite")
    def test_it_misses_backups_that_are_gone_from_the_only_machine(self):
        make_key()
        ensure_schedules()
        backed_up(NOW - timedelta(hours=20))
        assert levels("Backups") == ["WARN"]

    def test_it_names_the_backup_of_keys_that_are_gone(self, directory):
        assert found("Database", thorough=False)[0].level == doctor.PASS
        make_archive(directory / "backups" / "monday.tar", keys=3)
        assert "monday.tar contains 3 keys" in found("Database")[-1].detail
        make_key()
        assert levels("Database") == [doctor.PASS]


class TestKeys:
    def test_it_tells_that_secrets_do_not_open(self, settings):
        make_key(name="Production")
        settings.REFACTAI_ENCRYPTION_KEYS = [OTHER]
        (finding,) = found("Encryption key")
        assert finding.level == "FAIL" and "Affected: “Production”" in finding.detail

    def test_it_tells_that_an_older_master_key_is_still_needed(self, settings, directory):
        make_key()
        settings.REFACTAI_ENCRYPTION_KEYS = [OTHER, (directory / "encryption.key").read_text().strip()]
        (finding,) = found("Encryption key")
        assert finding.level == "WARN" and finding.remedy == "Run: ./manage.py reencrypt"

    def test_it_makes_no_key_file(self, directory):
        doctor.examine(NOW, offline=True)
        assert not (directory / "encryption.key").exists()

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            ({"expires_at": NOW - timedelta(days=1)}, "EXPIRED."),
            ({"expires_at": NOW + timedelta(days=6)}, "It expires on 2026-11-29 20:30 UTC."),
            ({"daily_limit_nano": NANO, "spent_day_nano": NANO}, "LIMIT_REACHED."),
            ({"rejected_at": NOW, "last_error": "User not found."}, "OpenRouter rejects it: User not found."),
        ],
    )
    def test_it_names_the_keys_in_trouble(self, columns, words):
        make_key(name="Production", **columns)
        assert [(finding.level, finding.detail) for finding in found("Key “Production”")] == [("WARN", words)]

    def test_it_tells_that_a_variable_is_gone(self, monkeypatch):
        monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "e" * 40)
        register_environment_keys(at=NOW)
        monkeypatch.delenv("OPENAI_API_KEY")
        register_environment_keys(at=NOW)
        (finding,) = found("Key “Default OpenAI Key”")
        assert "OPENAI_API_KEY is not set any more" in finding.detail

    def test_it_tells_whether_anything_can_be_served(self):
        assert levels("API keys") == ["WARN"]
        key = make_key()
        assert levels("API keys") == ["PASS"]
        ApiKey.objects.filter(pk=key.pk).update(enabled=False)
        assert levels("API keys") == ["FAIL"]

    @pytest.mark.parametrize(
        ("order", "words"),
        [
            ("fill", "“Production” serves first."),
            ("spread", "“Production” is the default; with REFACTAI_KEY_ORDER=spread that only breaks ties."),
        ],
    )
    def test_it_tells_what_the_default_mark_does(self, settings, order, words):
        settings.KEY_ORDER = order
        make_key(name="Production", is_default=True)
        assert [finding.detail for finding in found("Default key")] == [words]

    def test_it_shows_no_secret(self):
        secret = "sk-or-v1-" + "7" * 40
        make_key(secret=secret, rejected_at=NOW, last_error="told")
        assert secret not in str(doctor.examine(NOW, offline=True))


class TestTokens:
    def test_it_names_the_tokens_in_trouble(self, administrator):
        full, _ = make_account(administrator, name="shop", dailyLimit=1)
        AccessToken.objects.filter(pk=full.pk).update(
            day=NOW.date(), month=NOW.date().replace(day=1), spent_day_nano=NANO
        )
        make_account(administrator, name="old", at=NOW - timedelta(days=30), expiresAt=NOW + timedelta(days=6))
        make_account(administrator, name="brief", expiresAt=NOW + timedelta(days=6))
        assert [finding.detail for finding in found("Access tokens")] == ["2 of 3 tokens can be used now."]
        (finding,) = found("Token “shop”")
        assert (finding.level, finding.detail) == ("WARN", "LIMIT_REACHED.")
        assert "./manage.py tokens edit shop --daily-limit" in finding.remedy
        (finding,) = found("Token “old”")
        assert finding.detail == "It expires on 2026-11-29 20:30 UTC."
        assert not found("Token “brief”"), "a short life is meant so"

    def test_it_names_users_whose_tokens_may_send_nothing(self):
        anna = make_user("anna")
        make_account(anna, name="a")
        make_account(anna, "read", name="reads")
        make_account(make_user("bob", "use_gateway"), name="b")
        (finding,) = found("User “anna”")
        assert finding.level == "WARN" and "so “a” cannot either" in finding.detail
        assert "llmkeys.use_gateway" in finding.remedy and not found("User “bob”")

    def test_it_asks_the_database_as_often_for_twenty_tokens_as_for_two(self):
        make_account(make_user("user0")), make_account(make_user("user1", "use_gateway"))
        with CaptureQueriesContext(connection) as few:
            doctor.examine(NOW, offline=True)
        for number in range(2, 20):
            make_account(make_user(f"user{number}"))
        with CaptureQueriesContext(connection) as many:
            doctor.examine(NOW, offline=True)
        assert len(many) == len(few)


class TestWork:
    def test_it_names_schedules_that_are_missing_late_or_paused(self):
        assert "Not created yet: backup_database, check_expired_keys" in found("Schedules")[0].detail
        ensure_schedules()
        assert levels("Schedules") == ["PASS"]
        scheduling.Schedule.objects.filter(name="check_expired_keys").update(next_run=NOW - timedelta(minutes=4))
        (finding,) = found("Schedules")
        assert finding.level == "FAIL" and "check_expired_keys should have started" in finding.detail
        scheduling.Schedule.objects.filter(name="check_expired_keys").update(repeats=0)
        assert levels("Schedule check_expired_keys") == ["WARN"]

    def test_it_says_that_a_task_waits_where_every_schedule_has_started(self):
        ensure_schedules()
        OrmQ.objects.create(key="refactai", payload="", lock=NOW - timedelta(minutes=6))
        (finding,) = found("Schedules")
        assert finding.level == "FAIL" and "not running: a task has waited for more than five minutes" in finding.detail

    def test_it_names_requests_of_a_time_to_come(self, run):
        key = make_key()
        make_usage(key, at=NOW + timedelta(minutes=1))
        assert not found("Clock")
        make_usage(key, at=NOW + timedelta(hours=26))
        make_usage(key, at=NOW)
        (finding,) = found("Clock")
        assert finding.level == "WARN" and "26.0 h ahead of this machine's clock" in finding.detail
        assert "ahead of this machine's clock: the clock was set back" in run("doctor", "--offline", "--quick").out

    def test_it_counts_lost_requests_and_forgotten_holds(self):
        key = make_key()
        assert (levels("Lost requests"), levels("Open holds")) == (["PASS"], ["PASS"])
        make_usage(key, state="LOST")
        make_usage(key, state="LOST", at=NOW - timedelta(days=31))
        held = {"state": "HELD", "cost_nano": 0, "finished_at": None}
        make_usage(key, lease_until=NOW - timedelta(minutes=4), **held)
        make_usage(key, lease_until=NOW + timedelta(minutes=1), **held)
        assert (
            "1 request of the last 30 days ended with an unknown outcome and was charged"
            in found("Lost requests")[0].detail
        )
        assert "1 hold left by dead processes still takes" in found("Open holds")[0].detail
        make_usage(key, state="LOST")
        make_usage(key, lease_until=NOW - timedelta(minutes=4), **held)
        assert (
            "2 requests of the last 30 days ended with an unknown outcome and were charged"
            in found("Lost requests")[0].detail
        )
        assert "2 holds left by dead processes still take" in found("Open holds")[0].detail

    def test_it_counts_no_lost_request_that_cost_nothing(self):
        make_usage(make_key(), state="LOST", hold_nano=0, cost_nano=0)
        assert levels("Lost requests") == ["PASS"]

    def test_it_names_models_without_a_price(self):
        key = make_key()
        for model, day in (("openai/gpt-4o", NOW), ("acme/unheard-of", NOW), ("acme/older", NOW - timedelta(days=40))):
            DailyUsage.objects.create(day=day.date(), key=key, model=model, requests=1, successful=1)
        DailyUsage.objects.create(day=NOW.date(), key=key, model="acme/refused", requests=1, failed=1)
        (finding,) = found("Prices")
        assert finding.level == "WARN" and "acme/unheard-of (openrouter):" in finding.detail
        assert "gpt-4o" not in finding.detail and "older" not in finding.detail and "refused" not in finding.detail

    def test_it_wants_no_price_of_a_model_that_was_only_refused(self):
        DailyUsage.objects.create(day=NOW.date(), key=make_key(), model="acme/unheard-of", requests=3, failed=3)
        assert levels("Prices") == ["PASS"]
        DailyUsage.objects.create(day=NOW.date(), key=make_key(), model="acme/lost", requests=1, failed=1, cost_nano=5)
        assert "acme/lost" in found("Prices")[0].detail and "unheard" not in found("Prices")[0].detail

    def test_it_tells_of_alerts_that_nobody_gets(self, settings):
        assert levels("Alerts") == ["WARN"]
        settings.ALERT_URLS = ["json://127.0.0.1:1/"]
        assert levels("Alerts") == ["PASS"]
        Alert.objects.create(kind="test", message="Spent", created_at=NOW, tries=1, delivery_error="json: refused")
        assert levels("Alerts") == ["WARN"] and levels("Open alerts") == ["WARN"]


class TestSettings:
    def test_it_repeats_the_system_checks_by_their_id(self, settings):
        settings.DEBUG = True
        assert levels("Settings (security.W018)") == ["WARN"] and levels("Debug") == ["FAIL"]

    def test_it_warns_of_passwords_in_clear(self, settings):
        assert levels("Host names") == ["PASS"]
        settings.ALLOWED_HOSTS = ["keys.example.com"]
        assert levels("HTTPS") == ["WARN"]
        settings.REFACTAI_HTTPS = True
        assert levels("HTTPS") == []
        settings.ALLOWED_HOSTS = ["*"]
        assert levels("Host names") == ["WARN"]

    def test_it_tells_when_the_budget_day_ends(self, settings):
        settings.TIME_ZONE = "Asia/Tokyo"
        assert "Asia/Tokyo: the budget day ends at 2026-11-24 15:00 UTC" in found("Time zone")[0].detail


class TestOutside:
    def test_it_asks_the_providers_of_stored_keys_and_spends_nothing(self, simulator):
        make_key(provider="openrouter")
        make_key(provider="google")
        assert levels("OpenRouter", offline=False) == levels("Google", offline=False) == ["PASS"]
        assert levels("OpenAI", offline=False) == []
        assert simulator.journal() == []

    def test_it_asks_nobody_when_offline(self, monkeypatch):
        make_key()
        monkeypatch.setattr(asked, "reach", lambda *_, **__: pytest.fail("it was asked"))
        assert levels("OpenRouter") == []

    def test_it_tells_that_a_provider_cannot_be_reached(self, simulator):
        make_key()
        simulator.stop()
        (finding,) = found("OpenRouter", offline=False)
        assert finding.level == "FAIL" and "refused the connection" in finding.detail
        assert simulator.base_url in finding.remedy

    @pytest.mark.parametrize(
        ("theirs", "level", "words"),
        [
            ("Mon, 23 Nov 2026 20:29:50 GMT", "PASS", "10 s ahead of that of OpenRouter"),
            ("Mon, 23 Nov 2026 20:30:31 GMT", "WARN", "31 s behind"),
            ("Mon, 23 Nov 2026 20:32:00 GMT", "WARN", "120 s behind that of OpenRouter"),
            ("Mon, 23 Nov 2026 20:00:00 GMT", "FAIL", "1800 s ahead"),
        ],
    )
    def test_it_compares_the_clock_with_theirs(self, monkeypatch, theirs, level, words):
        make_key()
        monkeypatch.setattr(asked, "reach", lambda *_, **__: asked.Answer(404, {"Date": theirs}, b""))
        (finding,) = found("Clock", offline=False)
        assert finding.level == level and words in finding.detail

    def test_an_answer_without_a_date_tells_nothing_of_the_clock(self, monkeypatch):
        make_key()
        monkeypatch.setattr(asked, "reach", lambda *_, **__: asked.Answer(404, {"Date": "today"}, b""))
        assert levels("Clock", offline=False) == []
