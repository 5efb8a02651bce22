"""/api/llm/tokens, /api/llm/tokens/{id}, …/rotate and …/current"""

from __future__ import annotations

from datetime import timedelta

import pytest

from llmkeys.models import AccessToken, KeyEvent
from llmkeys.tokens import fields
from llmkeys.vault.crypto import token_digest
from tests.api import checks
from tests.helpers import NOW, JsonClient, make_key, make_token, make_user

PATH = "/api/llm/tokens"

pytestmark = pytest.mark.django_db


def path(number):
    return f"{PATH}/{number}"


def test_it_makes_a_token_and_shows_it_once(api, frozen):
    key = make_key()
    body = {"name": "shop", "scopes": ["gateway", "read"], "expiresAt": "2026-12-01T00:00:00Z", "keyIds": [key.id]}
    answer = api.post(PATH, body)
    assert answer.status_code == 201, answer.content
    made = answer.json()
    text = made.pop("token")
    assert text.startswith("rfk_")
    assert made == {
        "id": made["id"], "name": "shop", "user": "admin", "scopes": ["gateway", "read"], "keyIds": [key.id],
        "models": None, "requestsPerMinute": 0, "status": "ACTIVE", "dailyLimit": 0.0, "monthlyLimit": 0.0,
        "totalLimit": 0.0, "currentDailyCost": 0.0, "currentMonthlyCost": 0.0, "totalCost": 0.0, "reservedCost": 0.0,
        "remainingDailyBudget": None, "remainingMonthlyBudget": None, "remainingTotalBudget": None,
        "totalRequests": 0, "successfulRequests": 0, "failedRequests": 0, "successRate": 0.0,
        "createdAt": "2026-11-23T20:30:00Z", "lastUsed": None, "expiresAt": "2026-12-01T00:00:00Z",
        "budgetMode": None, "projectedMonthlyCost": None, "revokedAt": None,
    }  # fmt: skip
    listed = api.get(PATH)
    assert made in listed.json()
    assert text not in listed.content.decode()
    assert token_digest(text) not in listed.content.decode()
    assert JsonClient(text).get("/api/llm/keys").status_code == 200


def test_it_is_for_the_gateway_unless_told_otherwise(api):
    assert api.post(PATH, {"name": "plain"}).json()["scopes"] == ["gateway"]


def test_manage_implies_the_others(api):
    assert api.post(PATH, {"name": "all", "scopes": ["manage"]}).json()["scopes"] == ["gateway", "read", "manage"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", "  "), ("name", "x" * 101), ("name", "a\nb"), ("name", 5), ("name", None),
        ("scopes", []), ("scopes", ["root"]), ("scopes", "read"), ("scopes", [["read"]]), ("scopes", None),
        ("expiresAt", "2020-01-01"), ("expiresAt", "soon"), ("expiresAt", 7),
        ("expiresAt", "9999-12-31T23:59:59Z"),
        ("keyIds", []), ("keyIds", ["key-0-0"]), ("keyIds", [1]), ("keyIds", "key-0-0"), ("keyIds", ["x"] * 1001),
        ("token", "rfk_mine"), ("user", "somebody"), ("user", 5),
        ("models", []), ("models", "openai/*"), ("models", [""]), ("models", ["a b"]), ("models", [5]),
        ("models", ["x"] * 101), ("models", ["x" * 201]),
        ("dailyLimit", -1), ("dailyLimit", None), ("monthlyLimit", 1_000_001), ("totalLimit", "much"),
        ("budgetMode", "lax"), ("requestsPerMinute", -1), ("requestsPerMinute", 1.5), ("requestsPerMinute", True),
        ("requestsPerMinute", None), ("requestsPerMinute", 1_000_001), ("digest", "x"), ("revoked_at", None),
    ],
)  # fmt: skip
def test_it_names_a_bad_field(api, frozen, field, value):
    before = AccessToken.objects.count()
    answer = api.post(PATH, {"name": "shop"} | {field: value})
    assert answer.status_code == 400, answer.content
    assert list(answer.json()) == [field]
    assert AccessToken.objects.count() == before


def test_it_leaves_out_deleted_keys_and_takes_back_what_it_gave(api, frozen):
    kept, gone = make_key().id, make_key().id
    token = path(api.post(PATH, {"name": "shop", "keyIds": [kept, gone]}).json()["id"])
    for key, left in ((gone, [kept]), (kept, [])):
        api.delete(f"/api/llm/keys/{key}")
        shown = api.get(token).json()
        assert shown["keyIds"] == left and api.get(PATH).json()[0]["keyIds"] == left
        answer = api.patch(token, shown)
        assert answer.status_code == 200 and answer.json()["keyIds"] == left
    assert AccessToken.objects.get(name="shop").limited_to_keys, "it was not made a token for every key"
    assert not KeyEvent.objects.filter(kind="changed", token__name="shop").exists()
    other = make_key().id
    assert api.patch(token, {"keyIds": [other]}).json()["keyIds"] == [other]
    assert api.patch(token, {"keyIds": []}).status_code == 400, "while one is left"


def test_a_name_is_no_number_that_could_be_another_tokens_id(api):
    """The filters and commands that take a name take an id too."""
    answer = api.post(PATH, {"name": "7"})
    assert answer.status_code == 400 and "May not consist of digits only" in answer.json()["name"][0]
    made = api.post(PATH, {"name": "7 dwarfs"}).json()
    assert api.patch(path(made["id"]), {"name": "42"}).status_code == 400
    AccessToken.objects.filter(pk=made["id"]).update(name="42")  # as version 0.1.0 allowed it
    assert api.patch(path(made["id"]), api.get(path(made["id"])).json()).status_code == 200
    assert api.patch(path(made["id"]), {"name": "43"}).status_code == 400


def test_a_token_limited_to_keys_makes_no_wider_one(administrator, frozen):
    mine, other = make_key(), make_key()
    client = JsonClient(make_token(administrator, "manage", keyIds=[mine.id]))
    for key_ids in (None, [other.id], [mine.id, other.id]):
        assert client.post(PATH, {"name": "wider", "keyIds": key_ids}).status_code == 403
    assert client.post(PATH, {"name": "as narrow", "keyIds": [mine.id]}).status_code == 201


def test_it_revokes(api, administrator, frozen):
    text = make_token(administrator, "read")
    token = AccessToken.objects.get(digest=token_digest(text))
    for _ in range(2):
        answer = api.delete(path(token.pk))
        assert answer.status_code == 200
        assert answer.json() == {"success": True, "message": "Token revoked"}
    assert JsonClient(text).get("/api/llm/keys").status_code == 401
    revoked = {listed["id"]: listed["revokedAt"] for listed in api.get(PATH).json()}
    assert revoked.pop(token.pk) == "2026-11-23T20:30:00Z"
    assert list(revoked.values()) == [None]


@pytest.mark.parametrize("number", ["0", "9" * 30, "x"])
def test_it_knows_no_other_token(api, number):
    checks.is_unknown(api.get(path(number)))
    checks.is_unknown(api.patch(path(number), {"dailyLimit": 1}))
    checks.is_unknown(api.delete(path(number)))
    checks.is_unknown(api.post(path(number) + "/rotate"))


def test_it_lists_with_a_constant_number_of_queries(api, administrator, django_assert_num_queries, frozen):
    keys = [make_key().id for _ in range(3)]
    for _ in range(20):
        make_token(administrator, "read", keyIds=keys)
    api.get(PATH)
    with django_assert_num_queries(5):  # the token, its user, the tokens, their keys, the last days' costs
        assert len(api.get(PATH).json()) == 21


def test_one_sees_and_revokes_ones_own_and_an_administrator_every_one(api, administrator, frozen):
    """The page shows the same: `tests/pages/test_tokens.py`."""
    rights = ("view_accesstoken", "delete_accesstoken")
    person, colleague = make_user("person", *rights), make_user("colleague", *rights)
    client = JsonClient(make_token(person, "manage"))
    make_token(colleague, "gateway")
    mine, theirs = AccessToken.objects.get(user=person), AccessToken.objects.get(user=colleague)

    assert [token["user"] for token in client.get(PATH).json()] == ["person"]
    checks.is_unknown(client.delete(path(theirs.pk)))
    theirs.refresh_from_db()
    assert theirs.revoked_at is None

    assert {token["user"] for token in api.get(PATH).json()} == {"admin", "person", "colleague"}
    assert api.delete(path(theirs.pk)).status_code == 200
    assert client.delete(path(mine.pk)).status_code == 200


def test_it_refuses_malformed_bodies(api):
    checks.refuses_malformed_bodies(api.post, PATH)


@pytest.mark.parametrize(("method", "address"), [("get", PATH), ("post", PATH), ("delete", path(1))])
def test_it_needs_authentication(method, address):
    checks.needs_authentication(method, address)


@pytest.mark.parametrize(
    ("method", "address", "permission"),
    [
        ("get", PATH, "view_accesstoken"),
        ("post", PATH, "add_accesstoken"),
        ("delete", path(0), "delete_accesstoken"),
    ],
)
def test_it_needs_the_permission(method, address, permission):
    checks.needs_permission(method, address, permission)


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get", "post")
    number = AccessToken.objects.get().pk
    checks.refuses_other_methods(api, path(number), "get", "patch", "delete")
    checks.refuses_other_methods(api, path(number) + "/rotate", "post")
    checks.refuses_other_methods(api, path("current"), "get")


def test_an_expired_token_ends(administrator, frozen):
    client = JsonClient(make_token(administrator, "read", expiresAt=NOW + timedelta(seconds=1)))
    assert client.get(PATH).status_code == 200
    frozen.move_to(NOW + timedelta(seconds=1))
    assert client.get(PATH).status_code == 401


LIMITS = {
    "models": ["openai/*", "claude-sonnet-5.5"], "dailyLimit": 5, "monthlyLimit": 50.5, "totalLimit": "0.000000001",
    "budgetMode": "soft", "requestsPerMinute": 60,
}  # fmt: skip


def test_it_takes_every_limit(api, frozen):
    made = api.post(PATH, {"name": "shop", **LIMITS}).json()
    wanted = LIMITS | {"dailyLimit": 5.0, "totalLimit": 0.000000001}
    assert {name: made[name] for name in wanted} == wanted
    assert (made["remainingDailyBudget"], made["remainingTotalBudget"], made["status"]) == (5.0, 1e-9, "ACTIVE")
    shown = api.get(path(made["id"])).json()
    assert shown == {name: value for name, value in made.items() if name != "token"}


def test_limits_that_are_left_out_come_from_the_settings(api, settings):
    settings.TOKEN_DAILY_LIMIT_USD, settings.TOKEN_TOTAL_LIMIT_USD = "2.5", "100"
    made = api.post(PATH, {"name": "shop", "totalLimit": 0}).json()
    assert (made["dailyLimit"], made["monthlyLimit"], made["totalLimit"]) == (2.5, 0.0, 0.0)


class TestChange:
    def test_it_changes_what_is_given_and_leaves_the_rest(self, api, frozen):
        key = make_key()
        made = api.post(PATH, {"name": "shop"}).json()
        change = {**LIMITS, "totalLimit": 7, "keyIds": [key.id], "scopes": ["read"], "expiresAt": "2027-01-01"}
        assert api.patch(path(made["id"]), change).status_code == 200
        shown = api.patch(path(made["id"]), {"name": "shop 2"}).json()
        wanted = change | {"name": "shop 2", "expiresAt": "2027-01-01T00:00:00Z", "user": "admin"}
        assert {name: shown[name] for name in wanted} == wanted
        shown = api.patch(path(made["id"]), {"keyIds": None, "models": None, "expiresAt": None, "budgetMode": None})
        assert [shown.json()[name] for name in ("keyIds", "models", "expiresAt", "budgetMode")] == [None] * 4

    def test_what_was_shown_can_be_put_back(self, api, frozen):
        made = api.post(PATH, {"name": "shop", **LIMITS}).json()
        shown = api.get(path(made["id"])).json()
        before = KeyEvent.objects.count()
        assert api.patch(path(made["id"]), shown).json() == shown
        assert KeyEvent.objects.count() == before, "nothing was changed"

    def test_an_expiry_finer_than_is_shown_can_be_put_back(self, api, administrator, frozen):
        expires = NOW + timedelta(hours=1, microseconds=123456)
        made = api.post(PATH, {"name": "shop", "expiresAt": expires.isoformat()}).json()
        AccessToken.objects.filter(pk=made["id"]).update(expires_at=expires)  # as earlier versions stored it
        frozen.move_to(NOW + timedelta(hours=2))
        shown = api.get(path(made["id"])).json()
        answer = api.patch(path(made["id"]), shown | {"name": "renamed"})
        assert answer.status_code == 200, answer.content
        assert (answer.json()["name"], answer.json()["expiresAt"]) == ("renamed", "2026-11-23T21:30:00.123Z")
        assert KeyEvent.objects.get(kind="changed").message == "The token “renamed” was changed: name."

    def test_it_leaves_an_event_that_says_who_and_what(self, api):
        made = api.post(PATH, {"name": "shop"}).json()
        api.patch(path(made["id"]), {"dailyLimit": 5, "models": ["gpt-6*"]})
        added, changed = KeyEvent.objects.filter(token_id=made["id"]).order_by("id")
        assert (added.kind, changed.kind) == ("added", "changed")
        assert changed.message == "The token “shop” was changed: dailyLimit, models."
        assert changed.actor.startswith("admin (token ")

    @pytest.mark.parametrize(
        ("field", "value"),
        [("expiresAt", "2020-01-01"), ("dailyLimit", None), ("token", "x"), ("models", []), ("scopes", [])],
    )
    def test_it_names_a_bad_field(self, api, frozen, field, value):
        made = api.post(PATH, {"name": "shop"}).json()
        answer = api.patch(path(made["id"]), {field: value})
        assert (answer.status_code, list(answer.json())) == (400, [field])

    def test_a_whole_number_may_be_written_with_a_point(self, api):
        made = api.post(PATH, {"name": "shop"}).json()
        assert api.patch(path(made["id"]), '{"requestsPerMinute": 60.0}').json()["requestsPerMinute"] == 60

    def test_a_revoked_one_stays_as_it_was(self, api):
        made = api.post(PATH, {"name": "shop"}).json()
        api.delete(path(made["id"]))
        assert api.get(path(made["id"])).json()["status"] == "REVOKED"
        for answer in (api.patch(path(made["id"]), {"dailyLimit": 1}), api.post(path(made["id"]) + "/rotate")):
            assert answer.status_code == 409 and "revoked" in answer.json()["detail"]

    def test_a_raised_limit_ends_what_the_last_refusal_left(self, api, frozen):
        made = api.post(PATH, {"name": "shop", "dailyLimit": 1}).json()
        AccessToken.objects.filter(pk=made["id"]).update(refused_window="day", refused_day=NOW.date())
        assert api.get(path(made["id"])).json()["status"] == "LIMIT_REACHED"
        assert api.patch(path(made["id"]), {"dailyLimit": 2}).json()["status"] == "ACTIVE"

    def test_soft_mode_ends_it_too(self, api, frozen):
        made = api.post(PATH, {"name": "shop", "dailyLimit": 1}).json()
        AccessToken.objects.filter(pk=made["id"]).update(refused_window="day", refused_day=NOW.date())
        assert api.patch(path(made["id"]), {"budgetMode": "soft"}).json()["status"] == "ACTIVE"


class TestRotate:
    def test_the_account_stays_and_the_secret_is_new(self, api, administrator, frozen):
        made = api.post(PATH, {"name": "shop", "scopes": ["read"]}).json()
        old = made.pop("token")
        answer = api.post(path(made["id"]) + "/rotate")
        assert answer.status_code == 200
        rotated = answer.json()
        new = rotated.pop("token")
        assert rotated == made and new.startswith("rfk_") and new != old
        assert JsonClient(new).get(PATH).status_code == 200
        assert JsonClient(old).get(PATH).status_code == 401
        assert new not in api.get(PATH).content.decode()

    def test_the_old_secret_may_hold_a_while(self, api, frozen):
        made = api.post(PATH, {"name": "shop", "scopes": ["read"]}).json()
        new = api.post(path(made["id"]) + "/rotate", {"overlapSeconds": 60}).json()["token"]
        newest = api.post(path(made["id"]) + "/rotate", {"overlapSeconds": 60}).json()["token"]
        statuses = [JsonClient(text).get(PATH).status_code for text in (made["token"], new, newest)]
        assert statuses == [401, 200, 200], "of three secrets the two last ones hold"
        frozen.move_to(NOW + timedelta(seconds=60))
        assert [JsonClient(text).get(PATH).status_code for text in (new, newest)] == [401, 200]

    def test_the_overlap_may_be_written_with_a_point(self, api, frozen):
        made = api.post(PATH, {"name": "shop", "scopes": ["read"]}).json()
        assert api.post(path(made["id"]) + "/rotate", '{"overlapSeconds": 60.0}').status_code == 200
        assert JsonClient(made["token"]).get(PATH).status_code == 200

    @pytest.mark.parametrize("seconds", [-1, 1.5, "60", True, None, 2_592_001])
    def test_it_names_a_bad_overlap(self, api, seconds):
        made = api.post(PATH, {"name": "shop"}).json()
        answer = api.post(path(made["id"]) + "/rotate", {"overlapSeconds": seconds})
        assert (answer.status_code, list(answer.json())) == (400, ["overlapSeconds"])


class TestCurrent:
    @pytest.mark.parametrize("scope", ["gateway", "read", "manage"])
    def test_a_token_of_any_scope_sees_itself(self, administrator, scope, frozen):
        user = make_user("nobody")
        make_token(administrator, name="another")
        text = make_token(user, scope, name="shop", dailyLimit=5)
        shown = JsonClient(text).get(path("current")).json()
        assert (shown["name"], shown["user"], shown["remainingDailyBudget"]) == ("shop", "nobody", 5.0)

    def test_a_session_has_none(self, administrator):
        client = JsonClient()
        client.force_login(administrator)
        checks.is_unknown(client.get(path("current")))


class TestMaker:
    """No token makes one that can more, or lasts longer, and what it made ends with it."""

    def client(self, user, **fields):
        return JsonClient(make_token(user, "manage", name="maker", **fields))

    @pytest.mark.parametrize(
        "limit",
        [{"dailyLimit": 1}, {"monthlyLimit": 1}, {"totalLimit": 1}, {"requestsPerMinute": 1}],
    )
    def test_one_with_limits_makes_and_changes_none(self, administrator, api, limit):
        client, other = self.client(administrator, **limit), api.post(PATH, {"name": "other"}).json()
        own = AccessToken.objects.get(name="maker").pk
        for answer in (
            client.post(PATH, {"name": "child", **limit}),
            client.patch(path(own), dict.fromkeys(limit, 0)),
            client.patch(path(other["id"]), {"name": "x"}),
            client.post(path(other["id"]) + "/rotate"),
        ):
            assert answer.status_code == 403, answer.content
            assert "has limits of its own" in answer.json()["detail"]
        assert client.delete(path(other["id"])).status_code == 200

    def test_none_that_holds_longer(self, administrator, api, frozen):
        end = NOW + timedelta(hours=1)
        client = self.client(administrator, expiresAt=end)
        other = api.post(PATH, {"name": "other"}).json()["id"]
        for answer in (
            client.post(PATH, {"name": "child"}),
            client.post(PATH, {"name": "child", "expiresAt": None}),
            client.post(PATH, {"name": "child", "expiresAt": (end + timedelta(seconds=1)).isoformat()}),
            client.patch(path(other), {"name": "x"}),
            client.post(path(other) + "/rotate"),
            client.patch(path(AccessToken.objects.get(name="maker").pk), {"expiresAt": None}),
        ):
            assert answer.status_code == 403 and "2026-11-23T21:30:00Z at the latest" in answer.json()["detail"]
        assert client.post(PATH, {"name": "child", "expiresAt": end.isoformat()}).status_code == 201

    def test_none_with_more_keys_or_models(self, administrator, frozen):
        mine, other = make_key(), make_key()
        client = self.client(administrator, keyIds=[mine.id], models=["openai/*", "claude-sonnet-5.5"])
        good = {"name": "child", "keyIds": [mine.id], "models": ["gpt-6*", "anthropic/claude-sonnet-5.5"]}
        for change in ({"keyIds": [other.id]}, {"models": None}, {"models": ["*"]}, {"models": ["openai*"]},
                       {"models": ["claude-*"]}, {"models": ["gpt-6*", "meta/llama"]}):  # fmt: skip
            assert client.post(PATH, good | change).status_code == 403, change
        assert client.post(PATH, good).status_code == 201

    def test_what_it_made_ends_with_it(self, administrator, api, frozen):
        child = self.client(administrator).post(PATH, {"name": "child", "scopes": ["manage"]}).json()
        grandchild = JsonClient(child["token"]).post(PATH, {"name": "grandchild", "scopes": ["read"]}).json()
        assert JsonClient(grandchild["token"]).get(PATH).status_code == 200
        api.delete(path(AccessToken.objects.get(name="maker").pk))
        for text in (child["token"], grandchild["token"]):
            assert JsonClient(text).get(PATH).status_code == 401
        assert api.get(path(grandchild["id"])).json()["status"] == "REVOKED"
        words = KeyEvent.objects.get(kind="deleted", token_id=grandchild["id"]).message
        assert words == "The token “grandchild” ended with “maker”, which created it."

    def test_an_earlier_end_is_its_childrens_too(self, administrator, api, frozen):
        child = self.client(administrator).post(PATH, {"name": "child", "scopes": ["manage"]}).json()
        JsonClient(child["token"]).post(PATH, {"name": "grandchild", "expiresAt": "2026-11-25"})
        api.patch(path(AccessToken.objects.get(name="maker").pk), {"expiresAt": "2026-11-24"})
        ends = set(AccessToken.objects.filter(maker__isnull=False).values_list("expires_at", flat=True))
        assert {end.isoformat() for end in ends} == {"2026-11-24T00:00:00+00:00"}
        answer = api.patch(path(child["id"]), {"expiresAt": None})
        assert answer.status_code == 400 and "ends with the token that created it" in answer.json()["expiresAt"][0]

    def test_none_outlives_a_maker_that_is_shortened_during_its_change(self, administrator, api, frozen, monkeypatch):
        client = self.client(administrator, expiresAt="2026-11-26")
        child = client.post(PATH, {"name": "child", "expiresAt": "2026-11-24"}).json()
        maker, clean = path(AccessToken.objects.get(name="maker").pk), fields.clean_change

        def shorten_meanwhile(values, **options):
            monkeypatch.setattr(fields, "clean_change", clean)
            assert api.patch(maker, {"expiresAt": "2026-11-25"}).status_code == 200
            return clean(values, **options)

        monkeypatch.setattr(fields, "clean_change", shorten_meanwhile)
        answer = api.patch(path(child["id"]), {"expiresAt": "2026-11-26"})
        assert answer.status_code == 400
        assert "at 2026-11-25 00:00 UTC at the latest" in answer.json()["expiresAt"][0]
        assert api.get(path(child["id"])).json()["expiresAt"] == "2026-11-24T00:00:00Z"

    def test_it_makes_tokens_of_its_own_user_alone(self, administrator):
        make_user("anna")
        answer = self.client(administrator).post(PATH, {"name": "child", "user": "anna"})
        assert (answer.status_code, list(answer.json())) == (400, ["user"])

    def test_an_administrator_who_is_logged_in_makes_them_of_others(self, administrator):
        anna = make_user("anna", "add_accesstoken")
        client = JsonClient()
        client.force_login(administrator)
        assert client.post(PATH, {"name": "hers", "user": "anna"}).json()["user"] == "anna"
        client.force_login(anna)
        assert client.post(PATH, {"name": "mine", "user": "anna"}).status_code == 201
        assert list(client.post(PATH, {"name": "his", "user": "admin"}).json()) == ["user"]
