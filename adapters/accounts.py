"""The names and passwords of users, and the names of what they have."""

from __future__ import annotations

from typing import Annotated
from unicodedata import category, normalize

from pydantic import AfterValidator

MOST_NAME_CHARACTERS = 255
LEAST_PASSWORD_CHARACTERS = 8
MOST_PASSWORD_BYTES = 1024


def _name(value: str) -> str:
    """One user's name in all the ways that it may be typed: composed (NFC), without blanks around it."""
    name = normalize("NFC", value).strip()
    if not 1 <= len(name) <= MOST_NAME_CHARACTERS:
        raise ValueError(f"must have 1 to {MOST_NAME_CHARACTERS} characters")
    return without_controls(name)


def without_controls(value: str) -> str:
    """``value``. Raises ValueError where it has characters that are no text."""
    if any(category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise ValueError("must not have control characters")
    return value


def _short_enough(value: str) -> str:
    if len(value.encode()) > MOST_PASSWORD_BYTES:
        raise ValueError(f"must have at most {MOST_PASSWORD_BYTES} bytes in UTF-8")
    return value


def _long_enough(value: str) -> str:
    if len(value) < LEAST_PASSWORD_CHARACTERS:
        raise ValueError(f"must have at least {LEAST_PASSWORD_CHARACTERS} characters")
    return value


UserName = Annotated[str, AfterValidator(_name)]
Password = Annotated[str, AfterValidator(_short_enough)]
NewPassword = Annotated[Password, AfterValidator(_long_enough)]
