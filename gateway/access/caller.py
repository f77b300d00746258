"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from fastapi import Request


@dataclass(frozen=True, slots=True)
class Caller:
    """``user_id`` is None for whoever has not said who he is; with the setting ``authentication`` nobody
    like that comes in."""

    user_id: UUID | None = None


ANONYMOUS = Caller()


async def caller_of(request: Request) -> Caller:
    """Who asks. Raises InvalidApiKey where that has to be known and is not."""
    return ANONYMOUS
