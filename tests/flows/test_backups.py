"""Backups taken while programs are served: each is whole, and what was answered before it began is in it."""

from __future__ import annotations

import json
import threading
from contextlib import closing

import pytest

from tests.flows.product import Product, chat
from tests.flows.scale import size
from tests.serving import manage

BACKUPS, CLIENTS = size("BACKUPS", short=4, long=20), size("PROGRAMS", short=16, long=32)
EVERY = 5  # each one is restored and audited, every fifth one serves as well


@pytest.mark.proof
def test_backups_under_many_programs_restore_and_serve(data_dir, simulator, tmp_path):
    archives, answered_before = [], []
    with Product(data_dir, simulator) as product:
        product.add_key("Production", dailyLimit=0, monthlyLimit=0, totalLimit=0)
        answered, failed, stop, lock = [0], [], threading.Event(), threading.Lock()

        def ask() -> None:
            with closing(product.program()) as program:
                while not stop.is_set():
                    reply = program.chat(chat(max_tokens=20))
                    with lock:
                        answered[0] += reply.status == 200
                        if reply.status != 200:
                            failed.append(reply.body)

        programs = [threading.Thread(target=ask, name=f"program-{number}") for number in range(CLIENTS)]
        for program in programs:
            program.start()
        try:
            for number in range(BACKUPS):
                answered_before.append(answered[0])
                archives.append(tmp_path / f"{number}.tar.gz")
                told = json.loads(product.command("backup", str(archives[-1]), "--json"))
                assert told["differences"] == 0 and told["usageRows"] >= answered_before[-1]
        finally:
            stop.set()
            for program in programs:
                program.join(60)
        assert not failed, failed[0]
        assert answered_before[-1] > answered_before[0], "the programs were served all the while"
        environment = product.environment
    for number, archive in enumerate(archives):
        fresh = tmp_path / f"restored-{number}"
        restored = manage(fresh, "restore", str(archive), "--json")
        assert restored.returncode == 0, restored.stderr
        told = json.loads(restored.stdout)
        assert told["differences"] == 0 and told["usageRows"] >= answered_before[number]
        if number % EVERY == 0:
            with (
                Product(fresh, simulator, "--workers", "1", **environment) as again,
                closing(again.program()) as program,
            ):
                assert program.chat(chat()).status == 200


def test_what_came_after_a_backup_is_gone_after_its_restore(data_dir, simulator, tmp_path, database):
    archive = tmp_path / "backup.tar.gz"
    with Product(data_dir, simulator, **database) as product:
        product.add_key("Production", dailyLimit=0, monthlyLimit=0, totalLimit=0)
        with closing(product.program()) as program:
            assert program.chat(chat()).status == 200
            product.command("backup", str(archive))
            assert program.chat(chat()).status == 200
        product.add_key("Later")
        running = manage(data_dir, "restore", str(archive), **database)
        assert running.returncode == 1 and "A server is running on" in running.stderr
        assert product.served.stop() == 0
    restored = manage(data_dir, "restore", str(archive), "--json", **database)
    assert restored.returncode == 0, restored.stderr
    told = json.loads(restored.stdout)
    assert (told["usageRows"], told["differences"], told["unreadableSecrets"]) == (1, 0, [])
    with Product(data_dir, simulator, **database) as product:
        (key,) = product.api("GET", "/keys")
        assert (key["name"], key["totalRequests"]) == ("Production", 1)
        with closing(product.program()) as program:
            assert program.chat(chat()).status == 200
        product.command("audit")
