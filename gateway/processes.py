"""The processes below this one: none is left when the gateway ends."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import sys

import psutil

log = logging.getLogger("gateway.processes")

PR_SET_CHILD_SUBREAPER = 36
TERMINATE_SECONDS = 3.0


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


def end_engine_processes() -> None:
    """``end_descendants``, and let go of what a dead engine's processes have left to us: orphans that ended
    by themselves stay in the process table until their new parent has asked for their end."""
    end_descendants()
    # Those that multiprocessing started are its own to ask for; this does it.
    multiprocessing.active_children()
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)
