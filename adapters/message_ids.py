"""A message's id as clients write it."""

from __future__ import annotations

import re
from uuid import UUID

_HEX = "[0-9a-fA-F]"
_ID = re.compile(f"(?:chatcmpl-|cmpl-)?({_HEX}{{32}}|{_HEX}{{8}}(?:-{_HEX}{{4}}){{3}}-{_HEX}{{12}})")


def message_id(text: str) -> UUID | None:
    """The id that ``text`` is: 32 hex digits or dashed, or an answer's as OpenAI's clients see it,
    ``chatcmpl-…`` and ``cmpl-…``; None where it is none."""
    match = _ID.fullmatch(text)
    return UUID(hex=match[1]) if match is not None else None
