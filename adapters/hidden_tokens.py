"""Takes control tokens out of a text that the engine decoded with them.

Where a model's calls are framed by control tokens the engine must not leave these out of the text, and
then leaves out none. Whether a text is a control token or only looks like one is known from the ids.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from adapters.text_search import Texts


class HiddenTokens:
    """One answer's text. ``hidden`` are the texts of the control tokens to take out, by id; ``bytes_of``
    gives any other token's bytes. Ids come with their text or before it."""

    def __init__(self, hidden: Mapping[int, str], bytes_of: Callable[[int], bytes]) -> None:
        self._hidden = hidden
        self._bytes_of = bytes_of
        self._texts = Texts(hidden.values())
        patterns = sorted((text.encode() for text in hidden.values()), key=len, reverse=True)
        self._longest = len(patterns[0]) if patterns else 0
        self._lookalike = re.compile(b"|".join(map(re.escape, patterns)))
        # Of each text to come that reads as a control token, whether it is one.
        self._is_token: deque[bool] = deque()
        self._ordinary = b""
        self._unsettled = ""

    def more(self, text: str, token_ids: Sequence[int], *, last: bool) -> str:
        """What is left of ``text``, as far as it is certain."""
        if not self._hidden:
            return text
        for token_id in token_ids:
            self._note(token_id)
        text = self._unsettled + text
        certain = len(text) if last else self._texts.certain(text)
        kept, at = [], 0
        while (found := self._texts.find(text, at)) is not None and found[0] < certain:
            start, end = found
            is_token = self._is_token.popleft() if self._is_token else False
            kept.append(text[at : start if is_token else end])
            at = end
        certain = max(certain, at)
        self._unsettled = text[certain:]
        return "".join([*kept, text[at:certain]])

    def _note(self, token_id: int) -> None:
        if token_id in self._hidden:
            self._is_token.append(True)
            self._ordinary = b""
            return
        self._ordinary += self._bytes_of(token_id)
        while match := self._lookalike.search(self._ordinary):
            self._is_token.append(False)
            self._ordinary = self._ordinary[match.end() :]
        self._ordinary = self._ordinary[1 - self._longest :] if self._longest > 1 else b""
