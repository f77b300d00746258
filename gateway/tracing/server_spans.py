"""The span of each request, around all that happens to it."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.request_line import is_polled
from gateway.tracing import TRACE
from gateway.tracing.request_trace import RequestTrace


class ServerSpans:
    """Pure ASGI middleware, only there while tracing is on: it sees a request come and end, and nothing of
    what is sent between. Around RequestContext, which leaves the ``status`` in the request's state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or is_polled(scope["path"]):
            await self._app(scope, receive, send)
            return
        trace = RequestTrace(scope["app"].state.lifecycle.tracing, scope)
        scope.setdefault("state", {})[TRACE] = trace
        failure: BaseException | None = None
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            failure = error
            raise
        finally:
            trace.end(scope, failure)
