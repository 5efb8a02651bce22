"""Rows and totals of before know their token by its name alone: link them where the name tells it for certain.

In short transactions, a few thousand rows each, so that it may be stopped at any time and goes on where it was.
"""

from __future__ import annotations

from django.conf import settings
from django.db import migrations, transaction
from django.utils import timezone

from llmkeys.key_state import current_windows

BATCH_ROWS = 5000

# One token has the name, and no user: the playground wrote the names of users where the others write a token's.
_CERTAIN = """SELECT t.name FROM llmkeys_accesstoken t
   WHERE NOT EXISTS (SELECT 1 FROM {users} u WHERE u.username = t.name) GROUP BY t.name HAVING COUNT(*) = 1"""

_LINK = """UPDATE {table} SET token_id = (SELECT t.id FROM llmkeys_accesstoken t WHERE t.name = {table}.token_name)
   WHERE id > %s AND id <= %s AND token_id IS NULL AND token_name IN ({certain})"""

# What was reset before a row was charged, by the clocks: from now on the ledger notes it.
_CHARGED_AFTER = """UPDATE llmkeys_usagerecord SET charged_after = COALESCE((SELECT MAX(a.id) FROM llmkeys_adjustment a
     WHERE a.key_id = llmkeys_usagerecord.key_id AND a.kind = 'reset'
       AND a.created_at <= llmkeys_usagerecord.finished_at), 0)
   WHERE id > %s AND id <= %s AND charged_after IS NULL AND (state = 'LOST' OR cost_source = 'estimated')"""

_COPY_CORRECTIONS = """INSERT INTO llmkeys_adjustment (kind, token_id, usage_id, day_nano, month_nano, total_nano,
     cost_nano, day, month, created_at, created_by, reason)
   SELECT a.kind, u.token_id, a.usage_id, a.total_nano, a.total_nano, a.total_nano, a.cost_nano, a.day, a.month,
          a.created_at, a.created_by, a.reason
     FROM llmkeys_adjustment a JOIN llmkeys_usagerecord u ON u.id = a.usage_id
    WHERE a.key_id IS NOT NULL AND u.token_id IS NOT NULL AND NOT EXISTS (
          SELECT 1 FROM llmkeys_adjustment b WHERE b.usage_id = a.usage_id AND b.kind = a.kind
             AND b.token_id IS NOT NULL)
    ORDER BY a.id"""

# The daily totals hold the rows, those pruned since too, and what corrected them.
_COUNTERS = """UPDATE llmkeys_accesstoken SET day = %s, month = %s,
     spent_day_nano = (SELECT COALESCE(SUM(d.cost_nano), 0) FROM llmkeys_dailyusage d
                        WHERE d.token_id = llmkeys_accesstoken.id AND d.day = %s),
     spent_month_nano = (SELECT COALESCE(SUM(d.cost_nano), 0) FROM llmkeys_dailyusage d
                          WHERE d.token_id = llmkeys_accesstoken.id AND d.day >= %s AND d.day <= %s),
     spent_total_nano = (SELECT COALESCE(SUM(d.cost_nano), 0) FROM llmkeys_dailyusage d
                          WHERE d.token_id = llmkeys_accesstoken.id),
     total_requests = (SELECT COALESCE(SUM(d.requests), 0) FROM llmkeys_dailyusage d
                        WHERE d.token_id = llmkeys_accesstoken.id),
     successful_requests = (SELECT COALESCE(SUM(d.successful), 0) FROM llmkeys_dailyusage d
                             WHERE d.token_id = llmkeys_accesstoken.id),
     failed_requests = (SELECT COALESCE(SUM(d.failed), 0) FROM llmkeys_dailyusage d
                         WHERE d.token_id = llmkeys_accesstoken.id),
     held_nano = (SELECT COALESCE(SUM(u.hold_nano), 0) FROM llmkeys_usagerecord u
                   WHERE u.token_id = llmkeys_accesstoken.id AND u.state = 'HELD')"""

_DERIVED = ("llmkeys_closedday", "llmkeys_daytotal", "llmkeys_runningtotal")  # made anew where they are wanted


def _users(apps):
    return apps.get_model(settings.AUTH_USER_MODEL)._meta.db_table


def _in_batches(connection, table, statement):
    """Run a statement with a span of ids, span by span; each is a transaction of its own."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT MIN(id), MAX(id) FROM {table}")
        first, last = cursor.fetchone()
        if first is None:
            return
        for before in range(first - 1, last, BATCH_ROWS):
            with transaction.atomic(using=connection.alias):
                cursor.execute(statement, [before, before + BATCH_ROWS])


def link(apps, schema_editor):
    connection = schema_editor.connection
    certain = _CERTAIN.format(users=_users(apps))
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("UPDATE llmkeys_adjustment SET cost_nano = total_nano WHERE usage_id IS NOT NULL")
        for table in _DERIVED:
            cursor.execute(f"DELETE FROM {table}")
    _in_batches(connection, "llmkeys_usagerecord", _CHARGED_AFTER)
    for table in ("llmkeys_usagerecord", "llmkeys_dailyusage"):
        _in_batches(connection, table, _LINK.format(table=table, certain=certain))
    now = current_windows(timezone.now())
    day, month = str(now.day), str(now.month)
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute(_COPY_CORRECTIONS)
        cursor.execute(_COUNTERS, [day, month, day, month, day])


def unlink(apps, schema_editor):
    """Leave one daily total for each name, as there was, and corrections of keys alone."""
    daily = apps.get_model("llmkeys", "DailyUsage")
    group = ("key_id", "day", "model", "token_name")
    sums = ("requests", "successful", "failed", "input_tokens", "output_tokens", "cost_nano")
    connection = schema_editor.connection
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        cursor.execute("DELETE FROM llmkeys_adjustment WHERE key_id IS NULL")
        for table in _DERIVED:
            cursor.execute(f"DELETE FROM {table}")
        kept: dict = {}
        for row in daily.objects.using(connection.alias).order_by("id").iterator():
            one = kept.setdefault(tuple(getattr(row, name) for name in group), row)
            if one is not row:
                for name in sums:
                    setattr(one, name, getattr(one, name) + getattr(row, name))
                one.save()
                row.delete()


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ("llmkeys", "0005_tokens_are_accounts"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [migrations.RunPython(link, unlink)]
