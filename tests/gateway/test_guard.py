"""The guard list and the repetition stop, as clients and rows see them, in every dialect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway import metrics
from gateway.settings import InvalidSetting, load
from tests.gateway.in_process import InProcess, in_process

RULES = """
rules:
  - {name: project, words: [Apollo], action: mask, where: output}
  - {name: person, words: [Alice], action: mask, replacement: "[name]", where: input}
  - {name: tone, words: [damn], action: flag}
  - {name: secret, words: [hunter2], action: block, where: output}
  - {name: weapons, words: [bomb], action: block, where: input}
"""


@pytest.fixture
def gateway(tmp_path: Path) -> InProcess:
    (tmp_path / "guard.yaml").write_text(RULES)
    return in_process(tmp_path, guard=tmp_path / "guard.yaml")


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]} | fields


def chunks(text: str) -> list[dict[str, Any]]:
    data = [block.removeprefix("data: ") for block in text.split("\n\n") if block.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(one) for one in data[:-1]]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_mask_is_what_the_client_sees_and_the_row_keeps(gateway: InProcess, stream: bool) -> None:
    text = "On APOLLO, damn, apollo."
    answer = await gateway.client.post("/v1/chat/completions", json=chat(text, stream=stream))
    if stream:
        choices = [choice for chunk in chunks(answer.text) for choice in chunk["choices"]]
        told, end = "".join(choice["delta"].get("content") or "" for choice in choices), choices[-1]
    else:
        (end,) = answer.json()["choices"]
        told = end["message"]["content"]
    assert (told, end["finish_reason"]) == ("On ***, damn, ***.", "stop")
    (row,) = gateway.rows
    assert (row.response, row.finish_reason, row.status) == (told, "stop", "completed")
    assert row.query == text
    assert row.completion_tokens == len(text)
    assert row.meta_data["guard"] == {"input": {"tone": 1}, "output": {"project": 2, "tone": 1}}


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_says_what_it_may_not_ends_before_it(gateway: InProcess, stream: bool) -> None:
    found = metrics.GUARD_MATCHES.labels("secret", "output")._value.get()
    text = "It is hunter2, " + "and so on " * 50
    body = {"prompt": [text, "fine"], "max_tokens": 600, "stream": stream}
    answer = await gateway.client.post("/v1/completions", json=body)
    assert answer.status_code == 200
    if stream:
        choices = [choice for chunk in chunks(answer.text) for choice in chunk["choices"]]
    else:
        choices = answer.json()["choices"]
    told = {index: "".join(one["text"] for one in choices if one["index"] == index) for index in (0, 1)}
    ends = {one["index"]: one["finish_reason"] for one in choices if one["finish_reason"]}
    assert told == {0: "It is ", 1: "fine"}
    assert ends == {0: "content_filter", 1: "stop"}
    blocked, fine = sorted(gateway.rows, key=lambda row: row.query, reverse=False)
    assert (blocked.response, blocked.finish_reason, blocked.status) == (
        "It is ",
        "content_filter",
        "completed",
    )
    assert blocked.meta_data["guard"] == {"output": {"secret": 1}}
    # Where it streams the engine has gone on for little more than the word.
    assert blocked.completion_tokens == len(text) if not stream else blocked.completion_tokens < len(text)
    assert (fine.response, fine.finish_reason) == ("fine", "stop")
    assert metrics.GUARD_MATCHES.labels("secret", "output")._value.get() == found + 1


async def test_each_choice_is_judged_by_itself(gateway: InProcess) -> None:
    answer = await gateway.client.post("/v1/chat/completions", json=chat("hunter2 Apollo", n=2))
    assert [one["finish_reason"] for one in answer.json()["choices"]] == ["content_filter"] * 2
    (row,) = gateway.rows
    assert row.meta_data["guard"] == {"output": {"secret": 2}}
    assert [one["finish_reason"] for one in row.meta_data["choices"]] == ["content_filter"] * 2


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", chat("a bomb"), "messages.0"),
        ("/v1/chat/completions", chat("a bomb", stream=True), "messages.0"),
        ("/v1/chat/completions", chat("hi", history=[["user", "a bomb"]]), "history.0"),
        ("/v1/chat/completions", {"query": "a bomb"}, "query"),
        (
            "/v1/chat/completions",
            chat([{"type": "text", "text": "hi"}, {"type": "text", "text": "Bomb"}]),  # type: ignore[arg-type]
            "messages.0",
        ),
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {"role": "assistant", "function_call": {"name": "f", "arguments": '"\\u0062omb"'}}
                ]
            },
            "messages.0",
        ),
        ("/v1/completions", {"prompt": "a bomb"}, "prompt"),
        ("/v1/completions", {"prompt": ["hi", "a bomb"]}, "prompt.1"),
        ("/v1/completions", {"prompt": [ord(one) for one in "a bomb"]}, "prompt.0"),
        ("/v1/completions", {"prompt": [ord(one) for one in "I am Alice"]}, "prompt.0"),
    ],
)
async def test_a_question_that_may_not_be_asked_is_refused_and_leaves_no_row(
    gateway: InProcess, path: str, body: dict[str, Any], param: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await gateway.client.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "content_policy_violation")
    assert error["param"] == param
    assert gateway.recorder.begun == []
    (line,) = [record.getMessage() for record in caplog.records if record.name == "gateway.guard"]
    assert "the rule 'weapons'" in line or "the rule 'person'" in line
    assert "bomb" not in line.lower()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/chat", {"query": "a bomb"}),
        ("/other/completion", {"query": "a bomb"}),
        ("/chat/new/message/", {"prompt": "a bomb"}),
    ],
)
async def test_chatchats_clients_are_refused_in_their_own_shape(
    gateway: InProcess, path: str, body: dict[str, Any]
) -> None:
    answer = await gateway.client.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["code"] == 400
    assert "content policy" in answer.json()["msg"]
    assert gateway.recorder.begun == []


async def test_chatchats_answers_are_masked_and_end_before_what_is_blocked(gateway: InProcess) -> None:
    answer = await gateway.client.post("/chat/chat", json={"query": "Apollo, hunter2!", "stream": False})
    assert json.loads(answer.text.removeprefix("data: "))["text"] == "***, "
    answer = await gateway.client.post("/chat/chat", json={"query": "Apollo, hunter2!", "stream": True})
    events = [json.loads(block.removeprefix("data: ")) for block in answer.text.split("\r\n\r\n") if block]
    assert "".join(event["text"] for event in events) == "***, "
    assert {row.finish_reason for row in gateway.rows} == {"content_filter"}


async def test_what_is_masked_in_a_question_reaches_neither_the_engine_nor_the_row(
    gateway: InProcess,
) -> None:
    body = {
        "messages": [{"role": "user", "content": "I am Alice"}, {"role": "user", "content": "alice?"}],
        "history": [["user", "Alice here"]],
    }
    answer = await gateway.client.post("/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["message"]["content"] == "[name]?"
    (row,) = gateway.rows
    assert row.query == "[name]?"
    assert "alice" not in json.dumps([row.query, row.messages, row.details, row.response]).lower()
    assert row.meta_data["guard"] == {"input": {"person": 3}}
    answer = await gateway.client.post("/v1/completions", json={"prompt": ["Alice", "Bob"], "echo": True})
    assert [one["text"] for one in answer.json()["choices"]] == ["[name][name]", "BobBob"]


async def test_a_long_question_is_looked_through_beside_the_event_loop(gateway: InProcess) -> None:
    text = "x " * 10_000 + "Alice"
    answer = await gateway.client.post("/v1/chat/completions", json=chat(text))
    assert answer.json()["choices"][0]["message"]["content"] == "x " * 10_000 + "[name]"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", chat("hi", logprobs=True), "logprobs"),
        ("/v1/completions", {"prompt": "hi", "logprobs": 1}, "logprobs"),
        ("/v1/chat/completions", chat("hi", return_token_ids=True), "return_token_ids"),
    ],
)
async def test_what_would_tell_the_tokens_of_a_masked_answer_is_refused(
    gateway: InProcess, path: str, body: dict[str, Any], param: str
) -> None:
    answer = await gateway.client.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.json()["error"]["code"] == "unsupported_parameter"


async def test_rules_that_only_note_leave_the_tokens_to_be_told(tmp_path: Path) -> None:
    (tmp_path / "guard.yaml").write_text("rules: [{name: tone, words: [damn], action: flag}]")
    gateway = in_process(tmp_path, guard=tmp_path / "guard.yaml")
    answer = await gateway.client.post("/v1/chat/completions", json=chat("damn", logprobs=True))
    (choice,) = answer.json()["choices"]
    assert "".join(one["token"] for one in choice["logprobs"]["content"]) == "damn"


async def test_a_client_that_leaves_has_its_masked_text_in_the_row(tmp_path: Path) -> None:
    """What was held back when it left is there as far as the rules let it through."""
    (tmp_path / "guard.yaml").write_text(RULES)
    gateway = in_process(tmp_path, guard=tmp_path / "guard.yaml", request_timeout_seconds=0.0001)
    answer = await gateway.client.post("/v1/chat/completions", json=chat("Apollo"))
    assert answer.status_code in (200, 504)
    (row,) = gateway.rows
    assert "Apollo" not in row.response


def test_a_file_that_can_not_be_used_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / "guard.yaml"
    path.write_text("rules: [{name: a, words: [x], action: drop}]")
    with pytest.raises(InvalidSetting) as raised:
        load({"guard": path})
    assert str(raised.value).startswith(f"guard (command line): {path}: rule 'a': action: ")
    with pytest.raises(InvalidSetting, match=r"absent: there is no such file"):
        load({"guard": tmp_path / "absent"})


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_an_answer_that_says_the_same_again_and_again_is_cut(tmp_path: Path, path: str) -> None:
    gateway = in_process(tmp_path, repetition_stop='{"max_pattern_size": 3, "min_count": 4}')
    text = "well, " + "abc" * 10
    body = chat(text) if path.endswith("chat/completions") else {"prompt": text, "max_tokens": 100}
    answer = await gateway.client.post(path, json=body)
    (choice,) = answer.json()["choices"]
    told = choice["message"]["content"] if "message" in choice else choice["text"]
    assert (told, choice["finish_reason"]) == ("well, " + "abc" * 4, "length")
    (row,) = gateway.rows
    assert (row.finish_reason, row.meta_data["repetition"]) == ("length", True)
    assert row.completion_tokens == len(told)


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (None, "aaaa"),
        ({"max_pattern_size": 0}, "a" * 20),
        ({"max_pattern_size": 1, "min_count": 10}, "a" * 10),
    ],
)
async def test_a_client_may_say_itself_when_an_answer_is_cut(
    tmp_path: Path, own: dict[str, int] | None, told: str
) -> None:
    gateway = in_process(tmp_path, repetition_stop={"max_pattern_size": 1, "min_count": 4})
    answer = await gateway.client.post("/v1/chat/completions", json=chat("a" * 20, repetition_detection=own))
    assert answer.json()["choices"][0]["message"]["content"] == told
    assert ("repetition" in gateway.rows[0].meta_data) is (len(told) < 20)


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"max_pattern_size": 65, "min_count": 2}, "max_pattern_size"),
        ({"max_pattern_size": 5}, "min_count must be at least 2"),
        ({"max_pattern_size": 5, "min_pattern_size": 6, "min_count": 2}, "min_pattern_size must be at most"),
    ],
)
async def test_a_repetition_that_can_not_be_looked_for_is_refused(
    tmp_path: Path, own: dict[str, int], named: str
) -> None:
    gateway = in_process(tmp_path)
    answer = await gateway.client.post("/v1/chat/completions", json=chat("a", repetition_detection=own))
    assert answer.status_code == 400
    assert named in answer.json()["error"]["message"]
    with pytest.raises(InvalidSetting, match=r"less than or equal to 64|min_"):
        load({"repetition_stop": own})
