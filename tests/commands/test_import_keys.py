"""`import_keys`: the older product's file with all that is in it, once, or nothing and a line number."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from llmkeys.ledger import audit
from llmkeys.lib.money import NANO
from llmkeys.models import Adjustment, ApiKey, KeyEvent
from llmkeys.presentation import key_json
from llmkeys.usage.sums import statistics
from llmkeys.vault import keyring
from tests.helpers import NOW, make_key, new_secret

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

TODAY = [2026, 11, 23, 9, 55, 0, 123456789]
UNLIMITED = 1.7976931348623157e308  # what the older product writes for "no limit" in its remaining budgets


def old_key(**fields: Any) -> dict[str, Any]:
    """A key as the older product writes it: all its fields, the derived ones too."""
    return {
        "id": "key-1763805300123-77",
        "provider": "openrouter",
        "apiKey": new_secret(),
        "name": "Production",
        "description": None,
        "dailyLimit": 10.0,
        "monthlyLimit": 100.0,
        "totalLimit": 0.0,
        "currentDailyCost": 2.5,
        "currentMonthlyCost": 15.75,
        "totalCost": 30.1,
        "totalRequests": 142,
        "successfulRequests": 138,
        "failedRequests": 4,
        "lastUsed": TODAY,
        "createdAt": [2026, 10, 1, 8, 0],
        "updatedAt": TODAY,
        "createdBy": None,
        "expiresAt": None,
        "status": "ACTIVE",
        "lastError": None,
        "remainingTotalBudget": UNLIMITED,
        "remainingMonthlyBudget": 84.25,
        "remainingDailyBudget": 7.5,
        "successRate": 97.1830985915493,
        "maskedApiKey": "sk-or-v1...abcd",
        "active": True,
        "default": True,
    } | fields


@pytest.fixture
def load(run, tmp_path):
    """Import what is given: a list of keys, or the text of a file."""

    def call(content: Any, *options: str):
        file = tmp_path / "llm_api_keys.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
        return run("import_keys", str(file), *options)

    return call


def only() -> ApiKey:
    return ApiKey.objects.get()


def costs(key: ApiKey) -> tuple[int, int, int]:
    return key.spent_day_nano, key.spent_month_nano, key.spent_total_nano


class TestWholeKey:
    def test_it_takes_over_every_field(self, load):
        secret = new_secret()
        ran = load([old_key(apiKey=secret, createdBy="ana", description="The shop", lastError="HTTP 500")])
        assert ran.code == 0, ran.err
        key = only()
        assert (key.id, key.name, key.description, key.provider) == (
            "key-1763805300123-77", "Production", "The shop", "openrouter",
        )  # fmt: skip
        assert keyring.open_secret(key) == secret and secret not in ran.out
        assert (key.daily_limit_nano, key.monthly_limit_nano, key.total_limit_nano) == (10 * NANO, 100 * NANO, 0)
        assert costs(key) == (2_500_000_000, 15_750_000_000, 30_100_000_000)
        assert (key.total_requests, key.successful_requests, key.failed_requests) == (142, 138, 4)
        assert key.created_at == datetime(2026, 10, 1, 8, tzinfo=UTC)
        assert key.last_used_at == key.updated_at == datetime(2026, 11, 23, 9, 55, 0, 123456, tzinfo=UTC)
        assert (key.is_default, key.enabled, key.last_error) == (True, True, "HTTP 500")
        assert key.status_at(NOW) == "ACTIVE"
        assert "where ana had added it" in KeyEvent.objects.get(kind="added").message

    @pytest.mark.django_db(transaction=True)  # the audit reads on a connection of its own
    def test_it_leaves_the_books_right_with_one_opening_row_per_key(self, load):
        load([old_key(), old_key(id="key-2-2", currentDailyCost=0, currentMonthlyCost=0, totalCost=0, default=False)])
        assert list(Adjustment.objects.order_by("id").values_list("kind", "total_nano")) == [
            ("opening", 30_100_000_000), ("opening", 0),
        ]  # fmt: skip
        report = audit.audit()
        assert (report.keys, report.differences, len(report.uncounted)) == (2, [], 2)

    @pytest.mark.parametrize("spelling", [("active", "default"), ("isActive", "isDefault")])
    def test_it_reads_both_spellings(self, load, spelling):
        one, two = old_key(), old_key(id="key-2-2", name="Off")
        for entry, active, default in ((one, True, True), (two, False, False)):
            del entry["active"], entry["default"], entry["status"]
            entry[spelling[0]], entry[spelling[1]] = active, default
        assert load([two, one]).code == 0
        assert list(ApiKey.objects.order_by("name").values_list("name", "enabled", "is_default")) == [
            ("Off", False, False), ("Production", True, True),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("given", "read"),
        [
            ("2026-11-23T09:55:00", datetime(2026, 11, 23, 8, 55, tzinfo=UTC)),
            ("2026-11-23T09:55:00.123456789", datetime(2026, 11, 23, 8, 55, 0, 123456, tzinfo=UTC)),
            ("2026-11-23T09:55:00Z", datetime(2026, 11, 23, 9, 55, tzinfo=UTC)),
            ([2026, 11, 23, 9, 55], datetime(2026, 11, 23, 8, 55, tzinfo=UTC)),
            ([2026, 11, 23], datetime(2026, 11, 22, 23, 0, tzinfo=UTC)),
            (None, None),
            ("", None),
        ],
        ids=str,
    )
    def test_it_reads_instants_in_the_operators_zone(self, load, settings, given, read):
        settings.TIME_ZONE = "Europe/Berlin"
        assert load([old_key(lastUsed=given)]).code == 0
        assert only().last_used_at == read

    def test_limits_that_are_missing_are_those_of_a_new_key(self, load):
        entry = old_key(dailyLimit=None, totalLimit=0)
        del entry["monthlyLimit"]
        assert load([entry]).code == 0
        key = only()
        assert (key.daily_limit_nano, key.monthly_limit_nano, key.total_limit_nano) == (10 * NANO, 100 * NANO, 0)

    def test_it_takes_a_negative_limit_for_none_as_the_older_product_does(self, load):
        ran = load([old_key(dailyLimit=-1)])
        assert only().daily_limit_nano == 0
        assert "dailyLimit: -1 was read as 0, which means no limit" in ran.out

    def test_it_takes_whole_numbers_that_are_written_with_a_point(self, load):
        assert load([old_key(priority=7.0, totalRequests=142.0)]).code == 0
        assert (only().priority, only().total_requests) == (7, 142)

    def test_it_wipes_the_secret_out_of_an_error_text(self, load):
        secret = new_secret()
        load([old_key(apiKey=secret, lastError=f"invalid key {secret}")])
        assert only().last_error == "invalid key ***"

    def test_it_leaves_unknown_fields_out_and_says_so(self, load):
        ran = load([old_key(colour="red")])
        assert ran.code == 0 and "colour: this field is unknown and was ignored" in ran.out


class TestCostsOfWindows:
    """What was changed last before a window began has spent nothing in it."""

    @pytest.mark.django_db(transaction=True)
    @pytest.mark.parametrize(
        ("changed", "counted"),
        [
            (NOW.replace(hour=0, minute=0), (1, 2, 3)),
            (NOW.replace(hour=0, minute=0) - timedelta(seconds=1), (0, 2, 3)),
            (NOW.replace(day=1, hour=0, minute=0), (0, 2, 3)),
            (NOW.replace(day=1, hour=0, minute=0) - timedelta(seconds=1), (0, 0, 3)),
            (NOW + timedelta(days=2), (1, 2, 3)),
            (None, (1, 2, 3)),
        ],
    )
    def test_it_counts_them_where_the_last_change_lies_in_them(self, load, changed, counted):
        text = changed and changed.isoformat()
        given = {"currentDailyCost": 1, "currentMonthlyCost": 2, "totalCost": 3}
        assert load([old_key(updatedAt=text, lastUsed=None, **given)]).code == 0
        assert costs(only()) == tuple(amount * NANO for amount in counted)
        report = audit.audit()
        assert (report.keys, report.differences) == (1, [])

    def test_it_goes_by_the_later_of_last_use_and_last_change(self, load):
        load([old_key(updatedAt="2026-10-01T00:00:00", lastUsed=TODAY)])
        assert costs(only())[0] == 2_500_000_000

    def test_it_rounds_the_noise_of_binary_fractions_away(self, load):
        load([old_key(totalCost=0.1 + 0.2, currentDailyCost=0, currentMonthlyCost=0)])
        assert only().spent_total_nano == 300_000_000


class TestStatus:
    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"status": "DISABLED", "active": False}, "DISABLED"),
            ({"status": "ACTIVE", "active": False}, "DISABLED"),
            ({"status": "DISABLED", "active": True}, "ACTIVE"),  # made default again: the older product serves it
            ({"status": "LIMIT_REACHED", "active": False, "currentDailyCost": 10}, "LIMIT_REACHED"),
            (
                {"status": "LIMIT_REACHED", "active": False, "updatedAt": [2026, 11, 1, 0, 0], "lastUsed": None},
                "ACTIVE",
            ),
            ({"status": "EXPIRED", "active": False, "expiresAt": [2026, 1, 1, 0, 0]}, "EXPIRED"),
            ({"expiresAt": "2026-01-01T00:00:00"}, "EXPIRED"),
            ({"expiresAt": "2027-01-01T00:00:00"}, "ACTIVE"),
        ],
    )
    def test_it_carries_the_status_over(self, load, fields, status):
        assert load([old_key(**fields)]).code == 0
        assert only().status_at(NOW) == status


class TestDefault:
    def marks(self) -> list[str]:
        return list(ApiKey.objects.filter(is_default=True).values_list("name", flat=True))

    def test_it_makes_one_default_of_several(self, load):
        ran = load([old_key(), old_key(id="key-2-2", name="Second")])
        assert self.marks() == ["Production"] and "The file has 2 default keys" in ran.out

    def test_it_passes_over_a_default_that_cannot_serve(self, load):
        ran = load([old_key(active=False, status="DISABLED"), old_key(id="key-2-2", name="Second", default=False)])
        assert self.marks() == ["Second"] and "was the default key, but it is disabled" in ran.out

    def test_it_leaves_the_mark_with_the_key_that_is_stored(self, load):
        make_key(name="Ours")
        ran = load([old_key()])
        assert self.marks() == ["Ours"] and "“Ours” remains the default key" in ran.out

    def test_it_goes_before_a_key_of_the_environment(self, load, monkeypatch):
        from llmkeys.keys.environment import register_environment_keys

        monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "e" * 40)
        register_environment_keys(at=NOW)
        load([old_key(default=False)])
        assert self.marks() == ["Production"]

    def test_it_leaves_the_mark_with_a_key_of_the_environment_that_was_chosen(self, load, monkeypatch):
        from llmkeys.keys.adding import set_default
        from llmkeys.keys.environment import register_environment_keys

        monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "e" * 40)
        (chosen,) = register_environment_keys(at=NOW)
        make_key(name="Ours")
        set_default(chosen, at=NOW, actor="anna")
        ran = load([old_key()])
        assert self.marks() == [chosen.name] and f"“{chosen.name}” remains the default key" in ran.out


class TestTwice:
    def test_it_changes_nothing_the_second_time(self, load):
        keys = [old_key(), old_key(id="key-2-2", name="Second", default=False)]
        load(keys)
        before = [key_json(key, at=NOW) for key in ApiKey.objects.all()], KeyEvent.objects.count()
        ran = load(keys)
        assert ([key_json(key, at=NOW) for key in ApiKey.objects.all()], KeyEvent.objects.count()) == before
        assert "Skipped key 1 (“Production”): it is already stored as “Production”." in ran.out
        assert "0 keys imported, 2 skipped." in ran.out

    def test_it_skips_a_secret_that_stands_there_twice(self, load):
        secret = new_secret()
        ran = load([old_key(apiKey=secret), old_key(id="key-2-2", name="Again", apiKey=secret)])
        assert "it has the same secret as key 1 (“Production”) of the file" in ran.out
        assert ApiKey.objects.count() == 1

    def test_it_gives_another_id_where_the_files_own_is_taken(self, load):
        load([old_key()])
        ran = load([old_key(name="Other")])
        assert ran.code == 0 and "its id key-1763805300123-77 is taken" in ran.out
        assert ApiKey.objects.count() == 2

    def test_a_dry_run_changes_nothing(self, load):
        ran = load([old_key()], "--dry-run")
        assert "1 key would be imported; nothing was changed, 0 skipped." in ran.out and "$30.10" in ran.out
        assert not ApiKey.objects.exists() and not KeyEvent.objects.exists()

    def test_it_prints_json_for_programs(self, load):
        shown = json.loads(load([old_key(apiKey=(secret := new_secret()))], "--json").out)
        assert [key["name"] for key in shown["imported"]] == ["Production"]
        assert (shown["skipped"], shown["warnings"]) == ([], []) and secret not in json.dumps(shown)


BEYOND = "a number is too large or too small."
BROKEN = {
    "no JSON": ('[\n {"name": "A",\n}', "Line 3, column 1: this is not JSON"),
    "cut off": ('[\n {"name": "A"}', "Line 2"),
    "no comma": ('[{"name": "A"}\n{"name": "B"}]', "Line 2, column 1"),
    "no list": ('{"name": "A"}', "Line 1: the file must contain a list of keys"),
    "empty": ("", "Line 1: the file must contain a list"),
    "no key in it": ('[\n\n  "A"]', "Line 3: entry 1 of the list is not a key, but a string."),
    "NaN": ('[\n{"totalCost": NaN}]', "Line 2, key 1: NaN is not a JSON number."),
    "huge exponent": ('[\n{"totalCost": 1e99999999999999999999}]', f"Line 2, key 1: {BEYOND}"),
    "too many digits": ('[\n{"name": "x", "totalCost": ' + "1" * 5000 + "}]", f"Line 2, key 1: {BEYOND}"),
    "twice the same field": ('[{"name": "A", "name": "B"}]', "Line 1, key 1: the field “name” appears twice."),
    "more behind it": ("[] x", "Extra data after the list"),
    "nested": ("[" + '{"a":' * 100_000, "nested too deeply"),
    "trailing comma": ('[{"name": "A"},]', "Line 1"),
}


class TestBroken:
    @pytest.mark.parametrize("name", BROKEN)
    def test_a_broken_file_is_told_with_its_line(self, load, name):
        text, words = BROKEN[name]
        ran = load(text)
        assert ran.code == 1 and words in ran.err, ran.err
        assert not ApiKey.objects.exists()

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"provider": "acme"}, "provider: Unknown provider"),
            ({"provider": None}, "provider: This field is required"),
            ({"apiKey": None}, "apiKey: the secret is missing"),
            ({"apiKey": "short"}, "apiKey: "),
            ({"name": ""}, "name: May not be empty"),
            ({"dailyLimit": "ten"}, "dailyLimit: must be a number in USD"),
            ({"dailyLimit": 2_000_000}, "dailyLimit: must be at most 1,000,000 USD"),
            ({"totalCost": -1}, "totalCost: must be between 0"),
            ({"totalCost": True}, "totalCost: must be a number"),
            ({"totalRequests": -1}, "totalRequests: must be a whole number"),
            ({"totalRequests": 1.5}, "totalRequests: must be a whole number"),
            ({"active": "yes"}, "active: Must be true or false"),
            ({"isActive": False}, "isActive: it contradicts “active”"),
            ({"status": "SLEEPY"}, "status: must be one of ACTIVE"),
            ({"expiresAt": "soon"}, "expiresAt: Must be a date and time"),
            ({"expiresAt": [2026, 13, 1]}, "expiresAt: [2026, 13, 1] is not a valid date and time"),
            ({"expiresAt": [2026, "1", 1]}, "expiresAt: must be a date and time"),
            ({"createdAt": 17}, "createdAt: Must be a date and time"),
            ({"createdAt": {}}, "createdAt: Must be a date and time"),
            ({"createdAt": "0001-01-01T00:00:00Z"}, "createdAt: Must be in the years 1970 to 2199"),
            ({"lastUsed": [9999, 12, 31]}, "lastUsed: Must be in the years 1970 to 2199; it is in the year 9999."),
            ({"id": "a b"}, "id: must be a string"),
            ({"lastError": 1}, "lastError: must be a string"),
        ],
        ids=str,
    )
    def test_one_bad_field_changes_nothing_and_is_named(self, load, fields, words):
        bad = old_key(id="key-2-2", name="Bad", default=False) | fields
        content = json.dumps([old_key(), bad], indent=2)
        ran = load(content)
        assert ran.code == 1 and words in ran.err and "Nothing was imported." in ran.err, ran.err
        field = words.split(":")[0]
        if bad.get(field) is not None:
            second = content.splitlines().index("  {", 2) + 1
            line = next(
                number
                for number, text in enumerate(content.splitlines(), 1)
                if number > second and f'"{field}":' in text
            )
            assert f"Line {line}, key 2" in ran.err
        assert not ApiKey.objects.exists()

    def test_it_shows_no_secret_of_a_broken_file(self, load):
        secret = new_secret()
        assert secret not in load([old_key(apiKey=secret + " and a space", totalCost="x")]).err

    def test_a_file_that_is_not_there_is_told(self, run, tmp_path):
        ran = run("import_keys", str(tmp_path / "none.json"))
        assert ran.code == 1 and "cannot be read: No such file or directory" in ran.err

    def test_a_file_in_another_encoding_is_told(self, run, tmp_path):
        (tmp_path / "keys.json").write_bytes(b'[\n{"name": "\xe9"}]')
        assert "Line 2: the file is not in UTF-8." in run("import_keys", str(tmp_path / "keys.json")).err

    def test_it_stores_nothing_while_it_is_sealed(self, load, settings):
        make_key(name="Ours")
        settings.REFACTAI_ENCRYPTION_KEYS = ["another master key, long enough"]
        ran = load([old_key()])
        assert ran.code == 1 and "cannot be decrypted" in ran.err
        assert ApiKey.objects.count() == 1


class TestDeletedAndImportedAgain:
    """What a deleted key has cost stays in the sums, so the file's costs are not put on top of them."""

    @pytest.mark.parametrize("identity", ["key-1763805300123-77", None], ids=["by its id", "by its secret"])
    def test_its_costs_and_requests_are_counted_once(self, load, run, identity):
        content = [old_key(id=identity), old_key(id="key-2-2", name="Other", default=False)]
        load(content)
        before = statistics(at=NOW)
        for _ in range(2):  # as often as somebody does it
            run("keys", "delete", "Production", "--yes")
            ran = load(content)
            assert ran.code == 0 and "is not counted again" in ran.out
        assert ApiKey.objects.stored().filter(name="Production").count() == 1
        after = statistics(at=NOW)
        for name in ("totalCost", "dailyCost", "monthlyCost", "totalRequests", "successfulRequests"):
            assert after[name] == before[name], name

    def test_what_it_has_cost_elsewhere_since_then_is_counted(self, load, run):
        secret = new_secret()
        load([old_key(apiKey=secret, totalCost=30.1)])
        run("keys", "delete", "Production", "--yes")
        load([old_key(apiKey=secret, totalCost=40.1)])
        assert statistics(at=NOW)["totalCost"] == 40.1


class TestOffer:
    """`serve` prints the command, and imports nothing by itself."""

    @pytest.fixture(autouse=True)
    def directory(self, settings, tmp_path):
        settings.DATA_DIR = tmp_path
        return tmp_path

    def test_it_is_made_where_the_file_lies_in_the_data_directory(self, directory):
        from llmkeys.supervisor.prepare import offer_import

        assert offer_import() == ""
        (directory / "llm_api_keys.json").write_text("[]")
        assert f"./manage.py import_keys {directory}/llm_api_keys.json" in offer_import()

    def test_it_is_not_made_where_keys_are_stored(self, directory):
        from llmkeys.supervisor.prepare import offer_import

        (directory / "llm_api_keys.json").write_text("[]")
        make_key()
        assert offer_import() == ""
