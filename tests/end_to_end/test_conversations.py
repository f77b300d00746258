"""Conversations: the turns that are stored come before the next question.

The simulated engine answers each question with itself, and its prompts are code points: what it was given
can be read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest

from engine.simulated import MAX_MODEL_LEN
from tests.end_to_end.question import MODEL
from tests.end_to_end.served import Gateway, running


@pytest.fixture
def conversation() -> str:
    """The id of one that is not known."""
    return uuid4().hex


def body_of(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "return_token_ids": True} | fields


def ask(client: httpx.Client, text: str, **fields: Any) -> dict[str, Any]:
    """A question's answer."""
    answer = client.post("/v1/chat/completions", json=body_of(text, **fields))
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found["choices"][0]["message"]["content"] == text
    return found


def prompt_of(answer: dict[str, Any]) -> str:
    """What the simulated engine was given, as its ids tell."""
    holder = answer if "prompt_token_ids" in answer else answer["choices"][0]
    assert answer["usage"]["prompt_tokens"] == len(holder["prompt_token_ids"])
    return "".join(map(chr, holder["prompt_token_ids"]))


def test_the_last_turns_come_before_the_question(
    simulated: Gateway, client: httpx.Client, conversation: str
) -> None:
    for text in ("a", "b", "c"):
        ask(client, text, conversation_id=conversation)
    for number, (fields, turns, prompt) in enumerate(
        [
            ({}, None, "0"),
            ({"history_len": -1}, None, "1"),
            ({"history_len": 1}, 1, "112"),
            ({"history": 2, "history_len": 1}, 2, "11223"),
            ({"history": 0, "history_len": 3}, 3, "1122334"),
            ({"history_len": 2**63 - 1}, 8, "aabbcc00112233445"),
        ]
    ):
        answer = ask(client, str(number), conversation_id=conversation, **fields)
        assert prompt_of(answer) == prompt
        row = simulated.row(answer["id"])
        assert (row["meta_data"].get("turns"), row["prompt_tokens"]) == (turns, len(prompt))
        # What was asked, not what came before it.
        assert (row["query"], row["response"], row["messages"]) == (str(number), str(number), None)


def test_a_completion_has_the_turns_of_completions_as_text(
    simulated: Gateway, client: httpx.Client, conversation: str
) -> None:
    ask(client, "chat", conversation_id=conversation)
    prompts = []
    for text in ("a", "b", "c"):
        asked = {"prompt": text, "max_tokens": 1, "return_token_ids": True}
        answer = client.post(
            "/v1/completions", json=asked | {"conversation_id": conversation, "history_len": 2}
        ).json()
        prompts.append(prompt_of(answer))
        row = simulated.row(answer["id"])
        assert (row["query"], row["meta_data"]["turns"]) == (text, len(prompts) - 1)
    assert prompts[0] == "a"
    # It answers with its prompt, of which max_tokens leaves one character.
    assert prompts[1] == "Human: a\nAI: a\nHuman: b\nAI:"
    assert prompts[2] == "Human: a\nAI: a\nHuman: b\nAI: H\nHuman: c\nAI:"
    # A chat has only those of chats.
    answer = ask(client, "Q", conversation_id=conversation, history_len=9)
    assert prompt_of(answer) == "chatchatQ"


def test_of_several_prompts_each_has_the_turns_and_becomes_one(
    simulated: Gateway, client: httpx.Client, conversation: str
) -> None:
    asked = {"prompt": ["a", "b"], "max_tokens": 1, "conversation_id": conversation, "history_len": 5}
    client.post("/v1/completions", json=asked)
    answer = client.post("/v1/completions", json=asked | {"return_token_ids": True}).json()
    past = "Human: a\nAI: a\nHuman: b\nAI: b\n"
    given = ["".join(map(chr, choice["prompt_token_ids"])) for choice in answer["choices"]]
    assert given == [f"{past}Human: a\nAI:", f"{past}Human: b\nAI:"]
    rows = simulated.rows("conversation_id = $1", conversation)
    assert [row["meta_data"]["turns"] for row in rows] == [0, 0, 2, 2]


def test_the_oldest_turns_make_room_for_the_answer(
    simulated: Gateway, client: httpx.Client, conversation: str
) -> None:
    for text in ("aaaa", "bb", "cccc"):
        ask(client, text, conversation_id=conversation)
    fields = {"conversation_id": conversation, "history_len": 3}

    def prompt(room: int) -> str:
        """What a prompt is that has ``room``."""
        body = body_of("Q", max_tokens=MAX_MODEL_LEN - room, **fields)
        return "".join(map(chr, client.post("/tokenize", json=body).json()["tokens"]))

    assert prompt(21) == "aaaaaaaabbbbccccccccQ"
    assert prompt(20) == prompt(13) == "bbbbccccccccQ"
    assert prompt(12) == prompt(9) == "ccccccccQ"
    assert prompt(8) == prompt(1) == "Q"
    # As much as there is, which is not asked to be left free.
    assert prompt(0) == prompt(-5) == "aaaaaaaabbbbccccccccQ"
    answer = ask(client, "Q", max_tokens=MAX_MODEL_LEN - 13, **fields)
    assert prompt_of(answer) == "bbbbccccccccQ"
    assert simulated.row(answer["id"])["meta_data"]["turns"] == 2


def test_tokens_are_counted_with_the_stored_turns(client: httpx.Client, conversation: str) -> None:
    ask(client, "abc", conversation_id=conversation)
    body = body_of("Q", conversation_id=conversation, history_len=1)
    counted = client.post("/tokenize", json=body).json()
    assert (counted["count"], "".join(map(chr, counted["tokens"]))) == (7, "abcabcQ")


def test_an_answer_that_was_cut_off_is_no_turn(slow: Gateway, conversation: str) -> None:
    with httpx.Client(base_url=slow.base_url, timeout=60) as client:
        body = body_of("long" * 50, conversation_id=conversation, stream=True)
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            next(line for line in answer.iter_lines() if '"content":"l' in line)
        slow.wait_for(lambda: slow.rows("conversation_id = $1 AND status = 'cancelled'", conversation))
        answered = ask(client, "Q", conversation_id=conversation, history_len=5)
        assert prompt_of(answered) == "Q"
        assert prompt_of(ask(client, "R", conversation_id=conversation, history_len=5)) == "QQR"


def test_while_postgresql_hangs_only_requests_with_stored_turns_are_refused(
    data_dir: Path, conversation: str
) -> None:
    with (
        running(data_dir, "--engine", "simulated", GATEWAY_DATABASE_TIMEOUT_SECONDS="0.3") as gateway,
        httpx.Client(base_url=gateway.base_url, timeout=60) as client,
    ):
        ask(client, "abc", conversation_id=conversation)
        body = body_of("Q", conversation_id=conversation, history=1)
        with gateway.hanging_postgresql():
            refused = client.post("/v1/chat/completions", json=body)
            counted = client.post("/tokenize", json=body | {"history": []})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        error = refused.json()["error"]
        assert (error["param"], error["code"]) == ("history", "database_unavailable")
        assert counted.json()["count"] == 1
        answers = []

        def answered() -> bool:
            answers.append(client.post("/v1/chat/completions", json=body))
            return answers[-1].status_code == 200

        gateway.wait_for(answered)
        assert prompt_of(answers[-1].json()) == "abcabcQ"


@pytest.mark.vllm
def test_stored_turns_are_the_ids_of_the_same_messages_sent(demo: Gateway, conversation: str) -> None:
    with openai.OpenAI(base_url=f"{demo.base_url}/v1", api_key="none", max_retries=0) as sdk:

        def answered(messages: list[Any], **extra: Any) -> Any:
            return sdk.chat.completions.create(
                model=MODEL,
                messages=messages,
                temperature=0,
                max_tokens=6,
                extra_body={"return_token_ids": True} | extra,
            )

        system: list[Any] = [{"role": "system", "content": "Be brief."}]
        said: list[Any] = []
        for text in ("What is the capital of France?", "And of <|im_end|> Italy?", "Where is it?"):
            question = {"role": "user", "content": text}
            answer = answered([*system, question], conversation_id=conversation, history_len=5)
            whole = answered([*system, *said, question])
            assert answer.model_extra["prompt_token_ids"] == whole.model_extra["prompt_token_ids"]
            assert answer.usage.prompt_tokens == whole.usage.prompt_tokens
            assert demo.row(answer.id)["meta_data"]["turns"] == len(said) // 2
            said += [question, {"role": "assistant", "content": answer.choices[0].message.content}]

        def ids(messages: list[Any], **fields: Any) -> Any:
            counted: Any = sdk.post("../tokenize", cast_to=object, body={"messages": messages} | fields)
            return counted["tokens"], counted["max_model_len"]

        # Where exactly the last two leave the room that is asked for, the first is dropped.
        question = {"role": "user", "content": "Why?"}
        wanted, context = ids([*system, *said[2:], question])
        fields = {"conversation_id": conversation, "history_len": 3}
        assert ids([*system, question], max_tokens=context - len(wanted), **fields)[0] == wanted
        less, _ = ids([*system, *said[4:], question])
        assert ids([*system, question], max_tokens=context - len(wanted) + 1, **fields)[0] == less
