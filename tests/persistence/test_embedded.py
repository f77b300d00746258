from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from persistence.embedded import DataDirInUse, EmbeddedPostgres, lock

KILLED_GATEWAY = """
import os, sys
from pathlib import Path
from persistence.embedded import EmbeddedPostgres
EmbeddedPostgres(Path(sys.argv[1])).start()
os._exit(9)
"""


async def version(url: str) -> str:
    connection = await asyncpg.connect(url)
    found: str = await connection.fetchval("SHOW server_version_num")
    await connection.close()
    return found


def postmaster(data_dir: Path) -> Path:
    return data_dir / "postgres" / "postmaster.pid"


async def test_a_second_gateway_on_a_data_directory_is_told_who_has_it(data_dir: Path) -> None:
    first, second = EmbeddedPostgres(data_dir), EmbeddedPostgres(data_dir)
    url = first.start()
    with pytest.raises(DataDirInUse, match=rf"{data_dir}.*process {os.getpid()}"):
        second.start()
    second.stop()
    assert int(await version(url)) >= 160_000
    first.stop()
    assert not postmaster(data_dir).exists()
    first.stop()


async def test_the_server_of_a_killed_gateway_is_taken_over(data_dir: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED_GATEWAY, str(data_dir)]).returncode == 9
    left = postmaster(data_dir).read_text()
    server = EmbeddedPostgres(data_dir)
    await version(server.start())
    assert postmaster(data_dir).read_text().split()[0] == left.split()[0]
    server.stop()
    assert not postmaster(data_dir).exists()


def test_a_lock_is_free_again_after_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lock"
    with lock(path), pytest.raises(DataDirInUse, match=f"process {os.getpid()}"):
        lock(path)
    lock(path).close()
