"""The load generator, a process of its own: N clients, each asking again as soon as it has its answer.

    python -m benchmarks.load --port 8000 --pid 4711 --model NAME --clients 64 --tokens 128 --stream

All clients start together, warm up, start together again and ask until the measured time is over;
requests then under way are finished and counted. Prints one ``LoadResult`` as JSON. Any answer that is
not the complete answer asked for ends the run with an error.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from typing import cast

import uvloop

from benchmarks.process import cpu_seconds, resident_mib
from benchmarks.wire import ResponseReader, Usage, WireError, read_stream_usage, read_usage, render_request

HOST = "127.0.0.1"
PATH = "/v1/chat/completions"
WARM_UP_SECONDS = 1.0
MEASURED_SECONDS = 3.0

# Each request asks for a document of its own, so that no server can answer from a cache of prompts.
NUMBER = "00000000"
QUESTION = (
    f"Please read document number {NUMBER} of the archive and tell me in a few plain words what it says."
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load."""

    clients: int
    tokens: int  # that each answer has
    stream: bool

    @property
    def name(self) -> str:
        return f"{'stream' if self.stream else 'whole'}-{self.clients}x{self.tokens}"


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of durations in milliseconds."""

    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one scenario measured at one server."""

    requests: int  # in the measured time
    requests_with_warm_up: int
    prompt_tokens: int  # of the longest prompt
    completion_tokens: int  # of all measured requests
    events: int  # of all measured streams; fewer than tokens where a front end merged some to keep up
    seconds: float  # from the first measured request to the end of the last one
    ttft_ms: Percentiles | None  # until the first event with ``choices``; None when not streamed
    latency_ms: Percentiles
    server_cpu_seconds: float  # of the front-end process alone
    server_resident_mib: float  # of the front-end process, after the load
    client_cpu_seconds: float  # of this process: near ``seconds``, it is the load generator that was measured

    @property
    def tokens_per_second(self) -> float:
        return self.completion_tokens / self.seconds

    @property
    def requests_per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def cpu_us_per_token(self) -> float:
        return self.server_cpu_seconds / self.completion_tokens * 1e6

    @property
    def events_per_token(self) -> float:
        return self.events / self.completion_tokens

    @property
    def cpu_us_per_request(self) -> float:
        return self.server_cpu_seconds / self.requests * 1e6


@dataclass(frozen=True, slots=True)
class Answer:
    """One request as its client saw it; durations in seconds."""

    first_event: float | None  # None when not streamed
    latency: float
    usage: Usage
    events: int  # 0 when not streamed


class Connection(asyncio.Protocol):
    """One kept-open connection that carries one request at a time."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._transport: asyncio.WriteTransport
        self._answer: asyncio.Future[Answer] | None = None

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        self._answer = asyncio.get_running_loop().create_future()
        self._reader = ResponseReader()
        self._first_event_at: float | None = None
        self._asked_at = time.perf_counter()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self._answer = None
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by name

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or answer.done():
            return
        try:
            complete = self._reader.feed(data)
            if (
                self._first_event_at is None
                and self._scenario.stream
                and b'"choices"' in self._reader.received
            ):
                self._first_event_at = time.perf_counter()
            if complete:
                answer.set_result(self._read_answer())
        except (WireError, ValueError) as error:
            answer.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(WireError(f"the server closed the connection: {exc}"))

    def _read_answer(self) -> Answer:
        ended_at = time.perf_counter()
        reader = self._reader
        if reader.status != 200:
            raise WireError(f"status {reader.status}: {reader.body[:300]!r}")
        usage = read_stream_usage(reader.body) if self._scenario.stream else read_usage(reader.body)
        if usage.completion_tokens != self._scenario.tokens:
            raise WireError(f"{usage.completion_tokens} tokens instead of {self._scenario.tokens}")
        first_event = self._first_event_at - self._asked_at if self._first_event_at is not None else None
        events = reader.body.count(b"data: ") if self._scenario.stream else 0
        return Answer(first_event, ended_at - self._asked_at, usage, events)


def numbered_requests(model: str, port: int, scenario: Scenario) -> Iterator[bytes]:
    """Requests that differ in one number of fixed width, so that rendering them costs next to nothing."""
    fields: dict[str, object] = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": scenario.tokens,
        "temperature": 0,
    }
    if scenario.stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    before, after = render_request(f"{HOST}:{port}", PATH, json.dumps(fields).encode()).split(NUMBER.encode())
    for number in count():
        yield b"%b%08d%b" % (before, number, after)


async def run_clients(
    connections: Sequence[Connection], requests: Iterator[bytes], seconds: float
) -> list[Answer]:
    """Let each connection ask back to back, at least once, until ``seconds`` are over; return all answers."""
    deadline = time.perf_counter() + seconds
    answers: list[Answer] = []

    async def run_client(connection: Connection) -> None:
        while True:
            answers.append(await connection.ask(next(requests)))
            if time.perf_counter() >= deadline:
                return

    async with asyncio.TaskGroup() as clients:
        for connection in connections:
            clients.create_task(run_client(connection))
    return answers


async def measure(scenario: Scenario, *, port: int, pid: int, model: str, seconds: float) -> LoadResult:
    """Warm up, then measure ``scenario`` at the server whose front end is process ``pid``."""
    loop = asyncio.get_running_loop()
    connections = [
        (await loop.create_connection(lambda: Connection(scenario), HOST, port))[1]
        for _ in range(scenario.clients)
    ]
    requests = numbered_requests(model, port, scenario)
    warm_up = await run_clients(connections, requests, WARM_UP_SECONDS)

    gc.collect()
    gc.disable()
    server_cpu, client_cpu, started_at = cpu_seconds(pid), time.process_time(), time.perf_counter()
    answers = await run_clients(connections, requests, seconds)
    ended_at = time.perf_counter()
    server_cpu, client_cpu = cpu_seconds(pid) - server_cpu, time.process_time() - client_cpu

    for connection in connections:
        connection.close()
    first_events = [answer.first_event for answer in answers if answer.first_event is not None]
    return LoadResult(
        requests=len(answers),
        requests_with_warm_up=len(answers) + len(warm_up),
        prompt_tokens=max(answer.usage.prompt_tokens for answer in answers),
        completion_tokens=sum(answer.usage.completion_tokens for answer in answers),
        events=sum(answer.events for answer in answers),
        seconds=ended_at - started_at,
        ttft_ms=percentiles_ms(first_events) if scenario.stream else None,
        latency_ms=percentiles_ms([answer.latency for answer in answers]),
        server_cpu_seconds=server_cpu,
        server_resident_mib=resident_mib(pid),
        client_cpu_seconds=client_cpu,
    )


def percentiles_ms(seconds: Sequence[float]) -> Percentiles:
    """Summarise durations given in seconds."""
    ordered = sorted(seconds)
    return Percentiles(p50=percentile(ordered, 50) * 1000, p99=percentile(ordered, 99) * 1000)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """A percentile of sorted values, between two of them by linear interpolation (as numpy does)."""
    position = (len(ordered) - 1) * percent / 100
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="the server's front-end process")
    parser.add_argument("--model", required=True, help="the name that the server knows its model by")
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True, help="tokens per answer")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--seconds", type=float, default=MEASURED_SECONDS, help="measured time")
    options = parser.parse_args()
    scenario = Scenario(options.clients, options.tokens, options.stream)
    try:
        result = uvloop.run(
            measure(
                scenario, port=options.port, pid=options.pid, model=options.model, seconds=options.seconds
            )
        )
    except* (WireError, OSError) as failures:
        sys.exit(f"{scenario.name}: {failures.exceptions[0]}")
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
