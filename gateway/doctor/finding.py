"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``remedy`` says what to do, where something is not as it should be. With a ``problem`` the gateway does
    not start or does not work; with a ``warning`` it does, and something will be bad."""

    level: Level
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    """Nothing has to be done."""
    return Finding("ok", found)


def warning(found: str, remedy: str) -> Finding:
    """It works, and something will be bad."""
    return Finding("warning", found, remedy)


def problem(found: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding("problem", found, remedy)


def in_units(count: float) -> str:
    """Bytes for people, as ``12.5 GiB``."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
