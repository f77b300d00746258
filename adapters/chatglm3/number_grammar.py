"""Grammars of numbers within bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

from adapters.chatglm3.grammar_rules import (
    WHOLE_DIGITS,
    either,
)
from adapters.chatglm3.json_schema import (
    real_in,
)

_GREATEST = 10**WHOLE_DIGITS - 1


def number_rule(schema: Mapping[str, Any], digits: int) -> str:
    """A number within the bounds of ``schema`` with at most ``digits`` after the point."""
    least = _bound(schema, "minimum", "exclusiveMinimum", 1, digits)
    most = _bound(schema, "maximum", "exclusiveMaximum", -1, digits)
    if least is None and most is None:
        return "number" if digits else "integer"
    greatest = _GREATEST * 10**digits
    low = -greatest if least is None else max(least, -greatest)
    high = greatest if most is None else min(-most, greatest)
    below = (f'"-" {text}' for text in _magnitudes(max(1, -high), -low, digits))
    return either([*below, *_magnitudes(max(low, 0), high, digits)])


def _bound(schema: Mapping[str, Any], name: str, exclusive: str, sign: int, digits: int) -> int | None:
    """The least number of 10**-digits that a lower bound allows, an upper one for its negative."""
    bounds = []
    strict = schema.get(exclusive)
    if name in schema:
        bounds.append(_beyond(sign * real_in(schema, name), strict is True, digits))
    if strict is not None and not isinstance(strict, bool):
        bounds.append(_beyond(sign * real_in(schema, exclusive), True, digits))
    return max(bounds, default=None)


def _beyond(bound: float, strict: bool, digits: int) -> int:
    units: int = 10**digits
    if not strict:
        return math.ceil(Fraction(str(bound)) * units)
    if not digits:
        return math.floor(Fraction(str(bound))) + 1
    # Digits that round to the bound itself would not be beyond it.
    return math.ceil(Fraction(str(math.nextafter(bound, math.inf))) * units)


def _magnitudes(low: int, high: int, digits: int) -> Iterator[str]:
    """The numbers from low to high, in units of 10**-digits and not negative, by their length."""
    for length in range(1, WHOLE_DIGITS + 1):
        least = 0 if length == 1 else 10 ** (length - 1 + digits)
        start, end = max(low, least), min(high, 10 ** (length + digits) - 1)
        if start <= end:
            yield _between(str(start).zfill(length + digits), str(end).zfill(length + digits), length)


def _between(low: str, high: str, whole: int) -> str:
    """Digits from ``low`` to ``high``, which are of one length; ``whole`` of them are before the point.

    Zeros that end the fraction may be left out.
    """
    if not low:
        return '""'
    if whole > 0 and not _is_free(low, high):
        return _by_first_digit(low, high, lambda lower, upper: _between(lower, upper, whole - 1))
    if whole > 0:
        before = f"[0-9]{{{whole}}}"
        return f"{before} {_between(low[whole:], high[whole:], 0)}" if len(low) > whole else before
    after = f'"." {_fraction(low, high)}'
    return after if low.strip("0") else f"({after})?"


def _fraction(low: str, high: str) -> str:
    if _is_free(low, high):
        return f"[0-9]{{1,{len(low)}}}"

    def rest(lower: str, upper: str) -> str:
        if not lower:
            return '""'
        return _fraction(lower, upper) if lower.strip("0") else f"({_fraction(lower, upper)})?"

    return _by_first_digit(low, high, rest)


def _is_free(low: str, high: str) -> bool:
    return not low.strip("0") and not high.strip("9")


def _by_first_digit(low: str, high: str, rest: Callable[[str, str], str]) -> str:
    first, last, zeros, nines = int(low[0]), int(high[0]), "0" * (len(low) - 1), "9" * (len(low) - 1)
    if first == last:
        return f'"{first}" {rest(low[1:], high[1:])}'
    cases = []
    if low[1:] != zeros:
        cases.append(f'"{first}" {rest(low[1:], nines)}')
        first += 1
    if high[1:] != nines:
        cases.append(f'"{last}" {rest(zeros, high[1:])}')
        last -= 1
    if first <= last:
        cases.append(f"[{first}-{last}] {rest(zeros, nines)}")
    return f"({' | '.join(cases)})"
