"""Which tokens' logprobs belong to an answer's text, where calls stand between it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from adapters.chat_format import ContentLogprob
from adapters.text_reader import content_logprob
from engine.base import TokenLogprob


class TextLogprobs:
    """Tells a token's logprob when the text that it begins in has turned out to be content.

    ``bytes_of`` gives a token's bytes for the client, ``width`` how many bytes of the text it takes.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], width: Callable[[int], int]) -> None:
        self._bytes_of = bytes_of
        self._width = width
        self._waiting: deque[tuple[int, ContentLogprob]] = deque()
        self._came = 0
        self._passed = 0
        self._told: list[ContentLogprob] = []
        self._in_content = True

    def come(self, logprobs: Iterable[TokenLogprob]) -> None:
        """Of tokens whose text comes with them, or later."""
        for one in logprobs:
            self._waiting.append((self._came, content_logprob(one, self._bytes_of)))
            self._came += self._width(one.token_id)

    def passed(self, text: str, *, content: bool) -> None:
        """The next of the answer's text, and whether it is content."""
        self._in_content = content
        if self._came:
            self._passed += len(text.encode())
            self._settle(lambda start: start < self._passed)

    def end(self) -> None:
        """What waits belongs to what came last."""
        self._settle(lambda start: True)

    def take(self) -> list[ContentLogprob]:
        """Those of content since the last time."""
        told, self._told = self._told, []
        return told

    def _settle(self, is_known: Callable[[int], bool]) -> None:
        while self._waiting and is_known(self._waiting[0][0]):
            _, logprob = self._waiting.popleft()
            if self._in_content:
                self._told.append(logprob)
