"""Which gateways live, as PostgreSQL itself knows it.

Every life of a gateway has a number, and the connection that writes its rows holds an advisory lock of
that number for as long as it is open. Whoever can take the lock knows that nobody writes those rows any
more: no clocks and no heartbeats. A gateway that only lost its connection is taken for dead until it is
back; its rows then say ``lost`` until their real end is written, which wins.
"""

from __future__ import annotations

from collections.abc import Callable

import asyncpg

# One of the two halves of a lock's key; any number that no one else in the database uses.
LOCK_CLASS = 1_413_829_460

# Takes the lock of the gateway $2 where it can, and closes its rows then. In one statement: there is no
# rollback to wait for where it is cut off. A row that someone writes just now is not lost; whoever waited for
# it could wait in a circle.
_CLOSE = """
WITH owner AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1::int4, $2::int4) AS is_dead)
UPDATE message SET status = 'lost', finish_reason = 'lost' WHERE id IN (
    SELECT id FROM message, owner WHERE is_dead AND status = 'running' AND gateway_id = $2
    FOR UPDATE OF message SKIP LOCKED
)
"""


async def new_life(connection: asyncpg.Connection) -> int:
    """A number that no other gateway has."""
    number: int = await connection.fetchval("SELECT nextval('gateway_id_seq')::int4")
    return number


async def hold(connection: asyncpg.Connection, gateway_id: int) -> None:
    """Hold the lock of ``gateway_id`` for as long as ``connection`` is open; waits for its last holder."""
    await connection.execute("SELECT pg_advisory_lock($1, $2)", LOCK_CLASS, gateway_id)


async def close_lost(
    connection: asyncpg.Connection,
    own_id: int | None = None,
    counted: Callable[[int], None] | None = None,
) -> int:
    """Close the running rows of all gateways that are dead as ``lost``; gives how many there were.

    ``own_id``: whose lock ``connection`` itself holds, which would not keep it out. ``counted`` is told of
    each gateway's as soon as they are closed, for what comes then may fail.
    """
    owners = await connection.fetch("SELECT DISTINCT gateway_id FROM message WHERE status = 'running'")
    closed = 0
    for gateway_id in {row["gateway_id"] for row in owners} - {own_id}:
        tag = await connection.execute(_CLOSE, LOCK_CLASS, gateway_id)
        rows = int(tag.split()[-1])
        closed += rows
        if counted is not None:
            counted(rows)
    return closed
