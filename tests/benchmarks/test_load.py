"""The pure parts of the load generator: reading responses however they are split, and percentiles."""

from __future__ import annotations

import json
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import Scenario, numbered_requests, percentile, percentiles_ms
from benchmarks.wire import ResponseReader, Usage, WireError, dechunk, read_stream_usage, read_usage

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}\n\n'
STREAM = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n' + USAGE + b"data: [DONE]\n\n"

# Bodies that a careless reader takes for framing.
bodies = st.binary(max_size=60) | st.text(alphabet="0\r\n", max_size=30).map(str.encode)


def chunked(pieces: list[bytes]) -> bytes:
    """A chunked body of the pieces that are not empty."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut % len(data) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


def read(pieces: list[bytes]) -> ResponseReader:
    """Feed the pieces; the reader is complete at the last one and not before."""
    reader = ResponseReader()
    assert [reader.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    return reader


@given(st.lists(bodies, max_size=6), st.lists(st.integers(min_value=0), max_size=12))
def test_chunked_response_however_it_is_split(pieces: list[bytes], cuts: list[int]) -> None:
    response = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(pieces)
    reader = read(split(response, cuts))
    assert (reader.status, reader.body) == (200, b"".join(pieces))


@given(bodies, st.lists(st.integers(min_value=0), max_size=12))
def test_response_with_a_length_however_it_is_split(body: bytes, cuts: list[int]) -> None:
    reader = read(split(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body, cuts))
    assert (reader.status, reader.body) == (200, body)


def test_byte_by_byte() -> None:
    response = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunked([b"0\r\n\r\n", b"0", b"\r\n0\r\n\r\n"])
    assert read([bytes([byte]) for byte in response]).body == b"0\r\n\r\n0\r\n0\r\n\r\n"


@given(st.lists(bodies, max_size=6))
def test_no_prefix_of_a_chunked_body_is_complete(pieces: list[bytes]) -> None:
    body = chunked(pieces)
    assert all(dechunk(body[:end]) is None for end in range(len(body)))


@pytest.mark.parametrize("body", [b"1\r\nab\r\n0\r\n\r\n", b"0\r\n\r\n0\r\n\r\n", b"x\r\n"])
def test_broken_chunks_are_errors(body: bytes) -> None:
    with pytest.raises(ValueError if body.startswith(b"x") else WireError):
        dechunk(body)


@pytest.mark.parametrize("head", [b"Content-Length: 1\r\n\r\n", b"Connection: close\r\n\r\n"])
def test_a_body_of_another_length_is_an_error(head: bytes) -> None:
    with pytest.raises(WireError):
        ResponseReader().feed(HEAD + head + b"ab")


@pytest.mark.parametrize("stream", [STREAM, STREAM.replace(b"\n", b"\r\n"), b": ping\n\n" + STREAM])
def test_usage_of_a_stream(stream: bytes) -> None:
    assert read_stream_usage(stream) == Usage(prompt_tokens=7, completion_tokens=2)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        STREAM.removesuffix(b"data: [DONE]\n\n"),
        STREAM.replace(USAGE, b""),
        STREAM.replace(USAGE, b'data: {"error":{"message":"out of luck"}}\n\n'),
    ],
)
def test_a_stream_that_did_not_end_well_is_an_error(stream: bytes) -> None:
    with pytest.raises(WireError):
        read_stream_usage(stream)


def test_usage_of_a_whole_answer() -> None:
    assert read_usage(b'{"usage":{"prompt_tokens":3,"completion_tokens":8}}') == Usage(3, 8)
    with pytest.raises(WireError, match="no usage in"):
        read_usage(b'{"error":{"message":"out of luck"}}')


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentile_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent))


def test_percentiles_are_milliseconds() -> None:
    summary = percentiles_ms([0.003, 0.001, 0.002])
    assert (summary.p50, summary.p99) == pytest.approx((2.0, 2.98))


def test_requests_differ_and_declare_their_length() -> None:
    requests = list(islice(numbered_requests("m", 8000, Scenario(clients=1, tokens=5, stream=True)), 3))
    assert len(set(requests)) == 3
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        assert b"Content-Length: %d" % len(body) in head
        assert json.loads(body)["max_tokens"] == 5
