"""The way to a place at the engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.base import Usage
from gateway.access.caller import Caller


@dataclass(frozen=True, slots=True)
class Work:
    """What a request asks of the engine, at most: tokens of its prompts, tokens of its answers, and how many
    engine requests it is. After ``deadline_seconds`` from now it is of no use to anybody."""

    prompt_tokens: int
    completion_tokens: int
    requests: int
    deadline_seconds: float | None


class Place(Protocol):
    """A request's place at the engine."""

    @property
    def waited_seconds(self) -> float:
        """How long the request stood in the queue."""

    def leave(self, usage: Usage) -> None:
        """The request has ended, and used so much. To be called once, whatever happens."""


class Admission(Protocol):
    """Lets requests through to the engine."""

    async def enter(self, caller: Caller, work: Work) -> Place:
        """Wait for a place; whoever is cancelled meanwhile has none. Raises RateLimitExceeded where the
        caller himself has too many in the queue, and Unavailable where all have, or where the place would
        come too late."""


class AllAtOnce:
    """For an engine that queues by itself, and well; the Place, too."""

    waited_seconds = 0.0

    async def enter(self, caller: Caller, work: Work) -> Place:
        return self

    def leave(self, usage: Usage) -> None:
        pass
