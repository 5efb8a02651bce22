"""What is pasted as a key: what is stored of it, or the words that refuse it. One function for every entrance."""

from __future__ import annotations

import io
import json
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command

from llmkeys.doctor import keys as doctor_keys
from llmkeys.doctor.finding import About
from llmkeys.keys.environment import register_environment_keys
from llmkeys.keys.transfer.importing import import_file
from llmkeys.keys.transfer.reading import BrokenFile
from llmkeys.models import ApiKey, Cooling
from llmkeys.providers import PROVIDERS, get
from llmkeys.providers.pasted import read_secret, stripped
from llmkeys.vault import keyring
from tests.helpers import NOW, make_key

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

PATH = "/api/llm/keys"
KEY = "sk-proj-Ab3dEf9hIj2kLm5nOp8qRs1tUv4wXy7z"
MASKED = "sk-proj-Ab3dEf9h...Xy7z"
LOCAL = "http://127.0.0.1:11434/v1"

# Dress: what is stored is the key alone.
DRESSED = {
    "plain": KEY,
    "spaces": f"  {KEY}\t",
    "a line end": f"{KEY}\r\n",
    "double quotes": f'"{KEY}"',
    "single quotes": f"'{KEY}'",
    "typographic quotes": f"“{KEY}”",
    "backticks": f"`{KEY}`",
    "French quotes with spaces": f"« {KEY} »",
    "two kinds of quotes": f"'\"{KEY}\"'",
    "one quote only": f'{KEY}"',
    "a byte order mark": f"\ufeff{KEY}",
    "zero width": f"\u200b{KEY}\u2060",
    "zero width inside": f"{KEY[:12]}\u200b{KEY[12:]}",
    "a soft hyphen inside": f"{KEY[:12]}\u00ad{KEY[12:]}",
    "no-break spaces": f"\u00a0{KEY}\u00a0",
    "a mark of direction": f"\u200e{KEY}",
}

MASK, HEADER, ASSIGNMENT = "masked key", "HTTP header", "assignment"
SEVERAL, PLACEHOLDER, REFERENCE = "keys, or one with white space", "placeholder", "reference"
OURS, ADDRESS, JSON, OTHERS, MADE_OF = "access token of this product", "address", "JSON", "would be sent to", "made of"

REFUSED = {
    # masks, ours and others'
    "our mask": ("sk-proj-12345678...abcd", MASK),
    "our mask in quotes": ('"sk-proj-12345678...abcd"', MASK),
    "stars": ("sk-proj-********abcd", MASK),
    "two dots": ("sk-proj-1234..wxyz", MASK),
    "only stars": ("***", MASK),
    "dots": ("sk-proj-••••••••••••abcd", MASK),
    "an ellipsis": ("sk-proj-Ab3d…Xy7z", MASK),
    # headers, assignments, files
    "bearer": (f"Bearer {KEY}", HEADER),
    "bearer in quotes": (f'"bearer {KEY}"', HEADER),
    "a header": (f"Authorization: Bearer {KEY}", HEADER),
    "Anthropic's header": (f"x-api-key: {KEY}", HEADER),
    "an option of curl": (f'-H "Authorization: Bearer {KEY}"', HEADER),
    "an assignment": (f"OPENAI_API_KEY={KEY}", ASSIGNMENT),
    "an assignment with quotes": (f'OPENAI_API_KEY="{KEY}"', ASSIGNMENT),
    "an export": (f"export OPENAI_API_KEY={KEY}", ASSIGNMENT),
    "PowerShell": (f'$env:OPENAI_API_KEY = "{KEY}"', ASSIGNMENT),
    "a colon": (f"OPENAI_API_KEY:{KEY}", ASSIGNMENT),
    "YAML": (f"openai_api_key: {KEY}", ASSIGNMENT),
    "an option": (f"--api-key={KEY}", ASSIGNMENT),
    "JSON": (f'{{"apiKey": "{KEY}"}}', JSON),
    "a JSON list": (f'["{KEY}"]', JSON),
    "a piece of JSON": (f'"apiKey": "{KEY}"', ASSIGNMENT),
    # several
    "a list": (f"{KEY},sk-proj-Zz9yXw8vUt7sRq6pOn5m", SEVERAL),
    "a list with spaces": (f"{KEY}, sk-proj-Zz9yXw8vUt7sRq6pOn5m", SEVERAL),
    "two lines": (f"{KEY}\nsk-proj-Zz9yXw8vUt7sRq6pOn5m", SEVERAL),
    "a broken line": (f"{KEY[:20]}\n{KEY[20:]}", SEVERAL),
    # what stands for a key
    "a variable": ("${OPENAI_API_KEY}", REFERENCE),
    "a shell variable": ("$OPENAI_API_KEY", REFERENCE),
    "a PowerShell variable": ("$env:OPENAI_API_KEY", REFERENCE),
    "a Windows variable": ("%OPENAI_API_KEY%", REFERENCE),
    "a template": ("{{ openai_api_key }}", REFERENCE),
    "a secret of GitHub": ("${{ secrets.OPENAI }}", REFERENCE),
    "a vault": ("op://vault/openai/key", REFERENCE),
    "a command": ("$(cat key.txt)", REFERENCE),
    "angle brackets": ("<your key>", REFERENCE),
    "Python": ('os.environ["OPENAI_API_KEY"]', REFERENCE),
    "the name of the variable": ("OPENAI_API_KEY", PLACEHOLDER),
    "YOUR_API_KEY": ("YOUR_API_KEY", PLACEHOLDER),
    "your key here": ("sk-your-key-here", PLACEHOLDER),
    "insert": ("insert_openai_token", PLACEHOLDER),
    "x": ("sk-xxxxxxxxxxxxxxxxxxxxxxxx", PLACEHOLDER),
    "X in groups": ("sk-proj-XXXX-XXXX", PLACEHOLDER),
    "changeme": ("changeme", PLACEHOLDER),
    "changeme with a number": ("changeme123", PLACEHOLDER),
    "placeholder": ("placeholder", PLACEHOLDER),
    # addresses
    "an address": ("https://platform.openai.com/api-keys", ADDRESS),
    "an address without a scheme": ("openrouter.ai/api/v1", ADDRESS),
    "a host and port": ("localhost:11434", ADDRESS),
    "a path": ("/run/secrets/openai", "path of a file"),
    # tokens of ours
    "our token": ("rfk_" + "aB3" * 14, OURS),
    "our token in quotes": ('"rfk_' + "aB3" * 14 + '"', OURS),
    "our token as a bearer": ("Bearer rfk_" + "aB3" * 14, OURS),
    "our token in an assignment": ("TOKEN=rfk_" + "aB3" * 14, OURS),
    "our token split by nothing": ("rf\u200bk_" + "aB3" * 14, OURS),
    # other companies'
    "Anthropic's": ("sk-ant-api03-" + "aB3" * 14, OTHERS),
    "OpenRouter's": ("sk-or-v1-" + "aB3" * 14, OTHERS),
    "Google's old": ("AIza" + "aB3" * 12, OTHERS),
    "Google's new": ("AQ." + "aB3" * 12, OTHERS),
    "Groq's": ("gsk_" + "aB3" * 12, OTHERS),
    # what no key is made of
    "white space": (f"{KEY} x", "white space"),
    "umlauts": ("schlüssel-ohne-ascii", MADE_OF),
    "a Cyrillic letter": (KEY.replace("A", "А", 1), MADE_OF),
    "an at sign": ("someone@example.org", MADE_OF),
    "too long": ("aB3" * 200, "at most 500"),
    "too short": ("sk-abc", "too short"),
    "nothing but dress": ('" \u200b "', "empty"),
    "a management key": ("sk-admin-" + "aB3" * 14, "management key"),
}  # fmt: skip


def body(secret: str, **more: object) -> dict[str, object]:
    return {"provider": "openai", "name": "Pasted", "apiKey": secret, **more}


def test_there_are_more_than_fifty_forms() -> None:
    assert len(DRESSED) + len(REFUSED) > 50


@pytest.mark.parametrize("form", DRESSED)
def test_it_stores_the_key_without_its_dress(api, form):
    answer = api.post(PATH, body(DRESSED[form]))
    assert answer.status_code == 201, answer.content
    assert answer.json()["maskedApiKey"] == MASKED
    assert keyring.open_secret(ApiKey.objects.get()) == KEY


@pytest.mark.parametrize("form", REFUSED)
def test_it_says_what_was_seen_instead_of_a_key(api, form):
    pasted, words = REFUSED[form]
    answer = api.post(PATH, body(pasted))
    assert answer.status_code == 400
    (sentence,) = answer.json()["apiKey"]
    assert words in sentence
    assert KEY[12:] not in sentence and (len(pasted) < 12 or pasted not in sentence)
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("form", DRESSED)
def test_it_knows_a_stored_key_in_any_dress(api, form):
    make_key(provider="openai", name="First", secret=KEY)
    answer = api.post(PATH, body(DRESSED[form]))
    assert answer.status_code == 409
    assert "First" in answer.content.decode()


@pytest.mark.parametrize("owner", PROVIDERS)
@pytest.mark.parametrize("name", PROVIDERS)
def test_it_hands_no_key_to_another_company(name: str, owner: str) -> None:
    provider = get(name)
    keys = [prefix + "aB3" * 14 for prefix in get(owner).secret_prefixes if "admin" not in prefix]
    for key in keys:
        if name == owner:
            assert read_secret(key, provider) == key
        else:
            with pytest.raises(ValueError, match=f"looks like a key of {get(owner).label}, not of {provider.label}"):
                read_secret(key, provider)
            # behind another address nobody knows whose keys are asked for
            assert read_secret(key, provider, base_url=LOCAL) == key


@pytest.mark.parametrize("word", ["ollama", "x", "EMPTY", "none", "dummy", "lm-studio", "sk-1234", "token-abc123"])
def test_a_local_server_may_ask_for_any_word(api, settings, word):
    settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": LOCAL}
    assert api.post(PATH, body(word)).status_code == 201
    assert keyring.open_secret(ApiKey.objects.get()) == word


@pytest.mark.parametrize(
    "form", ["our mask", "bearer", "a list", "a variable", "our token", "an address", "YOUR_API_KEY"]
)
def test_a_local_server_asks_for_no_such_thing(api, settings, form):
    settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": LOCAL}
    assert api.post(PATH, body(REFUSED[form][0])).status_code == 400


def test_an_address_below_a_providers_own_is_its_own(api, settings):
    settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": "https://eu.api.openai.com/v1"}
    assert OTHERS in api.post(PATH, body(REFUSED["Anthropic's"][0])).content.decode()


# --- every entrance --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["put", "patch"])
@pytest.mark.parametrize("dress", ["{}", '"{}"', " {}\n"])
def test_a_key_whose_mask_is_put_back_keeps_its_secret(api, change, dress):
    key = make_key(provider="openai", secret=KEY)
    answer = getattr(api, change)(f"{PATH}/{key.id}", {"apiKey": dress.format(MASKED), "name": "Renamed"})
    assert answer.status_code == 200, answer.content
    key.refresh_from_db()
    assert (keyring.open_secret(key), key.name) == (KEY, "Renamed")


def test_a_short_secret_whose_mask_is_put_back_stays(api, settings):
    settings.PROVIDER_BASE_URLS = settings.PROVIDER_BASE_URLS | {"openai": LOCAL}
    key = make_key(provider="openai", secret="ollama")
    assert key.masked_secret == "***"
    assert api.put(f"{PATH}/{key.id}", {"apiKey": "***"}).status_code == 200
    key.refresh_from_db()
    assert keyring.open_secret(key) == "ollama"


def test_no_other_mask_replaces_a_secret(api):
    key = make_key(provider="openai", secret=KEY)
    for mask in ("sk-proj-12345678...abcd", "***", "sk-proj-••••abcd"):
        answer = api.put(f"{PATH}/{key.id}", {"apiKey": mask})
        assert (answer.status_code, MASK in answer.content.decode()) == (400, True)
    key.refresh_from_db()
    assert keyring.open_secret(key) == KEY


def test_an_import_stores_no_mask(tmp_path):
    entry = {"provider": "openai", "name": "Old", "apiKey": MASKED}
    file = tmp_path / "llm_api_keys.json"
    file.write_text(json.dumps([entry]))
    with pytest.raises(BrokenFile, match=MASK):
        import_file(file, at=NOW)
    file.write_text(json.dumps([entry | {"apiKey": f'"{KEY}"'}]))
    import_file(file, at=NOW)
    assert keyring.open_secret(ApiKey.objects.get()) == KEY


def test_the_command_takes_no_placeholder(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("YOUR_API_KEY\n"))
    with pytest.raises(CommandError, match=PLACEHOLDER):
        call_command("keys", "add", "--provider", "openai", "--name", "A")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"'{KEY}'\n"))
    call_command("keys", "add", "--provider", "openai", "--name", "A", stdout=io.StringIO())
    assert keyring.open_secret(ApiKey.objects.get()) == KEY


def test_stripping_leaves_other_texts_alone():
    assert stripped("a'b") == "a'b"
    assert stripped("") == stripped("''") == ""


# --- the environment -------------------------------------------------------------------------------------------------


def check(capsys) -> str:
    try:
        call_command("check")
    except Exception as error:
        return str(error) + capsys.readouterr().err
    return capsys.readouterr().err


@pytest.mark.parametrize("form", ["our mask", "bearer", "two lines", "our token", "Anthropic's", "umlauts", "a list"])
def test_a_variable_that_holds_no_key_is_told_and_never_used(monkeypatch, capsys, form):
    pasted, words = REFUSED[form]
    monkeypatch.setenv("OPENAI_API_KEY", pasted)
    assert register_environment_keys(at=NOW) == []
    said = check(capsys)
    assert "OPENAI_API_KEY does not hold a key" in said and words in said and "llmkeys.E006" in said
    assert KEY[12:] not in said


def test_a_variable_in_dress_is_used_without_it_and_told(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", f"'\u200b{KEY}'")
    (key,) = register_environment_keys(at=NOW)
    assert (key.masked_secret, keyring.open_secret(key)) == (MASKED, KEY)
    said = check(capsys)
    assert "OPENAI_API_KEY has quotes or invisible characters" in said and KEY not in said
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert "OPENAI_API_KEY" not in check(capsys)


def test_a_key_whose_variable_became_unusable_is_disabled_with_the_reason(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    register_environment_keys(at=NOW)
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n{KEY}")
    register_environment_keys(at=NOW)
    key = ApiKey.objects.get()
    assert (key.status_at(NOW), key.secret_missing) == ("DISABLED", True)
    assert key.last_error.startswith("The environment variable OPENAI_API_KEY does not hold a key: these are 2 keys")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    register_environment_keys(at=NOW)
    key.refresh_from_db()
    assert (key.status_at(NOW), key.last_error) == ("ACTIVE", "")


def test_a_rejected_key_whose_mask_hides_all_comes_back_when_its_variable_was_corrected(monkeypatch, settings):
    settings.PROVIDER_BASE_URLS = {**settings.PROVIDER_BASE_URLS, "openai": "http://127.0.0.1:11434/v1"}
    monkeypatch.setenv("OPENAI_API_KEY", "the-wrong-key")
    register_environment_keys(at=NOW)
    ApiKey.objects.update(rejected_at=NOW, last_error="Rejected by its provider: no.", is_default=False)
    monkeypatch.setenv("OPENAI_API_KEY", "the-right-key")
    (key,) = register_environment_keys(at=NOW)
    assert key.masked_secret == "***"
    assert (key.rejected_at, key.last_error, key.status_at(NOW), key.is_default) == (None, "", "ACTIVE", True)


def test_a_rejected_key_whose_variable_is_as_before_stays_rejected(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    register_environment_keys(at=NOW)
    ApiKey.objects.update(rejected_at=NOW, last_error="Rejected by its provider: no.")
    (key,) = register_environment_keys(at=NOW)
    assert (key.rejected_at, key.last_error) == (NOW, "Rejected by its provider: no.")


def test_a_new_secret_in_the_variable_does_not_rest_for_the_old_one(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    (key,) = register_environment_keys(at=NOW)
    Cooling.objects.create(scope=f"key:{key.id}", kind="exhausted", until=NOW + timedelta(days=10))
    ApiKey.objects.filter(pk=key.pk).update(last_test={"ok": False}, last_test_at=NOW)
    register_environment_keys(at=NOW)
    assert Cooling.objects.exists(), "it is the same secret"
    monkeypatch.setenv("OPENAI_API_KEY", KEY[:-4] + "WXYZ")
    (key,) = register_environment_keys(at=NOW)
    assert not Cooling.objects.exists()
    assert (key.last_test, key.last_test_at) == ({}, None)


def test_the_second_variable_serves_where_the_first_holds_no_key(monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "YOUR_API_KEY")
    monkeypatch.setenv("GEMINI_API_KEY", "AQ." + "aB3" * 12)
    (key,) = register_environment_keys(at=NOW)
    assert key.environment_variable == "GEMINI_API_KEY"


# --- switches and names ----------------------------------------------------------------------------------------------


def test_enabled_switches_a_key_on_post_put_and_patch(api):
    made = api.post(PATH, body(KEY, enabled=False)).json()
    assert (made["enabled"], made["isActive"], made["isDefault"], made["status"]) == (False, False, False, "DISABLED")
    path = f"{PATH}/{made['id']}"
    for change, enabled in ((api.put, True), (api.patch, False), (api.put, True)):
        answer = change(path, {"enabled": enabled})
        assert (answer.status_code, answer.json()["enabled"], answer.json()["isActive"]) == (200, enabled, enabled)
    assert answer.json()["isDefault"] is True


def test_a_disabled_default_hands_its_mark_on(api):
    first, second = make_key(), make_key()
    assert api.put(f"{PATH}/{first.id}", {"enabled": False}).json()["isDefault"] is False
    second.refresh_from_db()
    assert second.is_default


def test_is_active_by_itself_sets_nothing(api):
    assert "enabled" in api.post(PATH, body(KEY, isActive=False)).json()["isActive"][0]
    made = api.post(PATH, body(KEY, isActive=True)).json()
    path = f"{PATH}/{made['id']}"
    for change in (api.put, api.patch):
        answer = change(path, {"isActive": False})
        assert (answer.status_code, "enabled" in answer.json()["isActive"][0]) == (400, True)
        assert change(path, {"isActive": True}).status_code == 200
        assert change(path, {"isActive": True, "enabled": False}).json()["isActive"] is False
        assert change(path, {"isActive": False, "enabled": True}).json()["isActive"] is True
    assert api.post(PATH, body("sk-proj-" + "aB3" * 14, isActive=True, enabled=False)).json()["isActive"] is False


@pytest.mark.parametrize("value", [None, 1, "true", []])
def test_enabled_is_true_or_false(api, value):
    key = make_key()
    assert api.put(f"{PATH}/{key.id}", {"enabled": value}).json() == {"enabled": ["Must be true or false."]}


@pytest.mark.parametrize(
    "name",
    [
        "\u200b",
        "\u2800",
        "\u3164",
        "\u00ad\u2060",
        "\u0301",
        "Prod\u202etsoC",
        "a\u2066b",
        "\u200fx",
        "Pro\u200bd",
        "\ufeffA",
    ],
)
def test_a_name_that_is_empty_to_the_eye_or_misleads_is_refused(api, name):
    key = make_key(name="Good")
    assert "name" in api.post(PATH, body(KEY, name=name)).json()
    assert "name" in api.put(f"{PATH}/{key.id}", {"name": name}).json()
    answer = api.post("/api/llm/tokens", {"name": name})
    assert (answer.status_code, "name" in answer.json()) == (400, True)


def test_doctor_tells_of_variables_that_hold_no_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "YOUR_API_KEY")
    monkeypatch.setenv("ANTHROPIC_API_KEY", '"sk-ant-api03-' + "aB3" * 14 + '"')
    found = list(doctor_keys.variables(About(at=NOW, offline=True, thorough=False)))
    assert [(finding.level, finding.title) for finding in found] == [
        ("FAIL", "OPENAI_API_KEY"), ("WARN", "ANTHROPIC_API_KEY"),
    ]  # fmt: skip


@pytest.mark.parametrize("mode", ["strict", "soft", None])
def test_a_key_may_have_its_own_budget_mode(api, mode):
    made = api.post(PATH, body(KEY, budgetMode=mode)).json()
    assert made["budgetMode"] == mode
    for change in (api.put, api.patch):
        for other in ("soft", None, "strict"):
            assert change(f"{PATH}/{made['id']}", {"budgetMode": other}).json()["budgetMode"] == other
        assert change(f"{PATH}/{made['id']}", {"name": "Renamed"}).json()["budgetMode"] == "strict"


@pytest.mark.parametrize("mode", ["", "STRICT", "hard", 1, True, []])
def test_no_other_budget_mode_is_taken(api, mode):
    assert api.post(PATH, body(KEY, budgetMode=mode)).json() == {
        "budgetMode": ["Must be strict or soft, or null for the setting."]
    }


def test_a_key_that_is_shown_can_be_put_back(api):
    path = f"{PATH}/{make_key().id}"
    shown = api.get(path).json()
    assert api.put(path, shown).json() == shown
