"""Two gateways on one PostgreSQL behind vllm-router: clients see no difference, and the rows are all there.

docs/routers.md tells what is shown here; what happens when a gateway goes is in tests/faults/test_routed.py.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from persistence.caller_limits import Limits
from tests.end_to_end.router import SECONDS, load_of, routing
from tests.end_to_end.served import Gateway
from tests.faults.accounts import rows_of
from tests.faults.form import until
from tests.faults.keys import make_key
from tests.faults.postgres import Postgres, postgres
from tests.faults.serving import serving

CHAT = "/v1/chat/completions"
TEXT = "Grüße, 你好 😀\n\n\0data: [DONE]"
TOKENS_PER_SECOND = 500
# It outlasts every test.
ENDLESS = "x" * 200_000

# What is another one in every answer.
OWN = re.compile(rb'chatcmpl-[0-9a-f]{32}|"created":\d+')

GATEWAYS = "SELECT request_id, gateway_id FROM message WHERE starts_with(request_id, $1)"


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def pair(server: Postgres) -> Iterator[list[Gateway]]:
    """Two gateways on one PostgreSQL, which also has their limits."""
    folder = Path(tempfile.mkdtemp(prefix="routed-"))
    settings = {
        "GATEWAY_LIMITS_STORE": "postgresql",
        "GATEWAY_SIMULATED_TOKENS_PER_SECOND": str(TOKENS_PER_SECOND),
    }
    with ExitStack() as started:
        started.callback(shutil.rmtree, folder, ignore_errors=True)
        yield [
            started.enter_context(serving(server.url, folder / name, **settings)) for name in ("one", "two")
        ]


@pytest.fixture(scope="module")
def router(pair: list[Gateway]) -> Iterator[httpx.Client]:
    """In front of them, with what it does of itself where nothing is said: it asks again."""
    with routing(pair, "round_robin") as client:
        yield client


def question(text: str, stream: bool = False) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "stream": stream}


def gateways_of(server: Postgres, name: str) -> dict[str, int]:
    """Which gateway each request went to whose id begins with ``name``; each has one row."""
    rows = server.fetch(GATEWAYS, name)
    found = {row["request_id"]: row["gateway_id"] for row in rows}
    assert len(found) == len(rows)
    return found


def test_a_stream_comes_byte_for_byte(pair: list[Gateway], router: httpx.Client) -> None:
    # Of more tokens than one, an event may have several.
    body = question(TEXT, stream=True) | {"max_tokens": 1, "stream_options": {"include_usage": True}}
    direct = httpx.post(pair[0].base_url + CHAT, json=body, timeout=SECONDS)
    routed = router.post(CHAT, json=body)
    assert OWN.sub(b"", routed.content) == OWN.sub(b"", direct.content)
    assert routed.content.endswith(b"data: [DONE]\n\n")


def test_requests_are_spread_and_their_rows_are_exact(server: Postgres, router: httpx.Client) -> None:
    for number in range(6):
        headers = {"x-request-id": f"spread-{number}"}
        answer = router.post(CHAT, json=question(TEXT, stream=True), headers=headers)
        assert answer.headers["x-request-id"] == f"spread-{number}"
        *events, done = answer.text.split("\n\n")[:-1]
        deltas = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events]
        assert ("".join(delta.get("content", "") for delta in deltas), done) == (TEXT, "data: [DONE]")
    assert len(set(gateways_of(server, "spread-").values())) == 2
    for row in rows_of(server, "spread-"):
        assert (row["status"], row["query"], row["response"]) == ("completed", TEXT, TEXT)


def test_what_a_stream_has_is_there_at_once_and_leaving_it_ends_it(
    server: Postgres, pair: list[Gateway], router: httpx.Client
) -> None:
    body, headers = question(ENDLESS, stream=True), {"x-request-id": "left-1"}
    with router.stream("POST", CHAT, json=body, headers=headers) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: {")
        assert sum(map(load_of, pair)) == 1
    until(lambda: sum(map(load_of, pair)) == 0, SECONDS, "the gateway has noticed")
    until(lambda: [row["status"] for row in rows_of(server, "left-")] == ["cancelled"], SECONDS, "its row")
    (row,) = rows_of(server, "left-")
    assert ENDLESS.startswith(row["response"])
    assert row["completion_tokens"] == len(row["response"]) < len(ENDLESS)


def test_a_session_stays_at_one_gateway(server: Postgres, pair: list[Gateway]) -> None:
    with routing(pair, "consistent_hash") as router:
        for turn in range(2):
            for session in range(30):
                headers = {"x-session-id": f"talk-{session}", "x-request-id": f"sticks-{session}-{turn}"}
                assert router.post(CHAT, json=question("a"), headers=headers).status_code == 200
    at: dict[str, set[int]] = defaultdict(set)
    for request_id, gateway in gateways_of(server, "sticks-").items():
        at[request_id.rpartition("-")[0]].add(gateway)
    assert [len(gateways) for gateways in at.values()] == [1] * 30
    assert len(set.union(*at.values())) == 2


def test_refusals_come_as_they_are(server: Postgres, pair: list[Gateway], router: httpx.Client) -> None:
    bodies: list[dict[str, Any]] = [
        question(TEXT) | {"model": "another"},
        question(TEXT) | {"temperature": 9},
        {"messages": []},
    ]
    for body in bodies:
        direct = httpx.post(pair[0].base_url + CHAT, json=body, timeout=SECONDS)
        routed = router.post(CHAT, json=body)
        assert (routed.status_code, routed.json()) == (direct.status_code, direct.json())
        assert 400 <= routed.status_code < 500
    assert router.get("/v1/models").json()["data"][0]["id"] == "simulated"
    # Chatchat's routes, of which the router knows nothing.
    chat = router.post("/chat/chat", json={"query": TEXT, "stream": False})
    assert json.loads(chat.text.removeprefix("data: "))["text"] == TEXT


def test_the_limit_of_a_key_holds_across_both_and_tells_when_to_come_again(
    server: Postgres, pair: list[Gateway]
) -> None:
    key = make_key(server, Limits(requests_per_minute=1))
    with routing(pair, "round_robin", "--disable-retries") as router:
        answers = [
            router.post(CHAT, json=question("a"), headers=key.headers | {"x-request-id": f"limited-{number}"})
            for number in range(4)
        ]
    assert [answer.status_code for answer in answers] == [200, 429, 429, 429]
    for refused in answers[1:]:
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 0 < int(refused.headers["retry-after"]) <= 62
    assert gateways_of(server, "limited-").keys() == {"limited-0"}
