"""What systemd, or whoever else started the gateway, is told of it: the protocol of sd_notify(3).

Datagrams to the Unix socket that NOTIFY_SOCKET names; nothing where it is not set.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

log = logging.getLogger("gateway.service_manager")

T = TypeVar("T")


class ServiceManager:
    """Whoever watches over this process, by ``environment``."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # Linux's abstract sockets have no file.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_seconds = int(environment.get("WATCHDOG_USEC", "0")) / 1e6 if watched else 0.0

    def tell(self, **state: object) -> None:
        """Send variables, as ``READY=1``. One that nobody takes is logged: a service that can't say how it
        is serves all the same."""
        if not self._address:
            return
        message = "\n".join(f"{name}={value}" for name, value in state.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            try:
                sender.sendto(message.encode(), self._address)
            except OSError as error:
                log.warning("the service manager was not told %r: %s", message, error)

    def ready(self) -> None:
        """Requests are taken."""
        self.tell(READY=1, STATUS="Serving")

    def stopping(self, seconds: float) -> None:
        """The end has begun, and may take ``seconds``."""
        status = "Draining: running requests may finish"
        self.tell(STOPPING=1, STATUS=status, EXTEND_TIMEOUT_USEC=int(seconds * 1e6))

    async def watched(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives; until then the watchdog, if there is one, hears that the event loop runs."""
        beating = asyncio.create_task(self._beat()) if self._watchdog_seconds else None
        try:
            return await work
        finally:
            if beating is not None:
                beating.cancel()

    async def _beat(self) -> None:
        while True:
            self.tell(WATCHDOG=1)
            await asyncio.sleep(self._watchdog_seconds / 2)
