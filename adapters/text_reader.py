"""Reads answers that are all text, as the engine gives it."""

from __future__ import annotations

from collections.abc import Callable

from adapters.chat_format import ContentLogprob, EndReason, Piece
from engine.base import Delta, FinishReason, TokenLogprob


class TextReader:
    """Gives on what the engine decoded. ``bytes_of`` gives a token's bytes, for logprobs."""

    __slots__ = ("_bytes_of",)

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of

    def read(self, delta: Delta) -> Piece:
        if not delta.logprobs:
            return Piece(delta.text)
        return Piece(delta.text, logprobs=[content_logprob(one, self._bytes_of) for one in delta.logprobs])

    def end_reason(self, finish_reason: FinishReason) -> EndReason:
        return "length" if finish_reason == "length" else "stop"


class SilentReader:
    """Reads an answer of which nothing is told: only its prompt is of interest."""

    __slots__ = ()

    def read(self, delta: Delta) -> Piece:
        return Piece()

    def end_reason(self, finish_reason: FinishReason) -> EndReason:
        return "length"


def content_logprob(logprob: TokenLogprob, bytes_of: Callable[[int], bytes]) -> ContentLogprob:
    """A token's logprob with bytes in place of ids."""
    return ContentLogprob(
        bytes_of(logprob.token_id),
        logprob.logprob,
        [(bytes_of(token_id), value) for token_id, value in logprob.top],
    )
