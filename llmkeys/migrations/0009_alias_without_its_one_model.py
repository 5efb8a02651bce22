"""What an alias named alone stands first in its list; no kind has a price below zero."""

from django.db import migrations, models
from django.db.models import Q

OPTIONAL_PRICES = (
    "cached_input_usd_per_mtok",
    "cache_write_usd_per_mtok",
    "cache_write_1h_usd_per_mtok",
    "audio_input_usd_per_mtok",
    "cached_audio_input_usd_per_mtok",
    "image_input_usd_per_mtok",
    "reasoning_output_usd_per_mtok",
    "audio_output_usd_per_mtok",
    "image_output_usd_per_mtok",
    "search_usd",
    "request_usd",
)


class Migration(migrations.Migration):
    dependencies = [("llmkeys", "0008_aliases_name_models_in_turn")]

    operations = [
        migrations.RemoveField("modelalias", "model"),
        migrations.AddConstraint(
            "modelprice",
            models.CheckConstraint(
                condition=Q(*(Q(**{name: None}) | Q(**{f"{name}__gte": 0}) for name in OPTIONAL_PRICES)),
                name="modelprice_kinds_not_negative",
            ),
        ),
    ]
