"""A gateway goes while vllm-router spreads requests over it and another one."""

from __future__ import annotations

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx

from tests.end_to_end.router import healthy, load_of, routing
from tests.end_to_end.served import Gateway
from tests.faults.accounts import Row, check_ended, compare, rows_of
from tests.faults.form import SEED, either, report, until
from tests.faults.killed import Kill, check_kills
from tests.faults.load import PATH, Load
from tests.faults.postgres import Postgres
from tests.faults.serving import launching, serving

CLIENTS = either(10, 50)
ROUNDS = either(1, 20)
SECONDS = 60.0


@contextmanager
def two_gateways(server: Postgres, data_dir: Path, **first: str) -> Iterator[tuple[Gateway, Gateway]]:
    """The one that goes has the settings ``first``; the other one is ended in order."""
    pace = {"GATEWAY_SIMULATED_TOKENS_PER_SECOND": "100"}
    data_dir.mkdir()
    with (
        launching(server.url, data_dir / "goes", **pace, **first) as goes,
        serving(server.url, data_dir / "stays", **pace) as stays,
    ):
        goes.wait_until_started()
        yield goes, stays


def go_on(load: Load) -> None:
    """Until every client has had more answers."""
    before = load.ended_well
    until(lambda: load.ended_well > before + 2 * CLIENTS, SECONDS, "answers go on")


def drain_one(server: Postgres, data_dir: Path, seed: int) -> Load:
    """A gateway gives notice, and ends when the router asks it no more."""
    with (
        two_gateways(server, data_dir, GATEWAY_DRAIN_NOTICE_SECONDS="3600") as (leaving, staying),
        routing([leaving, staying], "round_robin") as router,
        Load(str(router.base_url), CLIENTS, seed) as load,
    ):
        go_on(load)
        leaving.signal(signal.SIGTERM)
        until(lambda: not healthy(router), SECONDS, "the router has seen that it leaves")
        until(lambda: load_of(leaving) == 0, SECONDS, "nobody asks it any more")
        # The notice is over.
        leaving.signal(signal.SIGTERM)
        assert leaving.wait() == 0, leaving.output
        go_on(load)
    return load


def kill_one(server: Postgres, data_dir: Path, seed: int) -> tuple[Load, Kill]:
    """A gateway is killed in the middle of its answers."""
    with (
        two_gateways(server, data_dir) as pair,
        routing(pair, "round_robin") as router,
        Load(str(router.base_url), CLIENTS, seed) as load,
    ):
        go_on(load)
        gateway_id = id_of(pair[0], server)
        before = time.monotonic()
        pair[0].process.kill()
        kill = Kill(before, time.monotonic(), gateway_id)
        go_on(load)
    return load, kill


def id_of(gateway: Gateway, server: Postgres) -> int:
    """What it calls itself in its rows."""
    request_id = f"whose-{uuid4().hex}"
    body = {"messages": [{"role": "user", "content": "?"}]}
    httpx.post(f"{gateway.base_url}{PATH}", json=body, headers={"x-request-id": request_id}, timeout=SECONDS)
    (row,) = rows_of(server, request_id)
    return int(row["gateway_id"])


def test_a_gateway_that_gives_notice_loses_no_request(server: Postgres, data_dir: Path) -> None:
    for number in range(ROUNDS):
        load = drain_one(server, data_dir / str(number), SEED + number)
        assert [answer for answer in load.answers if answer.failed] == []
        statuses = compare(load.answers, rows_of(server, load.name))
        assert statuses.keys() <= {"completed", "cancelled"}
        report("drained behind a router", requests=len(load.answers), rows=dict(statuses))


def test_a_gateway_that_is_killed_is_asked_no_more(server: Postgres, data_dir: Path) -> None:
    for number in range(ROUNDS):
        load, kill = kill_one(server, data_dir / str(number), SEED + number)
        # Only streams that had begun, and they break off: none looks like a whole answer.
        failed = [answer for answer in load.answers if answer.failed]
        assert len(failed) <= CLIENTS
        assert all(answer.stream and answer.status == 200 for answer in failed), failed
        every_row = rows_of(server, load.name)
        check_kills(load.answers, every_row, [kill])
        rows: dict[str, list[Row]] = defaultdict(list)
        for row in every_row:
            rows[row["request_id"]].append(row)
        twice: Counter[str] = Counter()
        for answer in load.answers:
            found = rows[answer.request_id]
            if answer.saw_the_end:
                (whole,) = (row for row in found if row["status"] == "completed")
                check_ended(answer, whole)
                # The router asked the other one again: what the dead one had begun is a row of its own.
                twice.update(row["status"] for row in found if row is not whole)
        assert twice.keys() <= {"running", "lost"}
        report("killed behind a router", requests=len(load.answers), broken=len(failed), twice=dict(twice))
