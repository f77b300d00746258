"""HTTP itself: what a body may look like, how long it may take, which pages may ask, what every answer
carries."""

from __future__ import annotations

import gzip
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tests.end_to_end.served import Gateway, running

CHAT = "/v1/chat/completions"
POSTS = (CHAT, "/v1/completions", "/tokenize", "/detokenize")
PAGE = "https://chat.example.com"
ERROR_KEYS = {"message", "type", "param", "code"}
MOST_BYTES = 100_000
BODY_SECONDS = 0.5

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def strict() -> Iterator[Gateway]:
    """A gateway for small bodies, open to one page."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(
        folder,
        "--engine",
        "simulated",
        GATEWAY_MAX_BODY_BYTES=str(MOST_BYTES),
        GATEWAY_CORS_ORIGINS=PAGE,
    ) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def hurried() -> Iterator[Gateway]:
    """A gateway that does not wait long for a body."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(folder, "--engine", "simulated", GATEWAY_BODY_TIMEOUT_SECONDS=str(BODY_SECONDS)) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


def asked(text: str = "hi") -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}]}


def connected(gateway: Gateway) -> socket.socket:
    url = urlsplit(gateway.base_url)
    return socket.create_connection((url.hostname or "", url.port or 0), timeout=30)


def read_to_end(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the one answer before the other side closes."""
    received = b""
    while piece := connection.recv(65536):
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def check_refusal(status: int, headers: dict[str, str], body: bytes, expected: int, code: str) -> None:
    error = json.loads(body)["error"]
    assert (status, error["code"]) == (expected, code)
    assert error.keys() == ERROR_KEYS
    assert headers["connection"] == "close"
    assert headers["x-request-id"].startswith("req_")


def test_curl_uploads_gzip(simulated: Gateway, tmp_path: Path) -> None:
    text = "好 \0 👋" * 1000
    packed = tmp_path / "body.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(asked(text)).encode()))
    headers = ["-H", "content-type: application/json", "-H", "content-encoding: gzip"]
    for more in ([], ["-H", "transfer-encoding: chunked"], ["-H", "expect: 100-continue"]):
        answer = subprocess.run(
            ["curl", "-sS", f"{simulated.base_url}{CHAT}", *headers, *more, "--data-binary", f"@{packed}"],
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert json.loads(answer.stdout)["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize("path", POSTS)
def test_every_route_takes_gzip(client: httpx.Client, path: str) -> None:
    body = {CHAT: asked(), "/detokenize": {"tokens": [104, 105]}}.get(path, {"prompt": "hi"})
    plain = client.post(path, json=body)
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    packed = client.post(path, content=gzip.compress(json.dumps(body).encode()), headers=headers)
    assert plain.status_code == packed.status_code == 200
    assert plain.json().get("usage") == packed.json().get("usage")


def test_a_bomb_is_refused(strict: Gateway) -> None:
    bomb = gzip.compress(b'{"messages": [' + b" " * 50_000_000)
    assert len(bomb) < MOST_BYTES
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = httpx.post(strict.base_url + CHAT, content=bomb, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    "packed",
    [b"{}", gzip.compress(b"{}")[:-3], gzip.compress(b"{}") * 2],
    ids=["not packed", "cut off", "packed twice"],
)
def test_broken_gzip_is_refused(client: httpx.Client, packed: bytes) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    answer = client.post(CHAT, content=packed, headers=headers)
    assert answer.status_code == 400
    assert "gzip" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"origin": "http://127.0.0.1"}, "unsupported_media_type"),
        ({"content-type": "text/plain"}, "unsupported_media_type"),
        ({"content-type": "application/x-www-form-urlencoded"}, "unsupported_media_type"),
        ({"content-type": "application/json; charset=gbk"}, "unsupported_media_type"),
        ({"content-type": "application/json", "content-encoding": "br"}, "unsupported_encoding"),
    ],
)
def test_what_is_not_json_is_told_what_to_send(
    client: httpx.Client, path: str, headers: dict[str, str], code: str
) -> None:
    answer = client.post(path, content=json.dumps(asked()), headers=headers)
    assert answer.status_code == 415
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == (code, "invalid_request_error", None)
    assert error.keys() == ERROR_KEYS
    assert "content-" in error["message"]


@pytest.mark.parametrize(
    "begun", [CHUNKED, CHUNKED + b"2\r\n{}\r\n", HEAD + b'Content-Length: 100\r\n\r\n{"messages":']
)
def test_a_body_that_stalls_is_a_408(hurried: Gateway, begun: bytes) -> None:
    with connected(hurried) as connection:
        began = time.monotonic()
        connection.sendall(begun)
        status, headers, body = read_to_end(connection)
    check_refusal(status, headers, body, 408, "request_timeout")
    assert f"{BODY_SECONDS:g} seconds" in json.loads(body)["error"]["message"]
    assert BODY_SECONDS <= time.monotonic() - began < 60


def test_a_slow_drip_is_a_408_too(hurried: Gateway) -> None:
    with connected(hurried) as connection:
        connection.sendall(CHUNKED)
        connection.settimeout(0.05)
        began = time.monotonic()
        received = b""
        while not received and time.monotonic() - began < 60:
            connection.sendall(b"1\r\n \r\n")
            try:
                received = connection.recv(65536)
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408 ")


def test_an_endless_upload_is_refused_and_the_connection_ends(strict: Gateway) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with connected(strict) as connection:
        connection.sendall(CHUNKED)
        sent = 0
        began = time.monotonic()
        # Until the gateway has closed its side.
        with pytest.raises(ConnectionError):
            while time.monotonic() - began < 60:
                connection.sendall(chunk)
                sent += len(chunk)
    assert sent > MOST_BYTES
    assert httpx.post(strict.base_url + CHAT, json=asked()).status_code == 200


def test_who_sends_too_much_reads_the_whole_refusal(strict: Gateway) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with connected(strict) as connection:
        connection.sendall(CHUNKED + chunk * 40)
        answer = read_to_end(connection)
    check_refusal(*answer, 413, "body_too_large")


def test_a_body_that_says_it_is_too_large_need_not_be_sent(strict: Gateway) -> None:
    with connected(strict) as connection:
        connection.sendall(HEAD + b"Content-Length: 999999999\r\nExpect: 100-continue\r\n\r\n")
        answer = read_to_end(connection)
    check_refusal(*answer, 413, "body_too_large")


def test_a_refused_body_is_never_taken_for_the_next_request(strict: Gateway) -> None:
    smuggled = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(strict) as connection:
        head = HEAD.replace(b"application/json", b"text/plain")
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled + smuggled)
        answer = read_to_end(connection)
    check_refusal(*answer, 415, "unsupported_media_type")
    assert b"HTTP/1.1" not in answer[2]


def test_a_page_may_ask_from_its_origin_only(strict: Gateway) -> None:
    asks = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-stainless-os,x-request-timeout",
    }
    with httpx.Client(base_url=strict.base_url) as client:
        allowed = client.options(CHAT, headers={"origin": PAGE} | asks)
        refused = client.options(CHAT, headers={"origin": "https://evil.example"} | asks)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    assert allowed.headers["access-control-allow-headers"] == asks["access-control-request-headers"]
    assert refused.status_code == 400
    assert "access-control-allow-origin" not in refused.headers


def test_a_page_reads_errors_and_streams(strict: Gateway) -> None:
    with httpx.Client(base_url=strict.base_url, headers={"origin": PAGE}) as client:
        error = client.post(CHAT, json={})
        stream = client.post(CHAT, json=asked() | {"stream": True})
    assert (error.status_code, stream.status_code) == (400, 200)
    assert stream.text.endswith("data: [DONE]\n\n")
    for answer in (error, stream):
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_no_page_may_ask_unless_the_setting_says_so(client: httpx.Client) -> None:
    answer = client.post(CHAT, json=asked(), headers={"origin": PAGE})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models", None),
        ("GET", "/nope", None),
        ("POST", CHAT, {}),
        ("POST", CHAT, asked()),
        ("POST", CHAT, asked() | {"stream": True}),
        ("GET", "/metrics", None),
    ],
)
def test_every_answer_has_openais_headers(client: httpx.Client, method: str, path: str, body: object) -> None:
    answer = client.request(method, path, json=body)
    assert answer.headers["openai-version"] == "2020-10-01"
    assert 0 <= int(answer.headers["openai-processing-ms"]) < 60_000
    assert len(answer.headers.get_list("x-request-id")) == 1


def test_the_sdk_shows_the_headers(simulated: Gateway) -> None:
    with openai.OpenAI(base_url=f"{simulated.base_url}/v1", api_key="none") as sdk:
        answer = sdk.chat.completions.with_raw_response.create(
            model="simulated", messages=[{"role": "user", "content": "hi"}]
        )
    assert answer.request_id == answer.headers["x-request-id"]
    assert answer.headers["openai-processing-ms"].isdecimal()
    assert answer.parse().choices[0].message.content == "hi"
