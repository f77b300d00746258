"""The application: routes, errors, and the lifecycle behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gateway import cors, openapi, web_root
from gateway.error_shapes import response_to
from gateway.errors import GatewayError, from_status, from_validation
from gateway.lifecycle import Lifecycle
from gateway.logs import configure_logging, flush, take_over_uvicorn
from gateway.request_context import RequestContext
from gateway.routes import (
    admin,
    chatchat,
    course,
    feedback,
    fufan,
    fufan_chat,
    me,
    model_info,
    openai,
    operations,
    tokens,
)
from gateway.security_headers import API, CLOSED_API
from gateway.settings import Settings, load

DESCRIPTION = """An OpenAI-compatible inference gateway with its engine inside.
Every request that reaches the engine leaves one exact row in PostgreSQL."""


def create_app(settings: Settings | None = None, lifecycle: Lifecycle | None = None) -> FastAPI:
    """The ASGI application.

    Any ASGI server can run it (``uvicorn --factory gateway.app:create_app``): its lifespan starts and ends
    the gateway's parts, and has all of the process logged as the settings say. Where that server listens is
    not known here, so authentication is on unless the setting says no. A ``lifecycle`` that is handed in was
    started by the caller, who ends it.
    """
    chosen = lifecycle.settings if lifecycle else listening_anywhere(settings or load())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if lifecycle is not None:
            yield
            return
        configure_logging(chosen.log_level, chosen.log_format)
        take_over_uvicorn()
        own = app.state.lifecycle = Lifecycle(chosen)
        try:
            await own.start()
            yield
        finally:
            await own.stop()
            # uvicorn ends its workers by the signal that it got: nothing runs at their exit.
            flush()

    app = FastAPI(
        title="chatglm-gateway",
        version=version("chatglm-gateway"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.lifecycle = lifecycle
    security_headers = API if chosen.cors_origins else CLOSED_API
    app.add_middleware(
        RequestContext,
        access_log=chosen.access_log,
        security_headers=security_headers,
        log_content=chosen.log_content,
        around=partial(cors.opened, settings=chosen),
    )
    if chosen.traces_url is not None:
        from gateway.tracing.server_spans import ServerSpans

        app.add_middleware(ServerSpans)
    app.include_router(openai.router)
    app.include_router(tokens.router)
    app.include_router(chatchat.router)
    app.include_router(fufan_chat.router)
    app.include_router(feedback.router)
    app.include_router(course.router)
    app.include_router(model_info.router)
    app.include_router(operations.router)
    app.include_router(fufan.router)
    app.include_router(me.router)
    app.include_router(admin.router)
    if chosen.web_root is not None:
        web_root.serve(app, chosen.web_root)
    openapi.describe(app)
    add_error_handlers(app)
    return app


def listening_anywhere(settings: Settings) -> Settings:
    """``settings`` for a server whose address they do not tell."""
    if settings.authentication is not None:
        return settings
    return settings.model_copy(update={"authentication": True})


def add_error_handlers(app: FastAPI) -> None:
    """Every refusal in the shape of its route's dialect."""

    @app.exception_handler(GatewayError)
    async def refused(request: Request, error: GatewayError) -> Response:
        request.state.error = error
        return response_to(error, request.url.path, request.headers.get("accept", ""))

    @app.exception_handler(HTTPException)
    async def refused_by_starlette(request: Request, error: HTTPException) -> Response:
        path = request.url.path
        request.state.error = refusal = from_status(
            error.status_code, str(error.detail), request.method, path
        )
        response = response_to(refusal, path)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        request.state.error = refusal = from_validation(error.errors())
        return response_to(refusal, request.url.path)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)
