"""Limits as options of commands, and as they are printed; tables of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from persistence.caller_limits import Limits

MOST = 2**53 - 1

RequestsPerMinute = Annotated[int | None, typer.Option(min=0, max=MOST, help="0: as many as there are.")]
TokensPerMinute = Annotated[
    int | None, typer.Option(min=0, max=MOST, help="Of prompts and answers together; 0: no limit.")
]
TokensPerDay = Annotated[
    int | None, typer.Option(min=0, max=MOST, help="Of prompts and answers, in a day of UTC; 0: no limit.")
]
ConcurrentRequests = Annotated[
    int | None, typer.Option(min=0, max=MOST, help="At the same time; 0: no limit.")
]


def limits_with(
    limits: Limits,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    tokens_per_day: int | None,
    concurrent_requests: int | None,
) -> Limits:
    """``limits`` with those that are given; 0 takes one away."""
    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "tokens_per_day": tokens_per_day,
        "concurrent_requests": concurrent_requests,
    }
    return replace(limits, **{name: most or None for name, most in given.items() if most is not None})


def shown_limits(limits: Limits) -> str:
    """Those that bound something."""
    found = [f"{name}={most}" for name, most in asdict(limits).items() if most is not None]
    return " ".join(found) or "no limits"


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A line for each, below their names. What others have named is printed so that it moves no cursor."""
    lines = [[printable(cell) for cell in line] for line in (names, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def printable(text: str) -> str:
    """``text`` without what a terminal obeys."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
