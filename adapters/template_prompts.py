"""Prompts through a tokenizer's own chat template.

A template gives text, and a tokenizer reads control tokens out of text wherever they stand. So that
nothing a user writes becomes one, every string that a template is given has stand-ins for what could be part
of one (adapters/control_text.py). A conversation in which nothing is one, which is nearly every one, is
encoded as a whole and gives the ids that the model was trained on.
"""

from __future__ import annotations

from collections.abc import Set

from adapters.chat_format import Conversation, UnrenderablePrompt
from adapters.control_text import ControlTexts, StandIns
from adapters.jinja_template import RESERVED, variables
from adapters.template_values import message_value, tool_value
from engine.base import Tokenizer

# By this transformers finds the end of a message that is to be continued (render_jinja_template in
# utils/chat_template_utils.py); what a user writes must not be taken for it.
CONTINUE_TAG = "CONTINUE_FINAL_MESSAGE_TAG"


class TemplatePrompts:
    """The prompts of one model."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._control = ControlTexts(tokenizer.backend_tokenizer, (CONTINUE_TAG,))

    @property
    def variables(self) -> Set[str]:
        """What the templates use and do not set, but for what transformers gives them."""
        templates = self._tokenizer.chat_template or ""
        texts = [templates] if isinstance(templates, str) else templates.values()
        used = frozenset[str]().union(*map(variables, texts))
        return used - RESERVED - self._tokenizer.special_tokens_map.keys()

    def template(self, conversation: Conversation) -> str:
        """The template that a conversation takes. Raises UnrenderablePrompt."""
        if not self._tokenizer.chat_template:
            raise UnrenderablePrompt("This model has no chat template; use /v1/completions.")
        try:
            return self._tokenizer.get_chat_template(tools=tool_values(conversation))
        except ValueError as error:
            raise UnrenderablePrompt(f"This model's chat templates can't be used: {error}") from error

    def ids(self, conversation: Conversation) -> list[int]:
        """Raises UnrenderablePrompt where the template has no place for what was asked, or refuses."""
        check_tools(conversation, self.template(conversation))
        check_continuation(conversation)
        stand_ins = StandIns(self._control)
        given = self.variables & conversation.template_kwargs.keys()
        try:
            text: str = self._tokenizer.apply_chat_template(
                [stand_ins.put_in(message_value(message)) for message in conversation.messages],
                tools=stand_ins.put_in(tool_values(conversation)),
                add_generation_prompt=conversation.add_generation_prompt,
                continue_final_message=conversation.continue_final_message,
                tokenize=False,
                **{name: stand_ins.put_in(conversation.template_kwargs[name]) for name in sorted(given)},
            )
        except Exception as error:
            # Templates refuse with jinja2's own exceptions.
            reason = stand_ins.put_back(str(error))
            raise UnrenderablePrompt(f"The model's chat template refuses these messages: {reason}") from error
        return stand_ins.ids(text)

    def plain_ids(self, text: str, *, begin: bool) -> list[int]:
        """The ids of ``text`` without any control token, but for those that the tokenizer's texts begin
        with."""
        ids: list[int] = self._control.plain.encode(text, add_special_tokens=begin).ids
        return ids


def tool_values(conversation: Conversation) -> list[dict[str, object]] | None:
    """None where there are none: templates and transformers ask for that."""
    return [tool_value(tool) for tool in conversation.tools] or None


def check_tools(conversation: Conversation, template: str) -> None:
    """Raises UnrenderablePrompt where ``template`` shows no tools, or no calls of them."""
    if conversation.tools and "tools" not in variables(template):
        raise UnrenderablePrompt("This model's chat template has no place for tools.", "tools")
    if "tool_calls" in template:
        return
    for index, message in enumerate(conversation.messages):
        if message.tool_calls:
            raise UnrenderablePrompt(
                "This model's chat template has no place for tool calls.", f"messages.{index}.tool_calls"
            )


def check_continuation(conversation: Conversation) -> None:
    """Raises UnrenderablePrompt where there is nothing to continue, or a new turn is asked for as well."""
    if not conversation.continue_final_message:
        return
    refusal = None
    if conversation.add_generation_prompt:
        refusal = "'continue_final_message' can't be combined with 'add_generation_prompt'."
    elif not conversation.messages or conversation.messages[-1].role != "assistant":
        refusal = "'continue_final_message' needs an assistant's message as the last one."
    elif conversation.messages[-1].tool_calls:
        refusal = "'continue_final_message' can't continue a message that has tool calls."
    if refusal is not None:
        raise UnrenderablePrompt(refusal, "continue_final_message")
