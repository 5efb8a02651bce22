"""Daily totals of before do not tell what was estimated and what was lost: read it from the rows that are still there.

One look at those rows by their index, then short transactions, so that it may be stopped at any time and is run again.
Of rows that were pruned nobody can tell: they count as known.
"""

from __future__ import annotations

from django.db import migrations, transaction

BATCH_GROUPS = 1000

_TOLD = "SELECT 1 FROM llmkeys_adjustment a WHERE a.usage_id = u.id AND a.kind IN ('late', 'reconcile')"
_COST = """(u.cost_nano + COALESCE((SELECT SUM(a.cost_nano) FROM llmkeys_adjustment a
   WHERE a.usage_id = u.id AND a.key_id IS NOT NULL), 0))"""

_GROUPS = f"""SELECT SUM(CASE WHEN u.state = 'LOST' THEN 0 ELSE {_COST} END),
     SUM(CASE WHEN u.state = 'LOST' THEN {_COST} ELSE 0 END), u.day, u.key_id, u.model, u.token_name,
     COALESCE(u.token_id, 0)
   FROM llmkeys_usagerecord u
  WHERE (u.state = 'LOST' OR u.cost_source IN ('estimated', 'fallback')) AND NOT EXISTS ({_TOLD})
  GROUP BY u.day, u.key_id, u.model, u.token_name, COALESCE(u.token_id, 0)"""

_FILL = """UPDATE llmkeys_dailyusage SET estimated_nano = %s, lost_nano = %s
   WHERE day = %s AND key_id = %s AND model = %s AND token_name = %s AND COALESCE(token_id, 0) = %s"""


def fill(apps, schema_editor):
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        cursor.execute(_GROUPS)
        groups = cursor.fetchall()
        for first in range(0, len(groups), BATCH_GROUPS):
            with transaction.atomic(using=connection.alias):
                cursor.executemany(_FILL, groups[first : first + BATCH_GROUPS])


class Migration(migrations.Migration):

    atomic = False

    dependencies = [("llmkeys", "0013_tells_how_costs_are_known")]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
