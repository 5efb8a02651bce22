"""Who may see and do what on the pages: every address and method against everybody, and three people at work."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import Permission
from django.test import Client

from llmkeys.dashboard import urls
from llmkeys.lib.money import NANO
from llmkeys.models import AccessToken, DailyUsage
from tests.helpers import NOW, make_account, make_key, make_token, make_usage, make_user
from tests.pages.helpers import logged_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("frozen")]

METHODS = ("get", "post", "delete")
# What an address is: a page is looked at, a form is sent too, a button is pressed (its GET leads to its page), and a
# page that is open asks whether it is still fresh.
PAGE, FORM, BUTTON, LIVE = {"get"}, {"get", "post"}, {"post"}, {"get"}
# The permission that a person needs.
TABLE = {
    "dashboard": (PAGE, "view_apikey"),
    "live": (LIVE, "view_apikey"),
    "alert-away": (BUTTON, "change_apikey"),
    "key-add": (FORM, "add_apikey"),
    "key-try": (BUTTON, "add_apikey"),
    "key": (PAGE, "view_apikey"),
    "key-live": (LIVE, "view_apikey"),
    "key-edit": (FORM, "change_apikey"),
    "key-try-again": (BUTTON, "change_apikey"),
    "key-test": (BUTTON, "change_apikey"),
    "key-default": (BUTTON, "change_apikey"),
    "key-toggle": (BUTTON, "change_apikey"),
    "key-delete": (FORM, "delete_apikey"),
    "usage": (PAGE, "view_usagerecord"),
    "usage-csv": (PAGE, "view_usagerecord"),
    "usage-void": (BUTTON, "change_usagerecord"),
    "request": (PAGE, "view_usagerecord"),
    "tokens": (PAGE, "view_accesstoken"),
    "token-create": (FORM, "add_accesstoken"),
    "token": (PAGE, "view_accesstoken"),
    "token-live": (LIVE, "view_accesstoken"),
    "token-edit": (BUTTON, "change_accesstoken"),
    "token-rotate": (FORM, "change_accesstoken"),
    "token-reset": (FORM, "change_accesstoken"),
    "token-revoke": (FORM, "delete_accesstoken"),
    "token-statement": (PAGE, "view_accesstoken"),
    "token-statement-csv": (PAGE, "view_accesstoken"),
    "playground": (PAGE, "view_apikey"),
    "playground-run": (FORM, "use_gateway"),
    "health": (PAGE, "view_apikey"),
    "alert-test": (BUTTON, "change_apikey"),
    "alert-seen": (BUTTON, "change_apikey"),
}
# For everybody, or for whoever is logged in: they have tests of their own.
OPEN = {"home", "login", "logout", "password", None}
EVERY = sorted({permission for _, permission in TABLE.values()})
ROLES = ("stranger", "manage token", "nobody's rights", "this right alone", "all but this right", "administrator")
CELLS = [(name, method, role) for name in TABLE for method in METHODS for role in ROLES]
ROUTES = {pattern.name: f"/{pattern.pattern}" for pattern in urls.urlpatterns}


def address(name: str) -> str:
    """Return an address whose key, row or token is not there: a right is asked before."""
    path = ROUTES[name] + ("?seen=a-b-c-d-e" if name == "live" else "")  # the regions of a dashboard without keys
    return re.sub(r"<(\w+):\w+>", lambda found: "key-0-0" if found[1] == "str" else "987654321", path)


def client_of(role: str, needed: str) -> Client:
    match role:
        case "stranger":
            return Client()
        case "manage token":  # pages know no tokens
            user = make_user("somebody", is_superuser=True)
            return Client(headers={"Authorization": f"Bearer {make_token(user, 'manage')}"})
        case "administrator":
            return logged_in(make_user("somebody", is_superuser=True))
    rights = {"nobody's rights": [], "this right alone": [needed], "all but this right": {*EVERY} - {needed}}[role]
    return logged_in(make_user("somebody", *rights))


def told_by(answer) -> str:
    where = answer.headers.get("Location", "")
    if where.startswith("/login") or answer.headers.get("HX-Refresh"):
        return "to the login"
    return {403: "403", 405: "405"}.get(answer.status_code, "let in")


def expected(name: str, method: str, role: str) -> str:
    kind, _ = TABLE[name]
    if kind is BUTTON and method == "get":
        return "let in"  # to the page that has the button, which asks for itself
    if method not in kind:
        return "405"
    if role in ("stranger", "manage token"):
        return "to the login"
    if role in ("this right alone", "administrator"):
        return "let in"
    return "to the login" if name.endswith("live") else "403"


@pytest.mark.parametrize(("name", "method", "role"), CELLS)
def test_it_lets_in_whom_the_table_names(name, method, role):
    answer = getattr(client_of(role, TABLE[name][1]), method)(address(name))
    assert told_by(answer) == expected(name, method, role), answer.status_code


def test_the_table_is_complete():
    """A new page fails here until somebody says who may see it."""
    assert set(ROUTES) == set(TABLE) | OPEN
    assert {permission for _, permission in TABLE.values()} <= set(
        Permission.objects.values_list("codename", flat=True)
    )


# --- three people -----------------------------------------------------------------------------------------------------


READER, CONTRACTOR, ADMINISTRATOR = PEOPLE = ("a reader", "a contractor", "an administrator")
SEES, HIDDEN, REFUSED, LOGIN, DONE = "sees it", "404", "403", "to the login", "done"

# What is asked, how and where; then what becomes of it for the reader, the contractor and the administrator.
# `{own}` is a token of whoever asks, `{theirs}` that of the contractor (of the administrator, where he asks himself).
WALK = [
    ("the dashboard", "get", "/llm-settings", SEES, REFUSED, SEES),
    ("the key's page", "get", "/llm-settings/keys/{key}", SEES, REFUSED, SEES),
    ("a key is edited", "post", "/llm-settings/keys/{key}/edit", REFUSED, REFUSED, SEES),
    ("all usage", "get", "/llm-settings/usage", SEES, REFUSED, SEES),
    ("the tokens", "get", "/llm-settings/tokens", SEES, SEES, SEES),
    ("the own token", "get", "/llm-settings/tokens/{own}", SEES, SEES, SEES),
    ("its statement", "get", "/llm-settings/tokens/{own}/statement", SEES, SEES, SEES),
    ("another's token", "get", "/llm-settings/tokens/{theirs}", HIDDEN, HIDDEN, SEES),
    ("another's statement", "get", "/llm-settings/tokens/{theirs}/statement.csv", HIDDEN, HIDDEN, SEES),
    ("a token is made", "get", "/llm-settings/tokens/create", REFUSED, REFUSED, SEES),
    ("the own limits are raised", "post", "/llm-settings/tokens/{own}/edit", REFUSED, REFUSED, SEES),
    ("the own secret is rotated", "post", "/llm-settings/tokens/{own}/rotate", REFUSED, REFUSED, SEES),
    ("the own costs are reset", "post", "/llm-settings/tokens/{own}/reset", REFUSED, REFUSED, SEES),
    ("the own token is revoked", "post", "/llm-settings/tokens/{own}/revoke", REFUSED, REFUSED, DONE),
    ("another's is revoked", "post", "/llm-settings/tokens/{theirs}/revoke", REFUSED, REFUSED, DONE),
    ("the admin", "get", "/admin/", SEES, LOGIN, SEES),
    ("tokens in the admin", "get", "/admin/llmkeys/accesstoken/", SEES, LOGIN, SEES),
    ("the own one in the admin", "get", "/admin/llmkeys/accesstoken/{own}/change/", SEES, LOGIN, SEES),
    ("it is changed there", "post", "/admin/llmkeys/accesstoken/{own}/change/", REFUSED, LOGIN, SEES),
    ("another's in the admin", "get", "/admin/llmkeys/accesstoken/{theirs}/change/", "to the index", LOGIN, SEES),
    ("one is made there", "get", "/admin/llmkeys/accesstoken/add/", REFUSED, LOGIN, SEES),
]  # fmt: skip


@pytest.fixture
def house(administrator):
    """A reader, who is staff, with a token that reads; a contractor with a token of one key and two models."""
    views = Permission.objects.filter(content_type__app_label="llmkeys", codename__startswith="view_")
    reader = make_user(READER, *views.values_list("codename", flat=True), is_staff=True)
    contractor = make_user(CONTRACTOR, "view_accesstoken", "use_gateway")
    key = make_key(name="The one key")
    make_key(name="Another key")
    models = ["openai/gpt-6.1-terra", "claude-*"]
    people = {READER: reader, CONTRACTOR: contractor, ADMINISTRATOR: administrator}
    tokens = {
        READER: make_account(reader, "read", name="dashboards")[0],
        CONTRACTOR: make_account(contractor, name="site", keyIds=[key.pk], models=models, totalLimit="50")[0],
        ADMINISTRATOR: make_account(administrator, "manage", name="root")[0],
    }
    for token in tokens.values():
        day = {"day": NOW.date(), "key": key, "model": "m", "token_name": token.name}
        DailyUsage.objects.create(**day, token=token, requests=1, cost_nano=NANO)
        make_usage(key, token=token, token_name=token.name)
    return people, tokens, key


def become(answer) -> str:
    where = answer.headers.get("Location", "")
    if "/login" in where:
        return LOGIN
    if where == "/admin/":
        return "to the index"
    return {200: SEES, 302: DONE, 403: REFUSED, 404: HIDDEN}[answer.status_code]


@pytest.mark.parametrize("who", PEOPLE)
@pytest.mark.parametrize("line", WALK, ids=[line[0] for line in WALK])
def test_each_sees_and_does_what_is_theirs(house, line, who):
    people, tokens, key = house
    _, method, path, *outcomes = line
    theirs = {READER: CONTRACTOR, CONTRACTOR: READER, ADMINISTRATOR: CONTRACTOR}[who]
    before = list(AccessToken.objects.order_by("pk").values())
    path = path.format(key=key.pk, own=tokens[who].pk, theirs=tokens[theirs].pk)
    answer = getattr(logged_in(people[who]), method)(path)
    wanted = outcomes[PEOPLE.index(who)]
    assert become(answer) == wanted
    if wanted in (REFUSED, HIDDEN, LOGIN):
        assert list(AccessToken.objects.order_by("pk").values()) == before


@pytest.mark.parametrize("who", PEOPLE)
def test_nobody_reads_of_others_what_is_not_theirs(house, who):
    """The names of others' tokens, and what they may use, are in no list, card or page of theirs."""
    people, tokens, _ = house
    client = logged_in(people[who])
    hidden = {READER: ["site", "root"], CONTRACTOR: ["dashboards", "root"], ADMINISTRATOR: []}[who]
    paths = ["/llm-settings/tokens", f"/llm-settings/tokens/{tokens[who].pk}", "/admin/llmkeys/accesstoken/"]
    if who == READER:
        paths.append("/llm-settings")
    for path in paths:
        page = client.get(path).content.decode()
        assert not [name for name in hidden if f">{name}<" in page], path


def test_a_contractor_sees_what_the_token_may_and_what_is_left(house):
    people, tokens, _ = house
    page = logged_in(people[CONTRACTOR]).get(f"/llm-settings/tokens/{tokens[CONTRACTOR].pk}").content.decode()
    for words in ("openai/gpt-6.1-terra, claude-*", "The one key", "$50.00 left in total", "Spend per day"):
        assert words in page
    for offer in ("Another key", 'id="limits"', "/rotate", "/reset", "/revoke", "/llm-settings/usage?"):
        assert offer not in page


@pytest.mark.parametrize(("who", "first"), [(READER, ""), (CONTRACTOR, "/tokens"), (ADMINISTRATOR, "")])
def test_each_begins_on_a_page_of_theirs_and_is_offered_no_other(house, who, first):
    people, _, _ = house
    client = Client()
    assert client.get("/", follow=True).redirect_chain[-1][0] == "/login?next=/llm-settings"
    given = {"username": people[who].username, "password": "correct horse", "next": "/llm-settings"}
    answer = client.post("/login", given, follow=True)
    assert (answer.redirect_chain, answer.status_code) == ([(f"/llm-settings{first}", 302)], 200)
    assert client.get("/").headers["Location"] == f"/llm-settings{first}"
    header = answer.content.decode().partition('<header class="topbar">')[2].partition("</header>")[0]
    offered = re.findall(r'href="([^"]+)"', header)
    assert {client.get(address, follow=True).status_code for address in offered} == {200}
    assert ("Playground" in header) == (who != CONTRACTOR) and "Tokens" in header


def test_a_refused_page_leads_back_to_one_of_theirs_or_out(house):
    people, _, _ = house
    page = logged_in(people[CONTRACTOR]).get("/llm-settings").content.decode()
    assert 'href="/llm-settings/tokens"' in page and 'action="/logout"' in page and 'href="/llm-settings"' not in page
    page = logged_in(make_user("nobody")).get("/llm-settings").content.decode()
    assert "/llm-settings" not in page and 'action="/logout"' in page


def test_a_new_password_leads_to_a_page_of_theirs(house):
    people, _, _ = house
    given = {"old_password": "correct horse", "new_password1": "battery staple 7", "new_password2": "battery staple 7"}
    answer = logged_in(people[CONTRACTOR]).post("/account/password", given, follow=True)
    assert answer.redirect_chain == [("/llm-settings/tokens", 302)]
    assert "Your password was changed." in answer.content.decode()
