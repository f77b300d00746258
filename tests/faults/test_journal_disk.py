"""The journal's own disk: full, and with damaged files on it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.faults.accounts import compare, rows_of, running_rows
from tests.faults.form import SEED, SOON_SECONDS, either, report, until
from tests.faults.load import PATH, Load
from tests.faults.postgres import Postgres, fill, small_disk
from tests.faults.serving import kill, launching, serving
from tests.faults.watch import Watch, gauges, until_caught_up

CLIENTS = 20
DISK_MIB = 4
# Gateways look for rows of dead ones every 15 s.
CLOSED_SECONDS = either(90.0, 30.0)
DAMAGES = either(1, 20)
QUESTION = {"messages": [{"role": "user", "content": "May I?"}], "max_tokens": 1}


@pytest.mark.parametrize("killed", [False, True])
def test_a_full_disk_refuses_requests_and_loses_nothing(
    killed: bool, server: Postgres, data_dir: Path
) -> None:
    with small_disk(data_dir, DISK_MIB) as mounted, ExitStack() as ends:
        if not mounted:
            pytest.skip("needs root and the right to mount a tmpfs")
        soon = {"GATEWAY_COMMIT_WAIT_SECONDS": "1"}
        gateway = ends.enter_context(launching(server.url, data_dir, **soon))
        gateway.wait_until_started()
        with Watch(gateway) as watch, Load(gateway.base_url, CLIENTS, SEED) as load:
            until(lambda: load.ended_well > CLIENTS, SOON_SECONDS, "answers")
            server.stop()
            until(lambda: gauges(gateway)["gateway_journal_rows"], SOON_SECONDS, "rows in the journal")
            fill(data_dir / "ballast")
            until(
                lambda: any(answer.refused for answer in load.answers), SOON_SECONDS, "requests are refused"
            )
            refused = httpx.post(f"{gateway.base_url}{PATH}", json=QUESTION)
            ready = httpx.get(f"{gateway.base_url}/health/ready")
        # Those that ran when the disk was full have ended by now, as well or badly as they could.
        assert watch.failures == []
        if killed:
            kill(gateway)
        (data_dir / "ballast").unlink()
        server.heal()
        if killed:
            gateway = ends.enter_context(launching(server.url, data_dir))
            gateway.wait_until_started()
        with Load(gateway.base_url, CLIENTS, SEED) as load_again:
            until(lambda: load_again.ended_well > CLIENTS, SOON_SECONDS, "requests are let in again")
        until_caught_up(gateway, SOON_SECONDS)
        until(lambda: not running_rows(server), CLOSED_SECONDS, "rows of the dead are closed")
        assert "Traceback" not in gateway.output
    statuses = compare(load.answers, rows_of(server, load.name))
    report("journal's disk full", killed=killed, requests=len(load.answers), rows=dict(statuses))
    compare(load_again.answers, rows_of(server, load_again.name))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
    assert "journal" in refused.json()["error"]["message"]
    assert int(refused.headers["retry-after"]) > 0
    assert ready.status_code == 503
    assert any("journal" in problem for problem in ready.json()["problems"])


@pytest.mark.parametrize("number", range(DAMAGES))
def test_what_is_readable_of_a_damaged_journal_is_replayed(
    number: int, server: Postgres, data_dir: Path
) -> None:
    random = Random(SEED + number)
    with launching(server.url, data_dir) as gateway:
        gateway.wait_until_started()
        with Load(gateway.base_url, CLIENTS, random.getrandbits(32)) as load:
            until(lambda: load.ended_well > CLIENTS, SOON_SECONDS, "answers")
            server.stop()
            until(
                lambda: gauges(gateway)["gateway_journal_rows"] > CLIENTS, SOON_SECONDS, "rows in the journal"
            )
            kill(gateway)
    flip_a_bit(largest_segment(data_dir / "journal"), random)
    server.heal()

    with serving(server.url, data_dir) as again:
        until_caught_up(again, SOON_SECONDS)
        until(lambda: not running_rows(server), CLOSED_SECONDS, "rows of the dead are closed")
        assert gauges(again)["gateway_journal_damaged"] > 0
    assert "damaged" in again.output
    # It is set aside for a person to look at; the next start does not stumble over it.
    assert [path.suffix for path in (data_dir / "journal").glob("*/0*")] == [".damaged"]

    rows = rows_of(server, load.name)
    completed = {row["request_id"] for row in rows if row["status"] == "completed"}
    missing = {a.request_id for a in load.answers if a.saw_the_end} - completed
    report("damaged journal", requests=len(load.answers), missing=len(missing))
    # The one record that was hit may have been the one of an end.
    assert len(missing) <= 1
    compare(
        [answer for answer in load.answers if answer.request_id not in missing],
        [row for row in rows if row["request_id"] not in missing],
    )


def largest_segment(folder: Path) -> Path:
    return max(folder.rglob("*.journal"), key=lambda path: path.stat().st_size)


def flip_a_bit(path: Path, random: Random) -> None:
    """Somewhere in the file, but in no line's end: one line is hit."""
    content = bytearray(path.read_bytes())
    place = random.choice([at for at, byte in enumerate(content) if byte != ord("\n")])
    content[place] ^= 1 << random.choice([bit for bit in range(8) if content[place] ^ 1 << bit != ord("\n")])
    path.write_bytes(content)
