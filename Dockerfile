# The product in a container: SQLite in the volume /data, or PostgreSQL by DATABASE_URL. How to run it: docs/deployment.md
FROM python:3.12-slim

# pg_dump and pg_restore, for backups where the database is PostgreSQL.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends postgresql-client \
 && rm -rf /var/lib/apt/lists/*

ENV PYTHONUNBUFFERED=1 \
    REFACTAI_DATA_DIR=/data
WORKDIR /app

# The pinned list first: it changes less often than the code.
COPY requirements-postgres.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r requirements-postgres.txt

COPY manage.py ./
COPY refactai_site ./refactai_site
COPY llmkeys ./llmkeys
COPY templates ./templates
COPY static ./static
RUN python -m compileall -q . \
 && useradd --uid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin refactai \
 && install -d -m 0700 -o refactai -g refactai /data

USER refactai
VOLUME ["/data"]
EXPOSE 8080
STOPSIGNAL SIGTERM
# Without the proxy for providers that the container's environment may name.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8080/readyz', timeout=4)"]
ENTRYPOINT ["python", "manage.py"]
CMD ["serve", "--bind", "0.0.0.0:8080"]
