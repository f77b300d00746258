"""What one connection, and all of them, may take: over sockets, with an application of a few lines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send

from gateway.connections import Connections
from gateway.http_protocol import MOST_PIPELINED, Bounds, HttpProtocol

BOUNDS = Bounds(url_bytes=300, headers=12, header_bytes=1200, header_seconds=30, send_seconds=30)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n"
SECONDS = 60


class App:
    """Answers with the method and the body; under /long with as much as the client takes. ``messages`` has
    what came of each request's end."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.sent = 0
        self.left = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message: Message = {"more_body": True}
        body = b""
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        self.bodies.append(body)
        await self.may_answer.wait()
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
        )
        if scope["path"] == "/long":
            await self._go_on(receive, send)
        else:
            await send({"type": "http.response.body", "body": scope["method"].encode() + b" " + body})

    async def _go_on(self, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 16384, "more_body": True})
            self.sent += 16384
            await asyncio.sleep(0)
        assert (await gone)["type"] == "http.disconnect"
        self.left.set()


class Served:
    def __init__(self, app: App, connections: Connections, port: int) -> None:
        self.app, self.connections, self.port = app, connections, port

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def send(self, data: bytes) -> bytes:
        """What comes back until the server closes."""
        reader, writer = await self.connect()
        writer.write(data)
        async with asyncio.timeout(SECONDS):
            received = await read_all(reader)
        writer.close()
        return received

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not true():
                await asyncio.sleep(0.01)


async def read_all(reader: asyncio.StreamReader) -> bytes:
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := await reader.read(65536):
            received += piece
    return received


@contextlib.asynccontextmanager
async def serving(
    most: int = 100, most_per_address: int | None = None, keep_alive: int = 30, **bounds: Any
) -> AsyncIterator[Served]:
    fields = {name: getattr(BOUNDS, name) for name in Bounds.__dataclass_fields__} | bounds
    app, connections = App(), Connections(most, most_per_address)
    protocol = partial(HttpProtocol, bounds=Bounds(**fields), open_connections=connections)
    config = uvicorn.Config(
        app,
        port=0,
        lifespan="off",
        http=protocol,  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        timeout_keep_alive=keep_alive,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(SECONDS):
        while not server.started:
            await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Served(app, connections, port)
    finally:
        app.may_answer.set()
        server.should_exit = True
        await task


def refusal(received: bytes) -> tuple[int, str]:
    """Status and code of the one answer, which closes the connection."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert b"content-length: %d" % len(body) in head
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


def status(received: bytes) -> int:
    return int(received.split()[1])


TOO_LONG = [
    (b"GET /" + b"a" * 300 + b" HTTP/1.1\r\n\r\n", (414, "uri_too_long")),
    (b"GET /" + b"a" * 2000, (414, "uri_too_long")),
    (GET + b"".join(b"a%d: b\r\n" % n for n in range(12)) + b"\r\n", (431, "headers_too_large")),
    (GET + b"a: " + b"b" * 1200 + b"\r\n\r\n", (431, "headers_too_large")),
    (GET + b"a: " + b"b" * 2000, (431, "headers_too_large")),
    (
        GET + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20 + b"\r\n",
        (431, "headers_too_large"),
    ),
]


async def test_what_is_too_long_is_refused() -> None:
    async with serving() as served:
        for sent, expected in TOO_LONG:
            received = await served.send(sent)
            assert refusal(received) == expected, sent[:40]
            assert len(served.connections) == 0


async def test_what_is_just_short_enough_is_answered() -> None:
    request = b"GET /" + b"a" * 299 + b" HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % n for n in range(11))
    async with serving() as served:
        assert status(await served.send(request + b"Connection: close\r\n\r\n")) == 200


POST = b"POST / HTTP/1.1\r\nHost: x\r\n"


TWO_WAYS = [
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    POST + b"Content-Length: +1\r\n\r\na",
    POST + b"Content-Length: 1, 1\r\n\r\na",
    POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
    GET + b"a: b\n\r\n",
    GET + b"a\x00: b\r\n\r\n",
    GET + b"a: b\x00\r\n\r\n",
    GET + b" folded: b\r\n\r\n",
    GET + b": b\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
    b"\x00" * 50,
]


async def test_what_two_servers_could_read_in_two_ways_is_refused() -> None:
    async with serving() as served:
        for sent in TWO_WAYS:
            served.app.bodies.clear()
            received = await served.send(sent)
            assert refusal(received) == (400, "invalid_request"), sent
            assert served.app.bodies in ([], [b""]), sent


async def test_older_and_odder_requests_are_answered() -> None:
    async with serving() as served:
        assert status(await served.send(b"GET / HTTP/1.0\r\n\r\n")) == 200
        pipelined = GET + b"\r\n" + POST + b"Content-Length: 2\r\n\r\nhi" + GET + b"Connection: close\r\n\r\n"
        received = await served.send(pipelined)
        assert received.count(b"HTTP/1.1 200") == 3
        assert received.index(b"POST hi") < received.rindex(b"GET ")
        reader, writer = await served.connect()
        writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        writer.write(b"hi")
        assert b"POST hi" in await read_all(reader)
        writer.close()


async def test_many_requests_at_once_on_one_connection_are_refused() -> None:
    async with serving() as served:
        served.app.may_answer.clear()
        # The first one is being answered: nothing else can be said on this connection.
        assert await served.send((GET + b"\r\n") * (MOST_PIPELINED + 2)) == b""
        served.app.may_answer.set()
        await served.until(lambda: len(served.connections) == 0)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(b"GET / HTTP/1.1\r\nHo", (408, "request_timeout")), (b"", None), (b"\r\n", None)],
)
async def test_a_head_that_does_not_come_ends_the_connection(
    sent: bytes, expected: tuple[int, str] | None
) -> None:
    async with serving(header_seconds=0.5) as served:
        received = await served.send(sent)
        assert (refusal(received) if received else None) == expected
        await served.until(lambda: len(served.connections) == 0)


@pytest.mark.parametrize("after", [b"", b"\r\n", b"GET / HTTP/1.1\r\nHo"])
async def test_a_connection_is_kept_for_a_while_only(after: bytes) -> None:
    async with serving(keep_alive=0, header_seconds=0.5) as served:
        received = await served.send(GET + b"\r\n" + after)
        assert received.startswith(b"HTTP/1.1 200")


async def test_a_slow_head_is_answered_if_it_comes_in_time() -> None:
    async with serving() as served:
        reader, writer = await served.connect()
        for byte in GET + b"Connection: close\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
        assert status(await read_all(reader)) == 200
        writer.close()


async def test_the_one_that_waited_longest_makes_room_for_a_new_one() -> None:
    async with serving(most=3) as served:
        waiting = [await served.connect() for _ in range(3)]
        await served.until(lambda: len(served.connections) == 3)
        assert status(await served.send(GET + b"Connection: close\r\n\r\n")) == 200
        async with asyncio.timeout(SECONDS):
            assert await read_all(waiting[0][0]) == b""
        for _, writer in waiting[1:]:
            writer.write(GET + b"Connection: close\r\n\r\n")
        for reader, writer in waiting[1:]:
            assert status(await read_all(reader)) == 200
            writer.close()


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"most": 2}, (503, "overloaded")),
        ({"most_per_address": 2}, (429, "rate_limit_exceeded")),
    ],
)
async def test_where_all_are_busy_a_new_one_is_refused(
    bounds: dict[str, int], expected: tuple[int, str]
) -> None:
    async with serving(**bounds) as served:
        served.app.may_answer.clear()
        busy = [asyncio.create_task(served.send(GET + b"Connection: close\r\n\r\n")) for _ in range(2)]
        await served.until(lambda: len(served.app.bodies) == 2)
        received = await served.send(b"")
        assert refusal(received) == expected
        assert b"\r\nretry-after: " in received
        served.app.may_answer.set()
        assert [status(await one) for one in busy] == [200, 200]
        assert status(await served.send(GET + b"Connection: close\r\n\r\n")) == 200


async def test_a_client_that_reads_nothing_is_left_and_its_request_with_it() -> None:
    async with serving(send_seconds=0.1) as served:
        _, writer = await served.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /long HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(SECONDS):
            await served.app.left.wait()
        await served.until(lambda: len(served.connections) == 0)
        # The kernel's buffers, and little more.
        assert served.app.sent < 32 * 1024 * 1024
        writer.close()


async def test_a_client_that_reads_slowly_is_not_left() -> None:
    send_seconds = 1.0
    async with serving(send_seconds=send_seconds) as served:
        reader, writer = await served.connect()
        writer.write(b"GET /long HTTP/1.1\r\n\r\n")
        taken, longest = 0, 0.0
        # More than all buffers hold, and for longer than it may take nothing.
        began = last = time.monotonic()
        while taken < 32 * 1024 * 1024 or last < began + 2 * send_seconds:
            piece = await reader.read(1024 * 1024)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            if not piece:
                break
            taken += len(piece)
            await asyncio.sleep(0.001)
        # A machine that stands still for so long takes nothing, either.
        assert not served.app.left.is_set() or longest >= send_seconds
        writer.close()
        async with asyncio.timeout(SECONDS):
            await served.app.left.wait()


def test_places_are_counted_by_address_and_given_back() -> None:
    class One:
        def __init__(self, address: str) -> None:
            self.address, self.closed = address, False

        def make_room(self) -> None:
            self.closed = True

    connections = Connections(3, 2)
    first, second, third, fourth = One("a"), One("a"), One("b"), One("b")
    assert [connections.enter(one) for one in (first, second, third)] == [None, None, None]
    connections.works(first)
    assert connections.enter(fourth) is None
    assert [one.closed for one in (first, second, third)] == [False, True, False]
    connections.works(third)
    connections.works(fourth)
    assert connections.enter(One("c")) == "all"
    assert connections.enter(One("b")) == "address"
    connections.waits(first)
    fifth = One("c")
    assert connections.enter(fifth) is None
    assert first.closed
    for one in (third, fourth, fifth):
        connections.leave(one)
    assert len(connections) == 0
    assert connections._addresses == {}
