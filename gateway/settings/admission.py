"""How much the engine is given at once, and who waits how long for a place there."""

from __future__ import annotations

from pydantic import Field

from gateway.settings.fields import Section


class Admission(Section):
    """How much the engine is given at once, and who waits how long for a place there."""

    max_running_requests: int | None = Field(
        None,
        ge=1,
        description="How many engine requests run at once, each choice counts; others wait in the queue; "
        "default: as many as the engine can run (vLLM's max_num_seqs), no bound where it does not say.",
    )
    reserved_share: float = Field(
        0.125,
        ge=0,
        le=0.5,
        description="Part of these places that is kept for callers of whom nothing runs, while there is more "
        "than one caller; 0: none.",
    )
    queue_max_requests: int = Field(
        1000, ge=0, description="How many requests may wait for a place; above it the answer is 503."
    )
    queue_max_requests_per_caller: int = Field(
        500, ge=0, description="How many requests of one caller may wait; above it the answer is 429."
    )
    queue_max_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a request may wait for a place, in seconds; one that would wait longer, or "
        "beyond its deadline, is refused at once.",
    )
