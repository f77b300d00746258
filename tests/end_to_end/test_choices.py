"""Several choices and prompts, and what is told beside the text: exact on the simulated engine."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.end_to_end.served import Gateway
from tests.openai_schemas import check

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"

# What vLLM's server adds to OpenAI's objects where return_token_ids asks for it.
TOKEN_IDS = {
    CHAT: frozenset({"prompt_token_ids", "choices.token_ids"}),
    COMPLETIONS: frozenset({"choices.prompt_token_ids", "choices.token_ids"}),
}
SCHEMAS = {CHAT: "CreateChatCompletion", COMPLETIONS: "CreateCompletion"}


def beside(url: str, body: dict[str, Any]) -> frozenset[str]:
    """What may stand in an answer beside OpenAI's own."""
    return TOKEN_IDS[url] if body.get("return_token_ids") else frozenset()


letters = st.text("ab👋é", max_size=12)
stops = st.lists(st.text("ab👋é", min_size=1, max_size=2), max_size=3)

fitting: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "n": st.integers(1, 3),
        "stop": stops,
        "include_stop_str_in_output": st.booleans(),
        "min_tokens": st.integers(0, 3),
        "max_tokens": st.integers(1, 12),
        "return_token_ids": st.booleans(),
        "echo": st.booleans(),
    },
)
options = fitting.filter(lambda asked: bool(asked.get("min_tokens", 0) <= asked.get("max_tokens", 12)))
"""Options that both routes take, and that go together."""


def joined(client: httpx.Client, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """A streamed answer put together as the whole one would be."""
    streaming = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    answer = client.post(url, json=body | streaming)
    assert answer.status_code == 200, answer.text
    *events, done, rest = answer.content.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    for chunk in chunks:
        check(f"{SCHEMAS[url]}StreamResponse", chunk, also=beside(url, body))
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    usages = [chunk["usage"] for chunk in chunks]
    assert all(one["completion_tokens"] <= two["completion_tokens"] for one, two in pairwise(usages))
    choices: dict[int, dict[str, Any]] = defaultdict(lambda: {"text": "", "ids": [], "logprobs": []})
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        told = choices[choice["index"]]
        assert "finish_reason" not in told
        told["text"] += choice["text"] if "text" in choice else choice["delta"].get("content", "")
        told["ids"] += choice.get("token_ids", [])
        told["logprobs"] += logprobs_of(choice)
        if choice["finish_reason"] is not None:
            told["finish_reason"] = choice["finish_reason"]
    assert chunks[-1]["choices"] == []
    return {"choices": dict(choices), "usage": chunks[-1]["usage"]}


def whole(client: httpx.Client, url: str, body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer in the same form."""
    answer = client.post(url, json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    check(f"{SCHEMAS[url]}Response", told, also=beside(url, body))
    choices = {
        choice["index"]: {
            "text": choice["text"] if "text" in choice else choice["message"]["content"],
            "ids": choice.get("token_ids", []),
            "logprobs": logprobs_of(choice),
            "finish_reason": choice["finish_reason"],
        }
        for choice in told["choices"]
    }
    return {"choices": choices, "usage": told["usage"], "id": told["id"]}


def logprobs_of(choice: dict[str, Any]) -> list[Any]:
    """Tokens and their logprobs, in either route's form."""
    told = choice.get("logprobs") or {}
    if "content" in told:
        return [(one["token"], one["logprob"]) for one in told["content"]]
    return list(zip(told.get("tokens", []), told.get("token_logprobs", []), strict=True))


@settings(max_examples=50, deadline=None)
@given(letters, options, st.booleans())
def test_a_streamed_chat_is_the_whole_one_for_every_combination(
    simulated: Gateway, text: str, asked: dict[str, Any], logprobs: bool
) -> None:
    body = {"messages": [{"role": "user", "content": text}], "logprobs": logprobs} | asked
    with httpx.Client(base_url=simulated.base_url) as client:
        one, other = whole(client, CHAT, body), joined(client, CHAT, body)
    assert one["choices"] == other["choices"]
    assert one["usage"] == other["usage"]
    assert sorted(one["choices"]) == list(range(asked.get("n", 1)))
    # An echo is certain, so all choices are the same.
    assert len({json.dumps(choice) for choice in one["choices"].values()}) == 1
    assert one["usage"]["prompt_tokens"] == len(text)
    (row,) = simulated.rows("id = $1::text::uuid", one["id"].split("-")[1])
    assert row["response"] == one["choices"][0]["text"]
    assert row["completion_tokens"] == one["usage"]["completion_tokens"]
    assert [choice["response"] for choice in row["details"].get("choices", [])] == (
        [choice["text"] for choice in one["choices"].values()] if asked.get("n", 1) > 1 else []
    )


prompts = st.lists(letters.filter(bool), min_size=1, max_size=3)


@settings(max_examples=50, deadline=None)
@given(prompts, options, st.booleans(), st.none() | st.integers(0, 2))
def test_a_streamed_completion_is_the_whole_one_for_every_combination(
    simulated: Gateway, texts: list[str], asked: dict[str, Any], as_ids: bool, logprobs: int | None
) -> None:
    given_as = [[ord(c) for c in text] for text in texts] if as_ids else texts
    body = {"prompt": given_as, "logprobs": logprobs} | asked
    with httpx.Client(base_url=simulated.base_url) as client:
        one, other = whole(client, COMPLETIONS, body), joined(client, COMPLETIONS, body)
    assert one["choices"] == other["choices"]
    assert one["usage"] == other["usage"]
    assert one["usage"]["prompt_tokens"] == sum(map(len, texts))
    n = asked.get("n", 1)
    assert sorted(one["choices"]) == list(range(len(texts) * n))
    first = one["id"].split("-")[1]
    rows = simulated.rows("id = $1::text::uuid OR meta_data->'answer'->>'id' = $1", first)
    assert [row["query"] for row in rows] == texts
    assert sum(row["completion_tokens"] for row in rows) == one["usage"]["completion_tokens"]
    for index, choice in one["choices"].items():
        row, text = rows[index // n], texts[index // n]
        echo = text if asked.get("echo") else ""
        assert choice["text"] == echo + row["response"]
        if logprobs is not None and echo:
            assert "".join(token for token, _ in choice["logprobs"]).startswith(text)
            assert choice["logprobs"][0][1] is None


@settings(max_examples=40, deadline=None)
@given(st.text("abc", min_size=1, max_size=10), st.data())
def test_a_stop_string_cuts_at_every_position(simulated: Gateway, text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    stop = text[start : data.draw(st.integers(start + 1, len(text)))]
    cut = text[: text.index(stop)]
    for include, expected in ((False, cut), (True, cut + stop)):
        body = {"prompt": text, "stop": stop, "include_stop_str_in_output": include, "max_tokens": None}
        with httpx.Client(base_url=simulated.base_url) as client:
            for answer in (whole(client, COMPLETIONS, body), joined(client, COMPLETIONS, body)):
                assert answer["choices"][0]["text"] == expected
                assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_of_no_tokens_scores_the_prompt(client: httpx.Client, stream: bool) -> None:
    body = {"prompt": "abc", "echo": True, "max_tokens": 0, "logprobs": 1}
    answer = joined(client, COMPLETIONS, body) if stream else whole(client, COMPLETIONS, body)
    assert answer["choices"][0]["text"] == "abc"
    assert answer["choices"][0]["logprobs"] == [("a", None), ("b", 0.0), ("c", 0.0)]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 3


def test_prompt_logprobs_have_vllms_form(client: httpx.Client) -> None:
    chat = client.post(
        CHAT, json={"messages": [{"role": "user", "content": "ab"}], "prompt_logprobs": 1}
    ).json()
    plain = client.post(COMPLETIONS, json={"prompt": "ab", "prompt_logprobs": 1}).json()
    expected = [None, {"98": {"logprob": 0.0, "rank": 1, "decoded_token": "b"}}]
    assert chat["prompt_logprobs"] == plain["choices"][0]["prompt_logprobs"] == expected


def test_token_ids_are_told_where_they_are_asked_for(client: httpx.Client) -> None:
    chat = client.post(
        CHAT, json={"messages": [{"role": "user", "content": "ab"}], "return_token_ids": True}
    ).json()
    plain = client.post(COMPLETIONS, json={"prompt": "ab", "return_token_ids": True}).json()
    assert chat["prompt_token_ids"] == plain["choices"][0]["prompt_token_ids"] == [97, 98]
    assert chat["choices"][0]["token_ids"] == plain["choices"][0]["token_ids"] == [97, 98]


@pytest.mark.parametrize("stream", [False, True])
def test_an_open_message_is_continued_and_repeated(client: httpx.Client, stream: bool) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "ab"}]
    body = {"messages": messages, "continue_final_message": True, "echo": True}
    answer = joined(client, CHAT, body) if stream else whole(client, CHAT, body)
    # The engine echoes as well.
    assert answer["choices"][0]["text"] == "ab" + "ab"
    asked = {"messages": messages[:1], "echo": True}
    answer = joined(client, CHAT, asked) if stream else whole(client, CHAT, asked)
    assert answer["choices"][0]["text"] == "x"


def test_the_service_tier_is_the_one_there_is(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "a"}]}
    assert client.post(CHAT, json=body | {"service_tier": "flex"}).json()["service_tier"] == "default"
    assert "service_tier" not in client.post(CHAT, json=body).json()


def test_labels_are_kept_with_the_row(simulated: Gateway, client: httpx.Client) -> None:
    labels = {"user": "u1", "safety_identifier": "s1", "metadata": {"team": "a\0b"}}
    body = {"messages": [{"role": "user", "content": "a"}], "store": True} | labels
    answer = client.post(CHAT, json=body)
    assert "x-gateway-ignored-fields" not in answer.headers
    assert simulated.row(answer.json()["id"])["meta_data"].items() >= labels.items()


REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    (CHAT, {"n": 2, "temperature": 0}, "n", "temperature"),
    (CHAT, {"n": 0}, "n", "1"),
    (CHAT, {"n": 129}, "n", "128"),
    (CHAT, {"logit_bias": {"x": 1}}, "logit_bias", "token ids"),
    (CHAT, {"logit_bias": {"1": 101}}, "logit_bias.1", "100"),
    (CHAT, {"logit_bias": {"2000000": 1}}, "logit_bias", "2000000"),
    (CHAT, {"allowed_token_ids": []}, "allowed_token_ids", "1"),
    (CHAT, {"stop_token_ids": [-1]}, "stop_token_ids.0", "0"),
    (CHAT, {"priority": 1}, "priority", "priority"),
    (CHAT, {"cache_salt": ""}, "cache_salt", "1"),
    (CHAT, {"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message", "add_"),
    (CHAT, {"guided_json": {}}, "guided_json", "structured_outputs"),
    (CHAT, {"metadata": {"a": 1}}, "metadata.a", "string"),
    (CHAT, {"metadata": {str(k): "" for k in range(17)}}, "metadata", "16"),
    (CHAT, {"prompt_logprobs": 1, "stream": True}, "stream", "prompt_logprobs"),
    (COMPLETIONS, {"prompt": "a", "suffix": "b"}, "suffix", "fill in"),
    (COMPLETIONS, {"prompt": "a", "best_of": 2}, "best_of", "'n'"),
    (COMPLETIONS, {"prompt": [1.5]}, "prompt.0", "integer"),
    (COMPLETIONS, {"prompt": []}, "prompt", "at least 1"),
    (COMPLETIONS, {"prompt": [[97], [1114112]]}, "prompt", "1114112"),
    (COMPLETIONS, {"prompt": ["a"] * 600, "n": 2}, "n", "1024"),
    (COMPLETIONS, {"prompt": ["a"] * 1025}, "prompt", "1024"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("url", "fields", "param", "word"), REFUSED)
def test_what_can_not_be_honoured_is_a_400_before_any_byte(
    simulated: Gateway,
    client: httpx.Client,
    url: str,
    fields: dict[str, Any],
    param: str,
    word: str,
    stream: bool,
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]} if url == CHAT else {}
    request_id = f"refused-{uuid4().hex}"
    answer = client.post(url, json=body | {"stream": stream} | fields, headers={"x-request-id": request_id})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param, error
    assert word in error["message"], error
    assert simulated.rows("request_id = $1", request_id) == []
