"""The master key is changed while eight programs ask without a pause, and the change is killed again and again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from llmkeys.simulator.thread import SimulatorThread
from llmkeys.vault.crypto import MasterKey
from tests.flows.product import Product, chat, new_secret
from tests.flows.scale import size
from tests.serving import ROOT, environment, wait_for

pytestmark = pytest.mark.proof
OLD, NEW = "the-old-master-key-long-enough", "the-new-master-key-long-enough"
KILLS = size("KILLS", short=2, long=50)
KEYS, PROGRAMS = 12 * KILLS, size("PROGRAMS", short=8, long=32)
BODY = chat("[[prompt_tokens=10 completion_tokens=10]]", max_tokens=50)
# Slower than it is, so that each run can be killed in its middle.
SLOWLY = """
django.setup()
import time
from llmkeys.vault import keyring
reseal = keyring.reseal
def slowly(*arguments, **options):
    sealed = reseal(*arguments, **options)
    if sealed is not None:  # those that an earlier run has done are passed over
        time.sleep(0.2)
    return sealed
keyring.reseal = slowly
"""


class Traffic:
    """Programs that ask without a pause; `outcomes` counts the statuses they got."""

    def __init__(self, product: Product) -> None:
        self.product, self.outcomes = product, Counter()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(PROGRAMS)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        with closing(self.product.program()) as program:
            while not self._stop.is_set():
                reply = program.chat(BODY)
                self.outcomes[reply.status if reply.status == 200 else f"{reply.status} {reply.code}"] += 1


def start(product: Product) -> subprocess.Popen[str]:
    code = f"import sys, django, manage\nsys.argv = ['manage.py', 'reencrypt']\n{SLOWLY}\nmanage.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(product.data_dir, **product.environment)
        | {"DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def under_new_key(product: Product) -> int:
    with product.books as books:
        return sum(bytes(secret)[1:9] == MasterKey(NEW).id for (secret,) in books.rows(SECRETS))


SECRETS = "SELECT secret FROM llmkeys_apikey WHERE deleted_at IS NULL"
ADD = """
from django.utils import timezone
from llmkeys.keys.adding import add_key
for number in range({count}):
    add_key(values={{"provider": "openrouter", "name": f"Key {{number}}", "dailyLimit": 0, "monthlyLimit": 0,
                    "totalLimit": 0, "apiKey": "sk-or-v1-%048d-ok" % number}}, at=timezone.now())
"""


def test_it_changes_the_master_key_under_load_through_kills(
    data_dir: Path, simulator: SimulatorThread, database, capsys
):
    keys = {"REFACTAI_ENCRYPTION_KEYS": f"{NEW},{OLD}"}
    with Product(data_dir, simulator, "--no-scheduler", **database, **keys) as product:
        product.environment["REFACTAI_ENCRYPTION_KEYS"] = OLD
        product.command("shell", "-v", "0", "-c", ADD.format(count=KEYS))
        product.environment |= keys
        assert under_new_key(product) == 0
        with Traffic(product) as traffic:
            for _ in range(KILLS):
                before = under_new_key(product)
                running = start(product)
                wait_for(lambda before=before: under_new_key(product) >= before + 3, what="progress")
                running.send_signal(signal.SIGKILL)
                running.wait(10)
                assert_no_secret_can_be_stored_twice(product)
            killed_at = under_new_key(product)
            assert KILLS * 3 <= killed_at < KEYS, "it was not killed in its middle"
            last = product.command("reencrypt")
        with capsys.disabled():
            print(f"\n{killed_at} of {KEYS} secrets through {KILLS} kills; the programs saw {dict(traffic.outcomes)}")
        assert under_new_key(product) == KEYS and f"{KEYS - killed_at} secrets re-encrypted" in last
        assert set(traffic.outcomes) == {200} and traffic.outcomes[200] > 100
        assert product.served.stop() == 0
    assert_it_serves_with_the_new_key_alone(data_dir, simulator, database)


def assert_no_secret_can_be_stored_twice(product: Product) -> None:
    """Neither one under the new key nor one under the old."""
    with closing(product.program()) as program:
        for number in (0, KEYS - 1):
            body = {"provider": "openrouter", "name": "Twin", "apiKey": f"sk-or-v1-{number:048d}-ok"}
            reply = program.call("POST", "/api/llm/keys", body)
            assert (reply.status, b"already stored as" in reply.body) == (409, True), reply.body


def assert_it_serves_with_the_new_key_alone(data_dir: Path, simulator: SimulatorThread, database) -> None:
    only = {"REFACTAI_ENCRYPTION_KEYS": NEW}
    with Product(data_dir, simulator, "--no-scheduler", **database, **only) as product:
        with closing(product.program()) as program:
            assert program.chat(BODY).status == 200
            body = {"provider": "openrouter", "name": "Another", "apiKey": new_secret()}
            assert program.call("POST", "/api/llm/keys", body).status == 201
        assert "The books are right" in product.command("audit")
