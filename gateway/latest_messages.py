"""A caller's latest messages, as far as he may see them."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import Request

from gateway.access.address import is_local
from gateway.access.caller import Caller
from gateway.errors import PermissionDenied
from gateway.lifecycle import Lifecycle
from gateway.rows_asked import asked, see_all
from persistence.latest_messages import LatestMessage, latest_messages


async def latest(
    request: Request, lifecycle: Lifecycle, caller: Caller, count: int
) -> Sequence[LatestMessage]:
    """His own, newest first; those that nobody has for whoever has not said who he is and asks from this
    machine. What was closed before is among them. Raises PermissionDenied and Unavailable."""
    if caller.user_id is None and (lifecycle.settings.authenticates or not is_local(request)):
        raise PermissionDenied(
            "Whose messages these would be is not known: log in. Without a login they are listed only on the "
            "gateway's own machine, where it asks for none."
        )
    await see_all(lifecycle)
    seconds = lifecycle.settings.database_timeout_seconds
    with asked():
        return await latest_messages(lifecycle.database, caller.user_id, count, seconds)
