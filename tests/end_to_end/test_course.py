"""The plain wrapper around ChatGLM that courses teach, asked by the client that they teach."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.end_to_end.served import Gateway, running

ASK, LIST = "/chat/new/message/", "/chat/get/messages/"


def ask(client: httpx.Client, prompt: str, **fields: Any) -> dict[str, Any]:
    """As ``requests.post(url, data=json.dumps(data))`` sends it, which declares nothing."""
    answer = client.post(ASK, content=json.dumps({"prompt": prompt} | fields))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    told: dict[str, Any] = answer.json()
    return told


def about_now(time: str) -> bool:
    return abs(datetime.now() - datetime.strptime(time, "%Y-%m-%d %H:%M:%S")) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("first", "messages"),
    [
        ([], 0),
        (None, 0),
        ([["嗨", "你好"]], 2),
        ([{"role": "user", "content": "嗨", "metadata": ""}], 1),
        ([["ai", "嗨"]], 1),
    ],
)
def test_a_talk_goes_on_with_the_history_that_came_back(
    simulated: Gateway, client: httpx.Client, first: list[Any] | None, messages: int
) -> None:
    history, before = first, "".join(text for text in ("嗨", "你好") if text in str(first))
    for prompt in ("héllo", "2 + 2?", "{{ x }} {y}"):
        told = ask(client, prompt, history=history, max_tokens=1000, temperature=0.5, top_p=0.8)
        assert told.keys() == {"response", "history", "status", "time"}
        assert (told["response"], told["status"]) == (prompt, 200)
        assert about_now(told["time"])
        row = simulated.rows()[-1]
        assert (row["query"], row["response"], row["endpoint"]) == (prompt, prompt, ASK)
        assert (row["messages"], row["chat_type"]) == (None, "llm_chat")
        # All that was said before is in the prompt: a code point is a token.
        assert row["prompt_tokens"] == len(before + prompt)
        assert len(row["details"].get("history", [])) == messages
        history, before, messages = told["history"], before + prompt * 2, messages + 2


def test_what_is_asked_for_is_done(client: httpx.Client) -> None:
    assert ask(client, "abcdef", max_tokens=3)["response"] == "abc"
    assert ask(client, "abcdef", max_length=2)["response"] == "ab"
    assert ask(client, "abcdef", max_tokens=0, more=1)["response"] == "abcdef"
    without_slash = client.post("/chat/new/message", json={"prompt": "x"})
    assert without_slash.json()["response"] == "x"


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({}, 422, "'prompt'"),
        ({"prompt": "x", "history": ["x"]}, 422, "item 0 must be"),
        ({"prompt": "x", "temperature": 3}, 422, "'temperature'"),
        ({"prompt": "x" * 1_048_577}, 400, "1048576"),
    ],
)
def test_a_client_that_reads_the_status_sees_the_failure(
    client: httpx.Client, body: dict[str, Any], status: int, word: str
) -> None:
    for path in (ASK, "/chat/new/message"):
        answer = client.post(path, json=body)
        told = answer.json()
        assert answer.status_code == status
        assert (told["status"], told["code"], told["data"]) == (status, status, None)
        assert word in told["message"]
        assert told["message"] == told["msg"]
        assert told["detail"]


def test_its_client_moves_to_openais_route_with_nothing_but_another_url(client: httpx.Client) -> None:
    """As published: requests.post(url, data=json.dumps(…)) declares no content-type."""
    body = json.dumps({"prompt": "x", "history": [], "max_tokens": 8, "temperature": 0.1, "top_p": 0.7})
    answer = client.post("/v1/chat/completions", content=body)
    assert answer.json()["choices"][0]["message"]["content"] == "x"


def test_a_web_page_of_somebody_else_can_not_ask(client: httpx.Client) -> None:
    """It may send bytes without saying what they are, and then says where it comes from."""
    body = json.dumps({"prompt": "x"})
    for headers in ({"origin": "http://example.com"}, {"content-type": "text/plain"}):
        assert client.post(ASK, content=body, headers=headers).status_code == 415


@pytest.fixture(scope="module")
def talked() -> Iterator[Gateway]:
    """A gateway with 30 messages."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    environment = {"GATEWAY_DURABILITY": "async", "GATEWAY_DATABASE_TIMEOUT_SECONDS": "3"}
    with running(folder, "--engine", "simulated", **environment) as gateway:
        with httpx.Client(base_url=gateway.base_url, timeout=60) as client:
            for number in range(30):
                ask(client, f"question {number}")
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def talker(talked: Gateway) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=talked.base_url, timeout=60) as client:
        yield client


def test_the_latest_messages_newest_first(talked: Gateway, talker: httpx.Client) -> None:
    listed = talker.get(LIST).json()
    assert listed.keys() == {"messages", "status", "time"}
    assert listed["status"] == 200
    assert about_now(listed["time"])
    newest = listed["messages"][0]
    assert [one["query"] for one in listed["messages"]] == [f"question {n}" for n in range(29, 9, -1)]
    assert about_now(newest.pop("create_time"))
    (row,) = talked.rows()[-1:]
    assert newest == {
        "id": row["id"].hex,
        "query": "question 29",
        "response": "question 29",
        "conversation_id": None,
        "feedback_score": -1,
        "status": "completed",
    }
    body = {"message_id": newest["id"], "score": 90}
    assert talker.post("/chat/feedback", json=body).json()["code"] == 200
    (newest,) = talker.get("/chat/get/messages", params={"limit": 1}).json()["messages"]
    assert newest["feedback_score"] == 90
    assert len(talker.get(LIST, params={"limit": "100"}).json()["messages"]) == 30


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1.5"])
def test_a_wrong_limit_is_refused(talker: httpx.Client, limit: str) -> None:
    answer = talker.get(LIST, params={"limit": limit})
    assert (answer.status_code, answer.json()["status"]) == (422, 422)
    assert "'limit'" in answer.json()["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "192.0.2.1"},
        {"x-real-ip": "127.0.0.1"},
        {"forwarded": "for=192.0.2.1"},
        {"via": "1.1 proxy"},
        {"host": "example.com"},
        {"host": "127.0.0.1.example.com"},
        {"host": "[::1"},
        {"host": "a_b.example.com"},
        {"host": "user@example.com"},
        {"host": ""},
    ],
)
def test_messages_that_nobody_has_stay_on_this_machine(talker: httpx.Client, headers: dict[str, str]) -> None:
    """A name that was made to lead here, and a proxy that asks for somebody else, are given none."""
    answer = talker.get(LIST, headers=headers)
    assert answer.status_code == 403
    assert answer.json()["status"] == 403
    assert "messages" not in answer.json()


def test_this_machine_has_many_names(talked: Gateway, talker: httpx.Client) -> None:
    port = httpx.URL(talked.base_url).port
    for name in ("localhost", "127.0.0.1", "127.0.0.2", "[::1]"):
        assert talker.get(LIST, headers={"host": f"{name}:{port}"}).status_code == 200


def test_without_postgresql_no_list_is_made_up(talked: Gateway, talker: httpx.Client) -> None:
    with talked.hanging_postgresql():
        answer = talker.get(LIST)
    assert (answer.status_code, answer.json()["status"]) == (503, 503)
    talked.wait_for(lambda: talker.get(LIST).status_code == 200)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Gateway]:
    """A gateway whose callers have to log in."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(
        folder, "--engine", "simulated", GATEWAY_AUTHENTICATION="true", GATEWAY_REGISTRATION="open"
    ) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def logged_in(gateway: Gateway, name: str) -> Iterator[httpx.Client]:
    """A client of a new user."""
    with httpx.Client(base_url=gateway.base_url, timeout=60) as client:
        body = {"username": name, "password": "password 1"}
        assert client.post("/api/users/register", json=body).status_code == 201
        yield client


def test_with_authentication_each_sees_and_rates_his_own(guarded: Gateway) -> None:
    with (
        logged_in(guarded, "anna") as anna,
        logged_in(guarded, "bert") as bert,
        httpx.Client(base_url=guarded.base_url) as nobody,
    ):
        for client, texts in ((anna, ["a1", "a2"]), (bert, ["b1"])):
            for text in texts:
                ask(client, text)
            listed = client.get(LIST).json()["messages"]
            assert [one["query"] for one in listed] == texts[::-1]
        (theirs,) = (one["id"] for one in bert.get(LIST).json()["messages"])
        unknown = "0" * 32
        refused = [
            anna.post("/chat/feedback", json={"message_id": id_, "score": 1}) for id_ in (theirs, unknown)
        ]
        assert [one.json()["code"] for one in refused] == [404, 404]
        assert refused[0].text.replace(theirs, unknown) == refused[1].text
        refused = [
            anna.post("/v1/feedback", json={"message_id": id_, "score": 1}) for id_ in (theirs, unknown)
        ]
        assert [one.status_code for one in refused] == [404, 404]
        assert refused[0].text.replace(theirs, unknown) == refused[1].text
        given = bert.post("/v1/feedback", json={"message_id": theirs, "score": 33})
        assert given.status_code == 200
        assert bert.get(LIST).json()["messages"][0]["feedback_score"] == 33
        for method, path in (
            ("GET", LIST),
            ("POST", ASK),
            ("POST", "/chat/feedback"),
            ("POST", "/v1/feedback"),
        ):
            assert nobody.request(method, path, json={"prompt": "x"}).status_code == 401
        assert nobody.post("/server/configs").status_code == 401
        assert nobody.get("/api/llm_model/list_running_models").status_code == 401


def test_without_authentication_who_is_logged_in_has_his_own_all_the_same(simulated: Gateway) -> None:
    with logged_in(simulated, "carla") as carla, httpx.Client(base_url=simulated.base_url) as nobody:
        ask(nobody, "nobody's")
        ask(carla, "carla's")
        assert [one["query"] for one in carla.get(LIST).json()["messages"]] == ["carla's"]
        assert nobody.get(LIST).json()["messages"][0]["query"] == "nobody's"
        # Through a proxy, too: it is known whose they are.
        listed = carla.get(LIST, headers={"x-forwarded-for": "192.0.2.1"}).json()["messages"]
        assert [one["query"] for one in listed] == ["carla's"]
