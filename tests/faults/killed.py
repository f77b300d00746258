"""What a killed gateway may cost: what ran on it, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.faults.accounts import Row
from tests.faults.load import MOST_CHARACTERS, Answer

# How a row may stand there whose gateway was killed: closed by another one, or not yet.
CUT = ("lost", "running")


@dataclass(frozen=True)
class Kill:
    """When it was on the monotonic clock, and whose it was."""

    before: float
    after: float
    gateway_id: int

    def may_have_hit(self, answer: Answer) -> bool:
        """Whether the request was under way, as far as its client knows: of one that has left, nobody tells
        it when its row was closed."""
        return answer.began <= self.after and (answer.left or self.before <= answer.ended)


def check_kills(
    answers: Sequence[Answer],
    rows: Iterable[Row],
    kills: Sequence[Kill],
    in_a_row_after: int = MOST_CHARACTERS,
) -> None:
    """Asserts that what failed, and what was cut off by rows, was on a gateway that was killed meanwhile.

    ``rows`` are all of these answers. A request may have several: a router asks again. A request that is
    killed as soon as it has begun may have none: a row is written 0.1 s after that. So of one that failed
    ``in_a_row_after`` characters may have been received before its row must be there.
    """
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["request_id"]].append(row)
    for answer in answers:
        possible = {kill.gateway_id for kill in kills if kill.may_have_hit(answer)}
        owners = {row["gateway_id"] for row in found[answer.request_id]}
        for row in found[answer.request_id]:
            assert row["status"] not in CUT or row["gateway_id"] in possible, f"its gateway lived: {row}"
        if answer.failed:
            assert possible, f"it failed, and none was killed while it ran: {answer}"
            assert not owners or owners & possible, f"it failed, and its gateway lived: {answer}"
        if owners:
            continue
        assert not answer.received or possible, f"something was told, and it has no row: {answer}"
        assert len(answer.received) <= in_a_row_after, f"it has run for long, and it has no row: {answer}"
        assert not answer.failed or broke_off(answer), f"the gateway itself has failed it: {answer}"


def broke_off(answer: Answer) -> bool:
    """Its connection broke, or a proxy said that its own to the gateway did."""
    if answer.code is not None or "Timeout" in (answer.failure or ""):
        return False
    return answer.status in (None, 500) or (answer.stream and answer.status == 200)
