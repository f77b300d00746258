"""The processes below this one: none is left when the gateway ends."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import re
import sys
from multiprocessing import resource_tracker
from pathlib import Path

import psutil

log = logging.getLogger("gateway.processes")

PR_SET_CHILD_SUBREAPER = 36
TERMINATE_SECONDS = 3.0

# As multiprocessing.shared_memory names it.
_SHARED_MEMORY = re.compile(r"(/dev/shm/psm_\w+)$", re.MULTILINE)


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent below us dies (Linux: prctl(2)), so that
    ``end_descendants`` still finds them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[psutil.Process]:
    """The living processes below this one, but for multiprocessing's own bookkeeper, which ends with us."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(
                process.cmdline()
            ):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def end_descendants() -> int:
    """End what is still below this process: asked first, killed after TERMINATE_SECONDS. Gives how
    many there were."""
    processes = descendants()
    for process in processes:
        try:
            log.warning("ending process %d: %s", process.pid, " ".join(process.cmdline())[:80])
            process.terminate()
        except psutil.NoSuchProcess:
            continue
    _, alive = psutil.wait_procs(processes, timeout=TERMINATE_SECONDS)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=TERMINATE_SECONDS)
    return len(processes)


class EngineProcesses:
    """All processes below this one, for one that is about to lose them; its methods block."""

    def __init__(self) -> None:
        self._shared_memory: set[Path] = set()

    def note(self) -> None:
        """Remember the shared memory that they use now: whoever is killed leaves it behind."""
        # Those that were not yet ours, or still ending, when the last engine was cleared away.
        reap_orphans()
        for process in descendants():
            with contextlib.suppress(OSError):
                maps = Path(f"/proc/{process.pid}/maps").read_text()
                self._shared_memory |= {Path(name) for name in _SHARED_MEMORY.findall(maps)}

    def end(self) -> None:
        """``end_descendants``, and let go of what a dead engine has left to us: its shared memory, and
        orphans that ended by themselves, which stay in the process table until we ask for their end."""
        end_descendants()
        reap_orphans()
        while self._shared_memory:
            path = self._shared_memory.pop()
            if path.exists():
                path.unlink()
                # multiprocessing would look for it when we end.
                resource_tracker.unregister(f"/{path.name}", "shared_memory")


def reap_orphans() -> None:
    """Ask for the end of those that have ended and were left to us."""
    # Those that multiprocessing started are its own to ask for; this does it.
    multiprocessing.active_children()
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)
