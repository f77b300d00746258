"""A chat template's text: what a client may set in it, and how its model writes tool calls."""

from __future__ import annotations

from collections.abc import Set
from functools import cache

from jinja2 import TemplateSyntaxError, nodes
from jinja2.defaults import DEFAULT_NAMESPACE
from jinja2.ext import Extension, LoopControlExtension
from jinja2.meta import find_undeclared_variables
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# What transformers gives a template, and the parameters of its apply_chat_template and of what that calls
# (tokenization_utils_base.py and utils/chat_template_utils.py of transformers 5.19). ``documents`` is a
# parameter too, and one that is meant for clients.
RESERVED = frozenset(DEFAULT_NAMESPACE) | {
    "messages", "tools", "add_generation_prompt", "continue_final_message", "raise_exception",
    "strftime_now", "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
    "mask_token", "additional_special_tokens", "self", "conversation", "conversations", "chat_template",
    "compiled_template", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict",
    "return_assistant_tokens_mask", "tokenizer_kwargs",
}  # fmt: skip


class Generation(Extension):
    """transformers' ``{% generation %}``, which marks an assistant's text for training."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """What stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@cache
def variables(template: str) -> Set[str]:
    """The names that ``template`` uses and does not set; none where it is no template."""
    environment = ImmutableSandboxedEnvironment(extensions=[Generation, LoopControlExtension])
    try:
        return frozenset(find_undeclared_variables(environment.parse(template)))
    except TemplateSyntaxError:
        return frozenset()


def call_family(template: str) -> str | None:
    """The family of ``adapters.tool_calls`` that the model of ``template`` writes tool calls in, where one
    can be told."""
    # Qwen3-Coder and GLM-4.5 write XML between the same tags.
    if "<tool_call>" in template and not any(tag in template for tag in ("<function=", "<arg_key>")):
        return "hermes"
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "<|python_tag|>" in template or ("ipython" in template and "parameters" in template):
        return "llama3_json"
    return None
