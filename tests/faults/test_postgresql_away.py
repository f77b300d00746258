"""PostgreSQL goes away under load, in every way it can: requests go on, and no row is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.served import Gateway
from tests.faults.accounts import compare, rows_of
from tests.faults.form import LONG, SEED, SOON_SECONDS, either, report, until
from tests.faults.load import Answer, Load
from tests.faults.postgres import Postgres
from tests.faults.proxy import Proxy, proxy
from tests.faults.serving import serving
from tests.faults.watch import ALIVE_SECONDS, Watch, gauges, until_caught_up

CLIENTS = either(25, 50)
AWAY_SECONDS = either(1.5, 30.0)
NOTICED_SECONDS = either(90.0, 20.0)
# From the moment PostgreSQL answers again, with the load going on.
CATCH_UP_SECONDS = either(90.0, 15.0)
MEMORY_MIB = 100

Break = Callable[[Postgres, Proxy], object]

DIRECT: dict[str, Break] = {
    "stopped": lambda server, way: server.stop(),
    "killed": lambda server, way: server.kill(),
    "frozen": lambda server, way: server.freeze(),
    "connections used up": lambda server, way: server.use_up_connections(),
    "disk full": lambda server, way: server.fill_disk(),
}
ON_THE_WAY: dict[str, Break] = {
    "answers take 5 s": lambda server, way: way.delay(5),
    "nothing goes through": lambda server, way: way.swallow(),
    "refused on the way": lambda server, way: way.refuse(),
}
# It looks as a server that was stopped.
TRIED = [fault for fault in [*DIRECT, *ON_THE_WAY] if LONG or fault != "refused on the way"]


class Place:
    """One gateway beside its PostgreSQL, another with a proxy between; each started when first needed."""

    def __init__(self, server: Postgres, way: Proxy, folder: Path, ends: ExitStack) -> None:
        self.server, self.way = server, way
        self._folder, self._ends = folder, ends
        self._gateways: dict[str, Gateway] = {}

    def gateway(self, url: str) -> Gateway:
        if url not in self._gateways:
            data_dir = self._folder / str(len(self._gateways))
            self._gateways[url] = self._ends.enter_context(serving(url, data_dir))
        return self._gateways[url]


@pytest.fixture(scope="module")
def place(shared_server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as ends:
        way = ends.enter_context(proxy(shared_server.socket_dir))
        yield Place(shared_server, way, tmp_path_factory.mktemp("away"), ends)


@pytest.mark.parametrize("fault", TRIED)
def test_requests_go_on_and_every_row_arrives(fault: str, place: Place, server: Postgres) -> None:
    if fault == "disk full" and not server.on_small_disk:
        pytest.skip("needs root and the right to mount a tmpfs")
    gateway = place.gateway(server.url if fault in DIRECT else place.way.url)
    with Watch(gateway) as watch:
        with Load(gateway.base_url, CLIENTS, SEED) as load:
            until(lambda: load.ended_well > CLIENTS / 2, SOON_SECONDS, "answers")
            (DIRECT | ON_THE_WAY)[fault](server, place.way)
            noticed = until(
                lambda: gauges(gateway)["gateway_database_away"] == 1, NOTICED_SECONDS, "noticed as away"
            )
            # On a full disk a small write may pass now and then.
            until(lambda: readiness(gateway) == "degraded", NOTICED_SECONDS, "degraded")
            ended_before = load.ended_well
            time.sleep(AWAY_SECONDS)
            enough = ended_before + AWAY_SECONDS * CLIENTS / 10
            until(lambda: load.ended_well > enough, SOON_SECONDS, "answers while it is away")
            ended_meanwhile = load.ended_well - ended_before
            # The watch has seen what it is to see, also where it had to wait for its turn.
            until(lambda: watch.most["gateway_journal_rows"] > 0, SOON_SECONDS, "rows in the journal")
            place.way.heal()
            server.heal()
            caught_up = until(lambda: has_caught_up(gateway), CATCH_UP_SECONDS, "journal replayed")
        until_caught_up(gateway, CATCH_UP_SECONDS)
    statuses = compare(load.answers, rows_of(server, load.name))

    failed = [answer for answer in load.answers if answer.failed]
    report(
        fault,
        requests=len(load.answers),
        failed=len(failed),
        rows=dict(statuses),
        noticed_after=f"{noticed:.1f} s",
        ended_while_away=ended_meanwhile,
        most_rows_in_journal=watch.most["gateway_journal_rows"],
        caught_up_after=f"{caught_up:.1f} s",
        p99=f"{percentile(load.answers, 99):.2f} s",
        MiB=f"{watch.memory_before:.0f}, at most {watch.most_memory:.0f}",
        slowest_look=f"{watch.slowest_look:.2f} s",
    )
    assert failed == []
    assert watch.failures == []
    assert watch.most["gateway_journal_rows"] > 0
    assert watch.most["gateway_rows_lost"] == watch.most["gateway_rows_reduced"] == 0
    assert watch.memory_growth < MEMORY_MIB
    until(lambda: readiness(gateway) == "ready", SOON_SECONDS, "ready")


def has_caught_up(gateway: Gateway) -> bool:
    found = gauges(gateway)
    return not found["gateway_database_away"] and not found["gateway_journal_rows"]


def readiness(gateway: Gateway) -> str:
    """Requests may come either way, and who asks is told whether PostgreSQL is away."""
    ready = httpx.get(f"{gateway.base_url}/health/ready", timeout=ALIVE_SECONDS)
    body = ready.json()
    assert ready.status_code == 200, body
    told = any("PostgreSQL" in problem for problem in body["problems"])
    assert told == (body["status"] == "degraded"), body
    status: str = body["status"]
    return status


def percentile(answers: list[Answer], percent: int) -> float:
    """Of the seconds from a request to the end of its answer."""
    seconds = sorted(answer.ended - answer.began for answer in answers if answer.saw_the_end)
    return seconds[(len(seconds) - 1) * percent // 100]
