"""A look at a gateway many times a second, while things happen to it."""

from __future__ import annotations

import re
import threading
import time
from types import TracebackType
from typing import Self

import httpx
import psutil

from tests.end_to_end.served import Gateway
from tests.faults.form import either, until

PAUSE_SECONDS = 0.1
# A gateway that needs longer to say that it is alive would be restarted by who watches it.
ALIVE_SECONDS = either(60.0, 5.0)
CAUGHT_UP = ("gateway_journal_rows", "gateway_rows_waiting", "gateway_database_away")

_GAUGE = re.compile(r"^(gateway_\w+) (\S+)$", re.MULTILINE)


def gauges(gateway: Gateway) -> dict[str, float]:
    """The gateway's metrics without labels."""
    text = httpx.get(f"{gateway.base_url}/metrics", timeout=ALIVE_SECONDS).text
    return {name: float(value) for name, value in _GAUGE.findall(text)}


def until_caught_up(gateway: Gateway, seconds: float) -> float:
    """Until every row is in PostgreSQL. Needs a gateway that nobody asks; gives the seconds it took."""
    return until(lambda: not any(gauges(gateway)[name] for name in CAUGHT_UP), seconds, "all rows written")


class Watch:
    """Looks until the context ends. Memory is in MiB, resident."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._process = psutil.Process(gateway.process.pid)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.most: dict[str, float] = gauges(gateway)
        self.memory_before = self.most_memory = self._memory()
        self.slowest_look = 0.0
        # What went wrong with a look, if anything did.
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    @property
    def memory_growth(self) -> float:
        return self.most_memory - self.memory_before

    def _run(self) -> None:
        while not self._stopped.wait(PAUSE_SECONDS):
            began = time.monotonic()
            try:
                self._look()
            except (httpx.HTTPError, psutil.Error) as error:
                self.failures.append(repr(error))
            self.slowest_look = max(self.slowest_look, time.monotonic() - began)

    def _look(self) -> None:
        alive = httpx.get(f"{self._gateway.base_url}/health/live", timeout=ALIVE_SECONDS)
        if alive.status_code != 200:
            self.failures.append(f"/health/live: {alive.status_code}")
        for name, value in gauges(self._gateway).items():
            self.most[name] = max(self.most.get(name, value), value)
        self.most_memory = max(self.most_memory, self._memory())

    def _memory(self) -> float:
        return float(self._process.memory_info().rss) / 2**20
