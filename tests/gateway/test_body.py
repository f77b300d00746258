from __future__ import annotations

import asyncio
import contextlib
import gzip
import itertools
import json
import zlib
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message

from gateway.errors import (
    BodyTimeout,
    BodyTooLarge,
    InvalidRequest,
    UnsupportedEncoding,
    UnsupportedMediaType,
)
from gateway.routes.body import Gunzip, is_absent, received
from tests.strategies import json_values

MOST = 10_000


class Client:
    """Sends ``pieces``, and then is silent, or leaves."""

    def __init__(self, pieces: Sequence[bytes], ends: bool = True, leaves: bool = False) -> None:
        self.left = list(pieces)
        self._ends = ends
        self._leaves = leaves

    async def receive(self) -> Message:
        if self.left:
            piece = self.left.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self.left) or not self._ends}
        if self._leaves:
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()
        raise AssertionError


async def read(
    *pieces: bytes, most: int = MOST, seconds: float = 30, client: Client | None = None, **headers: str
) -> bytes:
    """What is read of a body in ``pieces``."""
    given_ = {"content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    sender = client or Client(pieces)
    return await received(sender.receive, Headers(given_), most, seconds)


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """``data`` in pieces, some of them empty."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(json_values, st.lists(st.integers(0), max_size=8), st.integers(0, 9))
async def test_any_body_cut_into_any_pieces_is_read_as_the_plain_one(
    value: Any, places: list[int], level: int
) -> None:
    plain = json.dumps(value).encode()
    packed = gzip.compress(plain, level)
    most = len(plain) + len(packed)
    assert await read(*cut(plain, places), most=most) == plain
    assert await read(*cut(packed, places), most=most, content_encoding="gzip") == plain


@given(st.binary(max_size=300), st.lists(st.integers(0), max_size=4), st.integers(0))
async def test_a_gzip_stream_that_ends_early_is_refused(data: bytes, places: list[int], end: int) -> None:
    packed = gzip.compress(data)
    with pytest.raises(InvalidRequest, match="ends too early"):
        await read(*cut(packed[: end % len(packed)], places), content_encoding="gzip")


@given(st.binary(min_size=1, max_size=300), st.integers(0), st.integers(1, 255))
async def test_a_gzip_stream_that_was_changed_is_never_read_as_something_else(
    data: bytes, place: int, change: int
) -> None:
    packed = bytearray(gzip.compress(data, mtime=0))
    packed[place % len(packed)] ^= change
    found = None
    with contextlib.suppress(InvalidRequest):
        found = await read(bytes(packed), content_encoding="gzip")
    assert found in (None, data)


@pytest.mark.parametrize(
    "packed",
    [
        b"plain",
        b"{}",
        zlib.compress(b"{}"),
        gzip.compress(b"{}", mtime=0) + b"x",
        gzip.compress(b"{}", mtime=0) * 2,
        gzip.compress(b"{}", mtime=0) + bytes(8),
    ],
)
@pytest.mark.parametrize("step", [1, 5, 1000])
async def test_what_is_not_one_gzip_member_is_refused(packed: bytes, step: int) -> None:
    pieces = [packed[start : start + step] for start in range(0, len(packed), step)]
    with pytest.raises(InvalidRequest, match="not valid gzip") as refused:
        await read(*pieces, content_encoding="gzip")
    assert refused.value.status == 400


async def test_a_bomb_is_unpacked_to_one_byte_more_than_the_bound() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    gunzip = Gunzip(MOST)
    assert len(gunzip.feed(bomb)) == gunzip.size == MOST + 1
    with pytest.raises(BodyTooLarge, match=f"larger than {MOST * 10} bytes"):
        await read(bomb, most=MOST * 10, client=Client([bomb], ends=False), content_encoding="gzip")
    client = Client([bomb[start : start + 10] for start in range(0, len(bomb), 10)])
    with pytest.raises(BodyTooLarge):
        await read(client=client, content_encoding="gzip")
    assert len(client.left) > 4000


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("size", [MOST - 1, MOST, MOST + 1])
async def test_the_bound_is_the_largest_body(encoding: str, size: int) -> None:
    data = b"x" * size
    sent = gzip.compress(data) if encoding == "gzip" else data
    if size > MOST:
        with pytest.raises(BodyTooLarge):
            await read(sent, content_encoding=encoding)
    else:
        assert await read(sent, content_encoding=encoding) == data


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    client = Client([b"{}"])
    with pytest.raises(BodyTooLarge):
        await read(client=client, content_length=str(MOST + 1))
    assert client.left == [b"{}"]


async def test_a_body_that_turns_out_too_large_is_not_read_to_its_end() -> None:
    client = Client([b"x" * 1000] * 50)
    with pytest.raises(BodyTooLarge):
        await read(client=client)
    assert len(client.left) == 39


@pytest.mark.parametrize("pieces", [(), (b'{"a":',)])
async def test_a_body_that_does_not_arrive_in_time_is_refused(pieces: tuple[bytes, ...]) -> None:
    with pytest.raises(BodyTimeout, match=r"within 0\.05 seconds"):
        await read(client=Client(pieces, ends=False), seconds=0.05)


async def test_a_client_that_leaves_before_its_body_has_arrived() -> None:
    with pytest.raises(ClientDisconnect):
        await read(client=Client([b"{"], ends=False, leaves=True))


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json; charset=utf8; x=y",
        "application/vnd.api+json",
        "application/ld+json; profile=x",
    ],
)
async def test_json_is_read(kind: str) -> None:
    assert await read(b"{}", content_type=kind) == b"{}"


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/plain",
        "text/plain; application/json",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=application/json",
        "application/jsonx",
        "application/+json",
        "application/json, text/plain",
        "json",
        "application/json; charset=latin-1",
        'application/json; charset="utf-16"',
        "application/json; charset=",
    ],
)
async def test_anything_else_is_told_what_to_send(kind: str) -> None:
    with pytest.raises(UnsupportedMediaType) as refused:
        await read(b"{}", content_type=kind)
    assert refused.value.status == 415
    assert "content-type" in refused.value.message


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({}, True),
        ({"content-length": "2"}, True),
        ({"content-type": "application/json", "origin": "http://example.com"}, True),
        ({"content-type": ""}, False),
        ({"content-type": "text/plain"}, False),
        # As a web page sends bytes.
        ({"origin": "http://example.com"}, False),
        ({"origin": "null"}, False),
    ],
)
async def test_a_script_need_not_declare_its_body_and_a_web_page_has_to(
    headers: dict[str, str], taken: bool
) -> None:
    with contextlib.nullcontext() if taken else pytest.raises(UnsupportedMediaType):
        body = await received(Client([b"{}"]).receive, Headers(headers), MOST, 30)
        assert body == b"{}"


@pytest.mark.parametrize(
    ("headers", "absent"),
    [
        ({}, True),
        ({"content-length": "0"}, True),
        ({"content-length": "2"}, False),
        ({"transfer-encoding": "chunked"}, False),
    ],
)
def test_a_body_that_is_not_there_is_known_by_its_headers(headers: dict[str, str], absent: bool) -> None:
    assert is_absent(Headers(headers)) is absent


@pytest.mark.parametrize("encoding", ["", "identity", "Identity"])
async def test_no_encoding_has_a_name_too(encoding: str) -> None:
    assert await read(b"{}", content_encoding=encoding) == b"{}"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
async def test_gzip_has_two_names(encoding: str) -> None:
    assert await read(gzip.compress(b"{}"), content_encoding=encoding) == b"{}"


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "gzip, identity", "bgzip", "x"])
async def test_any_other_encoding_is_told_what_is_understood(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="gzip") as refused:
        await read(gzip.compress(b"{}"), content_encoding=encoding)
    assert refused.value.status == 415
    assert refused.value.headers["accept-encoding"] == "gzip, identity"
