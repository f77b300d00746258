"""Reads what an upstream server answers: a stream's events, or a whole body.

Source: OpenAI's published specification (CreateChatCompletionStreamResponse, CreateChatCompletionResponse,
CreateCompletionResponse). Reasoning is not told: OpenAI has no field for it; its tokens are counted.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from engine.base import (
    LEAST_LOGPROB,
    Delta,
    FinishReason,
    GenerationFailed,
    Told,
    ToldCall,
    ToldLogprob,
)
from engine.refusals import one_line

DONE = b"[DONE]"

FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "function_call": "stop",
    "content_filter": "content_filter",
    # Zhipu's name for it.
    "sensitive": "content_filter",
}

MOST_CALLS = 1024
MOST_TOKENS = 2**31 - 1

_SURROGATE = re.compile("[\ud800-\udfff]")


class AnswerReader:
    """One answer. ``feed`` it events or a body, then ``take`` what came.

    ``parallel_tool_calls``: more than the first call is told. Raises GenerationFailed for what is no answer,
    with words for the operator.
    """

    def __init__(self, parallel_tool_calls: bool = True) -> None:
        self._parallel_tool_calls = parallel_tool_calls
        self._text = Text()
        self._arguments: dict[int, Text] = {}
        self._calls: dict[int, int] = {}
        self._new_calls: list[ToldCall] = []
        self._new_logprobs: list[ToldLogprob] = []
        self._prompt_tokens = self._cached_tokens = self._completion_tokens = self._reported = 0
        self._counted = False
        self.finish_reason: FinishReason | None = None
        self.done = False

    @property
    def has_news(self) -> bool:
        """Whether ``take`` has anything to tell that is not the end."""
        return bool(
            self._text.pieces
            or self._new_calls
            or self._new_logprobs
            or self._completion_tokens > self._reported
        )

    def feed_event(self, data: bytes) -> None:
        """One event of a stream."""
        if data.strip() == DONE:
            self.done = True
        elif data and not self.done:
            self._read(parsed(data), "delta")

    def feed_body(self, body: bytes) -> None:
        """A whole answer."""
        self._read(parsed(body), "message")
        if self.finish_reason is None:
            broken("its answer has no finish_reason")
        self.done = True

    def take(self, finish_reason: FinishReason | None = None) -> Delta:
        """All that came since the last time; with ``finish_reason`` it is the last."""
        if finish_reason is not None:
            self._end_texts()
        new_tokens = self._completion_tokens - self._reported
        self._reported = self._completion_tokens
        told = Told(
            self._new_calls,
            self._new_logprobs,
            new_tokens,
            self._counted and finish_reason not in (None, "abort"),
        )
        self._new_calls, self._new_logprobs = [], []
        return Delta(
            self._text.take(), (), finish_reason, self._prompt_tokens, self._cached_tokens, told=told
        )

    def _read(self, answer: dict[str, Any], part: str) -> None:
        if answer.get("error") is not None or answer.get("object") == "error":
            broken(f"it says: {error_text(answer)}")
        choices = answer.get("choices")
        if not isinstance(choices, list):
            broken("its answer has no choices")
        if choices:
            self._read_choice(an_object(choices[0]), part)
        if answer.get("usage") is not None:
            self._read_usage(an_object(answer["usage"]))

    def _read_choice(self, choice: dict[str, Any], part: str) -> None:
        message = an_object(choice.get(part) or {})
        for text in (a_text(choice.get("text")), a_text(message.get("content"))):
            self._text.add(text)
        # What a model says in place of an answer that it will not give.
        self._text.add(a_text(message.get("refusal")))
        for place, call in enumerate(a_list(message.get("tool_calls"))):
            self._read_call(an_object(call), place)
        if choice.get("logprobs") is not None:
            for entry in a_list(an_object(choice["logprobs"]).get("content")):
                self._new_logprobs.append(told_logprob(an_object(entry)))
        # Some servers have an empty one until the end.
        if reason := a_text(choice.get("finish_reason")):
            if reason not in FINISH_REASONS:
                broken(f"it ended with the finish_reason {one_line(reason)!r}")
            self.finish_reason = FINISH_REASONS[reason]

    def _read_call(self, call: dict[str, Any], place: int) -> None:
        index = call.get("index")
        index = place if index is None else a_count(index)
        function = an_object(call.get("function") or {})
        name = a_text(function.get("name"))
        is_new = index not in self._calls
        if is_new:
            if not name or len(self._calls) == MOST_CALLS:
                broken("it tells a tool call without a name, or too many")
            self._calls[index] = len(self._calls)
            self._arguments[index] = Text()
        own = self._calls[index]
        if own and not self._parallel_tool_calls:
            return
        arguments = self._arguments[index]
        arguments.add(a_text(function.get("arguments")))
        if is_new:
            self._new_calls.append(ToldCall(own, characters(name), ""))
        if text := arguments.take():
            self._new_calls.append(ToldCall(own, None, text))

    def _read_usage(self, usage: dict[str, Any]) -> None:
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if prompt is None or completion is None:
            return
        self._prompt_tokens = a_count(prompt)
        self._completion_tokens = max(self._completion_tokens, a_count(completion))
        cached = an_object(usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        self._cached_tokens = a_count(cached or 0)
        self._counted = self.finish_reason is not None

    def _end_texts(self) -> None:
        self._text.end()
        for index, arguments in self._arguments.items():
            arguments.end()
            own = self._calls[index]
            if (text := arguments.take()) and (self._parallel_tool_calls or own == 0):
                self._new_calls.append(ToldCall(own, None, text))


class Text:
    """Text out of JSON's strings, in which half a surrogate pair may come alone: it waits for its other half,
    and becomes U+FFFD where that does not come."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self._decoder: codecs.IncrementalDecoder | None = None

    def add(self, text: str) -> None:
        """More of it."""
        if self._decoder is None and _SURROGATE.search(text) is not None:
            self._decoder = codecs.getincrementaldecoder("utf-16-le")("replace")
        if self._decoder is not None:
            text = self._decoder.decode(text.encode("utf-16-le", "surrogatepass"))
        if text:
            self.pieces.append(text)

    def end(self) -> None:
        """Nothing more comes."""
        if self._decoder is not None and (rest := self._decoder.decode(b"", final=True)):
            self.pieces.append(rest)

    def take(self) -> str:
        """What has come since the last time."""
        text = "".join(self.pieces)
        self.pieces.clear()
        return text


def parsed(data: bytes) -> dict[str, Any]:
    """JSON's object, without NaN and infinities. Raises GenerationFailed."""
    try:
        return an_object(json.loads(data.decode(), parse_constant=_no_number))
    except (ValueError, RecursionError) as error:
        raise GenerationFailed("The upstream's answer is no JSON.") from error


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def told_logprob(entry: dict[str, Any]) -> ToldLogprob:
    """OpenAI's entry for one token."""
    token, logprob = _likely(entry)
    return ToldLogprob(token, logprob, [_likely(an_object(one)) for one in a_list(entry.get("top_logprobs"))])


def _likely(entry: dict[str, Any]) -> tuple[bytes, float]:
    logprob = entry.get("logprob")
    if isinstance(logprob, bool) or not isinstance(logprob, int | float) or math.isnan(logprob):
        broken("it tells a log-probability that is no number")
    given = entry.get("bytes")
    try:
        token = bytes(a_list(given)) if given is not None else characters(a_text(entry.get("token"))).encode()
    except (TypeError, ValueError):
        broken("it tells a token's bytes that are none")
    return token, min(max(float(logprob), LEAST_LOGPROB), 0.0)


def characters(text: str) -> str:
    """``text`` without lone surrogates."""
    whole = Text()
    whole.add(text)
    whole.end()
    return whole.take()


def error_text(answer: Mapping[str, Any]) -> str:
    """What an error's body says, in one line; it may be written in any of the ways that servers have."""
    error = answer.get("error")
    for told in _messages(error, answer):
        if isinstance(told, str) and told.strip():
            return characters(one_line(told))
    return "nothing"


def _messages(error: object, answer: Mapping[str, Any]) -> Iterator[object]:
    if isinstance(error, dict):
        yield error.get("message")
    yield error
    for name in ("message", "detail", "msg"):
        yield answer.get(name)


def broken(why: str) -> NoReturn:
    """Raises GenerationFailed."""
    raise GenerationFailed(f"The upstream's answer can't be read: {why}.")


def an_object(value: object) -> dict[str, Any]:
    """Raises GenerationFailed for what is none."""
    if not isinstance(value, dict):
        broken("something in it is no object")
    return value


def a_list(value: object) -> list[Any]:
    """Empty for null. Raises GenerationFailed for what is none."""
    if value is None:
        return []
    if not isinstance(value, list):
        broken("something in it is no list")
    return value


def a_text(value: object) -> str:
    """Empty for null. Raises GenerationFailed for what is none."""
    if value is None:
        return ""
    if not isinstance(value, str):
        broken("something in it is no text")
    return value


def a_count(value: object) -> int:
    """Raises GenerationFailed for what is none."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_TOKENS:
        broken("something in it is no count")
    return value
