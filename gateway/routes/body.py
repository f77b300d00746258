"""A request's body: JSON, perhaps compressed, read with a bound on size and time, and checked against a
model."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Mapping
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from gateway.errors import (
    BodyTimeout,
    BodyTooLarge,
    InvalidRequest,
    UnsupportedEncoding,
    UnsupportedMediaType,
    from_validation,
)
from gateway.lifecycle import lifecycle_of

Parsed = TypeVar("Parsed", bound=BaseModel)

GZIP_WINDOW = 16 + zlib.MAX_WBITS

_JSON = re.compile(r"application/([\w.-]+\+)?json", re.ASCII)
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([^\s";]*)')


async def read(request: Request, model: type[Parsed], most_bytes: int, *, optional: bool = False) -> Parsed:
    """The body as ``model``. Raises InvalidRequest, its kinds for bodies among them.

    ``optional``: where there is none, or null, it is an empty object. How long the body may take to arrive
    is a setting.
    """
    if optional and is_absent(request.headers):
        return checked(model, b"{}")
    seconds = lifecycle_of(request).settings.body_timeout_seconds
    body = await received(request.receive, request.headers, most_bytes, seconds)
    return checked(model, b"{}" if optional and body.strip() in (b"", b"null") else body)


def checked(model: type[Parsed], value: bytes | Mapping[str, str]) -> Parsed:
    """A body, or the fields of a query, as ``model``. Raises InvalidRequest."""
    try:
        return model.model_validate_json(value) if isinstance(value, bytes) else model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise from_validation(found, model) from error


def is_absent(headers: Mapping[str, str]) -> bool:
    """Whether a request with these headers has no body."""
    return headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers


async def received(receive: Receive, headers: Mapping[str, str], most_bytes: int, seconds: float) -> bytes:
    """The whole body, unpacked. ``most_bytes`` bounds it as it comes and as it is unpacked, and what goes
    beyond is not read. A body without a content-type is taken for JSON, as scripts send it, but for a web
    page's: these tell their ``origin``. Raises UnsupportedMediaType, UnsupportedEncoding, BodyTooLarge,
    BodyTimeout, InvalidRequest, ClientDisconnect.
    """
    if "content-type" in headers or "origin" in headers:
        check_media_type(headers.get("content-type", ""))
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity", "gzip", "x-gzip"):
        raise UnsupportedEncoding("The body's content-encoding is not supported; use gzip or none.")
    too_large = BodyTooLarge(f"The body is larger than {most_bytes} bytes.")
    declared = headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise too_large
    unpacked = Gunzip(most_bytes) if encoding.endswith("gzip") else None
    pieces: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                piece = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(piece)
                if unpacked is not None and size <= most_bytes:
                    piece = unpacked.feed(piece)
                if size > most_bytes or (unpacked is not None and unpacked.size > most_bytes):
                    raise too_large
                pieces.append(piece)
    except TimeoutError as error:
        raise BodyTimeout(f"The body did not arrive within {seconds:g} seconds.") from error
    if unpacked is not None and not unpacked.ended:
        raise InvalidRequest("The body is not valid gzip: it ends too early.")
    return b"".join(pieces)


def check_media_type(value: str) -> None:
    """Raises UnsupportedMediaType for all but JSON in UTF-8.

    A web page may send any text to any server without asking first, but not JSON: so this is what
    keeps other people's pages away from a gateway that knows no keys.
    """
    essence = value.partition(";")[0].strip().lower()
    if _JSON.fullmatch(essence) is None:
        raise UnsupportedMediaType("The body must be JSON: send the header 'content-type: application/json'.")
    charset = _CHARSET.search(value.lower())
    if charset is not None and charset[1] not in ("utf-8", "utf8"):
        raise UnsupportedMediaType("The body must be JSON in UTF-8: leave the charset out of 'content-type'.")


class Gunzip:
    """Unpacks one gzip member, piece by piece, and stops as soon as it is larger than ``most_bytes``.

    ``size`` is what was unpacked so far, in bytes: at most one more than the bound.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._member = zlib.decompressobj(GZIP_WINDOW)
        self.size = 0

    @property
    def ended(self) -> bool:
        """Whether the member's end was seen, and its checksum was right."""
        return self._member.eof

    def feed(self, packed: bytes) -> bytes:
        """What ``packed`` adds. Raises InvalidRequest."""
        if self.ended and packed:
            raise InvalidRequest("The body is not valid gzip: there is more after its end.")
        try:
            # One byte beyond the bound tells that there is more.
            piece = self._member.decompress(packed, self._most_bytes + 1 - self.size)
        except zlib.error as error:
            raise InvalidRequest("The body is not valid gzip.") from error
        if self._member.unused_data:
            raise InvalidRequest("The body is not valid gzip: there is more after its end.")
        self.size += len(piece)
        return piece
