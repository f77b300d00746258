"""Small byte-level tokenizers, trained here, and short chat templates in the style of real models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import strategies as st

from engine.base import ChatMessage, Tool, ToolCall
from tests.strategies import texts

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

if TYPE_CHECKING:
    from adapters.chat_template import ChatTemplateFormat

# As Qwen 2.5, Hermes and SmolLM2 have it.
CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{% endfor %}
    {{- '\\n</tools>\\nWrite {"name": ..., "arguments": ...} in <tool_call></tool_call>.<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- elif message.role != 'system' or not loop.first %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think></think>' }}{% endif %}
    {%- if note is defined %}{{- note }}{% endif %}
{%- endif %}
"""

# As Llama 3.1 has it: trimmed contents, other escapes, calls as plain JSON.
LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {%- for call in message.tool_calls %}
            {{- '<|python_tag|>' }}
            {%- set shown = {"name": call.function.name, "parameters": call.function.arguments} %}
            {{- shown | tojson(ensure_ascii=True) }}
        {%- endfor %}
        {{- '<|eot_id|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content | tojson + '<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
        {%- if loop.index0 == 0 and tools is not none %}{{- tools | string + '\\n' }}{% endif %}
        {{- message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
{%- if date_string is defined %}{{- date_string }}{% endif %}
"""

# As Mistral's have it: one list of tools before the last user's turn, results with ids.
MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if tools and loop.last %}
            {{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + message.content + '[/INST]' }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS]' }}
        {{- {"content": message.content, "call_id": message.tool_call_id, "name": message.name} | tojson }}
        {{- '[/TOOL_RESULTS]' }}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS]' }}{{- message.tool_calls | map(attribute='function') | list | tojson + eos_token }}
    {%- else %}
        {{- message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""


@dataclass
class Model:
    """A tokenizer with its template. ``special`` are its special tokens, beginning and end of texts the
    first two; ``added`` tokens that are not special."""

    template: Any
    special: tuple[str, ...]
    added: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def tokenizer(self) -> Any:
        backend = tokenizers.Tokenizer(tokenizers.models.BPE())
        backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=420,
            special_tokens=list(self.special),
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        corpus = ['user assistant system "name": "parameters": {"type": "object"} the capital is Paris\n'] * 9
        backend.train_from_iterator([*corpus, *self.special], trainer)
        backend.add_tokens([tokenizers.AddedToken(text, special=False) for text in self.added])
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token=self.special[0], eos_token=self.special[1]
        )
        tokenizer.chat_template = self.template
        return tokenizer

    @cached_property
    def format(self) -> ChatTemplateFormat:
        from adapters.chat_template import ChatTemplateFormat

        return ChatTemplateFormat(self.tokenizer, **self.options)

    @property
    def control(self) -> list[str]:
        return [*self.special, *self.added]

    def controls(self, ids: Sequence[int]) -> list[str]:
        """The control tokens among ``ids``."""
        return [text for text in self.tokenizer.convert_ids_to_tokens(ids) if text in self.control]

    def encode(self, text: str) -> list[int]:
        """As the model writes it, control tokens and all."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids


QWEN = Model(CHATML, ("<|im_start|>", "<|im_end|>", "<|endoftext|>"), ("<tool_call>", "</tool_call>"))
LLAMA = Model(
    LLAMA3,
    (
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|python_tag|>",
        "<｜é▁｜>",
    ),
)
MISTRALS = Model(
    MISTRAL,
    (
        "<s>",
        "</s>",
        "[INST]",
        "[/INST]",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ),
)
MODELS = {"chatml": QWEN, "llama3": LLAMA, "mistral": MISTRALS}

WEATHER = Tool(
    "get_weather",
    {
        "name": "get_weather",
        "description": "Tells the weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
)
SEARCH = Tool("search", {"name": "search"})

CONTROL = sorted({text for model in MODELS.values() for text in model.control})

ordinary = st.text(st.characters(exclude_characters="<|>[]", exclude_categories=["Cs", "Cc", "Co", "Zs"]))
# Whole control texts and torn ones, and what stands for them while a template runs.
hostile = st.lists(
    st.sampled_from([*CONTROL, "<|im_", "end|>", "<|", "[", "INST]", "CONTINUE_FINAL_MESSAGE_TAG ", "q0q"])
    | texts,
    max_size=5,
).map("".join)


def conversations(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[ChatMessage]]:
    """A question, a call, its result and a last question, with ``text`` wherever a client writes some."""
    values = st.recursive(
        text | st.integers() | st.none(), lambda inner: st.dictionaries(text, inner, max_size=2)
    )
    calls = st.builds(
        ToolCall,
        name=text,
        arguments=st.dictionaries(text, values, max_size=2).map(json.dumps) | text,
        id=text,
    )
    return st.tuples(
        st.builds(ChatMessage, st.sampled_from(["system", "user"]), text),
        st.builds(ChatMessage, st.just("assistant"), text, st.tuples(calls)),
        st.builds(ChatMessage, st.just("tool"), text, st.just(()), text, text),
        st.builds(ChatMessage, st.just("user"), text),
    ).map(list)


def tools_of(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[Tool]]:
    """One tool, with ``text`` as its name, its description, and as keys and values of its parameters."""
    return st.builds(
        lambda name, description, key, value: [
            Tool(name, {"name": name, "description": description, "parameters": {key: [value]}})
        ],
        *[text] * 4,
    )
