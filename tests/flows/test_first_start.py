"""Two servers that start at once on one empty database: one prepares it, the other waits, and both serve."""

from __future__ import annotations

from pathlib import Path

from llmkeys.vault.crypto import new_master_key
from tests.flows.product import Books
from tests.serving import Served


def test_one_prepares_and_both_serve(tmp_path: Path, database: dict[str, str]):
    on_two_machines = bool(database)
    directories = [tmp_path / name / "data" for name in (("first", "second") if on_two_machines else ("one", "one"))]
    for directory in directories:
        directory.parent.mkdir(exist_ok=True)
    given = database | {"OPENAI_API_KEY": "sk-proj-" + "a1B2c3D4e5F6" * 5, "REFACTAI_ENCRYPTION_KEYS": new_master_key()}
    with Served(directories[0], **given) as first, Served(directories[1], **given) as second:
        first.wait_until_up()
        second.wait_until_up()
        logs = first.log.read_text() + second.log.read_text()
        assert logs.count("Another server is preparing this database; waiting until it is done.") == 1
        assert "Traceback" not in logs
        with Books(database.get("DATABASE_URL") or str(directories[0] / "llmkeys.sqlite3")) as books:
            assert books.rows("SELECT count(*) FROM auth_user") == [(1,)]
            assert books.rows("SELECT count(*) FROM llmkeys_apikey WHERE source = 'environment'") == [(1,)]
            assert books.rows("SELECT count(*) - count(DISTINCT name) FROM django_q_schedule") == [(0,)]
        for served in (first, second):
            assert served.get("/readyz")[0] == 200
            assert served.stop() == 0
