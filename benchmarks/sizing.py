"""How much one gateway with its model gives: tokens per second and times, for more and more clients.

    OPENAI_API_KEY=... python -m benchmarks.sizing [--url http://127.0.0.1:8000/v1] [--clients 1,4,16,64]
        [--prompt-words 200] [--tokens 128] [--seconds 20]

Asks a gateway that runs already, as its clients would: streams, each client again as soon as it has its
answer. Each answer has exactly --tokens (ignore_eos), each prompt a beginning of its own, so that the prefix
cache helps no more than it does for strangers. The time counts from the first request's start to the end of
the last one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import httpx
from httpx import Limits, Timeout

from benchmarks.load import percentiles_ms
from benchmarks.report import figure, line

WORDS = ("river", "stone", "garden", "letter", "window", "morning", "paper", "music", "harbour", "story")
HEADINGS = [
    "clients",
    "answers",
    "tokens/s",
    "TTFT p50, ms",
    "TTFT p99, ms",
    "time per token p50, ms",
    "answer p50, s",
    "answer p99, s",
]


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds until the first content and until the end."""

    ttft: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Load:
    """What each client asks: so many words, for so many tokens."""

    model: str
    words: int
    tokens: int

    def body(self, number: int) -> dict[str, object]:
        """Of the request with this number."""
        choose = random.Random(number)
        text = " ".join([f"Document {number}:", *choose.choices(WORDS, k=self.words), "Go on."])
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self.tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--clients", default="1,4,16,64")
    parser.add_argument("--prompt-words", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    clients = [int(number) for number in options.clients.split(",")]
    asyncio.run(sweep(options.url, clients, options.prompt_words, options.tokens, options.seconds))


async def sweep(url: str, clients: Sequence[int], words: int, tokens: int, seconds: float) -> None:
    """Print a line for each number of clients."""
    key = os.environ.get("OPENAI_API_KEY")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    limits = Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=Timeout(600)) as http:
        models = (await http.get("models")).raise_for_status().json()
        load, numbers = Load(models["data"][0]["id"], words, tokens), count()
        await asked(http, load, next(numbers))
        print(line(HEADINGS), line(["---:"] * len(HEADINGS)), sep="\n")
        for number in clients:
            began = time.perf_counter()
            asking = (client(http, load, numbers, began + seconds) for _ in range(number))
            answers = [answer for some in await asyncio.gather(*asking) for answer in some]
            print(line(summary(number, answers, tokens, time.perf_counter() - began)), flush=True)


async def client(http: httpx.AsyncClient, load: Load, numbers: count[int], until: float) -> list[Answer]:
    """One answer after the other, at least one."""
    answers = [await asked(http, load, next(numbers))]
    while time.perf_counter() < until:
        answers.append(await asked(http, load, next(numbers)))
    return answers


async def asked(http: httpx.AsyncClient, load: Load, number: int) -> Answer:
    """One whole stream. Raises httpx.HTTPStatusError, and ValueError where it does not end well."""
    began, first = time.perf_counter(), 0.0
    last = ""
    async with http.stream("POST", "chat/completions", json=load.body(number)) as response:
        if response.is_error:
            await response.aread()
            raise SystemExit(f"status {response.status_code}: {response.text}")
        async for event in response.aiter_lines():
            if not first and '"content":"' in event and '"content":""' not in event:
                first = time.perf_counter()
            last = event or last
    if last != "data: [DONE]" or not first:
        raise SystemExit(f"a stream did not end well: {last}")
    return Answer(first - began, time.perf_counter() - began)


def summary(clients: int, answers: Sequence[Answer], tokens: int, seconds: float) -> list[str]:
    """The cells of HEADINGS."""
    ttft = percentiles_ms([answer.ttft for answer in answers])
    whole = percentiles_ms([answer.seconds for answer in answers])
    per_token = percentiles_ms([(answer.seconds - answer.ttft) / max(1, tokens - 1) for answer in answers])
    return [
        str(clients),
        str(len(answers)),
        figure(len(answers) * tokens / seconds),
        figure(ttft.p50),
        figure(ttft.p99),
        figure(per_token.p50),
        figure(whole.p50 / 1000),
        figure(whole.p99 / 1000),
    ]


if __name__ == "__main__":
    main()
