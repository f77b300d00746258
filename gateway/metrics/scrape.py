"""All metrics as Prometheus reads them: the gateway's own, vLLM's, and of several processes their sums.

Where ``PROMETHEUS_MULTIPROC_DIR`` names a folder, every process writes its values into files there, and
whoever is asked adds up those of all (prometheus_client's multiprocess mode). Counters and histograms of
processes that have ended stay; gauges of what is now are of those that live.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from gateway.metrics.watched import refresh

CONTENT_TYPE = CONTENT_TYPE_LATEST
FOLDER = "PROMETHEUS_MULTIPROC_DIR"


async def exposition() -> bytes:
    """In Prometheus' text format. Put together in a thread: with an engine's metrics it takes milliseconds,
    for which streams would stand still."""
    refresh()
    return await asyncio.to_thread(_text)


def _text() -> bytes:
    folder = os.environ.get(FOLDER)
    if folder is None:
        return generate_latest(REGISTRY)
    for pid in set(_writers(Path(folder))):
        if not _lives(pid):
            _forget(pid, Path(folder))
    registry = CollectorRegistry()
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _writers(folder: Path) -> Iterator[int]:
    """The processes whose gauges of what is now are in the folder, as ``gauge_livesum_<pid>.db``."""
    for path in folder.glob("gauge_live*_*.db"):
        yield int(path.stem.rpartition("_")[2])


def _lives(pid: int) -> bool:
    """One that has ended and that its parent has not looked at yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _forget(pid: int, folder: Path) -> None:
    """As prometheus_client's ``mark_process_dead``, where others may do the same at the same time."""
    for path in folder.glob(f"gauge_live*_{pid}.db"):
        path.unlink(missing_ok=True)


def leave() -> None:
    """This process ends: what it told of what is now is true no more."""
    if (folder := os.environ.get(FOLDER)) is not None:
        _forget(os.getpid(), Path(folder))
