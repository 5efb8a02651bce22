"""Prices of every kind of token, fees, tiers and long prompts; an alias names several models in turn."""

from django.db import migrations, models

WORDS = {
    "cache_write_1h_usd_per_mtok": "cache write for an hour, USD per million tokens",
    "audio_input_usd_per_mtok": "audio input, USD per million tokens",
    "cached_audio_input_usd_per_mtok": "cached audio input, USD per million tokens",
    "image_input_usd_per_mtok": "image input, USD per million tokens",
    "reasoning_output_usd_per_mtok": "reasoning output, USD per million tokens",
    "audio_output_usd_per_mtok": "audio output, USD per million tokens",
    "image_output_usd_per_mtok": "image output, USD per million tokens",
    "search_usd": "a search, USD",
    "request_usd": "a request, USD",
}


def _new(name, words):
    field = models.DecimalField(words, max_digits=16, decimal_places=8, null=True, blank=True)
    return migrations.AddField("modelprice", name, field)


class Migration(migrations.Migration):
    dependencies = [("llmkeys", "0006_link_rows_to_tokens")]

    operations = [
        migrations.AddField(
            "modelprice",
            "service_tier",
            models.CharField(
                choices=[("", "Standard"), ("flex", "Flex"), ("priority", "Priority"), ("fast", "Fast")],
                default="",
                max_length=20,
                blank=True,
            ),
        ),
        migrations.AddField(
            "modelprice",
            "above_input_tokens",
            models.PositiveIntegerField(
                default=0, help_text="For prompts with more input tokens than this; 0: for all."
            ),
        ),
        *(_new(name, words) for name, words in WORDS.items()),
        migrations.AlterModelOptions(
            "modelprice",
            {"ordering": ["provider", "model", "service_tier", "above_input_tokens", "-valid_from"]},
        ),
        migrations.RemoveConstraint("modelprice", "modelprice_one_at_a_time"),
        migrations.AddConstraint(
            "modelprice",
            models.UniqueConstraint(
                fields=["provider", "model", "service_tier", "above_input_tokens", "valid_from"],
                name="modelprice_one_at_a_time",
            ),
        ),
        migrations.AddField(
            "modelalias",
            "model_names",
            models.JSONField(default=list, help_text="Names of models, in the order in which they are tried."),
        ),
        migrations.AlterField(
            "modelalias",
            "provider",
            models.CharField(
                blank=True,
                choices=[
                    ("openrouter", "OpenRouter"),
                    ("openai", "OpenAI"),
                    ("anthropic", "Anthropic"),
                    ("google", "Google"),
                ],
                default="",
                help_text="Empty: the models are tried in turn, at every provider that has them. Else: how this "
                "provider calls the one model.",
                max_length=20,
            ),
        ),
        # Only so that the way back finds a value for aliases that name several models.
        migrations.AlterField("modelalias", "model", models.CharField(max_length=200, default="")),
    ]
