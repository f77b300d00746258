"""ChatGLM3's chat format: prompts are put together from ids.

Source: build_chat_input in tokenization_chatglm.py of ChatGLM3 (github.com/zai-org/ChatGLM3). A header
and a content are encoded by themselves, and only this file places control tokens, so nothing that a
user writes can become one.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import cast

from tokenizers import Tokenizer as Backend

from adapters.chat_format import PLAIN_TEXT, Conversation, Prompt, TextRules, UnrenderablePrompt
from adapters.chatglm3.call_grammar import call_grammar
from adapters.chatglm3.pieces import Pieces
from adapters.chatglm3.reader import ChatGLM3Reader, Reading
from adapters.chatglm3.turns import Turn, turns
from engine.base import StructuredOutput, Tokenizer

PLAIN = ""


class ChatGLM3Format:
    """``tokenizer`` is the one built from the model's own tokenizer.model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._backend = cast("Backend", tokenizer.backend_tokenizer)
        self._pieces = Pieces(self._backend)
        # The grammar backend takes a control token for the text of its name, and would let it pass.
        self._no_control = dict.fromkeys(self._pieces.silent, -100.0)
        control = self._pieces.control
        self._start = [control.gmask, control.sop]
        self._roles = {
            "system": control.system,
            "user": control.user,
            "assistant": control.assistant,
            "observation": control.observation,
        }

    def render(self, conversation: Conversation) -> Prompt:
        """Raises UnrenderablePrompt where the published rules of the roles are broken, or what is asked
        for can't be had at once."""
        ids = list(self._start)
        for turn in turns(conversation):
            ids += self.turn_ids(turn)
        header, structured = self._forced(conversation)
        continued = None
        if conversation.add_generation_prompt:
            ids.append(self._pieces.control.assistant)
            if header is not None:
                ids += self._header(header)
        elif conversation.continue_final_message and not conversation.messages[-1].content:
            # The prompt ends with this line, and what follows it begins a text.
            header = PLAIN
        else:
            continued = conversation.messages[-1].content if conversation.continue_final_message else ""
        return self._prompt(
            ids,
            Reading(
                may_call={tool.name: tool for tool in conversation.may_call},
                header=header,
                continued=continued,
                parallel_tool_calls=conversation.parallel_tool_calls,
                rules=conversation,
                as_is=conversation.structured is not None or not conversation.skip_special_tokens,
            ),
            structured,
        )

    template_variables: Set[str] = frozenset()

    def encode(self, prompt: str | Sequence[int], rules: TextRules = PLAIN_TEXT) -> Prompt:
        """A text comes after ``[gMASK] sop``, as the tokenizer of the model's authors gives it."""
        ids = [*self._start, *self._pieces.encode(prompt)] if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise UnrenderablePrompt("The prompt must have at least one token.")
        return self._prompt(ids, Reading(may_call={}, rules=rules, as_is=True), rules.structured)

    def plain_ids(self, text: str) -> Sequence[int]:
        """The ids of ``text`` alone."""
        return self._pieces.encode(text)

    def token_bytes(self, token_id: int) -> bytes:
        """The text of one token, as bytes; nothing for a control token."""
        return self._pieces.bytes_of(token_id)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, control tokens included."""
        return self._pieces.decode(token_ids)

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Each id as the vocabulary writes it; nothing for ids that it does not have."""
        known = self._backend.get_vocab_size()
        return [self._backend.id_to_token(id_) or "" if id_ < known else "" for id_ in token_ids]

    def turn_ids(self, turn: Turn) -> list[int]:
        """Role, header line, content."""
        return [self._roles[turn.role], *self._header(turn.header), *self._pieces.encode(turn.content)]

    def _header(self, header: str) -> list[int]:
        return self._pieces.encode(f"{header}\n")

    def _forced(self, conversation: Conversation) -> tuple[str | None, StructuredOutput | None]:
        """The header line that a turn's prompt ends with, if any, and what the answer has to fit."""
        callable_tools = conversation.may_call
        if callable_tools and not conversation.skip_special_tokens:
            raise UnrenderablePrompt(
                "This model's tool calls can't be told from text that shows special tokens: set "
                "'skip_special_tokens' to true, leave out 'tools' or set 'tool_choice' to 'none'.",
                "skip_special_tokens",
            )
        if conversation.must_call and callable_tools and conversation.structured is None:
            if not conversation.add_generation_prompt:
                raise UnrenderablePrompt(
                    "A call can only be forced where a turn begins: leave out 'add_generation_prompt' and "
                    "'continue_final_message', or set 'tool_choice' to 'auto' or 'none'.",
                    "tool_choice",
                )
            named = len(callable_tools) == 1
            try:
                grammar = call_grammar(callable_tools, with_header=not named)
            except ValueError as error:
                message = f"A call of these tools can't be forced: {error}"
                raise UnrenderablePrompt(message, "tools") from error
            return callable_tools[0].name if named else None, StructuredOutput("grammar", grammar)
        if conversation.structured is not None:
            if callable_tools:
                raise UnrenderablePrompt(
                    "This model can't be asked for tool calls and for structured output at once: leave out "
                    "'tools' or set 'tool_choice' to 'none'.",
                    "response_format",
                )
            return PLAIN, conversation.structured
        return PLAIN if conversation.tools and not callable_tools else None, None

    def _prompt(self, ids: list[int], reading: Reading, structured: StructuredOutput | None) -> Prompt:
        return Prompt(
            ids,
            lambda: ChatGLM3Reader(self._pieces, reading),
            stop_token_ids=self._pieces.control.stops,
            structured=structured,
            logit_bias=self._no_control if structured is not None else {},
            reads_ids=True,
            ends_early=bool(reading.rules.stop) or not reading.parallel_tool_calls,
        )
