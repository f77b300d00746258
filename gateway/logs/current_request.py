"""Which request a record belongs to: known where it is logged on the request's way, or by what that began."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any


class CurrentRequest:
    """``state`` is that of the request's ASGI scope, with its ``request_id`` and perhaps a ``trace_id``. What
    it has started and outlives it does not belong to it any more."""

    __slots__ = ("is_over", "state")

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.state = state
        self.is_over = False


_current: ContextVar[CurrentRequest | None] = ContextVar("current_request", default=None)


@contextmanager
def logged_for(state: Mapping[str, Any]) -> Iterator[None]:
    """Records that are made meanwhile, here and in tasks that start here, belong to this request."""
    request = CurrentRequest(state)
    token = _current.set(request)
    try:
        yield
    finally:
        request.is_over = True
        _current.reset(token)


def mark_request(record: logging.LogRecord) -> bool:
    """A logging filter that lets all pass, with ``request_id`` and ``trace_id``."""
    request = _current.get()
    if request is not None and not request.is_over:
        record.request_id = request.state.get("request_id")
        record.trace_id = request.state.get("trace_id")
    return True
