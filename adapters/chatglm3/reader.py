"""Reads ChatGLM3's output from its ids.

An answer is one segment or several, each begun by ``<|assistant|>`` (the first one by the prompt). A
segment is a header line and what follows: a blank line and the answer's text, or a tool's name and a
call. Source: process_response in modeling_chatglm.py of ChatGLM3 (github.com/zai-org/ChatGLM3), with
these differences: text before a call is kept, a segment without a header line is text, and so is a call
that can't be read or is of no tool that the client offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.chat_format import ContentLogprob, EndReason, Piece, ToolCallDelta
from adapters.chatglm3.calls import INTERPRETER, NotACall, json_pieces, read_call, read_code
from adapters.chatglm3.content import ContentText
from adapters.chatglm3.pieces import Pieces, TextDecoder
from adapters.chatglm3.tools import code_argument
from adapters.text_reader import content_logprob
from engine.base import Delta, FinishReason, Tool


@dataclass(frozen=True, slots=True)
class Reading:
    """How one answer is to be read.

    ``may_call`` are the tools whose calls count as calls, by name. ``header`` is the header line that the
    prompt ends with, None where the model writes it itself. ``as_is``: all is text, and no character of
    it is changed (a continuation, or text that has to fit a grammar).
    """

    may_call: Mapping[str, Tool]
    header: str | None = None
    parallel_tool_calls: bool = True
    stop: tuple[str, ...] = ()
    as_is: bool = False


class ChatGLM3Reader:
    """One answer; a Reader.

    A segment's header line is None until it is known; it is empty in a segment of text and a tool's name
    in one of a call. Logprobs are told for the tokens of text alone, so they wait until it is known that
    a token belongs to text.
    """

    def __init__(self, pieces: Pieces, reading: Reading) -> None:
        self._assistant = pieces.control.assistant
        self._bytes_of = pieces.bytes_of
        self._decoder = TextDecoder(pieces)
        self._reading = reading
        self._content = ContentText(reading.stop, replace=not reading.as_is)
        self._has_text = False
        self._call_count = 0
        self._ended = False
        self._waiting: list[ContentLogprob] = []
        self._texts: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self._logprobs: list[ContentLogprob] = []
        self._begin_segment("" if reading.as_is else reading.header)

    def read(self, delta: Delta) -> Piece:
        """What ``delta`` adds; a call is told when it is whole."""
        if delta.logprobs:
            for token_id, logprob in zip(delta.token_ids, delta.logprobs, strict=True):
                self._waiting.append(content_logprob(logprob, self._bytes_of))
                self._read_ids([token_id])
                self._settle_logprobs()
        else:
            self._read_ids(delta.token_ids)
        if delta.finish_reason is not None:
            self._end_segment()
            self._settle_logprobs()
        if delta.finish_reason is not None or self._ended:
            self._texts.append(self._content.end())
        piece = Piece("".join(self._texts), self._calls, self._logprobs, self._ended)
        self._texts, self._calls, self._logprobs = [], [], []
        return piece

    def end_reason(self, finish_reason: FinishReason) -> EndReason:
        if finish_reason == "length" and not self._ended:
            return "length"
        return "tool_calls" if self._call_count else "stop"

    def _read_ids(self, token_ids: Sequence[int]) -> None:
        start = 0
        if not self._reading.as_is:
            for end, token_id in enumerate(token_ids):
                if token_id == self._assistant:
                    self._read_text(self._decoder.more(token_ids[start:end]))
                    self._end_segment()
                    self._begin_segment(None)
                    start = end + 1
        self._read_text(self._decoder.more(token_ids[start:]))

    def _begin_segment(self, header: str | None) -> None:
        self._header = header
        self._line = header or ""
        # The header line while it is being read, the call after it.
        self._unread = ""
        self._at_start = not self._reading.as_is
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
            self._tell(text)
        else:
            self._unread += text
            if self._header is None:
                self._read_header()

    def _read_header(self) -> None:
        line, newline, rest = self._unread.partition("\n")
        name = line.strip()
        if newline and not name:
            self._waiting.clear()
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
        self._tell(text)

    def _tell(self, text: str) -> None:
        """Text of the answer, without the blank that every segment's text begins with, and from the
        segment before by a line."""
        if self._ended or not text:
            return
        if self._at_start and text[0] == " ":
            text = text[1:]
            if self._waiting:
                self._waiting[0] = replace(self._waiting[0], token=self._waiting[0].token.removeprefix(b" "))
        self._at_start = False
        if text and self._needs_break:
            text = "\n" + text
            self._needs_break = False
        self._has_text = self._has_text or bool(text)
        self._texts.append(self._content.more(text))
        self._ended = self._content.stopped

    def _settle_logprobs(self) -> None:
        if self._header == "" and self._waiting:
            self._logprobs += self._waiting
            self._waiting.clear()
