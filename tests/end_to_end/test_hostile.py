"""Bodies that are made to break a server: each route refuses them in its own dialect, and nothing else
happens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import httpx
import pytest
from fastapi.routing import APIRoute

from gateway.app import create_app
from gateway.error_shapes import NATIVE, OPENAI
from gateway.lifecycle import Lifecycle
from gateway.settings import load
from tests.end_to_end.served import Gateway

DEEP = 100_000
LONG = 200_000


def nested(opening: bytes, closing: bytes = b"", depth: int = DEEP) -> bytes:
    return opening * depth + closing * depth


BODIES: Mapping[str, bytes] = {
    "nothing": b"",
    "blanks": b" " * 1000,
    "no JSON": b"{]",
    "a text": b'"text"',
    "a number": b"1",
    "null": b"null",
    "a list": b"[]",
    "cut off": b'{"messages": [{"role": "user", "content": "',
    "two values": b"{}{}",
    "not UTF-8": b'{"query": "\xff\xfe"}',
    "UTF-16": '{"query": "hi"}'.encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "NUL": b'{"query": "\x00"}',
    "deep lists": nested(b"[", b"]"),
    "deep lists, open": nested(b"["),
    "deep objects": nested(b'{"a":') + b"1" + b"}" * DEEP,
    "deep in a field": b'{"messages": ' + nested(b"[", b"]") + b"}",
    "deep in an unknown field": b'{"query": "a", "prompt": "a", "x": ' + nested(b"[", b"]") + b"}",
    "deep in a schema": b'{"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", '
    b'"function": {"name": "f", "parameters": ' + nested(b'{"a":', b"", 5000) + b"1" + b"}" * 5003 + b"]}",
    "a long number": b'{"max_tokens": ' + b"9" * LONG + b', "query": "a", "prompt": "a"}',
    "a long fraction": b'{"temperature": 0.' + b"1" * LONG + b', "query": "a", "prompt": "a"}',
    "a large exponent": b'{"temperature": 1e999999, "query": "a", "prompt": "a"}',
    "NaN": b'{"temperature": NaN, "query": "a", "prompt": "a"}',
    "Infinity": b'{"temperature": -Infinity, "query": "a", "prompt": "a"}',
    "a lone surrogate as a key": b'{"\\ud800": 1}',
    "half an escape": b'{"query": "\\u12',
    "many keys": b"{" + b",".join(b'"k%d":1' % n for n in range(50_000)) + b"}",
    "a long key": b'{"' + b"k" * LONG + b'": 1}',
    "many escapes, open": b'{"query": "' + b"\\u0041" * 100_000,
    "wrong types": b'{"query": {}, "prompt": {}, "messages": {}, "username": [], "tokens": {}}',
    "a constructor": b'{"__proto__": {"a": 1}, "__class__": "os", "constructor": {}}',
}


def posts() -> Iterator[tuple[str, str]]:
    """Method and path of each route that takes a body, of the route table: none can be forgotten."""
    settings = load({"engine": "simulated"})
    for route in create_app(settings, Lifecycle(settings)).routes:
        if isinstance(route, APIRoute) and not route.path.endswith("/logout"):
            yield from ((method, route.path) for method in route.methods & {"POST", "PUT", "PATCH"})


def check_shape(path: str, answer: httpx.Response) -> None:
    """The refusal is in the dialect of its route."""
    text = answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        text = text.removeprefix("data: ")
    body = json.loads(text)
    if path.startswith(NATIVE) and path not in OPENAI:
        assert body["code"] == answer.status_code
        assert body["msg"]
    else:
        assert body["error"].keys() == {"message", "type", "param", "code"}
        assert len(body["error"]["message"]) < 5000


@pytest.mark.parametrize(("method", "path"), sorted(set(posts())))
def test_a_hostile_body_is_refused_in_the_routes_own_shape(
    simulated: Gateway, method: str, path: str
) -> None:
    url = path.replace("{kind:path}", "x").replace("{", "").replace("}", "")
    broken = 0
    with httpx.Client(base_url=simulated.base_url, timeout=60) as client:
        for name, body in BODIES.items():
            answer = client.request(method, url, content=body, headers={"content-type": "application/json"})
            assert answer.status_code < 500, (name, answer.text[:300])
            if answer.status_code >= 400:
                broken += 1
                check_shape(url, answer)
        assert client.get("/health/ready").status_code == 200
    # Some take a body of unknown fields, or none at all.
    assert broken > len(BODIES) // 3


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            '{"messages": 1, "messages": [{"role": "user", "content": "b"}]}',
            "b",
        ),
        ('{"messages": [{"role": "user", "content": "\\ud83d\\udc4b"}]}', "👋"),
        ('{"messages": [{"role": "user", "content": "%s"}]}' % ("\\u4e2d" * 100_000), "中" * 100_000),
        ('{"messages": [{"role": "user", "content": "a"}], "x": %s}' % ("[" * 100 + "]" * 100), "a"),
    ],
    ids=["a field twice: the last one counts", "a pair of surrogates", "escapes", "deep, but not too deep"],
)
def test_what_is_odd_and_still_right_is_answered(client: httpx.Client, body: str, said: str) -> None:
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == said


def test_what_is_too_deep_is_said_to_be_so(client: httpx.Client) -> None:
    body = b'{"messages": ' + nested(b"[", b"]") + b"}"
    headers = {"content-type": "application/json"}
    answer = client.post("/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert "recursion limit" in answer.json()["error"]["message"]
