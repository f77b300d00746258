"""A Java client: the JDK's HTTP client as it comes, which offers HTTP/2 with each request, and a listener
that is called as okhttp's EventSourceListener is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.served import Gateway

PROGRAM = Path(__file__).parent / "java" / "Listen.java"
OLDEST_JAVA = 17
TEXT = "héllo 👋\u2028\n\ndata: x"
ASKED: dict[str, Any] = {
    "model": "simulated",
    "stream": True,
    "messages": [{"role": "user", "content": TEXT}],
}


def missing() -> str | None:
    """What is not there to run these tests with."""
    if shutil.which("java") is None:
        return "Java is not installed"
    modules = subprocess.run(["java", "--list-modules"], capture_output=True, text=True).stdout
    compiler = re.search(r"^jdk\.compiler@(\d+)", modules, re.MULTILINE)
    if compiler is None or int(compiler[1]) < OLDEST_JAVA:
        return f"Java can't run a source file: a JDK from {OLDEST_JAVA} on does"
    return None


pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def heard(gateway: Gateway, path: str, body: dict[str, Any], *headers: str) -> tuple[list[str], list[str]]:
    """The calls of the listener but for those of events, and the events' data."""
    command = ["java", str(PROGRAM), gateway.base_url + path, json.dumps(body), *headers]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    calls, events = list[str](), list[str]()
    for line in ended.stdout.splitlines():
        if line.startswith("event "):
            _, kind, data = line.split(" ")
            assert kind == "message"
            events.append(b64decode(data).decode())
        else:
            calls.append(line)
    return calls, events


def test_each_event_is_a_chunk_then_done_then_it_is_closed(simulated: Gateway) -> None:
    calls, (*chunks, done) = heard(simulated, "/v1/chat/completions", ASKED)
    assert calls == ["open text/event-stream; charset=utf-8", "closed"]
    assert done == "[DONE]"
    deltas = [json.loads(chunk)["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == TEXT


def test_chatchats_events_then_it_is_closed(simulated: Gateway) -> None:
    calls, events = heard(simulated, "/chat/chat", {"query": TEXT, "stream": True})
    assert calls[0].startswith("open text/event-stream")
    assert calls[1:] == ["closed"]
    assert "".join(json.loads(event)["text"] for event in events) == TEXT


def test_a_refusal_is_a_failure_with_its_reason(simulated: Gateway) -> None:
    (call,), events = heard(simulated, "/v1/chat/completions", ASKED | {"model": "gpt-4"})
    failure, status, body = call.split(" ")
    assert (failure, status, events) == ("failure", "404", [])
    assert json.loads(b64decode(body))["error"]["code"] == "model_not_found"


def test_a_failure_on_the_way_is_the_last_event(slow: Gateway) -> None:
    """Comments come between."""
    long = ASKED | {"messages": [{"role": "user", "content": "x" * 400}]}
    calls, events = heard(slow, "/v1/chat/completions", long, "x-request-timeout", "2")
    assert calls[1:] == ["closed"]
    assert json.loads(events[-1])["error"]["code"] == "timeout"
