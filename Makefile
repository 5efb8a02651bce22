# `make run` starts the product, `make test` runs every test; both need only Python 3.11+ with its venv module.
PYTHON ?= python3
BIN := .venv/bin
# The tests choose their settings themselves.
unexport DJANGO_SETTINGS_MODULE
# They start hundreds of processes: what one has compiled, the next need not compile again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-quick test-postgres proof lint types format migrations-check postgres screenshots bench lock clean

run: .venv/installed
	@exec $(BIN)/python manage.py serve $(ARGS)

# More processes than cores, for they wait as often as they work. With browsers and whole products each takes a part in
# order, for what tests of a file share, and helps the others when it has ended. What measures time has the machine to
# itself.
test: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow and not browser" -n 4 $(ARGS)
	$(BIN)/python -m pytest -m "(slow or browser) and not alone" -n 4 --dist worksteal $(ARGS)
	$(BIN)/python -m pytest tests/flows -m alone -n 0 $(ARGS)

# Everything but what needs a browser, and the long proofs (many processes, many kills).
test-quick: .venv/installed-dev
	$(BIN)/python -m pytest -m "not slow and not browser" -n 4 $(ARGS)

# The quick tests that ask a database once more, on a private PostgreSQL server; fails where none is installed.
test-postgres: .venv/installed-dev
	$(BIN)/python -m tests.postgres $(BIN)/python -m pytest -m "not slow and not browser" -n 4 \
	  --only-with-database $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# It reads Django's settings, which make a data directory: that lies beside what mypy remembers.
types: .venv/installed-dev
	REFACTAI_DATA_DIR=$(CURDIR)/.mypy_cache/data $(BIN)/mypy

format: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

migrations-check: .venv/installed-dev
	$(BIN)/python manage.py makemigrations --check --dry-run

# The driver of PostgreSQL, for a DATABASE_URL that names one.
postgres: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-postgres.txt

# Every page, light and dark, wide and narrow, into test-results/screenshots; those of the README into docs/images. Then
# every page once more as on a bare Linux, with only DejaVu and an emoji font, into test-results/screenshots/dejavu.
screenshots: .venv/installed-dev
	$(BIN)/python -m tests.screenshots $(ARGS)
	$(BIN)/python -m tests.screenshots --fonts dejavu $(ARGS)

# The long forms of what `make test` proves shortly: clients at once, killed processes, two machines, the clock. Any
# size by a variable: PROOF_KILLS, PROOF_BACKUPS, PROOF_PROGRAMS, PROOF_ROOM_FOR, PROOF_REQUESTS, PROOF_SECONDS,
# PROOF_INSTANTS, PROOF_SEED.
proof: .venv/installed-dev
	PROOF=1 $(BIN)/python -m pytest -m proof -n 0 -v --no-skips $(ARGS)

bench: .venv/installed-dev
	$(BIN)/python -m tests.bench $(ARGS)

# Needs `uv` on the PATH; rewrites the pinned requirements from pyproject.toml.
lock:
	uv pip compile --generate-hashes --universal --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 pyproject.toml --extra postgres -o requirements-postgres.txt
	uv pip compile --generate-hashes --universal --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 pyproject.toml -o requirements.txt
	uv pip compile --generate-hashes --universal --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 pyproject.toml --group dev -o requirements-dev.txt

clean:
	rm -rf .venv

.venv/bin/python:
	$(PYTHON) -m venv .venv

# The lists are whole, so that pip need not look for more (`--no-deps`), and takes no newer one of an extra.
.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.txt
	@touch $@ .venv/installed
