"""kill -9 of a gateway at random moments under load: what a client saw the end of has its row."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from persistence.recorder import ASYNC_SECONDS
from tests.end_to_end.served import Gateway
from tests.faults.accounts import compare, rows_of, running_rows
from tests.faults.form import LONG, SEED, SOON_SECONDS, either, report, until
from tests.faults.load import Answer, Load
from tests.faults.postgres import Postgres
from tests.faults.serving import kill, launching, serving
from tests.faults.watch import until_caught_up

ROUNDS = either(8, 200)
ASYNC_ROUNDS = either(1, 30)
CLIENTS = either(20, 50)
LONGEST_PAUSE_SECONDS = 1.0
LONGEST_BREAK_SECONDS = either(3.0, 4.0)
# Gateways look for rows of dead ones every 15 s.
CLOSED_SECONDS = either(90.0, 30.0)
Break = Callable[[Postgres], object]
# Of every five rounds one has PostgreSQL stopped before the kill, and one has it frozen.
FAULTS: tuple[Break | None, ...] = (None, Postgres.stop, None, Postgres.freeze, None)

# durability=async: how long before a kill, and before the last end that has a row, the end of a row that is
# missing may have been seen. Beside what a row waits there is its commit, and a busy machine.
MISSING_SECONDS = ASYNC_SECONDS + 0.8


@dataclass
class Round:
    """What the clients of one gateway saw, and when it was killed on the monotonic clock."""

    load: Load
    killed: float


def rounds(
    server: Postgres, data_dir: Path, count: int, faults: Sequence[Break | None], **settings: str
) -> list[Round]:
    """Kill ``count`` gateways, one after the other.

    The next one starts while the last one still works: two gateways share one database and one data
    directory. Whatever was left behind has been taken up when this returns.
    """
    random = Random(SEED)
    found: list[Round] = []
    with ExitStack() as ends:
        following: Gateway | None = ends.enter_context(launching(server.url, data_dir, **settings))
        while following is not None:
            current, following = following, None
            current.wait_until_started()
            break_it = faults[len(found) % len(faults)]
            if len(found) < count - 1:
                following = ends.enter_context(launching(server.url, data_dir, **settings))
            found.append(one_round(server, current, following, break_it, random))
            server.heal()
    with serving(server.url, data_dir, **settings) as last:
        until_caught_up(last, CLOSED_SECONDS)
        until(lambda: not running_rows(server), CLOSED_SECONDS, "rows of the dead are closed")
    return found


def one_round(
    server: Postgres, current: Gateway, following: Gateway | None, break_it: Break | None, random: Random
) -> Round:
    """Load on ``current`` until it is killed; ``following`` has started by then."""
    with Load(current.base_url, CLIENTS, random.getrandbits(32)) as load:
        if following is not None:
            following.wait_until_started()
        until(lambda: load.ended_well, SOON_SECONDS, "answers")
        time.sleep(random.uniform(0, LONGEST_PAUSE_SECONDS))
        if break_it is not None:
            break_it(server)
            time.sleep(random.uniform(0, LONGEST_BREAK_SECONDS))
        kill(current)
        return Round(load, time.monotonic())


def test_every_answer_whose_end_was_seen_has_its_row(server: Postgres, data_dir: Path) -> None:
    found = rounds(server, data_dir, ROUNDS, FAULTS)
    total: Counter[str] = Counter()
    for each in found:
        total += compare(each.load.answers, rows_of(server, each.load.name))
    answers = [answer for each in found for answer in each.load.answers]
    report(
        "kill -9",
        rounds=ROUNDS,
        requests=len(answers),
        ends_seen=sum(answer.saw_the_end for answer in answers),
        broken_off=sum(answer.failed and answer.status == 200 for answer in answers),
        rows=dict(total),
    )
    assert total["lost"] > 0


@pytest.mark.skipif(not LONG, reason="waits for what happens every 15 s")
def test_a_gateway_that_lives_takes_up_what_a_dead_one_left(server: Postgres, data_dir: Path) -> None:
    with serving(server.url, data_dir) as living, launching(server.url, data_dir) as dying:
        dying.wait_until_started()
        found = one_round(server, dying, None, Postgres.stop, Random(SEED))
        server.heal()
        until(lambda: not list(data_dir.rglob("*.journal")), CLOSED_SECONDS, "its journal is written")
        until_caught_up(living, CLOSED_SECONDS)
        until(lambda: not running_rows(server), CLOSED_SECONDS, "rows of the dead are closed")
        assert compare(found.load.answers, rows_of(server, found.load.name))["lost"] > 0


def test_async_loses_no_more_than_is_stated(server: Postgres, data_dir: Path) -> None:
    found = rounds(server, data_dir, ASYNC_ROUNDS, (None,), GATEWAY_DURABILITY="async")
    most_missing, oldest, passed_over = 0, 0.0, 0.0
    for each in found:
        answers, rows = each.load.answers, rows_of(server, each.load.name)
        completed = {row["request_id"] for row in rows if row["status"] == "completed"}
        missing = [a for a in answers if a.saw_the_end and a.request_id not in completed]
        oldest = max([oldest, *(each.killed - answer.ended for answer in missing)])
        last_kept = max([a.ended for a in answers if a.saw_the_end and a not in missing], default=0.0)
        passed_over = max([passed_over, *(last_kept - answer.ended for answer in missing)])
        most_missing = max(most_missing, len(missing))
        compare([as_if_unseen(answer) if answer in missing else answer for answer in answers], rows)
    report("async", rounds=ASYNC_ROUNDS, most_missing=most_missing, oldest_missing=f"{oldest:.2f} s")
    # Whatever PostgreSQL takes, what is missing is the last of it.
    assert passed_over < MISSING_SECONDS
    if LONG:
        assert oldest < MISSING_SECONDS


def as_if_unseen(answer: Answer) -> Answer:
    """The same, its end not seen: what may be lost of it is what may be lost of one that broke off."""
    return replace(answer, saw_the_end=False)
