"""Chatchat's own chat routes, byte by byte where the bytes matter: what was observed on 0.2.final.

The simulated engine answers each question with itself, in its template, one code point per token.
"""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest

from engine.simulated import MAX_MODEL_LEN
from tests.end_to_end.raw_http import RawAnswer, post
from tests.end_to_end.served import Gateway
from tests.sse_clients import event_source

CHAT, COMPLETION, ALIAS = "/chat/chat", "/other/completion", "/chat/chat/completions"
SSE = "text/event-stream; charset=utf-8"
HISTORY: list[dict[str, Any]] = [
    {"role": "human", "content": "a {b} {{ c }}", "is_raw": True},
    {"role": "ai", "content": "ok"},
    {"role": "system", "content": "sys"},
]
ONE_FRAME = re.compile(rb'data: \{"text": "([^\r\n]*)", "message_id": "([0-9a-f]{32})"\}\r\n\r\n')


@pytest.fixture
def conversation() -> str:
    """The id of one that is not known."""
    return uuid4().hex


def ask(client: httpx.Client, query: str, path: str = CHAT, **fields: Any) -> dict[str, str]:
    """An answer in one piece, as JSON."""
    answer = client.post(path, json={"query": query} | fields, headers={"accept": "application/json"})
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()
    return found


def row_of(gateway: Gateway, answer: dict[str, str]) -> dict[str, Any]:
    return gateway.row(answer["message_id"])


def test_a_stream_is_one_frame_for_each_token_and_each_in_a_chunk_of_its_own(simulated: Gateway) -> None:
    answer = post(simulated, CHAT, {"query": '你好"\n', "stream": True})
    assert (answer.status, answer.ended) == (200, True)
    assert answer.headers["content-type"] == SSE
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    first = ONE_FRAME.fullmatch(answer.chunks[0])
    assert first is not None
    message_id = first[2]
    assert answer.chunks == [
        b'data: {"text": "%s", "message_id": "%s"}\r\n\r\n' % (text, message_id)
        for text in ("你".encode(), "好".encode(), b'\\"', b"\\n")
    ]
    row = simulated.row(message_id.decode())
    assert (row["endpoint"], row["chat_type"]) == (CHAT, "llm_chat")
    assert (row["query"], row["response"]) == ('你好"\n', '你好"\n')
    assert (row["status"], row["prompt_tokens"], row["completion_tokens"]) == ("completed", 4, 4)
    assert row["meta_data"] == {"stream": True, "sampling": {"temperature": 0.7}}


@pytest.mark.parametrize("fields", [{}, {"stream": False}, {"stream": "no"}])
def test_without_stream_it_is_one_frame(simulated: Gateway, fields: dict[str, Any]) -> None:
    answer = post(simulated, CHAT, {"query": "你好", **fields}, accept="*/*")
    assert (answer.status, answer.headers["content-type"]) == (200, SSE)
    found = ONE_FRAME.fullmatch(b"".join(answer.chunks))
    assert found is not None
    assert found[1].decode() == "你好"
    assert simulated.row(found[2].decode())["response"] == "你好"


@pytest.mark.parametrize("path", [CHAT, COMPLETION])
def test_a_client_that_accepts_nothing_else_gets_json_but_never_instead_of_a_stream(
    simulated: Gateway, path: str
) -> None:
    whole = post(simulated, path, {"query": "你好"}, accept="application/json")
    assert whole.headers["content-type"] == "application/json"
    [body] = whole.chunks
    assert list(json.loads(body)) == ["text", "message_id"]
    assert simulated.row(json.loads(body)["message_id"])["response"] == json.loads(body)["text"] == "你好"
    streamed = post(simulated, path, {"query": "你好", "stream": True}, accept="application/json")
    assert (streamed.headers["content-type"], len(streamed.chunks)) == (SSE, 2)


@pytest.mark.parametrize("path", [CHAT, COMPLETION, "/api/chat"])
def test_nulls_are_the_defaults_and_unknown_fields_are_nothing(
    simulated: Gateway, client: httpx.Client, path: str
) -> None:
    names = ["conversation_id", "history_len", "history", "model_name", "temperature", "max_tokens"]
    nulls = dict.fromkeys([*names, "prompt_name", "stream_style", "echo", "user_id", "conversation_name"])
    plain = row_of(simulated, ask(client, "hi", path, stream=False))
    answered = ask(client, "hi", path, stream=False, **nulls, top_p=0.1, knowledge_base_name="x")
    row = row_of(simulated, answered)
    for name in ("query", "response", "chat_type", "meta_data", "messages", "details", "conversation_id"):
        assert row[name] == plain[name]


def test_a_history_has_its_roles_and_is_text(simulated: Gateway, client: httpx.Client) -> None:
    query = "q {{ 1+1 }} {x} {% raw %} '; DROP TABLE message; --"
    answer = ask(client, query, history=HISTORY)
    row = row_of(simulated, answer)
    assert answer["text"] == row["query"] == query
    assert row["prompt_tokens"] == len("a {b} {{ c }}" + "ok" + "sys" + query)
    assert row["details"]["history"] == [{"role": one["role"], "content": one["content"]} for one in HISTORY]
    told = ask(client, query, history=HISTORY, prompt_name="with_history")["text"]
    assert f"Human: a {{b}} {{{{ c }}}}\nAI: ok\nSystem: sys\nHuman: {query}\nAI:" in told
    pairs = ask(client, "x", history=[["user", "1"], ["assistant", "2"]])
    assert row_of(simulated, pairs)["prompt_tokens"] == 3


def test_stored_turns_come_before_where_they_are_asked_for(
    simulated: Gateway, client: httpx.Client, conversation: str
) -> None:
    ask(client, "ab", conversation_id=conversation)
    for history_len in (None, -1, 0):
        row = row_of(simulated, ask(client, "Q", conversation_id=conversation, history_len=history_len))
        assert ("turns" in row["meta_data"], row["prompt_tokens"]) == (False, 1)
    assert row_of(simulated, ask(client, "Q", conversation_id="", history_len=3))["prompt_tokens"] == 1
    conversation = uuid4().hex
    ask(client, "ab", conversation_id=conversation)
    row = row_of(simulated, ask(client, "c", conversation_id=conversation, history_len=3))
    assert (row["meta_data"]["turns"], row["prompt_tokens"]) == (1, len("abab" + "c"))
    row = row_of(simulated, ask(client, "d", conversation_id=conversation, history=1))
    assert (row["meta_data"]["turns"], row["prompt_tokens"]) == (1, len("cc" + "d"))
    row = row_of(simulated, ask(client, "e", conversation_id=conversation, history_len=2, history=HISTORY))
    assert row["conversation_id"] == conversation
    assert "turns" not in row["meta_data"]
    assert row["prompt_tokens"] == len("a {b} {{ c }}" + "ok" + "sys" + "e")


def test_only_complete_turns_of_chats_are_turns(
    simulated: Gateway, client: httpx.Client, conversation: str
) -> None:
    ask(client, "", conversation_id=conversation)
    ask(client, "completion", COMPLETION)
    ask(client, "general", "/api/chat", conversation_id=conversation, stream=False)
    row = row_of(simulated, ask(client, "Q", conversation_id=conversation, history_len=9))
    assert (row["meta_data"]["turns"], row["prompt_tokens"]) == (0, 1)
    # A chat in OpenAI's dialect is one of the same type.
    body = {"messages": [{"role": "user", "content": "R"}], "conversation_id": conversation, "history_len": 9}
    assert client.post(ALIAS, json=body).json()["usage"]["prompt_tokens"] == len("QQ" + "R")


def test_a_conversations_name_has_at_most_255_characters(simulated: Gateway, client: httpx.Client) -> None:
    name = "谈" * 223 + uuid4().hex
    ask(client, "a", conversation_id=name)
    row = row_of(simulated, ask(client, "b", conversation_id=name, history_len=1))
    assert (row["conversation_id"], row["prompt_tokens"]) == (name, 3)


@pytest.mark.parametrize(
    ("path", "fields", "limit"),
    [
        *[(path, {"max_tokens": sent}, None) for path in (CHAT, "/api/chat") for sent in (0, -5, None)],
        (CHAT, {"max_tokens": 50}, 50),
        (CHAT, {}, None),
        (COMPLETION, {}, 1024),
        (COMPLETION, {"max_tokens": None}, 1024),
        (COMPLETION, {"max_tokens": 0, "echo": True}, None),
        (COMPLETION, {"max_tokens": -1}, None),
    ],
)
def test_how_long_an_answer_may_be(
    client: httpx.Client, path: str, fields: dict[str, Any], limit: int | None
) -> None:
    query = "x" * 2000
    text = ask(client, query, path, stream=False, **fields)["text"]
    assert len(text) - len(query) * bool(fields.get("echo")) == (limit or 2000)


def test_a_completion_is_raw_text(simulated: Gateway) -> None:
    query = f"一\n二\r\n{{{{ input }}}} {uuid4().hex}"
    streamed = post(simulated, COMPLETION, {"query": query, "stream": True, "echo": True})
    assert (streamed.status, streamed.headers["content-type"]) == (200, SSE)
    first, second, newline, *rest = streamed.chunks
    assert first.startswith("data: 一\r\ndata: 二\r\ndata: {{ input }} ".encode())
    assert second == "data: 一\r\n\r\n".encode()
    assert newline == b"data: \r\ndata: \r\n\r\n"
    assert all(len(event_source(chunk.decode())) == 1 for chunk in rest)
    told = event_source(b"".join(streamed.chunks).decode())
    assert "".join(told) == query.replace("\r\n", "\n") * 2
    [row] = simulated.rows("query = $1", query)
    assert (row["endpoint"], row["chat_type"], row["response"]) == (COMPLETION, "completion", query)
    whole = post(simulated, COMPLETION, {"query": "\n二"})
    assert whole.chunks == ["data: \r\ndata: 二\r\n\r\n".encode()]
    assert whole.headers["content-type"] == SSE


@pytest.mark.parametrize("path", [CHAT, COMPLETION, "/api/chat"])
def test_events_may_have_the_whole_text_so_far(simulated: Gateway, path: str) -> None:
    answer = post(simulated, path, {"query": "ab\u2028", "stream": True, "stream_style": "cumulative"})
    told = event_source(b"".join(answer.chunks).decode())
    texts = told if path == COMPLETION else [json.loads(data)["text"] for data in told]
    assert texts == ["a", "ab", "ab\u2028"]


def test_an_answer_without_text_tells_its_id(simulated: Gateway) -> None:
    for fields in ({}, {"stream": True}, {"stream": True, "stream_style": "cumulative"}):
        answer = post(simulated, CHAT, {"query": "", **fields})
        found = ONE_FRAME.fullmatch(b"".join(answer.chunks))
        assert found is not None
        assert found[1] == b""
        assert simulated.row(found[2].decode())["status"] == "completed"
    assert post(simulated, COMPLETION, {"query": "", "stream": True}).chunks == []


TOO_LONG = "x" * MAX_MODEL_LEN
# path, fields, status, the field that is named
REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    *[(path, {"query": None}, 422, "query") for path in (CHAT, COMPLETION, "/api/chat")],
    *[(path, {"model_name": "gpt"}, 404, "model_name") for path in (CHAT, COMPLETION, "/api/chat")],
    *[(path, {"prompt_name": "gpt\0"}, 400, "prompt_name") for path in (CHAT, COMPLETION, "/api/chat")],
    *[(path, {"query": TOO_LONG}, 400, "query") for path in (CHAT, COMPLETION, "/api/chat")],
    (CHAT, {"temperature": 2.1}, 422, "temperature"),
    (COMPLETION, {"temperature": 1.5}, 422, "temperature"),
    (CHAT, {"max_tokens": 12.9}, 422, "max_tokens"),
    (CHAT, {"max_tokens": MAX_MODEL_LEN, "history": [["user", TOO_LONG]]}, 400, "query"),
    (CHAT, {"history": [{"role": "wizard", "content": "x"}]}, 422, "history.0.role"),
    (CHAT, {"history": "all"}, 422, "history"),
    (CHAT, {"conversation_id": "x" * 256}, 422, "conversation_id"),
    (CHAT, {"stream_style": "both"}, 422, "stream_style"),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "fields", "status", "field"), REFUSED)
def test_what_can_be_seen_beforehand_is_refused_before_the_first_byte(
    client: httpx.Client, path: str, fields: dict[str, Any], status: int, field: str, stream: bool
) -> None:
    answer = client.post(path, json={"query": "x", "stream": stream} | fields)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    body = answer.json()
    assert list(body)[:4] == ["code", "msg", "data", "detail"]
    assert (body["code"], body["data"]) == (status, None)
    assert f"'{field}'" in body["msg"]
    assert len(body["msg"]) < 400
    if status == 422:
        assert [str(part) for part in body["detail"][0]["loc"] if part != "list"] == [
            "body",
            *field.split("."),
        ]


def test_a_deadline_in_mid_stream_is_an_event_and_a_clean_end(slow: Gateway) -> None:
    def cut_off(path: str) -> RawAnswer:
        return post(slow, path, {"query": "x" * 400, "stream": True}, x_request_timeout="3")

    paths = (CHAT, COMPLETION, "/api/chat")
    with ThreadPoolExecutor(len(paths)) as together:
        answers = list(together.map(cut_off, paths))
    for path, answer in zip(paths, answers, strict=True):
        assert (answer.status, answer.ended) == (200, True)
        *told, failure = event_source(b"".join(answer.chunks).decode())
        assert told
        assert list(json.loads(failure)) == ["code", "msg", "text", "message_id"]
        failed = json.loads(failure)
        assert (failed["code"], failed["text"]) == (500, "")
        assert "longer than 3 seconds" in failed["msg"]
        row = slow.row(failed["message_id"])
        texts = told if path == COMPLETION else [json.loads(data)["text"] for data in told]
        assert (row["status"], row["response"]) == ("timeout", "".join(texts))
        # Where comments are on for others.
        assert not any(chunk.startswith(b":") for chunk in answer.chunks)


def test_a_deadline_before_the_first_token_is_a_real_status(slow: Gateway) -> None:
    answer = post(slow, CHAT, {"query": "x", "stream": True}, x_request_timeout="0.1")
    assert (answer.status, answer.headers["content-type"]) == (504, "application/json")
    assert json.loads(answer.chunks[0])["code"] == 504


def test_the_alias_of_03_is_openais_route_with_the_rows_id(simulated: Gateway) -> None:
    with openai.OpenAI(base_url=f"{simulated.base_url}/chat", api_key="none", max_retries=0) as sdk:
        asked: dict[str, Any] = {"model": "simulated", "messages": [{"role": "user", "content": "hi"}]}
        answer = sdk.chat.completions.create(**asked, max_tokens=0)
        extra = answer.model_extra or {}
        assert answer.choices[0].message.content == "hi"
        assert answer.id == f"chatcmpl-{extra['message_id']}"
        assert extra["status"] is None
        assert simulated.row(extra["message_id"])["endpoint"] == ALIAS
        usage: Any = {"include_usage": True}
        chunks = list(sdk.chat.completions.create(**asked, stream=True, stream_options=usage))
        assert len(chunks) == 5
        assert len({(one.model_extra or {})["message_id"] for one in chunks}) == 1
        assert all("status" in (one.model_extra or {}) for one in chunks)
        with pytest.raises(openai.NotFoundError) as refused:
            sdk.chat.completions.create(**asked | {"model": "gpt"})
        assert (refused.value.param, refused.value.code) == ("model", "model_not_found")
    raw = post(simulated, ALIAS, asked | {"stream": True})
    assert raw.chunks[-1].endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("kind", ["knowledge_base", "kb", "file", "search_engine", "agent"])
def test_what_a_gateway_for_one_model_has_not_got_says_so(client: httpx.Client, kind: str) -> None:
    answer = client.post(f"/chat/{kind}_chat", json={"query": "x", "stream": True})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/json")
    body = answer.json()
    assert (body["code"], body["data"]) == (404, None)
    assert f"/chat/{kind}_chat needs" in body["msg"]
