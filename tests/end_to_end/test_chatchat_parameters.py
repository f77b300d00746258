"""Chatchat's parameters on OpenAI's routes, sent as extra_body from the SDK."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.end_to_end.served import Gateway, running

TEMPLATES = """
llm_chat:
  polite: "Please: {{ input }} {not_a_variable}"
  told: "{history}|{input}"
completion:
  upper: "UPPER {input}"
"""


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose operator has written templates."""
    file = tmp_path_factory.mktemp("templates") / "templates.yaml"
    file.write_text(TEMPLATES)
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(folder, "--engine", "simulated", GATEWAY_PROMPT_TEMPLATES=str(file)) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def sdk(templated: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{templated.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(sdk: openai.OpenAI, text: str = "Q", **extra: Any) -> Any:
    return sdk.chat.completions.create(
        model="simulated", messages=[{"role": "user", "content": text}], extra_body=extra
    )


HISTORY = [{"role": "human", "content": "1{{ input }}"}, {"role": "ai", "content": "2"}]


def test_a_history_comes_before_the_messages(templated: Gateway, sdk: openai.OpenAI) -> None:
    answer = chat(sdk, history=HISTORY, conversation_id="c1", history_len=5)
    assert answer.choices[0].message.content == "Q"
    assert answer.usage.prompt_tokens == len("1{{ input }}" + "2" + "Q")
    row = templated.row(answer.id)
    assert (row["query"], row["conversation_id"]) == ("Q", "c1")
    assert row["details"]["history"] == HISTORY


@pytest.mark.parametrize("field", ["prompt", "query"])
def test_a_prompt_or_query_stands_in_place_of_the_messages(
    templated: Gateway, sdk: openai.OpenAI, field: str
) -> None:
    body = {field: "x {input}", "history": HISTORY, "prompt_name": "told", "max_tokens": 100}
    told: Any = sdk.post("/chat/completions", cast_to=object, body=body)
    assert told["choices"][0]["message"]["content"] == "Human: 1{{ input }}\nAI: 2|x {input}"
    row = templated.row(told["id"])
    assert (row["query"], row["messages"], row["details"]) == ("x {input}", None, {"history": HISTORY})
    counted: Any = sdk.post("../tokenize", cast_to=object, body=body)
    assert counted["count"] == told["usage"]["prompt_tokens"]


def test_a_question_is_named_where_it_is_at_fault(sdk: openai.OpenAI) -> None:
    for body, param, code, words in (
        ({"prompt": "x" * 1_048_577}, "prompt", "context_length_exceeded", ["1048576"]),
        ({"query": "x" * 1_048_577}, "query", "context_length_exceeded", ["1048576"]),
        ({"prompt": "x", "messages": []}, "messages", "invalid_value", ["at least 1"]),
        ({"prompt": "x", "query": "y"}, "query", "invalid_value", ["'prompt'", "'query'"]),
        ({"history": HISTORY}, "messages", "missing_required_parameter", ["'messages'"]),
        (
            {"prompt": "x", "messages": [{"role": "user", "content": "y"}]},
            "messages",
            "invalid_value",
            ["'prompt'", "'messages'"],
        ),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            sdk.post("/chat/completions", cast_to=object, body=body)
        assert (refused.value.param, refused.value.code) == (param, code)
        assert all(word in refused.value.message for word in words)


def test_a_prompt_without_a_history_is_counted_as_a_text(sdk: openai.OpenAI) -> None:
    for body, count in (
        ({"prompt": "abc"}, 3),
        ({"prompt": "abc", "messages": None, "history": None}, 3),
        ({"query": "abc"}, 3),
        ({"prompt": "abc", "history": HISTORY}, 16),
    ):
        counted: Any = sdk.post("../tokenize", cast_to=object, body=body)
        assert counted["count"] == count


@pytest.mark.parametrize(
    ("extra", "text", "expected"),
    [
        ({}, "{{ input }}", "{{ input }}"),
        ({"prompt_name": "default"}, "{input}", "{input}"),
        ({"prompt_name": "polite"}, "x {{ input }}", "Please: x {{ input }} {not_a_variable}"),
        ({"prompt_name": "told", "history": HISTORY}, "x", "Human: 1{{ input }}\nAI: 2|x"),
        ({"prompt_name": None, "history": 0, "history_len": -1, "conversation_id": ""}, "x", "x"),
    ],
)
def test_the_last_question_is_put_into_the_named_template(
    templated: Gateway, sdk: openai.OpenAI, extra: dict[str, Any], text: str, expected: str
) -> None:
    answer = chat(sdk, text, **extra)
    assert answer.choices[0].message.content == expected
    assert templated.row(answer.id)["query"] == text


def test_a_completion_takes_template_and_history_too(templated: Gateway, sdk: openai.OpenAI) -> None:
    def complete(**extra: Any) -> Any:
        return sdk.completions.create(model="simulated", prompt=["a", "b"], max_tokens=0, extra_body=extra)

    assert [choice.text for choice in complete(prompt_name="upper").choices] == ["UPPER a", "UPPER b"]
    told = complete(history=HISTORY)
    assert [choice.text for choice in told.choices] == [
        "Human: 1{{ input }}\nAI: 2\nHuman: a\nAI:",
        "Human: 1{{ input }}\nAI: 2\nHuman: b\nAI:",
    ]
    assert templated.row(told.id)["query"] == "a"


@pytest.mark.parametrize(
    ("extra", "param", "word"),
    [
        ({"prompt_name": "absent"}, "prompt_name", "'polite'"),
        ({"history": [{"role": "wizard", "content": "x"}]}, "history.0.role", "'human'"),
        ({"history": True}, "history", "list"),
        ({"conversation_id": "x" * 256}, "conversation_id", "255"),
    ],
)
def test_what_can_not_be_honoured_is_refused(
    sdk: openai.OpenAI, extra: dict[str, Any], param: str, word: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(sdk, **extra)
    assert refused.value.param == param
    assert word in refused.value.message
    with pytest.raises(openai.BadRequestError) as also_refused:
        sdk.completions.create(model="simulated", prompt="x", extra_body=extra)
    assert also_refused.value.param == param


def test_ids_take_no_template(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="token ids takes no history"):
        sdk.completions.create(model="simulated", prompt=[97], extra_body={"prompt_name": "upper"})


def test_tokens_are_counted_with_history_and_template(templated: Gateway, sdk: openai.OpenAI) -> None:
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "history": HISTORY,
        "prompt_name": "polite",
    }
    counted = sdk.post("../tokenize", cast_to=object, body=body)
    assert isinstance(counted, dict)
    answer = chat(sdk, "x", history=HISTORY, prompt_name="polite")
    assert counted["count"] == answer.usage.prompt_tokens
