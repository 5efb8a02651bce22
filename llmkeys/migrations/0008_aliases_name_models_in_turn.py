"""The one model of every alias becomes the first of its list; a price below zero, which nothing refused, goes."""

from django.db import migrations


def fill_lists(apps, schema_editor):
    aliases = apps.get_model("llmkeys", "ModelAlias").objects
    for alias in aliases.all():
        aliases.filter(pk=alias.pk).update(model_names=[alias.model])
    for name in ("cached_input_usd_per_mtok", "cache_write_usd_per_mtok"):
        apps.get_model("llmkeys", "ModelPrice").objects.filter(**{f"{name}__lt": 0}).update(**{name: None})


def take_the_first(apps, schema_editor):
    """The older form knows neither lists nor aliases of no provider: those are lost."""
    aliases = apps.get_model("llmkeys", "ModelAlias").objects
    aliases.filter(provider="").delete()
    for alias in aliases.all():
        aliases.filter(pk=alias.pk).update(model=next(iter(alias.model_names), ""))


class Migration(migrations.Migration):
    dependencies = [("llmkeys", "0007_prices_of_every_kind")]

    operations = [migrations.RunPython(fill_lists, take_the_first)]
