"""curl, as people paste it; and readers of a stream that know less of it than any SDK."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.end_to_end.question import ASKED, check_row
from tests.end_to_end.served import Gateway

STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


def curl(gateway: Gateway, path: str, body: dict[str, Any], *options: str) -> str:
    """What curl prints."""
    command = ["curl", "-sS", "-N", "-H", "content-type: application/json", "-d", json.dumps(body)]
    command += [*options, gateway.base_url + path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def read_naively(output: str) -> list[dict[str, Any]]:
    """The events of a stream to a reader that takes each line for itself, and a line with a colon in
    front for a comment."""
    chunks = []
    for line in output.splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            chunks.append(json.loads(line[6:]))
        else:
            assert line in ("", "data: [DONE]") or line.startswith(":")
    return chunks


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"])


@pytest.mark.vllm
def test_a_stream(demo: Gateway) -> None:
    output = curl(demo, "/v1/chat/completions", ASKED | STREAMED)
    assert output.endswith("data: [DONE]\n\n")
    chunks = read_naively(output)
    check_row(demo, chunks[0]["id"], text_of(chunks), chunks[-1]["usage"])


@pytest.mark.vllm
def test_the_line_that_is_printed_last_works_when_pasted(demo: Gateway) -> None:
    line = next(line for line in demo.output.splitlines() if line.startswith("Try"))
    command = line.removeprefix("Try").strip().replace("curl -N", "curl -sS -N", 1)
    output = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout
    assert "Paris" in output
    assert output.endswith("data: [DONE]\n\n")


def test_a_failure_has_its_status_and_its_reason(simulated: Gateway) -> None:
    output = curl(simulated, "/v1/completions", {"prompt": "x", "suffix": "y"}, "-w", "\n%{http_code}")
    body, _, status = output.rpartition("\n")
    assert status == "400"
    assert json.loads(body)["error"]["param"] == "suffix"


def test_a_text_never_ends_a_line(simulated: Gateway) -> None:
    """U+2028, U+2029 and U+0085 end a line for Python's splitlines, and so for httpx's iter_lines."""
    text = "a\nb\r\nc\rd\u2028e\u2029f\u0085g\x0ch\x1c👋"
    body = {"messages": [{"role": "user", "content": text}]}
    output = curl(simulated, "/v1/chat/completions", body | STREAMED)
    assert text_of(read_naively(output)) == text
    echo = {"prompt": text, "echo": True, "max_tokens": 100, "stream": True}
    chunks = read_naively(curl(simulated, "/v1/completions", echo))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text + text


def test_comments_between_events_disturb_no_reader(slow: Gateway) -> None:
    """A server that is slow to the first token and between tokens says so in comments."""
    text = "slow but sure"
    body = {"messages": [{"role": "user", "content": text}]}
    output = curl(slow, "/v1/chat/completions", body | STREAMED)
    before, *between = output.split("data: ")
    assert set(before.split("\n\n")) == {": keep-alive", ""}
    assert any(": keep-alive" in event for event in between)
    assert text_of(read_naively(output)) == text
