"""What a client asks of the rows, and the answer where PostgreSQL can't give any."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import Unavailable
from gateway.lifecycle import Lifecycle
from persistence.database import DatabaseUnavailable

log = logging.getLogger("gateway.rows")


async def see_all(lifecycle: Lifecycle) -> None:
    """Wait until PostgreSQL has all that has ended before now. Raises Unavailable."""
    if not await lifecycle.recorder.caught_up(lifecycle.settings.database_timeout_seconds):
        raise _unavailable("rows wait for PostgreSQL")


@contextmanager
def asked() -> Iterator[None]:
    """Raises Unavailable where DatabaseUnavailable comes out of it."""
    try:
        yield
    except DatabaseUnavailable as error:
        raise _unavailable(str(error)) from error


def _unavailable(reason: str) -> Unavailable:
    log.warning("a client's question can't be answered: %s", reason)
    return Unavailable("The database can't be asked now; try again soon.", code="database_unavailable")
