"""Who the caller is, as the gateway sees him."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request

from gateway.access.identification import caller_of

router = APIRouter(tags=["OpenAI"])


@router.get("/v1/me", summary="Who am I?")
async def me(request: Request) -> dict[str, Any]:
    """The user, the key, what they may do and how much; null where nobody has said who he is."""
    caller = await caller_of(request, None)
    return {
        "object": "caller",
        "user_id": None if caller.user_id is None else caller.user_id.hex,
        "key_id": None if caller.key_id is None else caller.key_id.hex,
        "scopes": sorted(caller.scopes),
        "limits": {"key": asdict(caller.key_limits), "user": asdict(caller.user_limits)},
        "weight": caller.weight,
    }
