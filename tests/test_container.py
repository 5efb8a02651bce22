"""The image and the composition name what is there: files, options, addresses, variables, volumes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import yaml
from django.conf import settings

from refactai_site import settings_file
from tests.serving import ROOT, Served, free_port, prepare
from tests.test_docs import options_of, parser_of

DOCKERFILE = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
APP, DATABASE = COMPOSE["services"]["app"], COMPOSE["services"]["db"]


def lines(instruction: str) -> list[str]:
    return re.findall(rf"^\s*{instruction} (.*)$", DOCKERFILE, re.MULTILINE)


def test_every_file_that_it_copies_is_there():
    sources = [line.split()[0] for line in lines("COPY")]
    assert sources and [name for name in sources if not (ROOT / name).exists()] == []


def test_it_copies_everything_that_the_product_runs_on():
    sources = {line.split()[0] for line in lines("COPY")}
    assert {"manage.py", "refactai_site", "llmkeys", "templates", "static"} <= sources


def test_nothing_that_it_copies_is_ignored():
    ignored = {
        line.strip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")
    }
    assert not ignored & {line.split()[0] for line in lines("COPY")}
    assert {".git", ".venv", ".env"} <= ignored


def test_it_installs_the_pinned_list_and_nothing_else():
    (install,) = [line for line in lines("RUN") if "pip install" in line]
    assert "--require-hashes --no-deps -r requirements-postgres.txt" in install
    assert "requirements-postgres.txt ./" in lines("COPY")


def test_it_starts_serve_with_options_that_exist():
    (entry,), (command,) = lines("ENTRYPOINT"), lines("CMD")[-1:]
    words = json.loads(entry) + json.loads(command)
    assert words[:3] == ["python", "manage.py", "serve"]
    assert [word for word in words[3:] if word.startswith("--") and word not in options_of(parser_of("serve"))] == []
    port = words[words.index("--bind") + 1].rpartition(":")[2]
    assert lines("EXPOSE") == [port] and APP["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_it_is_healthy_when_readyz_says_so():
    (check,) = lines("HEALTHCHECK")
    assert f"http://127.0.0.1:{lines('EXPOSE')[0]}/readyz" in check


@pytest.mark.slow
def test_its_health_does_not_depend_on_a_proxy(tmp_path):
    (check,), (exposed,) = lines("HEALTHCHECK"), lines("EXPOSE")
    _, *words = json.loads(check.partition(" CMD ")[2])
    proxy = {"http_proxy": f"http://127.0.0.1:{free_port()}", "no_proxy": ""}
    with Served(prepare(tmp_path / "data"), "--no-scheduler") as served:
        served.wait_until_up()
        command = [sys.executable, *(word.replace(f":{exposed}/", f":{served.port}/") for word in words)]
        done = subprocess.run(command, env=os.environ | proxy, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        served.stop()
        assert subprocess.run(command, env=os.environ | proxy, capture_output=True, check=False).returncode != 0
    gateway = "\n".join(path.read_text() for path in (ROOT / "llmkeys" / "gateway").glob("*.py"))
    assert '"/readyz"' in gateway


def test_it_does_not_run_as_root_and_owns_its_data():
    (user,) = lines("USER")
    setup = " ".join(lines("RUN"))
    made = f"useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin {user}"
    assert user != "root" and made in setup
    assert f"install -d -m 0700 -o {user} -g {user} /data" in setup


def test_its_data_are_in_the_volume():
    (volume,) = json.loads(lines("VOLUME")[0])
    assert f"REFACTAI_DATA_DIR={volume}" in DOCKERFILE
    assert APP["volumes"] == [f"data:{volume}"] and "data" in COMPOSE["volumes"]


def test_a_stop_waits_longer_than_requests_may_take():
    assert lines("STOPSIGNAL") == ["SIGTERM"]
    assert int(APP["stop_grace_period"].removesuffix("s")) >= settings.STOP_SECONDS + 10


def test_sqlite_is_the_default_and_postgresql_a_profile():
    assert "profiles" not in APP and "DATABASE_URL" not in str(APP.get("environment"))
    assert DATABASE["profiles"] == ["postgres"]
    assert APP["depends_on"]["db"]["required"] is False and APP["env_file"] == [{"path": ".env", "required": False}]
    text = (ROOT / "docs" / "deployment.md").read_text()
    user, name = DATABASE["environment"]["POSTGRES_USER"], DATABASE["environment"]["POSTGRES_DB"]
    assert re.search(rf"^DATABASE_URL=postgres://{user}:[^@]+@db:5432/{name}$", text, re.MULTILINE)
    assert "POSTGRES_PASSWORD=" in text and "docker compose --profile postgres up" in text


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml"])
def test_its_variables_are_settings_of_the_product(name):
    named = re.findall(r"\b(?:REFACTAI|DJANGO)_[A-Z_]+", (ROOT / name).read_text())
    assert [one for one in named if not settings_file._ACCEPTED.fullmatch(one)] == []


@pytest.mark.parametrize("name", ["Dockerfile", "compose.yaml", ".dockerignore"])
def test_it_names_no_host_but_its_own(name):
    text = (ROOT / name).read_text()
    assert set(re.findall(r"https?://([\w.]+)", text)) <= {"127.0.0.1"}
    assert "index" not in text and "registry" not in text


def test_its_images_are_public_ones():
    assert re.fullmatch(r"python:3\.\d+-slim", lines("FROM")[0])
    assert re.fullmatch(r"postgres:\d+", DATABASE["image"])
