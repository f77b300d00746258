"""Feedback: what is said of an answer sticks to its row."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import openai
import pytest
from uuid_utils.compat import uuid7

from tests.end_to_end.served import Gateway, running


def answered(client: httpx.Client, text: str = "Q", **fields: Any) -> str:
    """The id of an answer."""
    body = {"messages": [{"role": "user", "content": text}]} | fields
    return str(client.post("/v1/chat/completions", json=body).json()["id"])


def bare(answer_id: str) -> str:
    return answer_id.split("-")[-1]


def score(gateway: Gateway, answer_id: str) -> tuple[int, str]:
    row = gateway.row(answer_id)
    return row["feedback_score"], row["feedback_reason"]


def test_chatchats_route_answers_as_chatchat_does(simulated: Gateway, client: httpx.Client) -> None:
    id_ = bare(answered(client))
    assert score(simulated, id_) == (-1, "")
    body = {"message_id": id_, "score": "88", "reason": "好", "more": 1}
    answer = client.post("/chat/feedback", json=body)
    assert answer.status_code == 200
    assert answer.json() == {"code": 200, "msg": f"已反馈聊天记录 {id_}", "data": None}
    assert score(simulated, id_) == (88, "好")
    # The last one wins, and what is left out or null is its default.
    for left_out in ({}, {"score": None, "reason": None}):
        assert client.post("/chat/feedback", json={"message_id": id_} | left_out).json()["code"] == 200
        assert score(simulated, id_) == (0, "")
    dashed = str(UUID(id_))
    assert client.post("/chat/feedback", json={"message_id": dashed, "score": -1}).json()["code"] == 200
    assert score(simulated, id_) == (-1, "")


@pytest.mark.parametrize("message_id", ["", "abc", uuid7().hex, str(uuid7()), "0" * 32, "f" * 32, "z" * 32])
def test_an_unknown_message_is_a_404_in_chatchats_answer(client: httpx.Client, message_id: str) -> None:
    answer = client.post("/chat/feedback", json={"message_id": message_id, "score": 1})
    assert answer.status_code == 200
    told = answer.json()
    assert (told["code"], told["data"]) == (404, None)
    assert "There is no message" in told["msg"]


@pytest.mark.parametrize("number", [-2, 101, 150, 10**30])
def test_a_score_out_of_range_is_a_400_in_chatchats_answer(
    simulated: Gateway, client: httpx.Client, number: int
) -> None:
    id_ = bare(answered(client))
    answer = client.post("/chat/feedback", json={"message_id": id_, "score": number})
    assert (answer.status_code, answer.json()["code"]) == (200, 400)
    assert "0 to 100" in answer.json()["msg"]
    assert score(simulated, id_) == (-1, "")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("message_id", "a" * 33),
        ("message_id", "a" * 36),
        ("message_id", "a" * 40),
        ("message_id", []),
        ("score", "many"),
        ("score", 12.5),
        ("reason", {}),
    ],
)
def test_a_body_that_does_not_pass_is_a_422(client: httpx.Client, field: str, value: object) -> None:
    answer = client.post("/chat/feedback", json={field: value})
    assert answer.status_code == 422
    told = answer.json()
    assert told["detail"][0]["loc"] == ["body", field]
    assert told["code"] == 422
    assert field in told["msg"]


@pytest.mark.parametrize("prefix", ["chatcmpl-", "cmpl-", ""])
@pytest.mark.parametrize("field", ["message_id", "completion_id"])
def test_an_answer_is_named_as_clients_know_it(
    simulated: Gateway, client: httpx.Client, prefix: str, field: str
) -> None:
    id_ = bare(answered(client))
    for name, number in ((prefix + id_, 1), (prefix + str(UUID(id_)), 2)):
        told = client.post("/v1/feedback", json={field: name, "score": number}).json()
        assert (told["message_id"], told["score"]) == (id_, number)
        assert score(simulated, id_) == (number, "")


def test_the_sdk_sends_it_with_what_it_has(simulated: Gateway) -> None:
    with openai.OpenAI(base_url=f"{simulated.base_url}/v1", api_key="none", max_retries=0) as sdk:
        answer = sdk.chat.completions.create(
            model="simulated", messages=[{"role": "user", "content": "Q"}], max_tokens=5
        )
        body = {"completion_id": answer.id, "thumbs": "up", "reason": "r", "correction": "c", "id": "mine"}
        before = int(time.time())
        told: Any = sdk.post("/feedback", cast_to=object, body=body)
        created = told.pop("created")
        assert before <= created <= time.time() + 1
        assert told == {
            "object": "feedback",
            "id": "mine",
            "message_id": bare(answer.id),
            "score": 100,
            "reason": "r",
            "correction": "c",
        }
        # A retry is the same one, also when another has come since.
        sdk.post("/feedback", cast_to=object, body={"completion_id": answer.id, "thumbs": "down"})
        again: Any = sdk.post("/feedback", cast_to=object, body=body)
        assert again == told | {"created": created}
        assert score(simulated, answer.id) == (0, "")
        with pytest.raises(openai.ConflictError) as conflict:
            sdk.post("/feedback", cast_to=object, body=body | {"thumbs": "down"})
        assert (conflict.value.code, conflict.value.param) == ("conflict", "id")
        with pytest.raises(openai.NotFoundError) as unknown:
            sdk.post(
                "/feedback", cast_to=object, body={"completion_id": f"chatcmpl-{uuid7().hex}", "score": 1}
            )
        assert unknown.value.code == "message_not_found"


@pytest.mark.parametrize(
    ("body", "param", "word"),
    [
        ({"score": 1}, "message_id", "exactly one"),
        ({"message_id": "a", "completion_id": "a", "score": 1}, "message_id", "exactly one"),
        ({"message_id": "a"}, "score", "exactly one"),
        ({"message_id": "a", "score": 1, "thumbs": "up"}, "score", "exactly one"),
        ({"message_id": "a", "score": 101}, "score", "greater than or equal to 0 and less than or equal to"),
        ({"message_id": "a", "score": -1}, "score", "greater than or equal to 0"),
        ({"message_id": "a", "score": "1"}, "score", "integer"),
        ({"message_id": "a", "score": True}, "score", "integer"),
        ({"message_id": "a", "thumbs": "sideways"}, "thumbs", "'up' or 'down'"),
        ({"message_id": 5, "score": 1}, "message_id", "string"),
        ({"completion_id": 5, "score": 1}, "completion_id", "string"),
        ({"message_id": "a", "score": 1, "id": ""}, "id", "at least 1"),
        ({"message_id": "a", "score": 1, "id": "x" * 256}, "id", "255"),
        ({"message_id": "a", "score": 1, "reason": 5}, "reason", "string"),
        ({"message_id": "a", "score": 1, "comment": "x"}, "comment", "Unknown parameter"),
    ],
)
def test_a_bad_body_is_refused_clearly(
    client: httpx.Client, body: dict[str, object], param: str, word: str
) -> None:
    answer = client.post("/v1/feedback", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert word in error["message"]


def test_while_the_answer_still_streams(slow: Gateway) -> None:
    """The row is not in PostgreSQL yet when the first event comes; its end leaves the score."""
    with httpx.Client(base_url=slow.base_url, timeout=60) as client:
        body = {"messages": [{"role": "user", "content": "long " * 8}], "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            first = json.loads(
                next(line for line in lines if line.startswith("data: ")).removeprefix("data: ")
            )
            told = client.post("/v1/feedback", json={"completion_id": first["id"], "score": 7, "id": "f"})
            assert told.status_code == 200, told.text
            assert slow.row(first["id"])["status"] == "running"
            assert list(lines)[-2] == "data: [DONE]"
        assert slow.row(first["id"])["status"] == "completed"
        assert score(slow, first["id"]) == (7, "")


def test_of_an_answer_that_has_just_begun(slow: Gateway) -> None:
    with httpx.Client(base_url=slow.base_url, timeout=60) as client:
        for _ in range(3):
            body = {"prompt": "soon", "stream": True, "max_tokens": 4}
            with client.stream("POST", "/v1/completions", json=body) as answer:
                lines = (line for line in answer.iter_lines() if line.startswith("data: {"))
                id_ = bare(json.loads(next(lines).removeprefix("data: "))["id"])
                told = client.post("/chat/feedback", json={"message_id": id_, "score": 50}).json()
                assert told["code"] == 200
            assert score(slow, id_) == (50, "")


def test_without_postgresql_nothing_is_said_to_be_stored(data_dir: Path) -> None:
    options = ("--engine", "simulated")
    with (
        running(data_dir, *options, GATEWAY_DATABASE_TIMEOUT_SECONDS="0.3") as gateway,
        httpx.Client(base_url=gateway.base_url, timeout=60) as client,
    ):
        id_ = bare(answered(client))
        with gateway.hanging_postgresql():
            of_v1 = client.post("/v1/feedback", json={"message_id": id_, "score": 3, "id": "f"})
            native = client.post("/chat/feedback", json={"message_id": id_, "score": 4})
            # Its row is in the journal: nobody can say that there is none.
            journalled = bare(answered(client))
            of_journalled = client.post("/chat/feedback", json={"message_id": journalled, "score": 5})
        assert of_v1.status_code == 503
        assert of_v1.json()["error"]["code"] == "database_unavailable"
        assert int(of_v1.headers["retry-after"]) > 0
        for answer in (native, of_journalled):
            assert (answer.status_code, answer.json()["code"]) == (200, 503)

        def stored() -> bool:
            body = {"message_id": journalled, "score": 5, "id": "f"}
            return client.post("/v1/feedback", json=body).status_code == 200

        gateway.wait_for(stored)
        assert score(gateway, journalled) == (5, "")


def test_its_text_is_kept_as_far_as_rows_keep_text(data_dir: Path) -> None:
    def given(gateway: Gateway) -> tuple[Any, tuple[int, str]]:
        with httpx.Client(base_url=gateway.base_url, timeout=60) as client:
            id_ = answered(client)
            body = {"completion_id": id_, "score": 1, "reason": "r\0" * 50, "correction": "c" * 50, "id": "f"}
            told = client.post("/v1/feedback", json=body).json()
            assert client.post("/v1/feedback", json=body).json() == told
        return told, score(gateway, id_)

    options = ("--engine", "simulated")
    with running(data_dir, *options, GATEWAY_STORE_CONTENT="none") as gateway:
        told, of_row = given(gateway)
    assert (told["reason"], told["correction"], of_row) == ("", None, (1, ""))
    with running(data_dir, *options, GATEWAY_CONTENT_MAX_CHARACTERS="4") as gateway:
        told, of_row = given(gateway)
    assert told["reason"] == "r\0r\0 […cut, 100 characters]"
    assert told["correction"] == "cccc […cut, 50 characters]"
    assert of_row == (1, "r\ufdd00r\ufdd00 […cut, 100 characters]")
