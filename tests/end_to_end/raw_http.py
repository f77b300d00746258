"""An answer as it comes over the wire, chunk by chunk."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.end_to_end.served import Gateway


@dataclass
class RawAnswer:
    """``chunks``: of the chunked body, each as it was sent; the whole body where it was not chunked.
    ``ended``: whether the body came to its end."""

    status: int
    headers: Mapping[str, str]
    chunks: list[bytes]
    ended: bool


def post(gateway: Gateway, path: str, body: object, **headers: str) -> RawAnswer:
    """Ask, and read until the other side closes."""
    url = urlsplit(gateway.base_url)
    received = b""
    with socket.create_connection((url.hostname or "", url.port or 0), timeout=60) as connection:
        connection.sendall(request(path, body, **headers))
        while piece := connection.recv(65536):
            received += piece
    return parsed(received)


def request(path: str, body: object, **headers: str) -> bytes:
    """As it goes over the wire."""
    content = json.dumps(body).encode()
    fields = {
        "host": "x",
        "connection": "close",
        "content-type": "application/json",
        "content-length": str(len(content)),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content


def parsed(received: bytes) -> RawAnswer:
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    status = int(first.split()[1])
    if headers.get("transfer-encoding") != "chunked":
        return RawAnswer(status, headers, [body], len(body) == int(headers["content-length"]))
    chunks, ended = [], False
    while body and not ended:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        chunk, body = body[:length], body[length:]
        ended = length == 0 and body == b"\r\n"
        body = body.removeprefix(b"\r\n")
        if chunk:
            chunks.append(chunk)
    return RawAnswer(status, headers, chunks, ended)
