"""Who answers where the engine does not, and how it comes back."""

from __future__ import annotations

from pydantic import Field

from gateway.settings.fields import Section


class Fallbacks(Section):
    """Who answers where the engine does not, and how it comes back."""

    fallback_notice: str | None = Field(
        None,
        min_length=1,
        max_length=2000,
        description="Text that is answered where neither the engine nor a fallback can; default: none, the "
        "answer is a 503.",
    )
    fallback_on_overload: bool = Field(
        False, description="Fallbacks also take the requests that the engine has no place for."
    )
    engine_restart: bool = Field(
        True, description="An engine that has died is built anew; otherwise it stays dead."
    )
    engine_restart_seconds: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Pause before the second attempt to build a dead engine anew, in seconds; it doubles "
        "with each further one.",
    )
    engine_restart_longest_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest pause between two such attempts, in seconds; an engine that has lived for so "
        "long is built anew without one.",
    )
