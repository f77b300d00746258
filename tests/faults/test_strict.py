"""durability=strict: what PostgreSQL can't take is not begun."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.faults.accounts import compare, rows_of
from tests.faults.form import SEED, SOON_SECONDS, report, until
from tests.faults.load import PATH, Load
from tests.faults.postgres import Postgres
from tests.faults.serving import serving
from tests.faults.watch import until_caught_up

CLIENTS = 20
QUESTION = {"messages": [{"role": "user", "content": "May I?"}], "max_tokens": 1}


def test_requests_are_refused_while_postgresql_is_away(server: Postgres, data_dir: Path) -> None:
    with serving(server.url, data_dir, GATEWAY_DURABILITY="strict") as gateway:
        with Load(gateway.base_url, CLIENTS, SEED) as load:
            until(lambda: load.ended_well > CLIENTS, SOON_SECONDS, "answers")
            server.stop()
            until(
                lambda: any(answer.refused for answer in load.answers), SOON_SECONDS, "requests are refused"
            )
            refused = httpx.post(f"{gateway.base_url}{PATH}", json=QUESTION)
            ready = httpx.get(f"{gateway.base_url}/health/ready")
            alive = httpx.get(f"{gateway.base_url}/health/live")
            # Those that run, run to their end.
            let_in = [answer for answer in load.answers if not answer.refused]
            until(lambda: all(answer.ended for answer in let_in), SOON_SECONDS, "the running ones have ended")
            server.heal()
            ended_before = load.ended_well
            again = until(
                lambda: load.ended_well > ended_before + CLIENTS, SOON_SECONDS, "requests are let in again"
            )
        until_caught_up(gateway, SOON_SECONDS)

    statuses = compare(load.answers, rows_of(server, load.name))
    failed = [answer for answer in load.answers if answer.failed]
    report(
        "strict", requests=len(load.answers), refused=len(failed), rows=dict(statuses), again=f"{again:.1f} s"
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    assert int(refused.headers["retry-after"]) > 0
    assert ready.status_code == 503
    assert any("PostgreSQL" in problem for problem in ready.json()["problems"])
    assert alive.status_code == 200
    # Nobody else has failed.
    assert {(answer.status, answer.code) for answer in failed} == {(503, "database_unavailable")}
