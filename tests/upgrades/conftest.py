"""Upgrades start whole processes."""

from __future__ import annotations

from tests.flows.conftest import data_dir, database, postgres_server, postgres_url, simulator

__all__ = ["data_dir", "database", "postgres_server", "postgres_url", "simulator"]
