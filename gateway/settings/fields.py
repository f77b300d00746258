"""How a setting is read, whatever it is for."""

from __future__ import annotations

import json

from pydantic import AliasChoices
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "GATEWAY_"


class Section(BaseSettings):
    """Settings that belong together; ``Settings`` has all of them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        hide_input_in_errors=True,
    )


def also(name: str, plain: str) -> AliasChoices:
    """``GATEWAY_<NAME>`` first, then a name that people know."""
    return AliasChoices(PREFIX + name.upper(), plain)


def parsed_json(value: object) -> object:
    """JSON where it is text."""
    return json.loads(value) if isinstance(value, str) else value


def items(value: object) -> object:
    """A list as JSON, or separated by commas."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return parsed_json(value)
    return [item for item in map(str.strip, value.split(",")) if item]
