"""Sums of requests and tokens, per day of UTC, model, endpoint and status.

They are made from the rows that are there, and from ``usage_by_day`` for the months that retention has
dropped. Retention moves a month from the one to the other in one transaction and one statement reads both,
so every row counts once, also while a month is being dropped.

The day of a row is that of its id, as its partition is. A sum reads the rows of its days by the primary
key, which lie side by side in the order in which they were written, and no text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID

from sqlalchemy import text

from persistence.database import Database
from persistence.partitions import least_id

KEY = ("day", "model", "endpoint", "status")
COUNTS = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens")


@dataclass(frozen=True, slots=True)
class Usage:
    """What was asked of one model at one endpoint on one day and ended with one ``status``."""

    day: date
    model: str
    endpoint: str
    status: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


def sums_of(rows: str, first: str, bounds: str) -> str:
    """A SELECT of KEY and COUNTS over the table ``rows``.

    ``first`` is SQL for the first day, ``bounds`` for what ``bounds_of`` gives. Day by day: PostgreSQL can't
    know that so many ids are of so few days, and would sort all rows.
    """
    sums = ", ".join(f"sum({name}) AS {name}" for name in COUNTS[1:])
    return f"""
        SELECT {first} + place - 1 AS day, sums.*
        FROM generate_series(1, cardinality({bounds}) - 1) AS place CROSS JOIN LATERAL (
            SELECT model, endpoint, status, count(*) AS requests, {sums} FROM {rows}
            WHERE id >= ({bounds})[place] AND id < ({bounds})[place + 1]
                AND id >= ({bounds})[1] AND id < ({bounds})[cardinality({bounds})]
            GROUP BY model, endpoint, status
        ) AS sums
    """


_BETWEEN = f"""
SELECT {", ".join(KEY)}, {", ".join(f"sum({name})::int8 AS {name}" for name in COUNTS)} FROM (
    {sums_of("message", "CAST(:first AS date)", "CAST(:bounds AS uuid[])")}
    UNION ALL
    SELECT {", ".join(KEY + COUNTS)} FROM usage_by_day WHERE day BETWEEN :first AND :last
) AS sums GROUP BY {", ".join(KEY)} ORDER BY {", ".join(KEY)}
"""


async def usage_between(database: Database, first: date, last: date) -> list[Usage]:
    """The sums from ``first`` to ``last``, both included, in the order of KEY; days since 1970."""
    parameters = {"first": first, "last": last, "bounds": bounds_of(first, last)}
    async with database.engine.connect() as connection:
        # Each statement sees what was committed when it had its locks, whatever the server's default is.
        await connection.execution_options(isolation_level="READ COMMITTED")
        return [Usage(*row) for row in await connection.execute(text(_BETWEEN), parameters)]


def bounds_of(first: date, last: date) -> list[UUID]:
    """The least ids of the days from ``first`` to ``last``, and of the day after."""
    start = datetime.combine(first, time(), UTC)
    return [least_id(start + timedelta(days=number)) for number in range((last - first).days + 2)]


def table(sums: Iterable[Usage]) -> str:
    """A line for each, and one for all of them."""
    rows = [astuple(usage) for usage in sums]
    totals = [sum(column) for column in list(zip(*rows, strict=True))[len(KEY) :]] or [0] * len(COUNTS)
    lines = [(*KEY, *COUNTS), *rows, ("total", "", "", "", *totals)]
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < len(KEY) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    )
