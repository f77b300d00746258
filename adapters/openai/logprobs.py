"""Log-probabilities in the forms of OpenAI's two routes, and those of prompts in vLLM's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from adapters.chat_format import ContentLogprob
from engine.base import TokenLogprob


def chat_logprobs(logprobs: Iterable[ContentLogprob]) -> dict[str, Any]:
    """OpenAI's logprobs of a chat answer: an entry for each token of its content."""

    def entry(token: bytes, logprob: float) -> dict[str, Any]:
        return {"token": token.decode(errors="replace"), "logprob": logprob, "bytes": list(token)}

    content = [
        entry(one.token, one.logprob) | {"top_logprobs": [entry(*likely) for likely in one.top]}
        for one in logprobs
    ]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """OpenAI's logprobs of a completion's text, piece by piece; offsets are characters of the whole text.

    ``bytes_of`` gives the bytes of a token.
    """

    def __init__(self, bytes_of: Callable[[int], bytes]) -> None:
        self._bytes_of = bytes_of
        self._offset = 0

    def of_prompt(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob | None]) -> dict[str, Any]:
        """An echoed prompt's; its first token has none."""
        fields = self._nothing()
        for token_id, one in zip(token_ids, logprobs, strict=True):
            token = self._bytes_of(token_id)
            if one is None:
                self._add(fields, token, None, None)
            else:
                top = [(self._bytes_of(likely), value) for likely, value in one.top]
                self._add(fields, token, one.logprob, top)
        return fields

    def of_answer(self, logprobs: Iterable[ContentLogprob]) -> dict[str, Any]:
        """The answer's."""
        fields = self._nothing()
        for one in logprobs:
            self._add(fields, one.token, one.logprob, one.top)
        return fields

    def _nothing(self) -> dict[str, Any]:
        return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}

    def _add(
        self,
        fields: dict[str, Any],
        token: bytes,
        logprob: float | None,
        top: Sequence[tuple[bytes, float]] | None,
    ) -> None:
        text = token.decode(errors="replace")
        likely: dict[str, float] | None = None
        if top is not None and logprob is not None:
            likely = {}
            for other, value in (*top, (token, logprob)):
                likely.setdefault(other.decode(errors="replace"), value)
        fields["tokens"].append(text)
        fields["token_logprobs"].append(logprob)
        fields["top_logprobs"].append(likely)
        fields["text_offset"].append(self._offset)
        self._offset += len(text)


def joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The logprobs of two texts that follow each other."""
    return {name: first[name] + second[name] for name in first}


def prompt_logprobs(
    logprobs: Sequence[TokenLogprob | None], bytes_of: Callable[[int], bytes]
) -> list[dict[str, Any] | None]:
    """vLLM's form: for each token of the prompt the tokens that were told, by their ids."""

    def entry(token_id: int, logprob: float, rank: int) -> dict[str, Any]:
        text = bytes_of(token_id).decode(errors="replace")
        return {"logprob": logprob, "rank": rank, "decoded_token": text}

    told: list[dict[str, Any] | None] = []
    for one in logprobs:
        if one is None:
            told.append(None)
            continue
        entries = {str(one.token_id): entry(one.token_id, one.logprob, one.rank)}
        for rank, (token_id, logprob) in enumerate(one.top, start=1):
            entries.setdefault(str(token_id), entry(token_id, logprob, rank))
        told.append(entries)
    return told
