from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.chatchat.course import ROLES, CourseRequest, answer
from tests.strategies import json_values, texts

NOW = datetime(2025, 1, 2, 3, 4, 5, tzinfo=UTC)

pairs = st.lists(st.tuples(texts.filter(lambda text: text not in ROLES), texts).map(list), max_size=6)
role_items = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), texts), max_size=6)


def course(**fields: Any) -> CourseRequest:
    return CourseRequest.model_validate_json(json.dumps({"prompt": "Q"} | fields))


def told(body: CourseRequest, response: str = "A") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer(body, response, NOW))
    return found


def asked(body: CourseRequest) -> list[tuple[str, str]]:
    """What the model is asked, but for the question."""
    return [(message.role, message.content) for message in body.as_openai.past]


@given(texts, texts)
def test_the_answer_has_the_form_that_its_clients_know(prompt: str, response: str) -> None:
    assert told(course(prompt=prompt), response) == {
        "response": response,
        "history": [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}],
        "status": 200,
        "time": "2025-01-02 03:04:05",
    }


@given(pairs, texts, texts)
def test_pairs_are_questions_and_answers_and_stay_pairs(
    history: list[list[str]], prompt: str, response: str
) -> None:
    body = course(prompt=prompt, history=history)
    assert [text for _, text in asked(body)] == [text for pair in history for text in pair]
    assert [role for role, _ in asked(body)] == ["user", "assistant"] * len(history)
    if history:
        assert told(body, response)["history"] == [*history, [prompt, response]]
        # What it answers with it takes again, as long as no question is called like a role.
        again = course(history=told(body, response)["history"])
        assert asked(again)[:-2] == asked(body)


@given(role_items, st.booleans())
def test_items_with_roles_stay_such_items(items: list[tuple[str, str]], as_lists: bool) -> None:
    objects = [{"role": role, "content": text, "metadata": "", "more": 1} for role, text in items]
    history: list[Any] = list(map(list, items)) if as_lists else objects
    body = course(history=history)
    assert asked(body) == items
    turn: list[Any] = [["user", "Q"], ["assistant", "A"]]
    if not as_lists or not items:
        turn = [{"role": role, "content": text} for role, text in turn]
    assert told(body)["history"] == [*history, *turn]
    assert asked(course(history=told(body)["history"])) == [*items, ("user", "Q"), ("assistant", "A")]


def test_chatchats_names_of_the_roles_are_kept() -> None:
    body = course(history=[{"role": "human", "content": "q"}, {"role": "ai", "content": "a"}])
    assert asked(body) == [("user", "q"), ("assistant", "a")]
    assert told(body)["history"][2:] == [{"role": "human", "content": "Q"}, {"role": "ai", "content": "A"}]


def test_one_pair_without_a_role_tells_that_all_are_pairs() -> None:
    body = course(history=[["user", "is a word."], ["你好", "你好！"]])
    assert asked(body) == [
        ("user", "user"),
        ("assistant", "is a word."),
        ("user", "你好"),
        ("assistant", "你好！"),
    ]


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": 5}, 5),
        ({"max_length": 7}, 7),
        ({"max_tokens": 5, "max_length": 7}, 5),
        ({"max_tokens": 0, "max_length": 7}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": None, "max_length": "7"}, 7),
    ],
)
def test_max_length_is_another_name_of_max_tokens(fields: dict[str, Any], limit: int | None) -> None:
    assert course(**fields).as_openai.token_limit == limit


@pytest.mark.parametrize("field", [name for name in CourseRequest.model_fields if name != "prompt"])
def test_null_is_as_good_as_absent(field: str) -> None:
    assert course(**{field: None}).as_openai == course().as_openai


def test_what_is_sampled_is_handed_on() -> None:
    body = course(temperature=0, top_p=0.5).as_openai
    assert (body.temperature, body.top_p) == (0, 0.5)
    assert course(top_p=0).as_openai.top_p is None
    assert course(temperature="0.3", more=1).as_openai.temperature == 0.3


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"history": "x"}, "history"),
        ({"history": 3}, "history"),
        ({"history": ["x"]}, "history"),
        ({"history": [["q", "a"], ["q"]]}, "history"),
        ({"history": [["q", None]]}, "history"),
        ({"history": [["q", "a", "b"]]}, "history"),
        ({"history": [{"role": "tool", "content": "x"}]}, "history"),
        ({"history": [{"role": "user"}]}, "history"),
        ({"history": [["q", "a"]] * 501}, "history"),
        ({"history": [["user", "a"]] * 1001}, "history"),
    ],
)
def test_a_wrong_value_is_refused_at_its_field(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        course(**fields)
    assert {error["loc"] for error in refused.value.errors()} == {(field,)}


@given(st.lists(json_values, max_size=3))
def test_any_history_is_taken_or_refused_and_comes_back_as_it_was(history: list[Any]) -> None:
    wrong: set[tuple[int | str, ...]] = set()
    back: list[Any] = history
    try:
        back = told(course(history=history))["history"]
    except ValidationError as refused:
        wrong = {error["loc"] for error in refused.errors()}
    assert wrong <= {("history",)}
    assert back[: len(history)] == history


def test_what_is_no_number_never_comes_back() -> None:
    body = CourseRequest.model_validate_json(
        '{"prompt": "Q", "history": [{"role": "user", "content": "q", "more": NaN}]}'
    )
    assert told(body)["history"][0]["more"] is None
