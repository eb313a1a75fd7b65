"""Servers that are there to be killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connections

from config import embedded


@pytest.fixture
def durable(tmp_path: Path, template, monkeypatch) -> Iterator[embedded.Servers]:
    """A cluster of this test's own that keeps what it acknowledged, for killing."""
    monkeypatch.delenv("DATABASE_URL")
    servers = embedded.Servers(tmp_path / "var")
    servers.postgres.start()
    monkeypatch.setenv("DATABASE_URL", servers.postgres.url)
    before = {alias: dict(connections[alias].settings_dict) for alias in connections}
    for alias in connections:
        connections[alias].close()
        there = {"HOST": str(servers.postgres.sockets), "PORT": "", "USER": embedded.LOGIN, "PASSWORD": ""}
        connections[alias].settings_dict.update(there)
    yield servers
    for alias, settings in before.items():
        connections[alias].close()
        connections[alias].settings_dict.update(settings)
    servers.remove()
