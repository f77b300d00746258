"""What a process has cost so far, and which processes belong to a server."""

from __future__ import annotations

import os
from pathlib import Path

import psutil


def cpu_seconds(pid: int) -> float:
    """User and system time of ``pid`` with all its threads, without its children; in steps of 10 ms."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def resident_mib(pid: int) -> float:
    """Resident memory of ``pid`` in MiB."""
    return psutil.Process(pid).memory_info().rss / 2**20


def belonging_to(session: int, data_dir: Path) -> list[psutil.Process]:
    """The processes of a server: of its session, or, as PostgreSQL, with ``data_dir`` in their command."""
    return [process for process in psutil.process_iter() if _belongs(process, session, data_dir)]


def _belongs(process: psutil.Process, session: int, data_dir: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return os.getsid(process.pid) == session or any(str(data_dir) in word for word in process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
        return False
