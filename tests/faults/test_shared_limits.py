"""Two gateways that share limits by way of one PostgreSQL: the bounds that docs/limits.md states."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from persistence.caller_limits import Limits
from persistence.limit_windows import COUNTED_SECONDS, HELD_SECONDS
from tests.end_to_end.served import Gateway
from tests.faults.form import LONG, SEED, SOON_SECONDS, either, report, until
from tests.faults.keys import Key, make_key, revoke
from tests.faults.load import CLIENT_SECONDS, PATH, events
from tests.faults.postgres import Postgres
from tests.faults.serving import kill, launching, serving
from tests.faults.watch import until_caught_up

CLIENTS = 8
TOKENS = 1000
REQUESTS = 100
MOST_CHARACTERS = 20
# Asked for and not used: given back when the answer ends.
MOST_SPARE = 10
LEAVING_SHARE = 0.1

# For so long they go on asking, and this often the limit is let in meanwhile.
ASKING_SECONDS = either(0.0, 140.0)
MINUTES = either(1, 3)
# Nobody has been let in for longer than a gateway may keep what it has taken.
QUIET_SECONDS = either(3.0, 1.5)
REFUSALS_IN_A_ROW = 5
PAUSE_SECONDS = 0.05

MINUTE = timedelta(seconds=60)
# The long form runs alone.
REVOKED_SECONDS = either(20.0, 2.0)
# What a gateway takes counts for so long at most.
TAKEN_SECONDS = COUNTED_SECONDS + 1

SETTINGS = {
    "GATEWAY_AUTHENTICATION": "true",
    "GATEWAY_METRICS_PUBLIC": "true",
    "GATEWAY_LIMITS_STORE": "postgresql",
    "GATEWAY_SIMULATED_TOKENS_PER_SECOND": "100",
    # None of these tests is about a slow PostgreSQL, or a slow machine.
    "GATEWAY_DATABASE_TIMEOUT_SECONDS": "20",
    "GATEWAY_LIMITS_TIMEOUT_SECONDS": "20",
}

USED = """
SELECT create_time, duration_ms, prompt_tokens + completion_tokens AS tokens, gateway_id, status
FROM message WHERE meta_data->>'key' = $1
"""
COUNTED = "SELECT requests, tokens, day_tokens, held FROM limit_use WHERE account = $1"
PASS = """
UPDATE limit_use SET seconds = ARRAY(SELECT one - $2 FROM unnest(seconds) AS one),
    held_until = ARRAY(SELECT one - $2 FROM unnest(held_until) AS one)
WHERE account = $1
"""


@dataclass
class Seen:
    """What the clients of one key saw."""

    key: Key
    let_in: int = 0
    refused: int = 0
    last_let_in: float = field(default_factory=time.monotonic)
    in_a_row: Counter[int] = field(default_factory=Counter)
    remaining: list[int] = field(default_factory=list)

    @property
    def is_used_up(self) -> bool:
        """Nothing more can be had."""
        quiet = time.monotonic() - self.last_let_in > QUIET_SECONDS
        return quiet and all(self.in_a_row[client] >= REFUSALS_IN_A_ROW for client in range(CLIENTS))


@pytest.fixture
def gateway(server: Postgres, data_dir: Path) -> Iterator[Gateway]:
    with serving(server.url, data_dir, **SETTINGS) as gateway:
        yield gateway


@contextmanager
def another(server: Postgres) -> Iterator[Gateway]:
    """One that may be killed."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        data_dir = Path(folder) / "data"
        data_dir.mkdir()
        with launching(server.url, data_dir, **SETTINGS) as gateway:
            gateway.wait_until_started()
            yield gateway


def test_two_gateways_let_in_a_limit_together_and_all_of_it(server: Postgres, gateway: Gateway) -> None:
    of_tokens = Seen(make_key(server, Limits(tokens_per_minute=TOKENS)))
    of_requests = Seen(make_key(server, Limits(requests_per_minute=REQUESTS)))
    with another(server) as other:
        both = (gateway, other)
        asyncio.run(ask_both([one.base_url for one in both], [of_tokens, of_requests]))
        for one in both:
            until_caught_up(one, SOON_SECONDS)
        revoked_after = [revoked_on_both(server, seen.key, both) for seen in (of_tokens, of_requests)]
        # While PostgreSQL is away the bound is another one.
        assert all("limits are not shared" not in one.output for one in both)

    for seen, limit in ((of_tokens, TOKENS), (of_requests, REQUESTS)):
        rows = server.fetch(USED, seen.key.id.hex)
        used = [row["tokens"] if seen is of_tokens else 1 for row in rows]
        most = most_in_a_minute(rows, used)
        gateways = Counter(row["gateway_id"] for row in rows)
        report(
            f"two gateways, {limit} {'tokens' if seen is of_tokens else 'requests'} per minute",
            let_in=sum(used),
            most_in_a_minute=most,
            requests=len(rows),
            of_each=sorted(gateways.values()),
            refused=seen.refused,
            statuses=dict(Counter(row["status"] for row in rows)),
        )
        assert len(rows) == seen.let_in
        assert most <= limit
        assert sum(used) >= 0.9 * limit * MINUTES
        assert len(gateways) == 2
        # All that was not used has been given back: nothing is left but what was.
        if not LONG:
            what, wanted = "tokens" if seen is of_tokens else "requests", sum(used)
            until(
                partial(is_counted, server, seen.key, what, wanted),
                SOON_SECONDS,
                "what was not used is given back",
            )
        assert len(seen.remaining) == seen.let_in + seen.refused
        assert all(0 <= remaining <= limit for remaining in seen.remaining)
    report("a key is revoked", refused_by_both_after=[f"{seconds:.2f} s" for seconds in revoked_after])


def is_counted(server: Postgres, key: Key, what: str, wanted: int) -> bool:
    """Whether PostgreSQL counts so many tokens or requests in the last minute."""
    (counted,) = server.fetch(COUNTED, key.account)
    return bool(sum(counted[what]) == wanted)


def most_in_a_minute(rows: list[Any], used: list[int]) -> int:
    """What was certainly let in within 60 seconds: a request is let in between its row's two moments."""
    begun = [row["create_time"] for row in rows]
    ended = [row["create_time"] + timedelta(milliseconds=row["duration_ms"]) for row in rows]

    def within(since: datetime) -> int:
        both = zip(begun, ended, used, strict=True)
        return sum(much for begin, end, much in both if begin >= since and end <= since + MINUTE)

    return max(map(within, begun))


async def ask_both(urls: list[str], keys: list[Seen]) -> None:
    """CLIENTS ask with each key, at each gateway, until there is no more to be had."""
    began, random = time.monotonic(), Random(SEED)
    over = asyncio.Event()

    async def client(number: int) -> None:
        while not over.is_set():
            seen = random.choice(keys)
            async with asyncio.timeout(CLIENT_SECONDS):
                await ask_once(random.choice(gateways), seen, number, random)
            if time.monotonic() - began >= ASKING_SECONDS and all(seen.is_used_up for seen in keys):
                over.set()

    async with asyncio.TaskGroup() as closing:
        gateways = [httpx.AsyncClient(base_url=url, timeout=CLIENT_SECONDS) for url in urls]
        try:
            async with asyncio.timeout(ASKING_SECONDS + 2 * CLIENT_SECONDS), asyncio.TaskGroup() as clients:
                for number in range(CLIENTS):
                    clients.create_task(client(number))
        finally:
            for one in gateways:
                closing.create_task(one.aclose())


async def ask_once(gateway: httpx.AsyncClient, seen: Seen, number: int, random: Random) -> None:
    """One request, of which a part is not used; some clients leave in the middle of their answer."""
    text = "x" * random.randint(1, MOST_CHARACTERS)
    body = question(text, len(text) + random.randint(0, MOST_SPARE)) | {"stream": True}
    leaves = random.random() < LEAVING_SHARE
    async with gateway.stream("POST", PATH, json=body, headers=seen.key.headers) as response:
        named = (name for name in response.headers if name.startswith("x-ratelimit-remaining-"))
        seen.remaining += [int(response.headers[name]) for name in named]
        if response.status_code == 200:
            seen.let_in += 1
            seen.in_a_row[number], seen.last_let_in = 0, time.monotonic()
            async for _ in events(response):
                if leaves:
                    break
            return
        answer = await response.aread()
    assert response.status_code == 429, answer
    assert 0 < float(response.headers["retry-after-ms"]) / 1000 <= TAKEN_SECONDS
    seen.refused += 1
    seen.in_a_row[number] += 1
    await asyncio.sleep(PAUSE_SECONDS)


def question(text: str, max_tokens: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}


def revoked_on_both(server: Postgres, key: Key, gateways: tuple[Gateway, ...]) -> float:
    """End a key; gives after how many seconds a request was still let in, at most."""

    def knows(gateway: Gateway) -> bool:
        answer = httpx.get(f"{gateway.base_url}/v1/models", headers=key.headers, timeout=CLIENT_SECONDS)
        assert answer.status_code in (200, 401), answer.text
        return answer.status_code == 200

    assert all(map(knows, gateways))
    revoke(server, key)
    committed = time.monotonic()
    last, left = 0.0, list(gateways)
    while left:
        began = time.monotonic() - committed
        left = [gateway for gateway in left if knows(gateway)]
        last = began if left else last
        assert last < REVOKED_SECONDS
    return last


# The killed gateway's requests reserve most of a limit, for longer than the test needs.
HELD_REQUESTS = 4
HELD_CHARACTERS = 1100
HELD_TOKENS = HELD_REQUESTS * 2 * HELD_CHARACTERS
MINUTE_TOKENS = 10_000
NEARLY_ALL = question("x" * 10, MINUTE_TOKENS - 100)


def test_what_a_killed_gateway_held_comes_back(server: Postgres, gateway: Gateway) -> None:
    """Its places after 30 seconds, its tokens after 62; of the day they stay used."""
    of_tokens = make_key(server, Limits(tokens_per_minute=MINUTE_TOKENS, tokens_per_day=10 * MINUTE_TOKENS))
    of_places = make_key(server, Limits(concurrent_requests=HELD_REQUESTS))
    with another(server) as other:
        asked = time.monotonic()
        asyncio.run(killed_while_answering(other, [of_tokens, of_places]))
    killed = time.monotonic()

    refused = ask(gateway, of_tokens, NEARLY_ALL)
    assert refused.status_code == 429, refused.text
    told = float(refused.headers["retry-after-ms"]) / 1000
    at = time.monotonic()
    assert ask(gateway, of_places).status_code == 429
    assert told <= TAKEN_SECONDS

    pass_seconds(server, of_places, HELD_SECONDS)
    until(
        lambda: ask(gateway, of_places).status_code == 200, HELD_SECONDS + SOON_SECONDS, "its places are free"
    )
    places_after = time.monotonic() - killed
    assert asyncio.run(answered_at_once(gateway, of_places, HELD_REQUESTS)) == [200] * HELD_REQUESTS

    pass_seconds(server, of_tokens, TAKEN_SECONDS)
    until(
        lambda: ask(gateway, of_tokens, NEARLY_ALL).status_code == 200,
        TAKEN_SECONDS + SOON_SECONDS,
        "tokens are free",
    )
    tokens_after = time.monotonic() - killed
    report(
        "a killed gateway",
        places_free_after=f"{places_after:.1f} s",
        tokens_free_after=f"{tokens_after:.1f} s",
        told=f"{told + at - killed:.1f} s",
    )
    if LONG:
        # Not before, and when it was told.
        assert killed + places_after > asked + HELD_SECONDS
        assert killed + tokens_after > asked + 60
        assert at + told - 1 <= killed + tokens_after <= at + told + 1
    (counted,) = server.fetch(COUNTED, of_tokens.account)
    assert counted["day_tokens"] >= HELD_TOKENS + 20


async def killed_while_answering(gateway: Gateway, keys: list[Key]) -> None:
    """SIGKILL while HELD_REQUESTS of each key are answered."""
    body = question("x" * HELD_CHARACTERS, HELD_CHARACTERS) | {"stream": True}
    async with httpx.AsyncClient(base_url=gateway.base_url, timeout=CLIENT_SECONDS) as http:
        requests = [
            http.build_request("POST", PATH, json=body, headers=key.headers)
            for key in keys
            for _ in range(HELD_REQUESTS)
        ]
        answers = await asyncio.gather(*(http.send(request, stream=True) for request in requests))
        assert [answer.status_code for answer in answers] == [200] * len(requests)
        await asyncio.to_thread(kill, gateway)
        for answer in answers:
            await answer.aclose()


def ask(gateway: Gateway, key: Key, body: dict[str, Any] | None = None) -> httpx.Response:
    """A whole answer, a short one where nothing else is asked for."""
    return httpx.post(
        f"{gateway.base_url}{PATH}",
        json=body or question("x", 1),
        headers=key.headers,
        timeout=CLIENT_SECONDS,
    )


async def answered_at_once(gateway: Gateway, key: Key, count: int) -> list[int]:
    """The statuses of so many requests together."""
    answers = await asyncio.gather(*(asyncio.to_thread(ask, gateway, key) for _ in range(count)))
    return [answer.status_code for answer in answers]


def pass_seconds(server: Postgres, key: Key, seconds: float) -> None:
    """So much older is all that is counted; in the long form time passes by itself."""
    if not LONG:
        server.fetch(PASS, key.account, round(seconds))
