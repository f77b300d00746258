"""How much a key, a user, or an address may ask for."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields


@dataclass(frozen=True, slots=True)
class Limits:
    """None: as much as there is. Tokens are those of prompts and answers together; a day is one of UTC."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    concurrent_requests: int | None = None


UNLIMITED = Limits()


def limits_of(stored: str) -> Limits:
    """As a column of JSON has them; what is not known here is left out."""
    found = json.loads(stored)
    return Limits(**{field.name: found[field.name] for field in fields(Limits) if field.name in found})


def to_column(limits: Limits) -> str:
    """What ``limits_of`` reads: those that bound something."""
    return json.dumps({name: most for name, most in asdict(limits).items() if most is not None})
