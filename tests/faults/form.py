"""The two forms of these tests, and where their figures go."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("FAULTS") == "long"
SEED = int(os.environ.get("FAULTS_SEED", "0"))


def either(short: T, long: T) -> T:
    """A number for the form that runs."""
    return long if LONG else short


# For what comes at once on a machine that has nothing else to do. The long form runs alone.
SOON_SECONDS = either(90.0, 30.0)


def until(true: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until ``true()``; gives the seconds it took. Fails after ``seconds``, and says ``what``."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began


def report(test: str, **figures: object) -> None:
    """One line to standard output: pytest shows it with -s, or where the test fails."""
    print(f"\n{test}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items()))
