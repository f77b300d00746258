"""What the gateway tells of itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from gateway.settings.fields import Section, also


class Observability(Section):
    """What the gateway tells of itself."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias=also("log_level", "LOG_LEVEL"), description="Least level that is logged."
    )
    access_log: bool = Field(True, description="Log one line for each request.")

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value
