"""No process of the engine outlives its gateway, and none ends before it.

vLLM's engine core and workers are processes of their own, and vLLM leaves them running when the
process that embeds it dies without calling ``shutdown``. vLLM loads the entry point group
``vllm.general_plugins`` in each of its processes; ours makes each of them wait, in a thread that
costs nothing, for the end of the gateway that started it, also when it was killed with -9. Each also
leaves the gateway's process group: Ctrl-C in a terminal goes to the whole group, and the engine must
still be there for the requests that the gateway then drains.
"""

from __future__ import annotations

import os
import select
import signal
import threading

GATEWAY_PID = "CHATGLM_GATEWAY_PID"
"""Environment variable, set by the gateway before it starts the engine: its process id."""


def end_with_gateway() -> None:
    """vLLM plugin. Ties a process of a gateway's engine to the gateway; elsewhere it does nothing."""
    gateway = int(os.environ.get(GATEWAY_PID, 0))
    if not gateway or gateway == os.getpid() or not hasattr(os, "pidfd_open"):
        return
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    try:
        pidfd = os.pidfd_open(gateway)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    threading.Thread(target=_wait_and_end, args=(pidfd,), name="gateway-guard", daemon=True).start()


def _wait_and_end(pidfd: int) -> None:
    # A pidfd becomes readable when its process ends.
    select.select([pidfd], [], [])
    os.kill(os.getpid(), signal.SIGKILL)
