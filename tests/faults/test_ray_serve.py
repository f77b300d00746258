"""Replicas on Ray Serve under load: one killed and replaced, one added, one removed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from uuid import uuid4

import httpx
import pytest

from tests.faults.accounts import compare, rows_of, running_rows
from tests.faults.form import LONG, SEED, either, report, until
from tests.faults.killed import Kill, check_kills
from tests.faults.load import MOST_CHARACTERS, PATH, Load
from tests.faults.postgres import Postgres
from tests.faults.ray_cluster import READY_SECONDS, Cluster, cluster, title

pytest.importorskip("ray", reason="Ray is not installed")

CLIENTS = either(8, 60)
KILLS = either(1, 5)
TOKENS_PER_SECOND = 30
# An answer of so many characters has taken half a second: it is a row, on a machine that has the time.
IN_A_ROW_AFTER = either(MOST_CHARACTERS, TOKENS_PER_SECOND // 2)
# An answer of an hour, to have one that runs whatever comes when.
ENDLESS = "x" * (3600 * TOKENS_PER_SECOND)
# Gateways look for rows of dead ones every 15 s.
CLOSED_SECONDS = 120.0
NOTICED_SECONDS = 60.0
ANSWER_SECONDS = 120.0

OWNERS = "SELECT request_id, gateway_id FROM message WHERE starts_with(request_id, $1)"
ROW = "SELECT gateway_id, status, completion_tokens FROM message WHERE request_id = $1"


@pytest.fixture
def ray(server: Postgres, data_dir: Path) -> Iterator[Cluster]:
    """Ray without a replica."""
    settings = {
        "GATEWAY_SIMULATED_TOKENS_PER_SECOND": str(TOKENS_PER_SECOND),
        # What the arguments say is not the most there are.
        "GATEWAY_LIMITS_GATEWAYS": "3",
    }
    with cluster(server.url, data_dir, **settings) as started:
        yield started


@dataclass
class Stream:
    """One that does not end; ``response`` has been read to its first bytes."""

    request_id: str
    response: httpx.Response
    gateway_id: int


def test_a_replica_that_dies_comes_or_goes_costs_only_what_ran_on_the_dead_one(
    ray: Cluster, server: Postgres
) -> None:
    ray.deploy(2)
    started, random = ray.until_running(2), Random(SEED)
    with Load(ray.base_url, CLIENTS, random.getrandbits(32)) as load:
        kills: list[Kill] = []
        seconds = []
        for number in range(KILLS):
            until_answered_by(server, load, 2 + number)
            with one_killed(ray, server, random, kills):
                # In the dead one's place.
                seconds.append(until_answered_by(server, load, 3 + number))
                ray.until_running(2)
                if number == KILLS - 1:
                    ray.deploy(3)
                    added = ray.until_running(3)
                    until_answered_by(server, load, 3 + KILLS)
        ray.deploy(2)
        removed = ray.until_running(2)
        so_far = load.ended_well
        until(lambda: load.ended_well > so_far + CLIENTS, ANSWER_SECONDS, "answers of those that are left")
    until(lambda: not running_rows(server), CLOSED_SECONDS, "rows of the dead are closed")
    rows = rows_of(server, load.name)
    total = compare(load.answers, rows)
    failed = [answer for answer in load.answers if answer.failed]
    report(
        "ray serve",
        requests=len(load.answers),
        failed=len(failed),
        rows=dict(total),
        seconds_to_start=f"{started:.1f}",
        to_replace=", ".join(f"{each:.1f}" for each in seconds),
        to_add=f"{added:.1f}",
        to_remove=f"{removed:.1f}",
    )
    # Those who left have cancelled rows: no replica took it for its own end.
    assert set(total) <= {"completed", "cancelled", "lost"}
    assert len({row["gateway_id"] for row in rows}) == 3 + KILLS
    check_kills(load.answers, rows, kills, IN_A_ROW_AFTER)


def until_answered_by(server: Postgres, load: Load, replicas: int) -> float:
    """Until so many different replicas have taken requests; gives the seconds it took."""
    return until(
        lambda: len({row["gateway_id"] for row in server.fetch(OWNERS, load.name)}) >= replicas,
        READY_SECONDS,
        f"answers of {replicas} replicas",
    )


@contextmanager
def one_killed(ray: Cluster, server: Postgres, random: Random, kills: list[Kill]) -> Iterator[None]:
    """SIGKILL to one of two replicas while each of them has a stream that does not end; then the context,
    and in the end one more of ``kills``.

    The one stream breaks off, and its row is closed as lost by another replica; the other goes on until its
    client leaves.
    """
    with ExitStack() as open_streams:
        streams: dict[int, Stream] = {}
        while len(streams) < 2:
            stream = endless(ray, server, open_streams)
            streams[stream.gateway_id] = stream
        victim = random.choice(sorted(ray.replica_processes(), key=lambda process: process.pid))
        assert "ServeReplica" in title(victim)
        before = time.monotonic()
        victim.kill()
        after = time.monotonic()
        yield
        until(
            lambda: any(status(server, stream) == "lost" for stream in streams.values()),
            CLOSED_SECONDS,
            "a stream's row is closed as lost",
        )
        (dead,) = (stream for stream in streams.values() if status(server, stream) == "lost")
        (living,) = (stream for stream in streams.values() if stream is not dead)
        with pytest.raises(httpx.RemoteProtocolError):
            dead.response.read()
        assert status(server, living) == "running"
    until(lambda: status(server, living) != "running", NOTICED_SECONDS, "its client has left")
    (row,) = server.fetch(ROW, living.request_id)
    assert row["status"] == "cancelled", row
    assert 0 < row["completion_tokens"] < len(ENDLESS)
    kills.append(Kill(before, after, dead.gateway_id))


def endless(ray: Cluster, server: Postgres, open_streams: ExitStack) -> Stream:
    """Open one; closed with ``open_streams``."""
    request_id = f"endless-{uuid4().hex}"
    body = {"messages": [{"role": "user", "content": ENDLESS}], "stream": True}
    client = open_streams.enter_context(httpx.Client(base_url=ray.base_url, timeout=ANSWER_SECONDS))
    response = open_streams.enter_context(
        client.stream("POST", PATH, json=body, headers={"x-request-id": request_id})
    )
    assert response.status_code == 200
    until(lambda: server.fetch(ROW, request_id), NOTICED_SECONDS, "its row")
    (row,) = server.fetch(ROW, request_id)
    return Stream(request_id, response, row["gateway_id"])


def status(server: Postgres, stream: Stream) -> str:
    (row,) = server.fetch(ROW, stream.request_id)
    return str(row["status"])


@pytest.mark.skipif(not LONG, reason="autoscaling looks back for half a minute")
def test_replicas_come_with_load_and_go_after_it(ray: Cluster, server: Postgres) -> None:
    ray.deploy(
        None,
        min_replicas=1,
        max_replicas=3,
        # Far less than there are clients: on a busy machine most of them are not waiting for an answer.
        target_ongoing_requests=2,
        upscale_delay_seconds=1,
        downscale_delay_seconds=5,
    )
    ray.until_running(1)
    with Load(ray.base_url, CLIENTS, SEED) as load:
        until_answered_by(server, load, 3)
        up = ray.until_running(3)
    with Load(ray.base_url, 1, SEED) as little:
        down = ray.until_running(1)
    report("autoscaling", up=f"{up:.1f}", down=f"{down:.1f}", requests=len(load.answers + little.answers))
    for each in (load, little):
        assert not [answer for answer in each.answers if answer.failed]
        compare(each.answers, rows_of(server, each.name))


@pytest.mark.skipif(not LONG, reason="a Ray of its own, and what it shows is Ray's")
@pytest.mark.parametrize("surge", [0, 100])
def test_a_changed_argument_replaces_the_only_replica(ray: Cluster, server: Postgres, surge: int) -> None:
    ray.deploy(1, max_surge_percent=surge)
    ray.until_running(1)
    with Load(ray.base_url, CLIENTS, SEED) as load:
        until_answered_by(server, load, 1)
        ray.deploy(1, max_surge_percent=surge, cpus=0.02)
        until_answered_by(server, load, 2)
        ray.until_running(1)
    ended = sorted(answer.ended for answer in load.answers if answer.saw_the_end)
    longest = max(later - earlier for earlier, later in pairwise(ended))
    report("changed", surge=surge, requests=len(load.answers), longest_pause=f"{longest:.1f}")
    # With none they wait in the proxy.
    assert not [answer for answer in load.answers if answer.failed]
    assert compare(load.answers, rows_of(server, load.name)).keys() <= {"completed", "cancelled"}
