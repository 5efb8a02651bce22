"""schemathesis against a running product.

By hand: `python -m tests.api.fuzzing 300 --max-time 240` (cases for each operation; then options of schemathesis: with
a time, fuzzing and stateful testing go on until it is over); on PostgreSQL, `python -m tests.postgres` before it all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from llmkeys.simulator.thread import SimulatorThread
from tests.serving import ROOT, Served, environment, manage, prepare

# Left out: `positive_data_acceptance` (a secret that another key has, an unknown key of a token: such input fits its
# schema and is refused all the same).
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "missing_required_header",
    "unsupported_method",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
)


Completed = subprocess.CompletedProcess[str]


def fuzz(
    directory: Path, *, examples: int, seconds: int, seed: int = 1, options: tuple[str, ...] = (), **more: str
) -> Completed:
    """Run every phase, stateful ones included, with a token of scope `manage`; exit code 0 where nothing was found."""
    directory.mkdir(exist_ok=True)
    with SimulatorThread() as simulator:
        urls = {f"{provider.upper()}_BASE_URL": url for provider, url in simulator.urls.items()} | more
        urls["REFACTAI_HTTPS"] = "true"  # as behind a proxy, whose headers then tell a client's address
        if "DATABASE_URL" not in urls:
            prepare(directory / "data")
        with Served(directory / "data", "--no-scheduler", **urls) as served:
            served.wait_until_up()
            made = manage(directory / "data", "tokens", "create", "fuzzing", "--scope", "manage", **urls)
            token = made.stdout.strip()
            listed = manage(directory / "data", "tokens", "list", "--json", **urls).stdout
            own = next(row["id"] for row in json.loads(listed) if row["name"] == "fuzzing")
            options = ("--max-examples", str(examples), "--seed", str(seed), *options)
            return _run(served.port, token, own, options, seconds=seconds, directory=directory)


def _run(port: int, token: str, own: int, options: tuple[str, ...], *, seconds: int, directory: Path) -> Completed:
    command = [
        Path(sys.executable).parent / "schemathesis", "run", f"http://127.0.0.1:{port}/api/schema",
        "--url", f"http://127.0.0.1:{port}", "-H", f"Authorization: Bearer {token}",
        "-H", "X-Forwarded-Proto: https", "--checks", ",".join(CHECKS),
        *options, "--continue-on-failure", "--suppress-health-check", "all",
        "--request-timeout", "20", "--generation-database", "none", "--warnings", "off", "--no-color",
    ]  # fmt: skip
    return subprocess.run(
        list(map(str, command)),
        cwd=directory,
        env=environment(directory)
        | {"SCHEMATHESIS_HOOKS": "tests.api.fuzzing_hooks", "PYTHONPATH": str(ROOT), "FUZZING_TOKEN_ID": str(own)},
        capture_output=True,
        text=True,
        timeout=seconds,
    )


def main() -> int:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "refactai_site.settings")
    database = {"DATABASE_URL": url} if (url := os.environ.get("DATABASE_URL")) else {}
    with tempfile.TemporaryDirectory(prefix="llmkeys-fuzzing-") as name:
        done = fuzz(Path(name), examples=int(sys.argv[1]), seconds=3600, options=tuple(sys.argv[2:]), **database)
    print(done.stdout, done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
