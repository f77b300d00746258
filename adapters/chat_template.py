"""The chat format of a model whose tokenizer brings its own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import cast

from tokenizers import Tokenizer as Backend

from adapters.chat_format import PLAIN_TEXT, Conversation, Prompt, TextRules, UnrenderablePrompt
from adapters.hidden_tokens import HiddenTokens
from adapters.jinja_template import call_family
from adapters.template_prompts import TemplatePrompts
from adapters.text_reader import TextReader
from adapters.token_bytes import token_bytes
from adapters.tool_calls.families import FAMILIES, Family
from adapters.tool_calls.forced import CallListReader, NamedCallReader, arguments_schema, calls_schema
from adapters.tool_calls.logprobs import TextLogprobs
from adapters.tool_calls.parsed import ParsedReader
from adapters.tool_calls.reader import Calling, CallReader
from engine.base import StructuredOutput, Tokenizer, ToolParser


class ChatTemplateFormat:
    """Renders with ``tokenizer``'s own template.

    ``call_family``, a name in FAMILIES, says how the model writes tool calls where it may call them as it
    likes, or ``tool_parser`` reads them; with neither, the template tells.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        call_family: str | None = None,
        tool_parser: ToolParser | None = None,
    ) -> None:
        self._backend = cast("Backend", tokenizer.backend_tokenizer)
        self._prompts = TemplatePrompts(tokenizer)
        self._call_family = call_family
        self._tool_parser = tool_parser
        self._special = {
            id_: token.content
            for id_, token in self._backend.get_added_tokens_decoder().items()
            if token.special
        }
        self._token_bytes = token_bytes(self._backend)
        self._reader = TextReader(self._token_bytes)

    def render(self, conversation: Conversation) -> Prompt:
        """Raises UnrenderablePrompt when the model has no template, or its template has no place for what
        was asked or refuses it."""
        text = self._text_prompt(self._prompts.ids(conversation), conversation)
        if not conversation.may_call:
            return text
        if conversation.structured is not None:
            raise UnrenderablePrompt(
                "This model can't be asked for tool calls and for structured output at once: leave out "
                "'tools' or set 'tool_choice' to 'none'.",
                "response_format",
            )
        return forced(text, conversation) if conversation.must_call else self._free(text, conversation)

    @property
    def template_variables(self) -> Set[str]:
        """What the templates use and do not set, but for what transformers gives them."""
        return self._prompts.variables

    def encode(self, prompt: str | Sequence[int], rules: TextRules = PLAIN_TEXT) -> Prompt:
        """A text comes after the tokenizer's own beginning of sequence, if it has one."""
        ids = self._prompts.plain_ids(prompt, begin=True) if isinstance(prompt, str) else prompt
        if not ids:
            raise UnrenderablePrompt("The prompt must not be empty for this model.")
        return self._text_prompt(ids, rules)

    def plain_ids(self, text: str) -> Sequence[int]:
        """The ids of ``text`` alone."""
        return self._prompts.plain_ids(text, begin=False)

    def token_bytes(self, token_id: int) -> bytes:
        """The text of one token, as bytes; nothing for a control token."""
        return self._token_bytes(token_id)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids, control tokens included."""
        return self._backend.decode(token_ids, skip_special_tokens=False)

    def token_strings(self, token_ids: Sequence[int]) -> list[str]:
        """Each id as the vocabulary writes it; nothing for ids that it does not have."""
        return [self._backend.id_to_token(token_id) or "" for token_id in token_ids]

    def _text_prompt(self, ids: Sequence[int], rules: TextRules) -> Prompt:
        return Prompt(
            ids,
            self._new_text_reader,
            stop=rules.stop,
            structured=rules.structured,
            skip_special_tokens=rules.skip_special_tokens,
        )

    def _new_text_reader(self) -> TextReader:
        # It remembers nothing, so one is enough.
        return self._reader

    def _free(self, text: Prompt, conversation: Conversation) -> Prompt:
        """The answer may be text or calls, in the model's own way of writing them."""
        if (parser := self._tool_parser) is not None:
            return self._parsed(text, conversation, parser)
        name = self._call_family or call_family(self._prompts.template(conversation))
        if name is None:
            raise UnrenderablePrompt(
                "It is not known how this model writes tool calls: set 'tool_choice' to 'required', 'none' "
                "or a function here, or the gateway's setting tool_call_parser.",
                "tools",
            )
        family = FAMILIES[name]
        offered = frozenset(tool.name for tool in conversation.may_call)
        calling = Calling(family, offered, conversation.parallel_tool_calls)
        skip = text.skip_special_tokens and not set(family.markers) & set(self._special.values())
        shown = {} if skip else self._shown(conversation, family)
        hidden = {} if skip else {id_: one for id_, one in self._special.items() if id_ not in shown}

        def width(token_id: int) -> int:
            return len(shown.get(token_id) or self._token_bytes(token_id))

        return replace(
            text,
            new_reader=lambda: CallReader(
                calling, HiddenTokens(hidden, self._token_bytes), TextLogprobs(self._token_bytes, width)
            ),
            skip_special_tokens=skip,
            ends_early=not conversation.parallel_tool_calls,
        )

    def _shown(self, rules: TextRules, family: Family) -> Mapping[int, bytes]:
        """The special tokens that are part of the text: all, or those that frame calls."""
        return {
            id_: one.encode()
            for id_, one in self._special.items()
            if not rules.skip_special_tokens or one in family.markers
        }

    def _parsed(self, text: Prompt, conversation: Conversation, parser: ToolParser) -> Prompt:
        skip = text.skip_special_tokens and parser.skip_special_tokens
        hidden = self._special if text.skip_special_tokens and not skip else {}
        return replace(
            text,
            new_reader=lambda: ParsedReader(
                parser,
                conversation.may_call,
                conversation.parallel_tool_calls,
                self._reader,
                HiddenTokens(hidden, self._token_bytes),
            ),
            skip_special_tokens=skip,
        )


def forced(text: Prompt, conversation: Conversation) -> Prompt:
    """The answer is calls, and nothing else."""
    tools = conversation.may_call
    if len(tools) == 1:
        name = tools[0].name
        structured = StructuredOutput("json", arguments_schema(tools[0]))
        return replace(text, new_reader=lambda: NamedCallReader(name), structured=structured)
    structured = StructuredOutput("json", calls_schema(tools, conversation.parallel_tool_calls))
    return replace(text, new_reader=CallListReader, structured=structured)
