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
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="text for people, json for machines, one object for each line; auto: text where standard "
        "error is a terminal, else json.",
    )
    access_log: bool = Field(True, description="Log one line for each request.")
    log_content: bool = Field(
        False,
        description="Whether that line has what was asked last and what was answered, up to 2,000 characters "
        "of each: people's text, kept wherever logs are.",
    )

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value
