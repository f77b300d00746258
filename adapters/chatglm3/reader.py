"""Reads ChatGLM3's output from its ids.

An answer is one segment or several, each begun by ``<|assistant|>`` (the first one by the prompt). A
segment is a header line and what follows: a blank line and the answer's text, or a tool's name and a
call. Source: process_response in modeling_chatglm.py of ChatGLM3 (github.com/zai-org/ChatGLM3), with
these differences: text before a call is kept, a segment without a header line is text, and so is a call
that can't be read or is of no tool that the client offered.

What ends a turn stands at the end of the output, where the engine was told to stop at it. In the middle it
has no text; a call ends there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.chat_format import PLAIN_TEXT, ContentLogprob, EndReason, Piece, TextRules, ToolCallDelta
from adapters.chatglm3.calls import INTERPRETER, NotACall, json_pieces, read_call, read_code
from adapters.chatglm3.content import ContentText
from adapters.chatglm3.pieces import Pieces, TextDecoder
from adapters.chatglm3.tools import code_argument
from adapters.text_reader import content_logprob
from engine.base import Delta, FinishReason, TokenLogprob, Tool


@dataclass(frozen=True, slots=True)
class Reading:
    """How one answer is to be read.

    ``may_call`` are the tools whose calls count as calls, by name. ``header`` is the header line that the
    prompt ends with, None where the model writes it itself. ``continued`` is the text that the prompt ends
    with where the answer goes on with it, None where it begins a turn. ``as_is``: all is text, and no
    character of it is changed (a completion, text that has to fit a grammar, or shown control tokens).
    """

    may_call: Mapping[str, Tool]
    header: str | None = None
    continued: str | None = None
    parallel_tool_calls: bool = True
    rules: TextRules = PLAIN_TEXT
    as_is: bool = False


class ChatGLM3Reader:
    """One answer; a Reader.

    A segment's header line is None until it is known; it is empty in a segment of text and a tool's name
    in one of a call. Logprobs are told for the tokens of text alone, up to the one that ends it, so they
    wait until it is known that a token belongs to text. Characters of the first ``min_tokens`` tokens are
    early: no stop string ends in them.
    """

    def __init__(self, pieces: Pieces, reading: Reading) -> None:
        rules = reading.rules
        self._assistant = pieces.control.assistant
        self._breaks = {self._assistant, *pieces.control.stops}
        self._bytes_of = pieces.bytes_of if rules.skip_special_tokens else pieces.shown_bytes_of
        self._decoder = TextDecoder(self._bytes_of)
        self._reading = reading
        self._content = ContentText(rules, replace=not reading.as_is)
        self._early_tokens = rules.min_tokens
        self._early = rules.min_tokens > 0
        self._has_text = False
        self._call_count = 0
        self._ended = False
        self._waiting: list[ContentLogprob] = []
        self._texts: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._logprobs: list[ContentLogprob] = []
        self._header: str | None
        self._begin_segment(reading.header)
        if reading.as_is or reading.continued is not None:
            self._header, self._at_start = "", False
            self._has_text = bool(reading.continued)

    def read(self, delta: Delta) -> Piece:
        """What ``delta`` adds; a call is told when it is whole. Where it ends with ``stop``, its last token
        is the one that the engine stopped at."""
        token_ids = delta.token_ids
        if delta.finish_reason == "stop" and not self._reading.rules.include_stop_str_in_output:
            token_ids = token_ids[:-1]
        if delta.logprobs:
            self._read_with_logprobs(token_ids, delta.logprobs)
        else:
            self._read_ids(token_ids)
        if delta.finish_reason is not None:
            self._end_segment()
            self._settle_logprobs()
        if delta.finish_reason is not None or self._ended:
            self._texts.append(self._content.end())
            self._ended = self._ended or self._content.stopped
        piece = Piece("".join(self._texts), self._calls, self._logprobs, self._ended)
        self._texts, self._calls, self._logprobs = [], [], []
        return piece

    def end_reason(self, finish_reason: FinishReason) -> EndReason:
        if finish_reason == "length" and not self._ended:
            return "length"
        return "tool_calls" if self._call_count else "stop"

    def _read_with_logprobs(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> None:
        for index, logprob in enumerate(logprobs):
            if self._ended:
                return
            self._waiting.append(content_logprob(logprob, self._bytes_of))
            self._read_ids(token_ids[index : index + 1])
            self._settle_logprobs()

    def _read_ids(self, token_ids: Sequence[int]) -> None:
        if self._early:
            early, token_ids = token_ids[: self._early_tokens], token_ids[self._early_tokens :]
            self._read_some(early)
            self._early_tokens -= len(early)
            self._early = not token_ids
        self._read_some(token_ids)

    def _read_some(self, token_ids: Sequence[int]) -> None:
        start = 0
        if not self._reading.as_is:
            for end, token_id in enumerate(token_ids):
                if token_id in self._breaks:
                    self._read_text(self._decoder.more(token_ids[start:end]))
                    self._break(token_id)
                    start = end + 1
        self._read_text(self._decoder.more(token_ids[start:]))

    def _break(self, token_id: int) -> None:
        if token_id == self._assistant:
            self._end_segment()
            self._begin_segment(None)
        elif self._header:
            self._end_segment()

    def _begin_segment(self, header: str | None) -> None:
        self._header = header
        self._line = header or ""
        # The header line while it is being read, the call after it; from the line on, so many characters
        # are early.
        self._unread = ""
        self._unread_early = len(self._line) + 1 if header and self._early else 0
        self._at_start = True
        self._needs_break = self._has_text
        self._waiting.clear()

    def _end_segment(self) -> None:
        self._read_text(self._decoder.end())
        if self._header is None:
            self._begin_text(self._unread)
        elif self._header:
            self._read_call(self._header)

    def _read_text(self, text: str) -> None:
        if self._ended or not text:
            return
        if self._header == "":
            self._tell(text, len(text) if self._early else 0)
        else:
            self._unread += text
            if self._early:
                self._unread_early += len(text)
            if self._header is None:
                self._read_header()

    def _read_header(self) -> None:
        line, newline, rest = self._unread.partition("\n")
        name = line.strip()
        if newline and not name:
            self._waiting.clear()
            self._unread_early = max(0, self._unread_early - len(line) - 1)
            self._begin_text(rest)
        elif newline and name in self._reading.may_call:
            self._header, self._line, self._unread = name, line, rest
        elif newline or (name and not any(tool.startswith(name) for tool in self._reading.may_call)):
            # No header at all.
            self._begin_text(self._unread)

    def _read_call(self, name: str) -> None:
        try:
            pieces = json_pieces(self._arguments(name))
        except NotACall:
            self._begin_text(f"{self._line}\n{self._unread}")
            return
        if self._ended:
            return
        self._calls.append(ToolCallDelta(self._call_count, name, ""))
        self._calls += [ToolCallDelta(self._call_count, None, piece) for piece in pieces]
        self._call_count += 1
        self._header = ""
        self._waiting.clear()
        self._ended = not self._reading.parallel_tool_calls

    def _arguments(self, name: str) -> dict[str, Any]:
        if name == INTERPRETER:
            return {code_argument(self._reading.may_call[name]): read_code(self._unread)}
        return read_call(self._unread)

    def _begin_text(self, text: str) -> None:
        self._header, self._unread = "", ""
        self._tell(text, self._unread_early)

    def _tell(self, text: str, early: int) -> None:
        """Text of the answer, without the blank that every segment's text begins with, and from the
        segment before by a line."""
        if self._ended or not text:
            return
        if self._at_start and text[0] == " ":
            text, early = text[1:], max(0, early - 1)
            if self._waiting:
                self._waiting[0] = replace(self._waiting[0], token=self._waiting[0].token.removeprefix(b" "))
        self._at_start = False
        if text and self._needs_break:
            text, early = "\n" + text, early + (early > 0)
            self._needs_break = False
        self._has_text = self._has_text or bool(text)
        self._texts.append(self._content.more(text, early))
        self._ended = self._content.stopped

    def _settle_logprobs(self) -> None:
        if self._header == "" and self._waiting:
            self._logprobs += self._waiting
            self._waiting.clear()
