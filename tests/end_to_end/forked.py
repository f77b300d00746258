"""Gateways that are forked from a process that has all of it imported: a start takes a second instead of
four, and there are hundreds of them. Beyond that they are what the command line starts."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence

from gateway import cli

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["gateway.server", "engine.simulated", "engine.upstream", __name__])


class Forked:
    """A forked ``chatglm-gateway serve``, with what a Gateway needs of a subprocess.Popen. All that it prints
    is appended to the file ``output``."""

    def __init__(self, options: Sequence[str], environment: dict[str, str], output: str) -> None:
        self._process = FORKING.Process(target=serve, args=(tuple(options), environment, output), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        """The exit status; below 0 the signal that ended it."""
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise TimeoutError(f"it still runs after {seconds} s")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def serve(options: tuple[str, ...], environment: dict[str, str], output: str) -> None:
    """What the command line does, in a forked process."""
    # So that a test can send Ctrl-C to the whole group, as a terminal does.
    os.setsid()
    with open(os.devnull, "rb") as nothing, open(output, "ab", buffering=0) as file:
        os.dup2(nothing.fileno(), 0)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["chatglm-gateway", "serve", *options]
    cli.main()
