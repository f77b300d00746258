"""A PostgreSQL of the test's own, and all that can happen to one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil

from persistence.database import Database
from persistence.embedded import EmbeddedPostgres
from tests.faults.form import until

TMPFS_MIB = 192
START_SECONDS = 60.0

# So that the write-ahead log does not fill the small disk by itself.
SETTINGS = ("max_wal_size = '48MB'", "min_wal_size = '32MB'")


class Postgres:
    """A server with this program's schema on a Unix socket. Use ``postgres()``.

    Each way to break it is undone by ``heal``.
    """

    def __init__(self, folder: Path, on_small_disk: bool) -> None:
        self.folder = folder
        self.on_small_disk = on_small_disk
        self._embedded = EmbeddedPostgres(folder)
        self._ballast = folder / "postgres" / "ballast"
        # Connections that outlive the call that opened them.
        self._runner = asyncio.Runner()
        self._hogs: list[asyncpg.Connection] = []
        self.url = self._embedded.start()

    @property
    def socket_dir(self) -> Path:
        return Path(self.url.partition("host=")[2])

    def prepare(self) -> None:
        """Make the schema and settle in."""

        async def migrate() -> None:
            database = Database(self.url, self.folder)
            await database.connect()
            await database.migrate()
            await database.close()

        asyncio.run(migrate())
        for setting in SETTINGS:
            self.fetch(f"ALTER SYSTEM SET {setting}")
        self.fetch("SELECT pg_reload_conf()")

    def fetch(self, sql: str, *values: object) -> list[asyncpg.Record]:
        """The rows of one statement, over a connection of its own."""

        async def run() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.url)
            try:
                return list(await connection.fetch(sql, *values))
            finally:
                await connection.close()

        return asyncio.run(run())

    def stop(self) -> None:
        """An orderly end that does not wait for clients (pg_ctl's mode fast)."""
        self._embedded.stop()

    def kill(self) -> None:
        """SIGKILL to the postmaster and all its children."""
        processes = self.freeze()
        for process in processes:
            process.kill()
        _, left = psutil.wait_procs(processes, timeout=START_SECONDS)
        assert not left
        # Its process id may be another's when the next one starts.
        (self.folder / "postgres" / "postmaster.pid").unlink()
        self._embedded.stop()

    def freeze(self) -> list[psutil.Process]:
        """SIGSTOP to the postmaster and all its children: connections open, and nothing answers.

        Gives these processes.
        """
        self._processes()[0].suspend()
        # Only now: a postmaster that runs starts new ones.
        processes = self._processes()
        for process in processes[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        return processes

    def use_up_connections(self) -> None:
        """End the gateways' connections and hold every one there is."""
        self._runner.run(self._take_all())

    async def _take_all(self) -> None:
        async def one_more() -> bool:
            try:
                self._hogs.append(
                    await asyncpg.connect(self.url, server_settings={"application_name": "hog"})
                )
            except asyncpg.TooManyConnectionsError:
                return False
            return True

        while await one_more():
            pass
        ended = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND application_name <> 'hog'"
        )
        # What is freed here may be had again by the gateway, a moment after it was ended: until nobody
        # else has one, and there is none to be had.
        while await self._hogs[0].fetch(ended) or await one_more():
            while await one_more():
                pass

    def fill_disk(self) -> None:
        """Leave no byte free. Only ``on_small_disk``."""
        fill(self._ballast)

    def heal(self) -> None:
        """Undo whatever was done; returns when it answers."""
        self._ballast.unlink(missing_ok=True)
        hogs, self._hogs = self._hogs, []
        for hog in hogs:
            with contextlib.suppress(OSError, asyncpg.PostgresError):
                self._runner.run(hog.close(timeout=5))
        for process in reversed(self._processes()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
        until(self._answers_or_starts, START_SECONDS, "PostgreSQL answers again")

    def end(self) -> None:
        """For good; the folder can be removed."""
        self.heal()
        self._embedded.stop()
        self._runner.close()

    def _answers_or_starts(self) -> bool:
        try:
            self.fetch("SELECT 1")
        except (OSError, asyncpg.PostgresError):
            if not self._processes():
                self._embedded.stop()
                self._embedded = EmbeddedPostgres(self.folder)
                self._embedded.start()
            return False
        return True

    def _processes(self) -> list[psutil.Process]:
        """The postmaster, then its children; none where it does not run."""
        try:
            pid = int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0])
            postmaster = psutil.Process(pid)
            return [postmaster, *postmaster.children(recursive=True)]
        except (FileNotFoundError, psutil.NoSuchProcess):
            return []


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A server for as long as it is needed, on a small disk where one may be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    (folder / "postgres").mkdir()
    with small_disk(folder / "postgres", TMPFS_MIB) as on_small_disk:
        server = Postgres(folder, on_small_disk)
        try:
            server.prepare()
            yield server
        finally:
            server.end()
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def small_disk(folder: Path, mib: float) -> Iterator[bool]:
    """A tmpfs of ``mib`` MiB at ``folder``. Gives False, and mounts none, where that is not allowed."""
    size = f"size={int(mib * 2**20)}"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            # Lazily: a process that is ending may still have a file open.
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """Write to a file until its disk has no byte free."""
    with path.open("ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
