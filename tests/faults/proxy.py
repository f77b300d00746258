"""Something between the gateway and PostgreSQL that behaves as bad networks do."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET = ".s.PGSQL.5432"


class Proxy:
    """Passes bytes on between its own Unix socket and a server's. Use ``proxy()``.

    What it does wrong may be told at any time, from any thread, and holds for open connections too.
    """

    def __init__(self, folder: Path, server: Path) -> None:
        self.url = f"postgresql://postgres@/postgres?host={folder}"
        self._socket, self._server = folder / SOCKET, server / SOCKET
        self._loop = asyncio.new_event_loop()
        self._delay = 0.0
        self._refusing = False
        self._passing = asyncio.Event()
        self._healed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._passing.set()

    def delay(self, seconds: float) -> None:
        """Every answer of the server takes so long."""
        self._do(self._set_delay, seconds)

    def swallow(self) -> None:
        """Nothing goes through, in no direction, and nobody is told. After ``heal`` all of it arrives,
        late, as over a network that was cut and sends again."""
        self._do(self._passing.clear)

    def cut(self) -> None:
        """End all connections; new ones may come."""
        self._do(self._cut)

    def refuse(self) -> None:
        """End all connections and every new one."""
        self._do(self._refuse)

    def heal(self) -> None:
        """Pass on everything at once."""
        self._do(self._heal)

    def run(self, started: threading.Event) -> None:
        """In a thread, until ``end``."""
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_unix_server(self._serve, self._socket))
        started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def end(self) -> None:
        self._do(self._loop.stop)

    def _do(self, action: Callable[..., None], *values: float) -> None:
        self._loop.call_soon_threadsafe(action, *values)

    def _set_delay(self, seconds: float) -> None:
        self._delay = seconds
        self._healed.clear()

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _refuse(self) -> None:
        self._refusing = True
        self._cut()

    def _heal(self) -> None:
        self._delay, self._refusing = 0.0, False
        self._healed.set()
        self._passing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.ExitStack() as open_ends:
            open_ends.callback(writer.close)
            if self._refusing:
                return
            try:
                from_server, to_server = await asyncio.open_unix_connection(self._server)
            except OSError:
                return
            open_ends.callback(to_server.close)
            ends = {writer, to_server}
            self._writers |= ends
            open_ends.callback(self._writers.difference_update, ends)
            pumps = [self._pump(reader, to_server, False), self._pump(from_server, writer, True)]
            tasks = [asyncio.create_task(pump) for pump in pumps]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        # A connection that breaks ends both directions, as one that is closed.
        with contextlib.suppress(OSError):
            while data := await reader.read(2**16):
                if answers and self._delay:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._delay):
                            await self._healed.wait()
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
            await self._passing.wait()


@contextmanager
def proxy(server: Path) -> Iterator[Proxy]:
    """A proxy to the server whose socket lies in the folder ``server``."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        running = Proxy(Path(folder), server)
        started = threading.Event()
        thread = threading.Thread(target=running.run, args=(started,), name="proxy", daemon=True)
        thread.start()
        assert started.wait(60)
        try:
            yield running
        finally:
            running.end()
            thread.join(60)
