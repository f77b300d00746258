"""What is a failure to a trace."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect


def error_type(error: BaseException) -> str | None:
    """The attribute error.type; None where the client has left, which is nobody's failure."""
    return None if isinstance(error, ClientDisconnect | asyncio.CancelledError) else type(error).__qualname__
