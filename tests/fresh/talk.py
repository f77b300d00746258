"""A client of a gateway, as little as a proof needs."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator

QUESTION = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 64,
}
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def status(url: str) -> int:
    """Of a GET; 0 where nobody listens."""
    try:
        with DIRECT.open(url, timeout=30) as answer:
            code: int = answer.status
            return code
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def ask(base_url: str, key: str | None = None) -> tuple[int, str]:
    """Status and text of the answer to QUESTION."""
    try:
        with DIRECT.open(asking(base_url, key, QUESTION), timeout=300) as answer:
            return answer.status, json.load(answer)["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def stream(base_url: str, key: str) -> Iterator[str]:
    """The data of each event of a long answer."""
    body = QUESTION | {"stream": True, "max_tokens": 200, "ignore_eos": True}
    with DIRECT.open(asking(base_url, key, body), timeout=300) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                yield line.decode()[6:].strip()


def asking(base_url: str, key: str | None, body: object) -> urllib.request.Request:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    return urllib.request.Request(f"{base_url}/v1/chat/completions", json.dumps(body).encode(), headers)


def wait_for(true: Callable[[], bool], seconds: float) -> bool:
    """Whether it became true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True
