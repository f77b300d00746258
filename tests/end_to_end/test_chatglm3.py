"""ChatGLM3 through the real vLLM: a tiny checkpoint with crafted answers, unmodified clients.

With the published tokenizer.model where it is at hand, else with a small one.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, SecretStr

from tests.end_to_end.served import Gateway, launch, running

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

from adapters.chatglm3.calls import write_call
from tests.chatglm3.checkpoint import small_tokenizer_model, write_checkpoint
from tests.end_to_end.chatglm3_scripts import (
    ALONE,
    ANSWER,
    ARGUMENTS,
    ATTACK,
    BROKEN,
    BROKEN_CALL,
    CODE,
    FINAL,
    FORMAT,
    HELLO,
    INTERPRETER,
    PIECES,
    PREAMBLE,
    PRIMES,
    RAIN,
    RESULT,
    SINCE,
    TOOLS,
    WEATHER,
    WHEN,
    after_question,
    segment,
)

pytestmark = pytest.mark.vllm


@pytest.fixture
def served(chatglm3: Gateway) -> Gateway:
    return chatglm3


@pytest.fixture
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def said(*texts: str) -> list[Any]:
    return [{"role": "user", "content": text} for text in texts]


class Streamed:
    """What a stream adds up to."""

    def __init__(self, chunks: Sequence[Any]) -> None:
        self.id = chunks[0].id
        self.usage = chunks[-1].usage
        self.text, self.finish_reason = "", None
        self.calls: list[tuple[str, str, str]] = []
        self.function_call: tuple[str, str] | None = None
        for choice in (choice for chunk in chunks for choice in chunk.choices):
            self.text += choice.delta.content or ""
            self.finish_reason = choice.finish_reason or self.finish_reason
            for call in choice.delta.tool_calls or ():
                if call.id is not None:
                    assert call.index == len(self.calls)
                    self.calls.append((call.id, call.function.name, call.function.arguments))
                else:
                    id_, name, arguments = self.calls[call.index]
                    self.calls[call.index] = (id_, name, arguments + call.function.arguments)
            if (function := choice.delta.function_call) is not None:
                name, arguments = self.function_call or (function.name, "")
                self.function_call = (name, arguments + function.arguments)


def both(client: openai.OpenAI, served: Gateway, **asked_for: Any) -> Any:
    """The answer in one piece, after its stream and the rows of both were found to say the same."""
    asked_for = {"model": "chatglm3-6b", "max_tokens": 200} | asked_for
    create: Any = client.chat.completions.create
    whole = create(**asked_for)
    chunks = list(create(**asked_for, stream=True, stream_options={"include_usage": True}))
    streamed, choice = Streamed(chunks), whole.choices[0]
    calls = [(one.function.name, one.function.arguments) for one in choice.message.tool_calls or ()]
    assert streamed.text == (choice.message.content or "")
    assert [one[1:] for one in streamed.calls] == calls
    assert streamed.finish_reason == choice.finish_reason
    assert streamed.usage.completion_tokens == whole.usage.completion_tokens
    for id_ in (whole.id, streamed.id):
        row = served.row(id_)
        assert row["response"] == streamed.text
        assert row["completion_tokens"] == whole.usage.completion_tokens
        assert row["prompt_tokens"] == whole.usage.prompt_tokens
        stored = [(one["name"], one["arguments"]) for one in row["details"].get("tool_calls", [])]
        assert stored == calls or choice.message.function_call
    if choice.message.function_call:
        assert streamed.function_call == (
            choice.message.function_call.name,
            choice.message.function_call.arguments,
        )
    return whole


def test_the_model_is_known_by_its_name_and_its_authors_defaults(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "chatglm3-6b"
    fields = client.models.retrieve("chatglm3-6b").model_dump()
    assert fields["max_model_len"] == 8192
    assert fields["sampling_defaults"] == {"temperature": 0.8, "top_p": 0.8}


def test_a_plain_answer_is_the_text_of_its_ids(client: openai.OpenAI, served: Gateway) -> None:
    whole = both(client, served, messages=said(HELLO))
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (ANSWER, "stop")
    assert whole.usage.completion_tokens == len(segment(ANSWER)) + 1
    assert whole.usage.prompt_tokens == len(after_question(HELLO)) + len(FORMAT.encode("").token_ids)


def test_the_users_token_ends_an_answer_and_the_placeholder_is_cleaned_up(
    client: openai.OpenAI, served: Gateway
) -> None:
    whole = both(client, served, messages=said(WHEN))
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("到2023年为止。", "stop")


@pytest.mark.parametrize("tools", [TOOLS, [WEATHER, INTERPRETER]], ids=["wrapped", "flat"])
def test_a_call_its_result_and_the_answer(client: openai.OpenAI, served: Gateway, tools: list[Any]) -> None:
    first = both(client, served, messages=said(RAIN), tools=tools).choices[0]
    assert (first.message.content, first.finish_reason) == (PREAMBLE, "tool_calls")
    (call,) = first.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", ARGUMENTS)
    messages = [
        *said(RAIN),
        first.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": RESULT},
    ]
    last = both(client, served, messages=messages, tools=tools).choices[0]
    assert (last.message.content, last.finish_reason) == (FINAL, "stop")


def test_functions_are_answered_in_kind(client: openai.OpenAI, served: Gateway) -> None:
    first = both(client, served, messages=said(RAIN), functions=[WEATHER]).choices[0]
    assert first.finish_reason == "function_call"
    assert first.message.tool_calls is None
    call = first.message.function_call
    assert (call.name, json.loads(call.arguments)) == ("get_weather", ARGUMENTS)
    messages = [
        *said(RAIN),
        {"role": "assistant", "content": PREAMBLE, "function_call": call.model_dump()},
        {"role": "function", "name": "get_weather", "content": RESULT},
    ]
    last = both(client, served, messages=messages, functions=[WEATHER], function_call="auto")
    assert last.choices[0].message.content == FINAL


def test_a_call_that_does_not_parse_is_text(client: openai.OpenAI, served: Gateway) -> None:
    choice = both(client, served, messages=said(BROKEN), tools=TOOLS).choices[0]
    assert choice.message.content == f"get_weather\n {BROKEN_CALL}"
    assert choice.finish_reason == "stop"


def test_the_interpreter_is_called_with_its_code(client: openai.OpenAI, served: Gateway) -> None:
    choice = both(client, served, messages=said(PRIMES), tools=TOOLS).choices[0]
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("interpreter", {"code": CODE})


def test_a_stop_string_ends_the_text(client: openai.OpenAI, served: Gateway) -> None:
    for stop in ("\n", "GLM", "👋"):
        whole = client.chat.completions.create(model="chatglm3-6b", messages=said(HELLO), stop=stop)
        streamed = Streamed(
            list(
                client.chat.completions.create(
                    model="chatglm3-6b", messages=said(HELLO), stop=stop, stream=True
                )
            )
        )
        assert whole.choices[0].message.content == streamed.text == ANSWER.partition(stop)[0]
        assert whole.choices[0].finish_reason == streamed.finish_reason == "stop"
        for id_ in (whole.id, streamed.id):
            assert (served.row(id_)["response"], served.row(id_)["status"]) == (streamed.text, "completed")


CONTENT = PIECES.encode(ANSWER)


def test_a_stop_string_may_be_part_of_the_text_and_is_sought_after_min_tokens(
    client: openai.OpenAI, served: Gateway
) -> None:
    header = len(PIECES.encode("\n"))
    line = len(PIECES.encode(ANSWER.partition("\n")[0]))
    for stop, min_tokens, ends in (
        ("\n", 0, ANSWER.index("\n")),
        # With the first of the two line breaks.
        ("\n", header + line + 1, ANSWER.index("\n") + 1),
        ("\n", header + line + 2, None),
        ("GLM", header, ANSWER.index("GLM")),
        ("。\n\n", header + line, ANSWER.index("。\n\n")),
    ):
        for include in (False, True):
            rules = {"stop": [stop], "min_tokens": min_tokens, "include_stop_str_in_output": include}
            whole = both(client, served, messages=said(HELLO), extra_body=rules)
            expected = ANSWER if ends is None else ANSWER[: ends + len(stop) * include]
            assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (expected, "stop")


def test_min_tokens_hold_the_end_off_and_ignore_eos_goes_beyond_it(
    client: openai.OpenAI, served: Gateway
) -> None:
    length = len(segment(ANSWER))
    for rules in ({"min_tokens": length + 5}, {"ignore_eos": True}):
        whole = both(
            client,
            served,
            messages=said(HELLO),
            max_tokens=length + 5,
            seed=1,
            temperature=1,
            extra_body=rules,
        )
        assert whole.choices[0].message.content.startswith(ANSWER)
        assert whole.choices[0].finish_reason == "length"
        assert whole.usage.completion_tokens == length + 5


def test_a_stop_token_of_the_clients_own_ends_the_text_before_it(
    client: openai.OpenAI, served: Gateway
) -> None:
    full_stop = PIECES.encode("x。")[-1]
    whole = both(client, served, messages=said(HELLO), extra_body={"stop_token_ids": [full_stop]})
    assert whole.choices[0].message.content == ANSWER.partition("。")[0]
    assert whole.choices[0].finish_reason == "stop"


def test_special_tokens_are_text_where_they_are_asked_for(client: openai.OpenAI, served: Gateway) -> None:
    shown: dict[str, Any] = {"skip_special_tokens": False}
    plain = both(client, served, messages=said(HELLO), extra_body=shown)
    assert plain.choices[0].message.content == f" \n {ANSWER}"
    call = both(client, served, messages=said(RAIN), extra_body=shown)
    assert call.choices[0].message.content == (
        f" \n {PREAMBLE}<|assistant|> get_weather\n {write_call(ARGUMENTS)}"
    )
    assert call.choices[0].finish_reason == "stop"
    with_end = both(
        client, served, messages=said(WHEN), extra_body=shown | {"include_stop_str_in_output": True}
    )
    assert with_end.choices[0].message.content == f" \n {SINCE}<|user|>"
    with pytest.raises(openai.BadRequestError, match="tool_choice") as refused:
        client.chat.completions.create(
            model="chatglm3-6b", messages=said(RAIN), tools=TOOLS, extra_body=shown
        )
    assert refused.value.param == "skip_special_tokens"


def test_an_open_message_is_continued(client: openai.OpenAI, served: Gateway) -> None:
    begun = ANSWER[: ANSWER.index("ChatGLM3") - 1]
    assert CONTENT[: len(PIECES.encode(begun))] == PIECES.encode(begun)
    goes_on: dict[str, Any] = {"continue_final_message": True}
    messages = [*said(HELLO), {"role": "assistant", "content": begun}]
    whole = both(client, served, messages=messages, extra_body=goes_on)
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (
        ANSWER[len(begun) :],
        "stop",
    )
    empty = both(
        client, served, messages=[*messages[:1], {"role": "assistant", "content": ""}], extra_body=goes_on
    )
    assert empty.choices[0].message.content == ANSWER
    called = both(
        client,
        served,
        messages=[*said(RAIN), {"role": "assistant", "content": PREAMBLE}],
        tools=TOOLS,
        extra_body=goes_on,
    ).choices[0]
    assert (called.message.content, called.finish_reason) == (None, "tool_calls")
    assert json.loads(called.message.tool_calls[0].function.arguments) == ARGUMENTS
    with pytest.raises(openai.BadRequestError, match="assistant") as refused:
        client.chat.completions.create(model="chatglm3-6b", messages=said(HELLO), extra_body=goes_on)
    assert refused.value.param == "continue_final_message"


def test_without_a_generation_prompt_the_model_begins_its_turn_itself(
    client: openai.OpenAI, served: Gateway
) -> None:
    alone = both(client, served, messages=said(ALONE), extra_body={"add_generation_prompt": False})
    asked = both(client, served, messages=said(ALONE))
    assert alone.choices[0].message.content == asked.choices[0].message.content == FINAL
    assert alone.usage.prompt_tokens == asked.usage.prompt_tokens - 1


def test_ids_are_completed_as_they_are(client: openai.OpenAI) -> None:
    prompt = [*FORMAT.encode("").token_ids, *after_question(HELLO)]
    for shown, text in ((True, f" \n {ANSWER}</s>"), (False, f" \n {ANSWER}")):
        completed = client.completions.create(
            model="chatglm3-6b",
            prompt=prompt,
            max_tokens=200,
            n=2,
            extra_body={"skip_special_tokens": not shown, "include_stop_str_in_output": True},
        )
        assert [choice.text for choice in completed.choices] == [text, text]


@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_a_completion_with_and_without_what_prompts_begin_with(
    client: openai.OpenAI, add_special_tokens: bool
) -> None:
    completed = client.completions.create(
        model="chatglm3-6b",
        prompt="你好",
        max_tokens=1,
        extra_body={"add_special_tokens": add_special_tokens, "return_token_ids": True},
    )
    plain = list(FORMAT.plain_ids("你好"))
    begun = list(FORMAT.encode("你好").token_ids)
    assert completed.choices[0].model_extra is not None
    assert completed.choices[0].model_extra["prompt_token_ids"] == (begun if add_special_tokens else plain)
    assert len(begun) == len(plain) + 2


def test_logprobs_join_to_the_text(client: openai.OpenAI, served: Gateway) -> None:
    whole = both(client, served, messages=said(HELLO), logprobs=True, top_logprobs=2)
    tokens = whole.choices[0].logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens) == ANSWER.encode()
    assert all(len(token.top_logprobs) == 2 and token.logprob > -0.1 for token in tokens)
    completed = client.completions.create(
        model="chatglm3-6b", prompt="x", max_tokens=4, logprobs=1, temperature=0
    )
    logprobs = completed.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert len(logprobs.tokens) == 4


Choice = Literal["none", "auto", "required"]
DIAL = {
    "name": "set_dial",
    "parameters": {
        "type": "object",
        "properties": {
            "level": {"type": "integer", "minimum": 0, "maximum": 9},
            "mode": {"enum": ["暖", "it's", 'a"b']},
            "on": {"type": "boolean"},
        },
        "required": ["level", "mode", "on"],
    },
}


def check_dial(arguments: str) -> None:
    given = json.loads(arguments)
    assert given.keys() == {"level", "mode", "on"}
    assert given["level"] in range(10)
    assert given["mode"] in ("暖", "it's", 'a"b')
    assert isinstance(given["on"], bool)


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "set_dial"}}], ids=["required", "named"]
)
@pytest.mark.parametrize("seed", range(4))
def test_a_forced_call_is_valid_from_a_model_that_writes_noise(
    client: openai.OpenAI, served: Gateway, choice: Any, seed: int
) -> None:
    tools = [{"type": "function", "function": DIAL}]
    if choice == "required":
        tools.append({"type": "function", "function": {**DIAL, "name": "set_other"}})
    whole = both(
        client, served, messages=said("anything"), tools=tools, tool_choice=choice, seed=seed, max_tokens=300
    )
    assert whole.choices[0].finish_reason == "tool_calls"
    (call,) = whole.choices[0].message.tool_calls
    check_dial(call.function.arguments)


def test_tool_choice_none_gives_text(client: openai.OpenAI, served: Gateway) -> None:
    whole = both(
        client, served, messages=said("anything"), tools=TOOLS, tool_choice="none", seed=1, max_tokens=20
    )
    assert whole.choices[0].message.content
    assert whole.choices[0].message.tool_calls is None


class Dial(BaseModel):
    """Settings of a dial."""

    level: Literal[1, 2, 3]
    on: bool


def test_json_by_schema_is_valid_from_a_model_that_writes_noise(
    client: openai.OpenAI, served: Gateway
) -> None:
    parsed = client.chat.completions.parse(
        model="chatglm3-6b", messages=said("anything"), response_format=Dial, seed=3, max_tokens=300
    )
    assert parsed.choices[0].message.parsed is not None
    schema = {"type": "json_schema", "json_schema": {"name": "d", "schema": Dial.model_json_schema()}}
    whole = both(client, served, messages=said("x"), response_format=schema, seed=4, max_tokens=300)
    Dial.model_validate_json(whole.choices[0].message.content)
    limited = both(
        client, served, messages=said("x"), response_format={"type": "json_object"}, max_tokens=5, seed=4
    )
    assert limited.choices[0].message.content.startswith("{")


@pytest.mark.parametrize(
    ("wanted", "pattern"),
    [
        ({"choice": ["是", "否 no", " maybe"]}, "是|否 no| maybe"),
        ({"regex": "[a-c]{3}-[0-9]{2}"}, "[a-c]{3}-[0-9]{2}"),
        ({"grammar": 'root ::= "a" [0-9] "好"'}, "a[0-9]好"),
        ({"json": {"type": "integer", "minimum": 1, "maximum": 9}}, "[1-9]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_vllms_structured_outputs(
    client: openai.OpenAI, served: Gateway, wanted: dict[str, Any], pattern: str
) -> None:
    for seed in range(3):
        whole = both(
            client,
            served,
            messages=said("anything"),
            seed=seed,
            max_tokens=100,
            extra_body={"structured_outputs": wanted},
        )
        assert re.fullmatch(pattern, whole.choices[0].message.content)


def test_a_bad_grammar_is_a_400_before_any_byte(client: openai.OpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(
                model="chatglm3-6b",
                messages=said("x"),
                stream=stream,
                extra_body={"structured_outputs": {"grammar": "root ::= ("}},
            )


def test_tokens_are_counted_as_usage_counts_them(served: Gateway, client: openai.OpenAI) -> None:
    with httpx.Client(base_url=served.base_url) as http:
        for body in (
            {"messages": said(HELLO)},
            {"messages": said(ATTACK), "tools": TOOLS},
            {"messages": said("x"), "tools": TOOLS, "tool_choice": "none"},
        ):
            counted = http.post("/tokenize", json=body).json()
            answer = http.post("/v1/chat/completions", json=body | {"max_tokens": 1}).json()
            assert counted["count"] == len(counted["tokens"]) == answer["usage"]["prompt_tokens"]
            assert counted["max_model_len"] == 8192
        prompt = http.post("/tokenize", json={"prompt": ATTACK, "return_token_strs": True}).json()
        answer = http.post("/v1/completions", json={"prompt": ATTACK, "max_tokens": 1}).json()
        assert prompt["count"] == len(prompt["token_strs"]) == answer["usage"]["prompt_tokens"]
        back = http.post("/detokenize", json={"tokens": prompt["tokens"][2:]}).json()
        assert back == {"prompt": ATTACK}
        bare = http.post("/tokenize", json={"prompt": ATTACK, "add_special_tokens": False}).json()
        assert bare["tokens"] == prompt["tokens"][2:]


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"8192") as refused:
        client.chat.completions.create(model="chatglm3-6b", messages=said("1 " * 9000))
    assert refused.value.code == "context_length_exceeded"
    assert re.search(r"has \d{5} tokens", str(refused.value))


def test_a_broken_role_rule_names_the_message(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"messages\[1\]"):
        client.chat.completions.create(model="chatglm3-6b", messages=said("a", "b"))
    image: Any = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}
    with pytest.raises(openai.BadRequestError, match="image_url"):
        client.chat.completions.create(model="chatglm3-6b", messages=[image])


@tool
def get_weather(city: str, days: int = 1) -> str:
    """Tells the weather."""
    return RESULT


def langchain(served: Gateway, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="chatglm3-6b",
        base_url=f"{served.base_url}/v1",
        api_key=SecretStr("none"),
        max_retries=0,
        **options,
    )


def test_langchain_bind_tools(served: Gateway) -> None:
    from langchain_core.messages import HumanMessage, ToolMessage

    model = langchain(served).bind_tools([get_weather])
    first = model.invoke([HumanMessage(RAIN)])
    (call,) = first.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", ARGUMENTS)
    last = model.invoke([HumanMessage(RAIN), first, ToolMessage(RESULT, tool_call_id=call["id"])])
    assert last.content == FINAL
    whole: Any = None
    for chunk in model.stream([HumanMessage(RAIN)]):
        whole = chunk if whole is None else whole + chunk
    assert (whole.content, whole.tool_calls[0]["args"]) == (PREAMBLE, ARGUMENTS)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output(served: Gateway, method: Any) -> None:
    model = langchain(served, seed=5, max_completion_tokens=300)
    assert isinstance(model.with_structured_output(Dial, method=method).invoke("anything"), Dial)


def test_a_published_32k_folder_with_bin_weights_and_another_vocabulary(data_dir: Path) -> None:
    folder = data_dir / "chatglm3-6b-32k"
    write_checkpoint(
        folder,
        small_tokenizer_model(data_dir),
        [],
        weights="bin",
        shards=2,
        seq_length=32768,
        rope_ratio=50.0,
    )
    defaults = '{"temperature": 0.5, "repetition_penalty": 1.1}'
    options = ("--model", str(folder), "--served-model-name", "mine", "--sampling-defaults", defaults)
    with running(data_dir / "data", *options) as gateway, httpx.Client(base_url=gateway.base_url) as http:
        (model,) = http.get("/v1/models").json()["data"]
        assert (model["id"], model["max_model_len"]) == ("mine", 32768)
        assert model["sampling_defaults"] == {"temperature": 0.5, "top_p": 0.8, "repetition_penalty": 1.1}
        body = {"messages": said("Hello"), "max_tokens": 8}
        answer = http.post("/v1/chat/completions", json=body).json()
        assert answer["usage"]["completion_tokens"] == 8
        assert answer["choices"][0]["finish_reason"] == "length"
    assert "remote code was loaded" not in gateway.output


def test_a_folder_without_its_tokenizer_is_refused_in_one_sentence(data_dir: Path) -> None:
    folder = data_dir / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "chatglm", "padded_vocab_size": 65024}')
    gateway = launch(data_dir / "data", "--model", str(folder))
    assert gateway.wait() == 1
    assert "tokenizer.model" in gateway.output.splitlines()[-1]
