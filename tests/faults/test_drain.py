"""SIGTERM while PostgreSQL is away: the gateway ends in time, and its rows are found in the journal."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.served import Gateway
from tests.faults.accounts import compare, rows_of
from tests.faults.form import SEED, SOON_SECONDS, either, report, until
from tests.faults.load import Load
from tests.faults.postgres import Postgres
from tests.faults.serving import DATABASE_TIMEOUT_SECONDS, serving
from tests.faults.watch import gauges, until_caught_up

CLIENTS = 50
DRAIN_SECONDS = 0.5
# For the last rows, for closing connections that no one answers, and for the process's own end.
END_SECONDS = either(40.0, 10.0)

BREAKS: dict[str, Callable[[Postgres], object]] = {"stopped": Postgres.stop, "frozen": Postgres.freeze}
# What does not answer is harder than what is not there.
TRIED = either(["frozen"], [*BREAKS])


@pytest.mark.parametrize("fault", TRIED)
def test_the_end_does_not_wait_for_postgresql(fault: str, server: Postgres, data_dir: Path) -> None:
    drain = {"GATEWAY_DRAIN_SECONDS": str(DRAIN_SECONDS)}
    with (
        serving(server.url, data_dir, **drain) as gateway,
        Load(gateway.base_url, CLIENTS, SEED) as load,
    ):
        until(lambda: load.ended_well > CLIENTS, SOON_SECONDS, "answers")
        BREAKS[fault](server)
        until(lambda: gauges(gateway)["gateway_database_away"] == 1, SOON_SECONDS, "noticed as away")
        # Those that had waited for PostgreSQL have ended, and others run.
        ended_before = load.ended_well
        until(lambda: load.ended_well > ended_before + CLIENTS, SOON_SECONDS, "answers go on")
        with long_stream(gateway, load.name) as lines:
            began = time.monotonic()
            gateway.signal(signal.SIGTERM)
            assert gateway.wait() == 0, gateway.output
            took = time.monotonic() - began
            *_, last = (line for line in lines if line)
        assert '"shutting_down"' in last
    assert took < DRAIN_SECONDS + DATABASE_TIMEOUT_SECONDS + END_SECONDS, gateway.output
    assert sum(path.stat().st_size for path in (data_dir / "journal").rglob("*.journal")) > 0

    server.heal()
    with serving(server.url, data_dir) as again:
        until_caught_up(again, SOON_SECONDS)
    rows = rows_of(server, load.name)
    statuses = compare(load.answers, rows)
    report(
        f"drain, PostgreSQL {fault}", requests=len(load.answers), took=f"{took:.1f} s", rows=dict(statuses)
    )
    assert statuses["running"] == statuses["lost"] == 0
    status_of = {row["request_id"]: row["status"] for row in rows}
    told = [answer for answer in load.answers if answer.status == 200 and answer.code == "shutting_down"]
    assert {status_of[answer.request_id] for answer in told} <= {"shutdown"}
    (row,) = rows_of(server, f"long-{load.name}")
    assert row["status"] == "shutdown"


@contextmanager
def long_stream(gateway: Gateway, name: str) -> Iterator[Iterator[str]]:
    """An answer that has begun, and takes longer than a drain, whatever the machine does."""
    body = {"messages": [{"role": "user", "content": "x" * 5000}], "stream": True}
    headers = {"x-request-id": f"long-{name}"}
    url = f"{gateway.base_url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        yield lines
