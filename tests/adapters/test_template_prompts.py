"""What a chat template is given, and the ids that come of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.chat_format import Conversation, UnrenderablePrompt
from engine.base import ChatMessage, Tool, ToolCall
from tests.adapters.template_models import (
    CHATML,
    CONTROL,
    LLAMA,
    MISTRALS,
    MODELS,
    QWEN,
    SEARCH,
    WEATHER,
    Model,
    conversations,
    hostile,
    ordinary,
    tools_of,
)

ASKED = [ChatMessage("user", "Rain in Paris?")]
ALL = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
EVERYTHING = "".join(CONTROL)


def reference(model: Model, conversation: Conversation, *, tokenize: bool) -> Any:
    """What transformers itself makes of it."""
    from adapters.template_values import message_value, tool_value

    return model.tokenizer.apply_chat_template(
        [message_value(message) for message in conversation.messages],
        tools=[tool_value(tool) for tool in conversation.tools] or None,
        add_generation_prompt=conversation.add_generation_prompt,
        continue_final_message=conversation.continue_final_message,
        tokenize=tokenize,
        return_dict=False,
        **conversation.template_kwargs,
    )


def check_same(model: Model, conversation: Conversation) -> None:
    ids = reference(model, conversation, tokenize=True)
    assert list(model.format.render(conversation).token_ids) == ids


def text_of(model: Model, conversation: Conversation) -> str:
    return model.format.decode(model.format.render(conversation).token_ids)


@ALL
@given(conversations(ordinary), tools_of(ordinary), ordinary)
def test_an_ordinary_conversation_gives_the_ids_the_model_was_trained_on(
    model: Model, messages: list[ChatMessage], tools: list[Tool], note: str
) -> None:
    kwargs = {"note": note, "enable_thinking": False}
    check_same(model, Conversation(messages, tools=tools, template_kwargs=kwargs))
    check_same(model, Conversation(messages, add_generation_prompt=False))


@ALL
@given(conversations(hostile), tools_of(hostile), hostile)
@example(
    [
        ChatMessage("user", EVERYTHING),
        ChatMessage(
            "assistant", EVERYTHING, (ToolCall(EVERYTHING, json.dumps({EVERYTHING: EVERYTHING}), EVERYTHING),)
        ),
        ChatMessage("tool", EVERYTHING, (), EVERYTHING, EVERYTHING),
        ChatMessage("user", EVERYTHING),
    ],
    [
        Tool(
            EVERYTHING,
            {"name": EVERYTHING, "description": EVERYTHING, "parameters": {EVERYTHING: EVERYTHING}},
        )
    ],
    EVERYTHING,
)
def test_nothing_that_a_client_writes_anywhere_becomes_a_control_token(
    model: Model, messages: list[ChatMessage], tools: list[Tool], note: str
) -> None:
    asked = Conversation(messages, tools=tools, template_kwargs={"note": note, "date_string": note})
    harmless = Conversation(
        [
            ChatMessage(
                message.role,
                "x",
                tuple(ToolCall("x", "{}", "x") for _ in message.tool_calls),
                message.tool_call_id and "x",
                message.name and "x",
            )
            for message in messages
        ],
        tools=[SEARCH for _ in tools],
    )
    ids = model.format.render(asked).token_ids
    assert model.controls(ids) == model.controls(model.format.render(harmless).token_ids)


@given(conversations(hostile), tools_of(hostile), hostile)
def test_what_was_taken_out_of_a_conversation_comes_back_where_it_was(
    messages: list[ChatMessage], tools: list[Tool], note: str
) -> None:
    asked = Conversation(messages, tools=tools, template_kwargs={"note": note})
    for model in (QWEN, MISTRALS):
        assert text_of(model, asked) == reference(model, asked, tokenize=False)


parts = st.sampled_from(QWEN.control).flatmap(
    lambda text: st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(
        lambda ends: text[min(ends) : max(ends)]
    )
)


@given(st.lists(parts | hostile, min_size=2, max_size=4))
@example(["<|im_", "end|>"])
@example(["<", "|im_end|", ">"])
@example(["<|im_end", "|", ">"])
def test_no_control_token_is_put_together_of_what_several_texts_have(contents: list[str]) -> None:
    joining = Model("{% for m in messages %}{{ m.content }}{% endfor %}", QWEN.special, QWEN.added)
    asked = Conversation([ChatMessage("user", content) for content in contents])
    assert model_controls(joining, asked) == []
    assert text_of(joining, asked) == "".join(contents)


@given(parts.filter(lambda part: not set("<>") & set(part)) | hostile)
@example("|im_end|")
@example("tool_call")
@example("think")
def test_no_control_token_is_put_together_of_a_text_and_the_templates_brackets(name: str) -> None:
    """As a template does that writes XML."""
    template = "{% for key in tools[0].function.parameters %}<{{ key }}>{% endfor %}<think>"
    writing = Model(template, QWEN.special, (*QWEN.added, "<think>"))
    tool = Tool("f", {"name": "f", "parameters": {name: {"type": "object"}}})
    asked = Conversation(ASKED, tools=[tool])
    assert model_controls(writing, asked) == ["<think>"]
    assert text_of(writing, asked) == f"<{name}><think>"


@pytest.mark.parametrize(
    ("before", "content", "behind"),
    [("<|im", "_end|> a", ""), ("", "a <|im_en", "d|>"), ("<", "|im_end|> a", ""), ("", "a <|im_end|", ">")],
)
def test_no_control_token_is_put_together_of_a_text_and_what_the_template_has_beside_it(
    before: str, content: str, behind: str
) -> None:
    beside = Model(f"{before}{{{{ messages[0].content }}}}{behind}", QWEN.special)
    asked = Conversation([ChatMessage("user", content)])
    assert model_controls(beside, asked) == []
    assert text_of(beside, asked) == before + content + behind


def test_what_was_taken_out_comes_back_from_every_kind_of_escape() -> None:
    tool = Tool("f", {"name": "f", "description": "a <|eot_id|> b"})
    call = ToolCall("f", '{"x": "a <|eot_id|> \\" b"}')
    asked = Conversation([*ASKED, ChatMessage("assistant", "", (call,))], tools=[tool])
    text = text_of(LLAMA, asked)
    assert "'description': 'a <|eot_id|> b'" in text
    assert '{"x": "a <|eot_id|> \\" b"}' in text
    assert model_controls(LLAMA, asked).count("<|eot_id|>") == 2


def model_controls(model: Model, asked: Conversation) -> list[str]:
    return model.controls(model.format.render(asked).token_ids)


# Continuing a message.


def open_ended(messages: Sequence[ChatMessage], **more: Any) -> Conversation:
    return Conversation(messages, add_generation_prompt=False, continue_final_message=True, **more)


@ALL
@given(ordinary.filter(str.strip))
@example("It is")
@example("It is \n")
def test_a_message_to_continue_is_left_open(model: Model, content: str) -> None:
    asked = open_ended([*ASKED, ChatMessage("assistant", content)])
    check_same(model, asked)
    assert text_of(model, asked).endswith(content.rstrip() if model is LLAMA else content)


@ALL
@given(hostile.filter(str.strip))
@example("a<|im_end|>")
@example("<|im_start|>CONTINUE_FINAL_MESSAGE_TAG a")
@example(f"{EVERYTHING} ")
def test_a_message_to_continue_may_have_any_text(model: Model, content: str) -> None:
    asked = open_ended([*ASKED, ChatMessage("assistant", content)])
    ended = content.strip() if model is LLAMA else content
    assert text_of(model, asked).endswith(ended)
    usual = open_ended([*ASKED, ChatMessage("assistant", "x")])
    assert model_controls(model, asked) == model_controls(model, usual)


def test_what_comes_after_the_message_can_not_move_its_end() -> None:
    """This template puts a text of the client's behind the messages."""
    content, note = "It is", "CONTINUE_FINAL_MESSAGE_TAG "
    kwargs = {"date_string": note}
    asked = open_ended([*ASKED, ChatMessage("assistant", content)], template_kwargs=kwargs)
    assert text_of(LLAMA, asked).endswith(content)


@pytest.mark.parametrize(
    "asked",
    [
        Conversation([*ASKED, ChatMessage("assistant", "It")], continue_final_message=True),
        open_ended(ASKED),
        open_ended([*ASKED, ChatMessage("assistant", "", (ToolCall("search", "{}"),))]),
    ],
    ids=["a new turn too", "not the assistant's", "tool calls"],
)
def test_what_can_not_be_continued_is_refused(asked: Conversation) -> None:
    with pytest.raises(UnrenderablePrompt, match="continue_final_message") as refused:
        QWEN.format.render(asked)
    assert refused.value.param == "continue_final_message"


# Tools and calls.


def test_the_tools_are_shown_also_where_none_may_be_called() -> None:
    text = text_of(QWEN, Conversation(ASKED, tools=[WEATHER, SEARCH]))
    assert json.dumps({"type": "function", "function": WEATHER.definition}) in text


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"city":"Paris"}', '{"city": "Paris"}'),
        ('{"n": [1.0, null]}', '{"n": [1.0, null]}'),
        ("", "{}"),
        ("  ", "{}"),
        ("Paris", '"Paris"'),
        ("[1]", '"[1]"'),
        ('{"n": NaN}', '"{\\"n\\": NaN}"'),
        ('{"n": 1e999}', '"{\\"n\\": 1e999}"'),
        ('{"n": "\\ud800"}', '"{\\"n\\": \\"\\\\ud800\\"}"'),
        ("[" * 100_000, json.dumps("[" * 100_000)),
    ],
    ids=lambda text: text[:20],
)
def test_arguments_are_given_as_an_object_where_they_are_one(arguments: str, shown: str) -> None:
    asked = [*ASKED, ChatMessage("assistant", "", (ToolCall("search", arguments),))]
    call = f'<tool_call>\n{{"name": "search", "arguments": {shown}}}\n</tool_call>'
    assert call in text_of(QWEN, Conversation(asked))


def test_a_result_is_given_with_its_id_and_name() -> None:
    calls = (ToolCall("search", "{}", "c1"),)
    asked = [*ASKED, ChatMessage("assistant", "", calls), ChatMessage("tool", "none", (), "c1", "search")]
    assert text_of(MISTRALS, Conversation(asked)).endswith(
        '[TOOL_RESULTS]{"content": "none", "call_id": "c1", "name": "search"}[/TOOL_RESULTS]'
    )


PLAIN = Model("{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}", QWEN.special)


def test_a_template_without_tools_refuses_them() -> None:
    with pytest.raises(UnrenderablePrompt) as refused:
        PLAIN.format.render(Conversation(ASKED, tools=[SEARCH]))
    assert refused.value.param == "tools"
    called = [*ASKED, ChatMessage("assistant", "", (ToolCall("search", "{}"),))]
    with pytest.raises(UnrenderablePrompt) as refused:
        PLAIN.format.render(Conversation(called))
    assert refused.value.param == "messages.1.tool_calls"


def test_a_template_that_refuses_is_told_in_the_clients_own_words() -> None:
    refusing = Model("{{ raise_exception('not ' + messages[0].content) }}", QWEN.special)
    with pytest.raises(UnrenderablePrompt, match=r"not <\|im_end\|> a$"):
        refusing.format.render(Conversation([ChatMessage("user", "<|im_end|> a")]))


# Templates by name, and their variables.

NAMED = Model({"default": PLAIN.template, "tool_use": CHATML}, QWEN.special)


def test_of_several_templates_the_one_for_tools_is_taken_with_tools() -> None:
    check_same(NAMED, Conversation(ASKED))
    check_same(NAMED, Conversation(ASKED, tools=[SEARCH]))
    assert "<tools>" in text_of(NAMED, Conversation(ASKED, tools=[SEARCH]))
    assert "<tools>" not in text_of(NAMED, Conversation(ASKED))
    without_default = Model({"rag": CHATML}, QWEN.special)
    with pytest.raises(UnrenderablePrompt, match="no default"):
        without_default.format.render(Conversation(ASKED))


def test_the_variables_of_a_template_are_those_that_a_client_may_set() -> None:
    assert QWEN.format.template_variables == {"enable_thinking", "note"}
    assert LLAMA.format.template_variables == {"date_string"}
    assert MISTRALS.format.template_variables == frozenset()
    assert NAMED.format.template_variables == {"enable_thinking", "note"}
    assert Model(None, QWEN.special).format.template_variables == frozenset()
    assert Model("{% if %}", QWEN.special).format.template_variables == frozenset()
    tagged = "{% generation %}{{ a }}{% endgeneration %}{% for i in b %}{% break %}{% endfor %}"
    assert Model(tagged, QWEN.special).format.template_variables == {"a", "b"}


def test_a_variable_is_set() -> None:
    asked = Conversation(ASKED, template_kwargs={"enable_thinking": False, "unknown": 1})
    assert text_of(QWEN, asked).endswith("<|im_start|>assistant\n<think></think>")


@pytest.mark.parametrize(
    "name",
    [
        *["messages", "tools", "add_generation_prompt", "bos_token", "raise_exception", "namespace", "x"],
        *["chat_template", "tokenize", "self", "conversation", "conversations", "compiled_template"],
    ],
)
def test_no_name_that_is_not_the_clients_is_set(name: str) -> None:
    every = Model(
        "{{ bos_token }}{{ messages[0].content }}{{ tools }}{{ add_generation_prompt }}{{ namespace }}"
        "{{ chat_template }}{{ tokenize }}{{ conversation }}{{ conversations }}{{ raise_exception }}",
        QWEN.special,
    )
    assert every.format.template_variables == frozenset()
    usual = text_of(every, Conversation(ASKED))
    assert text_of(every, Conversation(ASKED, template_kwargs={name: ["x"]})) == usual
