"""The least a forwarder can be: WSGI and a pooled `requests` session, no key choice, no budget, no row."""

from __future__ import annotations

import os

import requests
from requests.adapters import HTTPAdapter

UPSTREAM = os.environ["BENCH_UPSTREAM"]
SECRET = os.environ["BENCH_SECRET"]

session = requests.Session()
session.trust_env = False
session.mount("http://", HTTPAdapter(pool_connections=4, pool_maxsize=256))


def application(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Type": "application/json"}
    answer = session.post(
        f"{UPSTREAM}/chat/completions", data=body, headers=headers, stream=True, allow_redirects=False
    )
    start_response(f"{answer.status_code} OK", [("Content-Type", answer.headers["Content-Type"])])
    return answer.iter_content(chunk_size=None)
