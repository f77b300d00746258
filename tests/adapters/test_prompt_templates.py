from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.prompt_templates import (
    COMPLETION,
    LLM_CHAT,
    VARIABLES,
    InvalidTemplates,
    PromptTemplates,
    UnknownTemplate,
)
from gateway.prompt_templates import read_templates
from tests.strategies import texts

SHIPPED = read_templates(None)

# What would be a placeholder if a value were read as a template.
values = texts | st.lists(
    st.sampled_from(
        ["{{ input }}", "{{history}}", "{input}", "{history}", "{", "}", "{{", "}}", "{%", "x", "$1"]
    )
).map("".join)

kinds = st.sampled_from(list(VARIABLES))


def rendered(text: str, kind: str = LLM_CHAT, **given_: str) -> str:
    """``text`` as a template, with ``Q`` as the query and ``H`` as the history."""
    templates = PromptTemplates({kind: {"own": text}})
    return templates.render(kind, "own", {"input": "Q", "history": "H"} | given_)


def invalid(*texts_: str) -> str:
    """The one line that refuses templates."""
    with pytest.raises(InvalidTemplates) as refused:
        PromptTemplates.from_yaml(*texts_)
    message = str(refused.value)
    assert len(message.splitlines()) == 1
    return message


def rendered_or_refused(render: Callable[[], str]) -> str:
    try:
        return render()
    except InvalidTemplates as refused:
        return str(refused)


def test_these_come_along() -> None:
    assert SHIPPED.names(LLM_CHAT) == ["default", "general_chat", "py", "with_history"]
    assert SHIPPED.names(COMPLETION) == ["default", "with_history"]
    assert SHIPPED.text(LLM_CHAT, "default") == "{{ input }}"
    assert SHIPPED.text(COMPLETION, "default") == "{input}"


@given(values, values, kinds)
def test_the_default_is_the_query_and_nothing_else(query: str, history: str, kind: str) -> None:
    assert SHIPPED.render(kind, "default", {"input": query, "history": history}) == query


@given(values)
def test_py_asks_for_code_before_the_query(query: str) -> None:
    prompt = SHIPPED.render(LLM_CHAT, "py", {"input": query, "history": ""})
    assert "Python" in prompt
    assert prompt.endswith("\n" + query)


@pytest.mark.parametrize("kind", list(VARIABLES))
@given(values, values)
def test_with_history_has_both_and_ends_where_the_answer_begins(kind: str, query: str, history: str) -> None:
    prompt = SHIPPED.render(kind, "with_history", {"input": query, "history": history})
    assert prompt.endswith(f"{history}\nHuman: {query}\nAI:")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ input }}", "Q"),
        ("{{input}}", "Q"),
        ("{{  input}} and {{\n input\t}}", "Q and Q"),
        ("{{ history }}/{{ input }}", "H/Q"),
        ("{input}", "Q"),
        ("{history}\n{input}\n", "H\nQ\n"),
        # With {{ }}, single braces are text.
        ('f"{input} {x}" {{ input }} {history}', 'f"{input} {x}" Q {history}'),
        ("{a: {b: {{ input }} }}", "{a: {b: Q }}"),
        # Without, whatever can't be meant as a variable.
        ('{"a": {"b": 1}} {} {0} { } {x: 1} {a b} {input}', '{"a": {"b": 1}} {} {0} { } {x: 1} {a b} Q'),
        ("{ {input} }", "{ Q }"),
        ("{{input}}}", "Q}"),
        ("}} {input} }", "}} Q }"),
    ],
)
@pytest.mark.parametrize("kind", list(VARIABLES))
def test_placeholders_of_both_styles(kind: str, text: str, expected: str) -> None:
    assert rendered(text, kind) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{{ input }} {{ question }}", "{{ question }}"),
        ("{{ input }} {{ input | upper }}", "input | upper"),
        ("{{ input.x }}", "input.x"),
        ("{{- input -}}", "- input -"),
        ("{{ 7 * 7 }} {{ input }}", "7 * 7"),
        ("{{ }} {{ input }}", "unknown variable"),
        ("{{{input}}}", "{input"),
        ('{{"a": 1}} {input}', '"a": 1'),
        ("{{ input }} {{ history", "{{ without }}"),
        ("{{ history {{ input }}", "history {{ input"),
        ("{{ history\n{input}", "{{ without }}"),
        ("{input} {question}", "{question}"),
        ("{input} {输入}", "{输入}"),
        ("{ input } {input}", "{ input }"),
        ("{input} {question }", "{question }"),
        ("{input} {history!r}", "{history!"),
        ("{input} {input:>10}", "{input:"),
        ("{input} {input.real}", "{input."),
        ("{input} {input[0]}", "{input["),
        ("{% raw %}{{ input }}{% endraw %}", "{%"),
        ("{# a note #}{{ input }}", "{#"),
        ("{input} {% if x %}", "{%"),
        ("", "no place for the query"),
        ("Say something.", "no place for the query"),
        ("{{ history }}", "no place for the query"),
        ("{history}", "no place for the query"),
        ("{ history", "no place for the query"),
        ("half \ud83d {input}", "surrogate"),
    ],
)
@pytest.mark.parametrize("kind", list(VARIABLES))
def test_a_template_that_would_lose_or_leave_something_is_refused(kind: str, text: str, named: str) -> None:
    message = invalid(json.dumps({kind: {"own": text}}))
    assert message.startswith(f"{kind}/own: ")
    assert named in message


@given(values, values, st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"])))
def test_values_are_put_in_once_and_never_read(query: str, history: str, around: str) -> None:
    expected = f"{around}{history}{around}{query}{around}{history}"
    for history_place, query_place in [("{history}", "{input}"), ("{{ history }}", "{{ input }}")]:
        text = f"{around}{history_place}{around}{query_place}{around}{history_place}"
        assert rendered(text, input=query, history=history) == expected


@given(texts | values)
def test_any_template_has_the_query_or_is_refused_with_one_line(text: str) -> None:
    answer = rendered_or_refused(lambda: rendered(text, input="\x01Q"))
    assert "\x01Q" in answer or len(answer.splitlines()) == 1


@given(texts | st.text("-:{}[]&*!|>'\"%@`?# \nab1"))
def test_any_file_is_taken_or_refused_with_one_line(text: str) -> None:
    answer = rendered_or_refused(lambda: repr(PromptTemplates.from_yaml(text)))
    assert len(answer.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("llm_chat: [", "not valid YAML: line 1"),
        ("llm_chat:\n  own: {{ input }}", "needs quotes"),
        ("llm_chat:\n  own: {input}", "llm_chat/own: must be a string; a template that begins with a brace"),
        ("llm_chat:\n  own: 5", "llm_chat/own: must be a string"),
        ("llm_chat:\n  own:", "llm_chat/own: must be a string"),
        ("llm_chat:\n  own: ['{input}']", "llm_chat/own: must be a string"),
        ("llm_chat:\n  5: '{input}'", "llm_chat/5: the name must be a string; put it in quotes"),
        ("llm_chat:\n  yes: '{input}'", "llm_chat/True: the name must be a string; put it in quotes"),
        ("llm_chat:", "llm_chat: must be an object"),
        ("llm_chat: '{input}'", "llm_chat: must be an object"),
        ("completion: [a]", "completion: must be an object"),
        ("- llm_chat", "must be an object"),
        ("text", "must be an object"),
        ("llm_chat:\n  own: '{input}'\n  own: '{input}!'", "line 3: there are two entries 'own'"),
        ("llm_chat:\n  own: '{input}'\ncompletion: {}\nllm_chat: {}", "line 4: there are two entries"),
        ("a: 1\n---\na: 2", "not valid YAML"),
        ("a: \0", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        ("a: !!int x", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML"),
        ("[" * 100_000, "not valid YAML"),
        ('llm_chat: {own: "\\ud83d {input}"}', "llm_chat/own: holds half of a surrogate pair"),
        ("completion:\n  with_history: '{input}'", "completion/with_history: has no place for the history"),
    ],
)
def test_a_file_that_is_no_templates_is_refused(text: str, named: str) -> None:
    assert named in invalid(text)


@pytest.mark.parametrize("text", ["", "# only a comment", "{}", "null"])
def test_a_file_that_says_nothing_replaces_nothing(text: str) -> None:
    both = PromptTemplates.from_yaml("llm_chat: {own: '{input}'}", text)
    assert both.names(LLM_CHAT) == ["own"]


def test_a_later_text_replaces_entry_by_entry() -> None:
    earlier = "llm_chat: {a: 'A {input}', b: 'B {input}'}\ncompletion: {c: 'C {input}'}"
    later = "llm_chat: {b: 'New {input}', d: 'D {input}'}"
    both = PromptTemplates.from_yaml(earlier, later)
    assert both.names(LLM_CHAT) == ["a", "b", "d"]
    assert [both.render(LLM_CHAT, name, {"input": "Q"}) for name in "abd"] == ["A Q", "New Q", "D Q"]
    assert both.text(COMPLETION, "c") == "C {input}"


def test_types_that_are_not_used_are_kept_as_they_are() -> None:
    text = "agent_chat: {default: '{tools} {% x %}', 1: one, other: [2]}\nodd: 3\n4: four"
    kept = PromptTemplates.from_yaml(text, "agent_chat: {mine: '{{ context }}'}")
    assert kept.names("agent_chat") == ["default", "mine"]
    assert kept.text("agent_chat", "default") == "{tools} {% x %}"
    assert kept.text("agent_chat", "mine") == "{{ context }}"
    assert kept.names("odd") == kept.names("4") == kept.names("nothing") == []
    with pytest.raises(UnknownTemplate):
        kept.text("agent_chat", "other")
    with pytest.raises(UnknownTemplate):
        kept.render("agent_chat", "mine", {})


@given(st.text().filter(lambda name: name not in SHIPPED.names(LLM_CHAT)))
def test_an_unknown_name_is_refused_with_the_names(name: str) -> None:
    listed = pytest.raises(
        UnknownTemplate, match="there are: 'default', 'general_chat', 'py', 'with_history'"
    )
    with listed:
        SHIPPED.text(LLM_CHAT, name)
    with listed:
        SHIPPED.variables(LLM_CHAT, name)
    with listed:
        SHIPPED.render(LLM_CHAT, name, {"input": "Q", "history": ""})


def test_a_long_name_is_not_repeated_in_full() -> None:
    with pytest.raises(UnknownTemplate) as refused:
        SHIPPED.render(LLM_CHAT, "x" * 100_000, {})
    assert len(str(refused.value)) < 300


def test_the_variables_of_a_template_are_known() -> None:
    assert SHIPPED.variables(LLM_CHAT, "default") == {"input"}
    assert SHIPPED.variables(COMPLETION, "with_history") == {"input", "history"}
