"""/llm-settings/keys/add."""

from __future__ import annotations

import html
import re

import pytest

from llmkeys.lib.money import NANO
from llmkeys.models import ApiKey
from llmkeys.vault import keyring
from tests.helpers import make_key, new_secret
from tests.pages.helpers import messages_of
from tests.serving import ROOT

pytestmark = pytest.mark.django_db
ADDRESS = "/llm-settings/keys/add"


def given(**fields: str) -> dict[str, str]:
    return {"provider": "openrouter", "name": "Production", "apiKey": new_secret(), **fields}


def refused(client, **fields: str) -> str:
    answer = client.post(ADDRESS, given(**fields))
    assert answer.status_code == 200, answer.headers
    return html.unescape(answer.content.decode())


def test_it_needs_the_right_to_add_keys(client, with_rights):
    assert client.get(ADDRESS).headers["Location"].startswith("/login")
    assert with_rights("view_apikey").get(ADDRESS).status_code == 403
    assert with_rights("view_apikey").post(ADDRESS, given()).status_code == 403
    assert not ApiKey.objects.exists()


def test_it_shows_the_limits_of_new_keys_and_the_hints_of_the_providers(operator, settings):
    page = operator.get(ADDRESS).content.decode()
    assert 'name="dailyLimit" value="10"' in page and 'name="totalLimit" value="1000"' in page
    assert "sk-or-v1-…" in page and "https://openrouter.ai/settings/keys" in page
    assert 'name="apiKey"' in page and 'type="password"' in page


def test_the_button_that_shows_the_secret_has_a_label_that_changes_and_no_state(operator):
    """With both, a screen reader would say “Hide, pressed”."""
    button = re.search(r"<button[^>]*data-reveal[^>]*>Show<", operator.get(ADDRESS).content.decode())[0]
    assert "aria-pressed" not in button and "aria-pressed" not in (ROOT / "static/js/key_form.js").read_text()


def test_it_begins_with_the_page_and_shows_no_comment_of_its_template(operator):
    page = operator.get(ADDRESS).content.decode()
    assert page.lstrip().startswith("<!doctype html>") and "{#" not in page


@pytest.mark.parametrize(("order", "is_first"), [("fill", True), ("spread", False)])
def test_it_says_what_the_default_mark_and_the_priority_do(operator, settings, order, is_first):
    settings.KEY_ORDER = order
    page = operator.get(ADDRESS).content.decode()
    assert (
        page.count("it serves before all others;")
        == page.count("the default key serves before all others.")
        == is_first
    )
    assert ("among equal keys it serves first" in page) == ("share the load" in page) == (not is_first)


def test_it_stores_the_key_and_returns_to_its_card(operator):
    secret = new_secret("openai")
    answer = operator.post(
        ADDRESS,
        given(
            provider="openai", apiKey=f" {secret} ", dailyLimit="2.50", monthlyLimit="0", totalLimit="",
            expiresAt="2099-01-31T00:00", priority="7", billingGroup="team", workspaceId="wrkspc_1",
            description="For the nightly run", budgetMode="soft",
        ),
        follow=True,
    )  # fmt: skip
    key = ApiKey.objects.get()
    assert answer.redirect_chain == [(f"/llm-settings#{key.id}", 302)]
    assert messages_of(answer) == ["“Production” was added. Test it to see whether its provider accepts it."]
    assert keyring.open_secret(key) == secret
    assert (key.daily_limit_nano, key.monthly_limit_nano, key.total_limit_nano) == (5 * NANO // 2, 0, 1000 * NANO)
    assert (key.priority, key.billing_group, key.workspace_id) == (7, "team", "wrkspc_1")
    assert key.budget_mode == "soft"
    assert key.expires_at.isoformat() == "2099-01-31T00:00:00+00:00"
    assert key.is_default and key.events.get(kind="added").actor == "admin"
    assert secret not in answer.content.decode()


def test_it_makes_the_key_the_default_where_that_was_asked(operator):
    make_key()
    operator.post(ADDRESS, given(isDefault="on"))
    assert ApiKey.objects.get(is_default=True).name == "Production"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "May not be empty."),
        ({"apiKey": ""}, "May not be empty."),
        ({"apiKey": "rfk_abcdefghijklmnop"}, "access token of this product"),
        ({"provider": "nobody"}, "Unknown provider."),
        ({"dailyLimit": "-1"}, "Must not be negative"),
        ({"monthlyLimit": "1,000"}, "Must be a number in USD"),
        ({"totalLimit": "NaN"}, "Must be a number, not NaN"),
        ({"expiresAt": "2001-01-01T00:00"}, "The expiry is in the past."),
        ({"expiresAt": "soon"}, "Must be a date and time"),
        ({"priority": "first"}, "Must be a whole number"),
        ({"workspaceId": "a b"}, "no spaces"),
        ({"description": "x" * 501}, "at most 500 characters"),
    ],
)
def test_it_says_beside_the_field_what_is_wrong(operator, fields, words):
    page = refused(operator, **fields)
    (name,) = fields
    assert words in page.partition(f'id="id_{name}_error"')[2]
    assert "Enter the API key again" in page
    assert not ApiKey.objects.exists()


def test_it_tells_all_faults_at_once_and_unfolds_them(operator):
    page = refused(operator, name="", dailyLimit="x", priority="y")
    assert page.count('class="error"') == 3 and '<details class="more" open>' in page


def test_it_names_the_key_that_has_the_secret_already(operator):
    secret = new_secret()
    make_key(name="Older <b>one</b>", secret=secret)
    answer = operator.post(ADDRESS, given(apiKey=secret)).content.decode()
    assert "already stored as “Older &lt;b&gt;one&lt;/b&gt;”" in answer.partition('id="id_apiKey_error"')[2]
    assert secret not in answer


def test_it_never_sends_a_secret_back(operator):
    secret = new_secret()
    assert secret not in refused(operator, apiKey=secret, name="")


def test_it_says_when_nothing_can_be_sealed(operator, settings):
    settings.REFACTAI_ENCRYPTION_KEYS = ["the first master key"]
    make_key()
    settings.REFACTAI_ENCRYPTION_KEYS = ["another master key"]
    assert "cannot be decrypted" in refused(operator)
    assert ApiKey.objects.count() == 1
