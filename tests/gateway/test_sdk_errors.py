"""The openai SDK makes of every error what it makes of OpenAI's own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException

from gateway.app import add_error_handlers
from gateway.errors import (
    BodyTimeout,
    BodyTooLarge,
    Conflict,
    ContextLengthExceeded,
    DeadlineExceeded,
    GatewayError,
    GenerationError,
    InsufficientQuota,
    InvalidApiKey,
    InvalidRequest,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    PermissionDenied,
    RateLimitExceeded,
    Unavailable,
    UnknownUrl,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from gateway.request_context import RequestContext

SDK_CLASSES: dict[type[GatewayError], type[openai.APIStatusError]] = {
    GatewayError: openai.InternalServerError,
    InvalidRequest: openai.BadRequestError,
    ContextLengthExceeded: openai.BadRequestError,
    InvalidApiKey: openai.AuthenticationError,
    PermissionDenied: openai.PermissionDeniedError,
    ModelNotFound: openai.NotFoundError,
    UnknownUrl: openai.NotFoundError,
    NotFound: openai.NotFoundError,
    # The SDK has no class of its own for these.
    MethodNotAllowed: openai.APIStatusError,
    BodyTimeout: openai.APIStatusError,
    Conflict: openai.ConflictError,
    BodyTooLarge: openai.APIStatusError,
    UnsupportedMediaType: openai.APIStatusError,
    UnsupportedEncoding: openai.APIStatusError,
    RateLimitExceeded: openai.RateLimitError,
    InsufficientQuota: openai.RateLimitError,
    GenerationError: openai.InternalServerError,
    Unavailable: openai.InternalServerError,
    DeadlineExceeded: openai.InternalServerError,
}
NAMES = {kind.__name__: kind for kind in SDK_CLASSES}
RETRY_SECONDS = 0.7

# Those that an SDK tries again by itself.
RETRIED = [GatewayError, BodyTimeout, Conflict, GenerationError, RateLimitExceeded, Unavailable]


def error_of(name: str) -> Exception:
    """What the route raises."""
    if name == "broken":
        return ZeroDivisionError("a secret of the inside")
    if name.isdecimal():
        return HTTPException(int(name))
    kind = NAMES[name]
    if issubclass(kind, RateLimitExceeded | Unavailable):
        return kind("What went wrong.", param="model", retry_after_seconds=RETRY_SECONDS)
    return kind("What went wrong.", "model")


class Served:
    """A gateway's error handlers over one route that fails ``failures`` times."""

    def __init__(self, url: str, app: FastAPI) -> None:
        self.url = url
        self._app = app

    def fails(self, times: float) -> None:
        """From now on, and nothing was asked yet."""
        self._app.state.failures = times
        self._app.state.asked = 0

    @property
    def asked(self) -> int:
        """How often the route was asked."""
        return int(self._app.state.asked)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    app = FastAPI()
    app.add_middleware(RequestContext, access_log=False)
    add_error_handlers(app)

    @app.get("/v1/models/{name}")
    async def model(request: Request, name: str) -> dict[str, object]:
        app.state.asked += 1
        if app.state.asked <= app.state.failures:
            raise error_of(name)
        return {"id": name, "object": "model", "created": 1, "owned_by": "me"}

    with socket.create_server(("127.0.0.1", 0)) as listener, serving(app, listener):
        yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", app)


@contextmanager
def serving(app: FastAPI, listener: socket.socket) -> Iterator[None]:
    """In a thread."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def sdk(served: Served, retries: int = 0) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=served.url, api_key="none", max_retries=retries) as client:
        yield client


def all_kinds(kind: type[GatewayError]) -> set[type[GatewayError]]:
    return {kind}.union(*(all_kinds(below) for below in kind.__subclasses__()))


def test_no_error_is_missing_here() -> None:
    assert all_kinds(GatewayError) == SDK_CLASSES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_sdk_raises_its_matching_class(served: Served, name: str) -> None:
    served.fails(float("inf"))
    kind = NAMES[name]
    with sdk(served) as client, pytest.raises(openai.APIStatusError) as raised:
        client.models.retrieve(name)
    error = raised.value
    assert type(error) is SDK_CLASSES[kind]
    assert (error.status_code, error.code, error.type, error.param) == (
        kind.status,
        kind.code,
        kind.type,
        "model",
    )
    assert error.response.headers["content-type"] == "application/json"
    assert error.response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert error.request_id == error.response.headers["x-request-id"]
    assert ("www-authenticate" in error.response.headers) == (kind.status == 401)
    assert (error.response.headers.get("connection") == "close") == (kind.status in (408, 413, 415))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("broken", openai.InternalServerError),
        ("400", openai.BadRequestError),
        ("401", openai.AuthenticationError),
        ("404", openai.NotFoundError),
        ("405", openai.APIStatusError),
        ("502", openai.InternalServerError),
    ],
)
def test_what_no_route_meant_to_raise_has_its_class_too(
    served: Served, name: str, kind: type[openai.APIStatusError]
) -> None:
    served.fails(float("inf"))
    with sdk(served) as client, pytest.raises(openai.APIStatusError) as raised:
        client.models.retrieve(name)
    assert type(raised.value) is kind
    assert raised.value.response.json()["error"].keys() == {"message", "type", "param", "code"}
    assert "secret" not in raised.value.response.text


@pytest.mark.parametrize("kind", [RateLimitExceeded, Unavailable])
def test_the_sdk_waits_as_long_as_it_is_told_and_succeeds(served: Served, kind: type[GatewayError]) -> None:
    served.fails(1)
    began = time.monotonic()
    with sdk(served, retries=2) as client:
        assert client.models.retrieve(kind.__name__).id == kind.__name__
    # Its own pause would be at most 0.5 s.
    assert RETRY_SECONDS <= time.monotonic() - began < RETRY_SECONDS + 60
    assert served.asked == 2


@pytest.mark.parametrize("kind", SDK_CLASSES)
def test_the_sdk_retries_only_what_may_get_better(served: Served, kind: type[GatewayError]) -> None:
    served.fails(1)
    with sdk(served, retries=1) as client:
        if kind in RETRIED:
            client.models.retrieve(kind.__name__)
        else:
            with pytest.raises(SDK_CLASSES[kind]):
                client.models.retrieve(kind.__name__)
    assert served.asked == (2 if kind in RETRIED else 1)
