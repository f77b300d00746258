"""The file that a guard list is read from."""

from __future__ import annotations

from pathlib import Path

from adapters.guard import Guard
from adapters.guard_rules import InvalidGuard
from gateway.text_file import UnreadableFile, text_of


def read_guard(path: Path | None) -> Guard | None:
    """The rules of an operator's file. Raises InvalidGuard, naming the file and the rule."""
    if path is None:
        return None
    try:
        return Guard.from_yaml(text_of(path))
    except (InvalidGuard, UnreadableFile) as error:
        raise InvalidGuard(f"{path}: {error}") from error
