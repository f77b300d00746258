"""How a request went, for its metrics, its log line and its spans: told once, when its rows are closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from engine.base import Instead, Usage
from gateway.access.caller import Caller


@dataclass(frozen=True, slots=True)
class GenerationStats:
    """Of a request that the engine took.

    ``arrived`` is in seconds since 1970, all other times are in seconds from then: ``queue_seconds`` in the
    gateway's queue, ``ttft_seconds`` until the engine's first token, None where none came, ``seconds`` until
    its last output was taken, ``commit_seconds`` from there until the rows were durable. A stream takes more
    only when its client has taken what came before: a slow reader is in ``seconds``. ``status`` as Generation
    has it; ``finish_reasons`` of all choices, the status where one has not come to its own end. ``instead``:
    who answered in the engine's place.
    """

    request_id: str
    endpoint: str
    model: str
    caller: Caller
    stream: bool
    status: str
    finish_reasons: Sequence[str]
    usage: Usage
    arrived: float
    queue_seconds: float
    ttft_seconds: float | None
    seconds: float
    commit_seconds: float
    row_ids: Sequence[UUID]
    conversation_id: str | None
    instead: Sequence[Instead]

    @property
    def time_per_output_token_seconds(self) -> float | None:
        """Of the tokens after the first one, of all choices together, as the client took them; None where
        there is none."""
        tokens = self.usage.completion_tokens - len(self.finish_reasons)
        if self.ttft_seconds is None or tokens <= 0:
            return None
        return (self.seconds - self.ttft_seconds) * len(self.finish_reasons) / tokens
