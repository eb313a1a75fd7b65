"""Servers that are there to be killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from config import embedded
from tests import databases
from tests.conftest import Template


@pytest.fixture
def durable(tmp_path: Path, template: Template) -> Iterator[embedded.Servers]:
    """A cluster of this test's own that keeps what it acknowledged, for killing."""
    servers = embedded.Servers(tmp_path / "var")
    servers.postgres.start()
    with databases.on_cluster(servers.postgres):
        yield servers
    servers.remove()
