"""Requests that offer another protocol, as those of Java's own HttpClient do: the offer is not taken, and the
request is answered as it is."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.end_to_end.served import Gateway

OFFER = (
    b"Host: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)
POST = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Type: application/json\r\n" + OFFER
LIVE = b"GET /health/live HTTP/1.1\r\n"


@pytest.fixture
def connection(simulated: Gateway) -> Iterator[socket.socket]:
    url = urlsplit(simulated.base_url)
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def asked(text: str) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}]}).encode()


def with_length(body: bytes) -> bytes:
    return b"%bContent-Length: %d\r\n\r\n%b" % (POST, len(body), body)


def chunked(body: bytes) -> bytes:
    pieces = [body[:5], body[5:]]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def answer(connection: socket.socket) -> tuple[int, Any]:
    """Status and JSON of the next answer, which has a length."""
    with connection.makefile("rb", buffering=0) as file:
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            byte = file.read(1)
            assert byte, received
            received += byte
        first, *lines = received.decode("ascii").strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = b""
        while len(body) < int(headers["content-length"]):
            body += file.read(int(headers["content-length"]) - len(body))
    return int(first.split()[1]), json.loads(body)


def text_of(told: tuple[int, Any]) -> str:
    status, body = told
    assert status == 200, body
    text: str = body["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("framed", [with_length, chunked])
def test_the_body_is_read(connection: socket.socket, framed: Any) -> None:
    """In one packet, and each byte in one of its own; one request after the other."""
    connection.sendall(framed(asked("at once")))
    assert text_of(answer(connection)) == "at once"
    for byte in framed(asked("bytewise")):
        connection.sendall(bytes([byte]))
    assert text_of(answer(connection)) == "bytewise"


def test_what_follows_is_the_next_request(connection: socket.socket) -> None:
    requests = [with_length(asked("1")), chunked(asked("2")), LIVE + OFFER + b"\r\n", with_length(asked("4"))]
    connection.sendall(b"".join(requests) + LIVE + b"Host: x\r\n\r\n")
    assert text_of(answer(connection)) == "1"
    assert text_of(answer(connection)) == "2"
    assert answer(connection) == (200, {"status": "alive"})
    assert text_of(answer(connection)) == "4"
    assert answer(connection) == (200, {"status": "alive"})


def test_a_body_may_be_large(connection: socket.socket) -> None:
    text = "x" * 300_000
    connection.sendall(with_length(asked(text)))
    assert text_of(answer(connection)) == text


def test_two_ends_of_one_body_are_refused(connection: socket.socket) -> None:
    """No matter what stands between: what comes after the one could be hidden in the other."""
    connection.sendall(POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + LIVE)
    assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_a_chunk_that_is_none_is_refused(connection: socket.socket) -> None:
    connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\nno length\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
