"""/api/llm/aliases: the names that clients may send for models."""

from __future__ import annotations

import pytest

from llmkeys.models import ModelAlias
from llmkeys.prices import catalogue
from tests.api import checks

pytestmark = pytest.mark.django_db

PATH = "/api/llm/aliases"
TWO = ["openai/gpt-6.1-terra", "anthropic/claude-sonnet-5.5"]


def add(api, **fields):
    answer = api.post(PATH, {"alias": "house", "models": TWO} | fields)
    assert answer.status_code == 201, answer.content
    return answer.json()


def path(alias):
    return f"{PATH}/{alias['id']}"


def test_it_works(api):
    alias = add(api)
    assert alias == {"id": alias["id"], "alias": "house", "models": TWO, "provider": ""}
    assert api.get(PATH).json() == [alias]
    assert api.get(path(alias)).json() == alias


def test_the_models_are_tried_in_turn_at_once(api):
    assert catalogue.models_for("house") is None
    alias = add(api)
    assert catalogue.models_for("house") == catalogue.models_to_try("house") == tuple(TWO)
    api.put(path(alias), {"models": TWO[::-1]})
    assert catalogue.models_for("house") == tuple(TWO[::-1])
    api.delete(path(alias))
    assert catalogue.models_for("house") is None
    assert catalogue.models_to_try("house") == ("house",)


def test_auto_is_an_alias(api, settings):
    chosen = (settings.PRIMARY_MODEL, *settings.FALLBACK_MODELS)
    assert catalogue.models_to_try("") == catalogue.models_to_try("auto") == chosen
    add(api, alias="auto", models=TWO)
    assert catalogue.models_to_try("") == catalogue.models_to_try("auto") == tuple(TWO)


def test_a_name_at_one_provider_is_another_name_of_one_model(api):
    add(api, alias="fast", provider="openai", models=["gpt-6-luna"])
    assert catalogue.aliases() == {("openai", "fast"): "gpt-6-luna"}
    assert catalogue.models_for("fast") is None


def test_what_was_read_can_be_put_back(api):
    alias = add(api)
    assert api.put(path(alias), alias).json() == alias


def test_it_deletes(api):
    alias = add(api)
    assert api.delete(path(alias)).json() == {"success": True, "message": "Alias deleted"}
    assert not ModelAlias.objects.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alias", ""), ("alias", None), ("alias", 5), ("alias", "a\tb"), ("alias", "x" * 201), ("provider", "nobody"),
        ("models", []), ("models", None), ("models", "gpt-4o"), ("models", [5]), ("models", [""]),
        ("models", ["x" * 201]), ("models", ["a\nb"]), ("models", ["a", "a"]), ("models", ["auto"]),
        ("models", [f"m{number}" for number in range(21)]), ("model", "gpt-4o"),
    ],
)  # fmt: skip
def test_it_names_a_bad_field(api, name, value):
    for answer in (
        api.post(PATH, {"alias": "other", "models": TWO, name: value}),
        api.put(path(add(api)), {name: value}),
    ):
        assert answer.status_code == 400, answer.content
        assert list(answer.json()) == [name]
        assert answer.json()[name]


def test_one_provider_calls_it_by_one_name(api):
    answer = api.post(PATH, {"alias": "fast", "provider": "openai", "models": TWO})
    assert answer.status_code == 400 and list(answer.json()) == ["models"]


def test_it_refuses_a_name_twice(api):
    add(api)
    assert api.post(PATH, {"alias": "house", "models": ["gpt-4o"]}).status_code == 409
    add(api, provider="openai", models=["gpt-4o"])


def test_it_refuses_malformed_bodies(api):
    checks.refuses_malformed_bodies(api.post, PATH)


@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_it_does_not_know_another_row(api, method):
    checks.is_unknown(getattr(api, method)(f"{PATH}/999999"))


def test_it_needs_authentication_and_a_permission_each(api):
    one = path(add(api))
    table = [("get", PATH, "view"), ("post", PATH, "add"), ("get", one, "view"), ("put", one, "change")]
    for number, (method, address, verb) in enumerate(table):
        checks.needs_authentication(method, address)
        checks.needs_permission(method, address, f"{verb}_modelalias", suffix=str(number))


def test_it_refuses_other_methods(api):
    checks.refuses_other_methods(api, PATH, "get", "post")
    checks.refuses_other_methods(api, path(add(api)), "get", "put", "delete")
