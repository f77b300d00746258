from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.openai.body import LABEL_FIELDS, SAMPLING_FIELDS, Body
from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from gateway.access.caller import Caller
from gateway.asking import asked_fields
from persistence.content_policy import ContentPolicy
from persistence.exact_text import json_to_column, to_column
from persistence.message_row import COLUMNS, MessageRow, encoded
from persistence.storable import storable
from persistence.without_text import TEXTLESS
from tests.persistence.rows import new_row, rows
from tests.persistence.wild import wild_rows
from tests.strategies import json_values, texts

NONE = ContentPolicy("none")
CALLER = Caller(uuid4(), uuid4())
SECRET = "secretive"

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET}]}
COMPLETION: dict[str, Any] = {"prompt": SECRET}


def values_of(row: MessageRow, policy: ContentPolicy) -> dict[str, Any]:
    """The row's record, JSON read."""
    values = dict(zip(COLUMNS, encoded(row, 1, policy).values, strict=True))
    for name, type_ in COLUMNS.items():
        if type_ == "jsonb" and values[name] is not None:
            values[name] = json.loads(values[name])
    return values


def full_row(**fields: Any) -> MessageRow:
    return new_row(
        "question",
        response="answer",
        status="completed",
        prompt_tokens=8,
        completion_tokens=6,
        cached_tokens=4,
        error="reason",
        messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "question"}],
        meta_data={"stream": True, "sampling": {"temperature": 0.5, "stop": ["."]}, "user": "u"},
        details={
            "tools": [{"name": "f"}],
            "tool_choice": "auto",
            "history": [["user", "before"]],
            "prompt_token_ids": [1, 2, 3],
            "tool_calls": [{"name": "f", "arguments": "{}"}],
            "choices": [{"response": "answer"}, {"response": "other"}],
        },
        **fields,
    )


def test_full_keeps_all() -> None:
    row = full_row()
    values = values_of(row, ContentPolicy())
    for name in ("query", "response", "messages", "details", "meta_data", "error"):
        assert values[name] == getattr(row, name)


def test_last_keeps_the_query_and_the_answer() -> None:
    row = full_row()
    values = values_of(row, ContentPolicy("last"))
    assert (values["query"], values["response"], values["messages"]) == ("question", "answer", None)
    assert values["details"] == {name: row.details[name] for name in ("tool_calls", "choices")}
    assert values["meta_data"] == row.meta_data


def test_none_keeps_what_became_of_the_answer() -> None:
    meta_data = {
        "guard": {"output": {"names": 2}},
        "degraded": {"by": ["spare"], "reason": "engine_dead"},
        "repetition": True,
        "usage": "untold",
        "choices": [{"finish_reason": "content_filter", "completion_tokens": 2}],
    }
    row = full_row()
    row.meta_data = dict(meta_data)
    assert values_of(row, NONE)["meta_data"] == meta_data


def test_none_keeps_the_counts() -> None:
    values = values_of(full_row(), NONE)
    assert [values[name] for name in ("query", "response", "messages", "details", "error")] == [None] * 5
    assert (values["prompt_tokens"], values["completion_tokens"], values["cached_tokens"]) == (8, 6, 4)
    assert values["meta_data"] == {"stream": True, "sampling": {"temperature": 0.5}, "user": "u"}


# What has names out of an operator's files, and nothing that anybody asked or answered.
OPERATORS = {"guard", "degraded"}
# Where a generated text must not be, and where a label is.
secret = texts.map(lambda text: SECRET + text)
# Names that the policy knows, and others; with the forms that it knows, and others.
forms = st.recursive(
    secret
    | st.lists(secret)
    | st.integers()
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*TEXTLESS, *SAMPLING_FIELDS, "type", "finish_reason", "completion_tokens", "id"])
            | texts.map(lambda text: SECRET + text),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(
    st.dictionaries(
        st.sampled_from(sorted(TEXTLESS.keys() - LABEL_FIELDS - OPERATORS)) | secret,
        forms,
        max_size=6,
    )
)
def test_none_keeps_no_text_of_any_meta_data(meta_data: dict[str, Any]) -> None:
    row = full_row()
    row.meta_data = meta_data
    assert SECRET not in str(encoded(row, 1, NONE).values)


@given(st.dictionaries(texts, json_values, max_size=6), st.text(min_size=1), json_values)
def test_none_keeps_no_field_that_it_does_not_know(unknown: dict[str, Any], name: str, value: object) -> None:
    row = full_row()
    row.meta_data = {"stream": True} | {key: unknown[key] for key in unknown.keys() - TEXTLESS.keys()}
    row.meta_data["sampling"] = {SECRET + name: value}
    assert values_of(row, NONE)["meta_data"] == {"stream": True, "sampling": {}}


# Something that a field of any type takes.
TEXTS: list[Any] = [
    SECRET,
    [SECRET],
    {SECRET: 1},
    {SECRET: SECRET},
    {"type": "json_schema", "json_schema": {"name": SECRET, "schema": {SECRET: 1}}},
    {"json": {"title": SECRET}},
    {"json": SECRET},
    {"regex": SECRET},
    {"choice": [SECRET]},
    {"grammar": SECRET},
]
NUMBERS: list[Any] = [1, 0, -1, 2, 0.5, True, False]
OBJECTS = {"repetition_detection": {"max_pattern_size": 2, "min_count": 3, "min_pattern_size": 1}}
TOKEN_IDS: list[Any] = [[17], {"17": 1.0}]

# What the others of a field's values need beside them.
WITH: dict[str, dict[str, Any]] = {"top_logprobs": {"logprobs": True}, "best_of": {"n": 2}}
FIELDS = [
    (model, base, name)
    for model, base in ((ChatCompletionRequest, CHAT), (CompletionRequest, COMPLETION))
    for name in sorted(SAMPLING_FIELDS & model.model_fields.keys())
]


def taken(model: type[Body], base: dict[str, Any], name: str, values: list[Any]) -> list[dict[str, Any]]:
    """The meta_data of requests with each of ``values`` that the field takes."""
    found = []
    for value in values:
        try:
            body = model.model_validate_json(json.dumps(base | WITH.get(name, {}) | {name: value}))
        except ValueError:
            continue
        found.append(asked_fields(body, CALLER))
    return found


@pytest.mark.parametrize(
    ("model", "base", "name"), FIELDS, ids=[f"{model.__name__}.{name}" for model, _, name in FIELDS]
)
def test_of_every_field_none_keeps_the_numbers_and_no_text(
    model: type[Body], base: dict[str, Any], name: str
) -> None:
    values = [OBJECTS[name]] if name in OBJECTS else NUMBERS
    numbers = taken(model, base, name, values)
    for meta_data in numbers:
        assert meta_data["sampling"][name] in values
        assert values_of(new_row(meta_data=meta_data), NONE)["meta_data"] == meta_data
    spelled = taken(model, base, name, TOKEN_IDS)
    with_text = taken(model, base, name, TEXTS)
    for meta_data in (*spelled, *with_text):
        kept = values_of(new_row(meta_data=meta_data), NONE)["meta_data"]["sampling"]
        assert kept.get(name) in (None, {"type": "json_schema"})
        assert SECRET not in str(kept)
    assert numbers or spelled or with_text


def test_the_fields_that_take_text_are_known() -> None:
    """Or the test above would not see what it is for."""
    texts = {name for model, base, name in FIELDS if taken(model, base, name, TEXTS)}
    assert texts == {
        "bad_words",
        "cache_salt",
        "chat_template_kwargs",
        "response_format",
        "stop",
        "structured_outputs",
    }
    ids = {name for model, base, name in FIELDS if taken(model, base, name, TOKEN_IDS)}
    assert ids == {"allowed_token_ids", "chat_template_kwargs", "logit_bias", "stop_token_ids"}


def test_none_keeps_the_clients_labels_and_how_choices_ended() -> None:
    meta_data = {
        "stream": False,
        "sampling": {"n": 2, "response_format": {"type": "json_object"}},
        "user": "someone",
        "safety_identifier": "5f",
        "session_id": "s-1",
        "metadata": {"team": "red"},
        "prompt_name": "default",
        "choices": [
            {"finish_reason": reason, "completion_tokens": 3}
            for reason in ("stop", "length", "tool_calls", "cancelled", "timeout", "shutdown", "error")
        ],
        "answer": {"id": "0" * 32, "prompt": 1},
    }
    assert values_of(new_row(meta_data=meta_data), NONE)["meta_data"] == meta_data


@given(rows | wild_rows, st.sampled_from(["full", "last"]), st.integers(1, 30))
def test_no_text_is_longer_than_its_bound_and_what_is_cut_is_marked(
    row: MessageRow, store: Any, most: int
) -> None:
    policy = ContentPolicy(store, most)
    whole, values = values_of(row, ContentPolicy(store, 10**9)), values_of(row, policy)
    kept = storable(row)
    cut = values["meta_data"].get("cut", {})
    for name in ("query", "response", "error"):
        text = getattr(kept, name)
        # Whole code points of what came, and never the half of an escape.
        assert values[name] == (None if text is None else to_column(text[:most]))
        assert cut.get(name) == (len(text) if text is not None and len(text) > most else None)
    if values["messages"] != whole["messages"]:
        assert (values["messages"], cut["messages"]) == (None, len(json_to_column(kept.messages)))
    for place, length in cut.items():
        assert length > most, place
    for name in COLUMNS:
        if name not in ("query", "response", "error", "messages", "details", "meta_data"):
            assert repr(values[name]) == repr(whole[name])


def test_choices_and_calls_are_cut_one_by_one() -> None:
    long, short = "x" * 11, "y" * 10
    row = new_row(
        short,
        response=long,
        details={
            "tools": [{"name": "f" * 20}],
            "parallel_tool_calls": True,
            "tool_calls": [{"name": "f", "arguments": short}, {"name": "f", "arguments": long}],
            "choices": [
                {"response": long, "tool_calls": [{"name": "f", "arguments": long}]},
                {"response": short},
            ],
        },
        meta_data={
            "stream": True,
            "sampling": {"temperature": 0.1234567890123, "stop": [long], "logit_bias": {1: 2.0}},
            "user": long,
            "choices": [{"finish_reason": "length", "completion_tokens": 12345678901234}] * 2,
        },
        completion_tokens=22,
    )
    values = values_of(row, ContentPolicy("full", 10))
    assert values["response"] == long[:10]
    assert values["details"] == {
        "parallel_tool_calls": True,
        "tool_calls": [{"name": "f", "arguments": short}, {"name": "f", "arguments": long[:10]}],
        "choices": [
            {"response": long[:10], "tool_calls": [{"name": "f", "arguments": long[:10]}]},
            {"response": short},
        ],
    }
    assert values["meta_data"] == {
        "stream": True,
        "sampling": {"temperature": 0.1234567890123, "logit_bias": {"1": 2.0}},
        # A label is bounded where it comes in, and counts stay exact.
        "user": long,
        "choices": row.meta_data["choices"],
        "cut": {
            "response": 11,
            "tools": 33,
            "tool_calls.1.arguments": 11,
            "choices.0.response": 11,
            "choices.0.tool_calls.0.arguments": 11,
            "sampling.stop": 15,
        },
    }
    assert values["completion_tokens"] == 22


def test_a_text_of_just_the_bound_is_whole() -> None:
    row = new_row("\0" * 10, response="😀" * 10)
    values = values_of(row, ContentPolicy("full", 10))
    assert (values["query"], values["response"]) == (to_column("\0" * 10), "😀" * 10)
    assert values["meta_data"] == {}
    values = values_of(row, ContentPolicy("full", 9))
    assert (values["query"], values["response"]) == (to_column("\0" * 9), "😀" * 9)
    assert values["meta_data"] == {"cut": {"query": 10, "response": 10}}


def test_messages_that_are_too_long_are_left_out_whole() -> None:
    messages = [{"role": "user", "content": "x" * 100}]
    length = len(json_to_column(messages))
    row = new_row(messages=messages)
    assert values_of(row, ContentPolicy("full", length))["messages"] == messages
    values = values_of(row, ContentPolicy("full", length - 1))
    assert (values["messages"], values["meta_data"]) == (None, {"cut": {"messages": length}})
    # What is not stored is not cut.
    assert values_of(row, ContentPolicy("last", length - 1))["meta_data"] == {}
