"""Gauges that show what others know.

They are set when ``refresh`` is called: just before they are read, and every moment where several processes
tell together, for then whoever is asked reads what the others have written.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import Gauge

_WATCHED: dict[Gauge, Callable[[], float]] = {}


def watch(gauge: Gauge, value: Callable[[], float]) -> None:
    """From now on ``gauge`` shows what ``value`` gives, in place of what it showed before. For the event
    loop's thread, as ``refresh``."""
    _WATCHED[gauge] = value


def refresh() -> None:
    """Set all gauges that watch something."""
    for gauge, value in _WATCHED.items():
        gauge.set(value())
