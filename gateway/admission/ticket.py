"""A request on its way to the engine, and the caller that it is of."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from engine.base import Usage
from gateway.admission.queue import Work
from gateway.errors import GatewayError


class Account:
    """What is known of one caller.

    ``counter``: tokens that he was served, by weight; ``finish``: what it will be after the first of his
    requests that wait. ``held``: the places that he has. ``mean_answer``: tokens of an answer of his, once
    one has ended. ``promised``: when he was told to come again.
    """

    __slots__ = (
        "counter",
        "finish",
        "held",
        "mean_answer",
        "name",
        "promised",
        "waiting",
        "waiting_cost",
        "waiting_places",
        "weight",
    )

    def __init__(self, name: str, counter: float) -> None:
        self.name = name
        self.weight = 1.0
        self.counter = self.finish = counter
        self.held = 0
        self.waiting: deque[Ticket] = deque()
        self.waiting_places = 0
        self.waiting_cost = 0
        self.mean_answer: float | None = None
        self.promised: list[float] = []

    def add(self, tokens: float) -> None:
        """So many more are counted."""
        self.counter += tokens / self.weight
        self.rank()

    def rank(self) -> None:
        """His counter has changed, or the first of those that wait."""
        if self.waiting:
            self.finish = self.counter + self.waiting[0].cost / self.weight


class Ticket:
    """A request that waits, then has its places; a Place.

    ``need``: its places. ``answer_tokens``: what each of its answers is expected to have; ``cost``: all its
    tokens then. ``called`` is done when it need not wait any more: it has its places, or is ``refused``.
    Times are in seconds, as the queue's clock has them.
    """

    __slots__ = (
        "_leave",
        "account",
        "answer_tokens",
        "arrived",
        "called",
        "cost",
        "need",
        "refused",
        "requests",
        "started",
        "waited_seconds",
        "waits",
    )

    def __init__(
        self,
        account: Account,
        work: Work,
        need: int,
        answer_tokens: int,
        arrived: float,
        leave: Callable[[Ticket, Usage], None],
    ) -> None:
        self._leave = leave
        self.account = account
        self.requests = work.requests
        self.need = need
        self.answer_tokens = answer_tokens
        self.cost = max(1, work.prompt_tokens + answer_tokens * work.requests)
        self.arrived = arrived
        self.started = 0.0
        self.waited_seconds = 0.0
        self.waits = False
        self.called: asyncio.Future[None] | None = None
        self.refused: GatewayError | None = None

    def call(self) -> None:
        """Let it wait no more."""
        if self.called is not None and not self.called.done():
            self.called.set_result(None)

    def leave(self, usage: Usage) -> None:
        """The request has ended, and used so much. To be called once, whatever happens."""
        self._leave(self, usage)
