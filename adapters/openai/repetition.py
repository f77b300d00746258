"""What ends an answer that says the same again and again.

Source: vLLM's server 0.32 (RepetitionDetectionParams in vllm/sampling_params.py).
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.base import RepetitionStop

# The engine tries every size after every token.
LONGEST_PATTERN = 64


class RepetitionDetection(BaseModel):
    """vLLM's object of this name."""

    model_config = ConfigDict(strict=True, extra="forbid")

    max_pattern_size: int = Field(
        0, ge=0, le=LONGEST_PATTERN, description="Longest sequence, in tokens; 0: nothing is ended."
    )
    min_pattern_size: int = Field(
        0, ge=0, le=LONGEST_PATTERN, description="Shortest sequence, in tokens; 0 means 1."
    )
    min_count: int = Field(0, ge=0, le=1000, description="How often it stands there, at least 2.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError("min_pattern_size must be at most max_pattern_size")
        if self.max_pattern_size and self.min_count < 2:
            raise ValueError("min_count must be at least 2")
        return self

    @property
    def stop(self) -> RepetitionStop | None:
        """For the engine."""
        if not self.max_pattern_size:
            return None
        return RepetitionStop(self.max_pattern_size, self.min_count, max(self.min_pattern_size, 1))
