"""With a small byte-level tokenizer, trained here, that has the control tokens of ChatML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.chat_format import Conversation, UnrenderablePrompt
from engine.base import ChatMessage
from tests.strategies import texts

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

    from adapters.chat_template import ChatTemplateFormat

CONTROL = ["<|im_start|>", "<|im_end|>", "<|end|>"]
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'tool' %}{{ raise_exception('Tools are not supported') }}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{{ '<|im_start|>assistant\\n' }}"
)

ordinary = st.text(st.characters(exclude_characters="<|>\uf8f0\uf8f1", exclude_categories=["Cs"]))
roles = st.sampled_from(["system", "user", "assistant"])
# Whole control texts, torn ones, and placeholders, real and made up.
hostile = st.lists(
    st.sampled_from([*CONTROL, "<tool_call>", "<|im_", "end|>", "<|", "|>", "\uf8f0", "\uf8f1", "0", "1"])
    | texts,
    max_size=8,
).map("".join)


def byte_level() -> Tokenizer:
    backend: Tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=CONTROL,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(
        ["user assistant system\n the capital of France is Paris <|im_start|> <|im_end|>"], trainer
    )
    return backend


def fast(backend: Tokenizer, template: str | None = TEMPLATE) -> Any:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.add_special_tokens({"additional_special_tokens": CONTROL})
    tokenizer.chat_template = template
    return tokenizer


def format_of(tokenizer: Any) -> ChatTemplateFormat:
    from adapters.chat_template import ChatTemplateFormat

    return ChatTemplateFormat(tokenizer)


def said(content: str, role: str = "user") -> list[ChatMessage]:
    return [ChatMessage(role, content)]


def model_ids(tokenizer: Any, messages: Sequence[ChatMessage]) -> list[int]:
    """What transformers itself makes of a conversation."""
    conversation = [{"role": message.role, "content": message.content} for message in messages]
    ids: list[int] = tokenizer.apply_chat_template(
        conversation, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    return ids


TOKENIZER = fast(byte_level())
FORMAT = format_of(TOKENIZER)
CONTROL_IDS = set(TOKENIZER.convert_tokens_to_ids(CONTROL))
# Around one message of the template: its start and end, and the assistant's start.
TEMPLATES_OWN = 3


def controls(ids: Sequence[int], control_ids: set[int] = CONTROL_IDS) -> int:
    return sum(token in control_ids for token in ids)


def decoded(ids: Sequence[int]) -> str:
    text: str = TOKENIZER.decode(ids, clean_up_tokenization_spaces=False)
    return text


@given(st.lists(st.builds(ChatMessage, roles, ordinary), min_size=1, max_size=4))
def test_an_ordinary_conversation_gives_the_ids_the_model_was_trained_on(
    messages: list[ChatMessage],
) -> None:
    assert list(FORMAT.render(Conversation(messages)).token_ids) == model_ids(TOKENIZER, messages)


@given(hostile)
@example("".join(CONTROL))
@example("\uf8f00\uf8f1<|end|>\uf8f0")
def test_nothing_a_user_writes_becomes_a_control_token_and_no_text_is_lost(content: str) -> None:
    ids = FORMAT.render(Conversation(said(content))).token_ids
    assert controls(ids) == TEMPLATES_OWN
    assert decoded(ids) == f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


@given(st.lists(hostile, min_size=2, max_size=4))
def test_texts_taken_out_of_several_messages_come_back_where_they_were(contents: list[str]) -> None:
    ids = FORMAT.render(Conversation([ChatMessage("user", content) for content in contents])).token_ids
    turns = "".join(f"<|im_start|>user\n{content}<|im_end|>\n" for content in contents)
    assert decoded(ids) == turns + "<|im_start|>assistant\n"
    assert controls(ids) == 2 * len(contents) + 1


@given(hostile)
@example("".join(CONTROL))
def test_nothing_in_a_text_to_continue_becomes_a_control_token(text: str) -> None:
    if text:
        ids = FORMAT.encode(text).token_ids
        assert controls(ids) == 0
        assert decoded(ids) == text


@given(hostile)
@example("<tool_call>")
def test_an_added_token_that_is_not_special_is_not_read_out_of_a_text_either(content: str) -> None:
    tokenizer = fast(byte_level())
    tokenizer.add_tokens([tokenizers.AddedToken("<tool_call>", special=False)])
    control_ids = CONTROL_IDS | set(tokenizer.convert_tokens_to_ids(["<tool_call>"]))
    chat_format = format_of(tokenizer)
    assert controls(chat_format.render(Conversation(said(content))).token_ids, control_ids) == TEMPLATES_OWN
    if content:
        assert controls(chat_format.encode(content).token_ids, control_ids) == 0


@pytest.mark.parametrize("content", ["<|END|>", "<|end|>", "<|eNd|>"])
def test_a_text_that_the_tokenizer_normalizes_to_a_control_token_is_not_one(content: str) -> None:
    backend = byte_level()
    backend.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer = fast(backend)
    end: AddedToken = tokenizers.AddedToken("<|end|>", special=True, normalized=True)
    tokenizer.add_special_tokens({"additional_special_tokens": [*CONTROL[:2], end]})
    assert controls(format_of(tokenizer).render(Conversation(said(content))).token_ids) == TEMPLATES_OWN


def test_a_tokenizer_without_added_tokens_works() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        ["x"], tokenizers.trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    tokenizer.chat_template = TEMPLATE
    assert list(format_of(tokenizer).render(Conversation(said("hi"))).token_ids) == model_ids(
        tokenizer, said("hi")
    )


def test_a_text_to_continue_begins_as_the_tokenizer_begins_texts() -> None:
    backend = byte_level()
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 0)]
    )
    ids = format_of(fast(backend)).encode("Paris <|im_end|>").token_ids
    assert ids[0] == 0
    assert controls(ids) == 1


def test_an_empty_text_can_not_be_continued_by_a_model_without_a_beginning() -> None:
    with pytest.raises(UnrenderablePrompt, match="must not be empty"):
        FORMAT.encode("")


@pytest.mark.parametrize(("role", "model_role"), [("developer", "system"), ("user", "user")])
def test_a_role_of_another_vendor_is_told_as_the_one_the_template_knows(role: str, model_role: str) -> None:
    assert FORMAT.render(Conversation(said("hi", role))) == FORMAT.render(
        Conversation(said("hi", model_role))
    )


@pytest.mark.parametrize("role", ["tool", "function"])
def test_a_template_that_refuses_is_an_unrenderable_prompt_that_says_why(role: str) -> None:
    with pytest.raises(UnrenderablePrompt, match="Tools are not supported"):
        FORMAT.render(Conversation(said("hi", role)))


@pytest.mark.parametrize("template", ["{{ messages[5].content }}", "{{ 1 / 0 }}", "{% if %}"])
def test_a_broken_template_is_an_unrenderable_prompt(template: str) -> None:
    with pytest.raises(UnrenderablePrompt):
        format_of(fast(byte_level(), template)).render(Conversation(said("hi")))


def test_without_a_template_the_error_says_what_to_use_instead() -> None:
    with pytest.raises(UnrenderablePrompt, match="/v1/completions"):
        format_of(fast(byte_level(), None)).render(Conversation(said("hi")))


def test_added_tokens_that_are_only_spaces_are_read_out_of_a_text() -> None:
    """Some tokenizers have such tokens for indentation; models were trained on them."""
    tokenizer = fast(byte_level())
    tokenizer.add_tokens([tokenizers.AddedToken(" " * 4, special=False)])
    (spaces,) = tokenizer.convert_tokens_to_ids([" " * 4])
    ids = format_of(tokenizer).encode("if x:\n    y").token_ids
    assert spaces in ids
    assert list(ids) == tokenizer.encode("if x:\n    y")
