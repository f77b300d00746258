from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.postgres import Postgres, postgres


@pytest.fixture(scope="package")
def shared_server() -> Iterator[Postgres]:
    """One PostgreSQL for all of these tests."""
    with postgres() as server:
        yield server


@pytest.fixture
def server(shared_server: Postgres) -> Iterator[Postgres]:
    """The PostgreSQL, well; whatever a test does to it is undone."""
    yield shared_server
    shared_server.heal()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A fresh data directory, in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    (folder / "data").mkdir()
    yield folder / "data"
    shutil.rmtree(folder, ignore_errors=True)
