"""What is going on, with times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

BEGAN = time.monotonic()


def say(text: str) -> None:
    """One line, with the seconds since the beginning."""
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", flush=True)


@contextmanager
def step(doing: str) -> Iterator[None]:
    """Says what it does, and how long it took."""
    began = time.monotonic()
    say(doing)
    yield
    say(f"    done in {time.monotonic() - began:.1f} s")


def check(true: bool, what: str) -> None:
    """Says what was found to be so. Raises Wrong where it is not."""
    if not true:
        raise Wrong(f"not so: {what}")
    say(f"  ok: {what}")


class Wrong(Exception):
    """What should be so is not; the message says what."""
