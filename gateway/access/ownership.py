"""What belongs to whom."""

from __future__ import annotations

from gateway.access.caller import Caller
from gateway.lifecycle import Lifecycle


async def check_conversation(lifecycle: Lifecycle, caller: Caller, conversation_id: str | None) -> None:
    """Raises NotFound for a conversation that is there and is somebody else's, where that counts: with the
    setting ``authentication``."""
