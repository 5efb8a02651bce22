"""Whoever sends requests needs a permission from now on: users whose tokens do so already get it."""

from __future__ import annotations

from django.conf import settings
from django.db import migrations
from django.db.models import Q
from django.utils import timezone

CODENAME = "use_gateway"


def grant(apps, schema_editor):
    using = schema_editor.connection.alias
    token, user = apps.get_model("llmkeys", "AccessToken"), apps.get_model(settings.AUTH_USER_MODEL)
    live = token.objects.using(using).filter(
        Q(scope_gateway=True) | Q(scope_manage=True),
        Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now()),
        revoked_at__isnull=True,
    )
    users = user.objects.using(using).filter(pk__in=live.values("user_id"), is_superuser=False)
    if not users.exists():
        return
    # Django makes permissions after all migrations; this one is needed now.
    kind, _ = apps.get_model("contenttypes", "ContentType").objects.using(using).get_or_create(
        app_label="llmkeys", model="accesstoken"
    )
    permission, _ = apps.get_model("auth", "Permission").objects.using(using).get_or_create(
        content_type=kind, codename=CODENAME, defaults={"name": "Can send requests through the gateway"}
    )
    for one in users:
        one.user_permissions.add(permission)


class Migration(migrations.Migration):

    dependencies = [
        ("llmkeys", "0011_tokens_have_models_and_a_pace"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [migrations.RunPython(grant, migrations.RunPython.noop)]
