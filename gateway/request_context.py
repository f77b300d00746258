"""What every request gets, whatever its route: an id, OpenAI's headers, a log line, and an answer when the
route fails."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid7

from gateway import metrics
from gateway.error_shapes import response_to
from gateway.errors import GatewayError
from gateway.logs.current_request import logged_for
from gateway.logs.formats import printable
from gateway.request_line import LONGEST_FIELD, RequestLine, is_polled
from gateway.security_headers import API, Header, added
from gateway.tracing import TRACE

log = logging.getLogger("gateway.access")

# OpenAI's API has had this one version.
OPENAI_VERSION = (b"openai-version", b"2020-10-01")

# What web servers count a client as that has left; nobody is told.
GONE = 499

_SANE_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")


def request_id(client_id: str | None) -> str:
    """The client's own id where it is sane (128 characters of A-Z a-z 0-9 . _ : -), else a new one."""
    if client_id is not None and _SANE_ID.fullmatch(client_id):
        return client_id
    return f"req_{uuid7().hex}"


class RequestContext:
    """Pure ASGI middleware.

    Puts ``request_id`` into the request's state, and the answer's ``status`` when that is known; puts the id
    on the answer as ``x-request-id``, beside ``openai-version`` and ``openai-processing-ms``, the
    milliseconds from the request's arrival to the answer's headers; adds ``security_headers``, or those that
    its state carries by that name; sets the cookie that its state may carry as ``set_cookie``; logs one line
    for each request with what is told of it by its state's ``caller``, ``generation``, ``trace_id`` and
    ``error``, the GatewayError that it was refused with; turns what a route did not expect into a 500 in its
    dialect's shape, or ends the connection where the answer had begun.

    What ``around`` puts around the routes sees these 500s, too, and what it answers itself has all the rest.
    """

    def __init__(
        self,
        app: ASGIApp,
        access_log: bool,
        security_headers: Sequence[Header] = API,
        log_content: bool = False,
        around: Callable[[ASGIApp], ASGIApp] | None = None,
    ) -> None:
        self._app = app
        self._answering = around(self._answered) if around is not None else self._answered
        self._access_log = access_log
        self._log_content = log_content
        self._security_headers = security_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        identity = request_id(Headers(scope=scope).get("x-request-id"))
        state = scope.setdefault("state", {})
        state["request_id"] = identity
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = state["status"] = message["status"]
                metrics.count_answer(scope, status)
                milliseconds = int((time.perf_counter() - began) * 1000)
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", identity.encode("ascii")),
                    (b"openai-processing-ms", b"%d" % milliseconds),
                    OPENAI_VERSION,
                ]
                chosen = state.get("security_headers", self._security_headers)
                message["headers"] += added(scope, message["headers"], chosen)
                if "set_cookie" in state:
                    message["headers"].append((b"set-cookie", state["set_cookie"].encode("latin-1")))
            await send(message)

        with logged_for(state):
            try:
                await self._answering(scope, receive, send_with_headers)
                if not status:
                    # The client had left before there was anything to send.
                    metrics.count_answer(scope, GONE)
            finally:
                if (trace := state.get(TRACE)) is not None:
                    # Of a route that nobody's name is asked for: the line has the trace's id, too.
                    trace.begin()
                if self._access_log:
                    self._log(scope, status, time.perf_counter() - began)

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:
            path, state = printable(scope["path"][:LONGEST_FIELD]), scope["state"]
            log.exception("%s %s failed, request %s", scope["method"], path, state["request_id"])
            if "status" in state:
                # The server closes the connection: a cut answer must not look like a whole one.
                raise
            failure = GatewayError("The gateway failed on this request.")
            await response_to(failure, scope["path"])(scope, receive, send)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        level = logging.DEBUG if is_polled(scope["path"]) and 0 < status < 400 else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, RequestLine(scope, status, seconds, self._log_content))
