"""Texts that are looked for in a text while it comes."""

from __future__ import annotations

import re
from collections.abc import Iterable


class Texts:
    """Some texts; where one begins with another, the longer one counts."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = sorted(filter(None, set(texts)), key=len, reverse=True)
        self._longest = max(map(len, self._texts), default=0)
        self._begin = {text[0] for text in self._texts}
        self._pattern = re.compile("|".join(map(re.escape, self._texts)) or r"(?!)")

    def certain(self, text: str) -> int:
        """How much of ``text``, from its start, is no part of one of these that may still be coming."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start] in self._begin:
                tail = text[start:]
                if any(one.startswith(tail) and one != tail for one in self._texts):
                    return start
        return len(text)

    def find(self, text: str, at: int = 0) -> tuple[int, int] | None:
        """Where the first one from ``at`` on begins and ends."""
        match = self._pattern.search(text, at)
        return None if match is None else match.span()
