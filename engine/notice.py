"""A fixed text in place of an answer: the last that is said when nobody can answer."""

from __future__ import annotations

from engine.base import Delta, EngineError, GenerationRequest, ModelCard, RequestRefused, Told, ToolParser


class NoticeEngine:
    """Says ``text`` to everyone, in no tokens. What has to have a form is refused: a text is no JSON."""

    tokenizer = None

    def __init__(self, text: str) -> None:
        self.card = ModelCard("notice", "notice", max_model_len=2**31, chat_format="code_points")
        self._text = text

    async def start(self) -> None:
        """Nothing to load."""

    async def submit(self, request: GenerationRequest) -> NoticeStream:
        """Raises RequestRefused for what a text can't be the answer to."""
        sampling = request.sampling
        if sampling.structured is not None:
            raise RequestRefused("A notice has no structured output.", "structured")
        if sampling.logprobs is not None or sampling.prompt_logprobs is not None:
            raise RequestRefused("A notice has no logprobs.", "logprobs")
        return NoticeStream(self._text)

    async def check(self) -> None:
        """Always well."""

    def tool_parser(self, name: str) -> ToolParser:
        """Raises EngineError: it calls nothing."""
        raise EngineError("A notice has no tool calls.")

    async def shutdown(self) -> None:
        """Nothing to end."""


class NoticeStream:
    """The text, once; a DeltaStream."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._aborted = False

    async def next(self) -> Delta:
        """All of it, unless it was to end before."""
        if self._aborted:
            return Delta("", (), "abort")
        # No tokens, and all of them are counted.
        return Delta(self._text, (), "stop", told=Told(counted=True))

    async def abort(self) -> None:
        """It may have been said already."""
        self._aborted = True
