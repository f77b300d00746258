"""What may not be asked, and not be answered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from adapters.openai.repetition import RepetitionDetection
from engine.base import RepetitionStop
from gateway.guard_file import read_guard
from gateway.settings.fields import Section, parsed_json


class Guard(Section):
    """What may not be asked, and not be answered."""

    guard: Path | None = Field(
        None,
        description="YAML file of words and regular expressions that may not be asked or answered, see "
        "docs/guard.md; default: none.",
    )
    # Read as text, from wherever it comes: pydantic-settings would merge the objects of several sources.
    repetition_stop: Annotated[RepetitionDetection | None, NoDecode, BeforeValidator(parsed_json)] = Field(
        None,
        description="Ends an answer whose last tokens are one sequence again and again, as "
        '{"max_pattern_size": 16, "min_count": 24}: up to 16 tokens, 24 times; default: none.',
    )

    @field_validator("guard")
    @classmethod
    def _readable_rules(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = value.expanduser().absolute()
        read_guard(path)
        return path

    @property
    def repetition(self) -> RepetitionStop | None:
        """What ends an answer whose client says nothing of it."""
        return self.repetition_stop.stop if self.repetition_stop is not None else None
