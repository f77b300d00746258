from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.base import (
    Delta,
    DeltaStream,
    FinishReason,
    RequestRefused,
    Sampling,
    StructuredOutput,
    TokenLogprob,
)
from engine.simulated import COUNTS, MAX_MODEL_LEN, SimulatedEngine, cut
from engine.vllm_engine import prepare_environment
from tests.strategies import echo_request, endings, few_letters, texts

AN_HOUR_MS = 3_600_000.0

stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4).map(tuple)


async def rest_of(stream: DeltaStream) -> list[Delta]:
    deltas = [await stream.next()]
    while deltas[-1].finish_reason is None:
        deltas.append(await stream.next())
    return deltas


async def answer(
    text: str,
    *,
    max_tokens: int = 1000,
    stop: tuple[str, ...] = (),
    stream: bool = True,
    sampling: Sampling | None = None,
) -> list[Delta]:
    request = echo_request(text, max_tokens=max_tokens, stop=stop, stream=stream, sampling=sampling)
    return await rest_of(await SimulatedEngine().submit(request))


def joined(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def token_ids(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def generated_one_by_one(text: str, sampling: Sampling) -> tuple[str, int, FinishReason]:
    """The answer's text, its tokens and its end, found by generating it."""
    include = sampling.include_stop_str_in_output
    for count in range(1, len(text) + 1):
        so_far = text[:count]
        if count > sampling.min_tokens:
            if ord(so_far[-1]) in sampling.stop_token_ids:
                return so_far if include else so_far[:-1], count, "stop"
            for stop in sampling.stop:
                if so_far.endswith(stop):
                    return so_far if include else so_far.removesuffix(stop), count, "stop"
        if count == sampling.max_tokens < len(text):
            return so_far, count, "length"
    return text, len(text), "stop"


@given(texts)
async def test_the_answer_is_the_last_message_one_token_per_code_point(text: str) -> None:
    deltas = await answer(text)
    assert joined(deltas) == text
    assert token_ids(deltas) == [ord(character) for character in text]
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["stop"]
    assert deltas[-1].prompt_tokens == len(text)
    assert len(deltas) == max(len(text), 1)


@given(few_letters, endings())
async def test_an_answer_ends_as_if_generated_one_by_one(text: str, sampling: Sampling) -> None:
    expected = generated_one_by_one(text, sampling)
    for stream in (True, False):
        deltas = await answer(text, stream=stream, sampling=sampling)
        assert (joined(deltas), len(token_ids(deltas)), deltas[-1].finish_reason) == expected
        assert token_ids(deltas) == [ord(character) for character in text[: expected[1]]]


@pytest.mark.parametrize(
    ("fields", "text", "tokens"),
    [
        ({"stop": ("b",)}, "a", 2),
        ({"stop": ("b",), "include_stop_str_in_output": True}, "ab", 2),
        ({"stop": ("b",), "min_tokens": 2}, "abca", 5),
        ({"stop": ("bc",), "min_tokens": 2}, "a", 3),
        ({"stop_token_ids": (ord("c"),)}, "ab", 3),
        ({"stop_token_ids": (ord("c"),), "include_stop_str_in_output": True}, "abc", 3),
        ({"stop_token_ids": (ord("b"),), "min_tokens": 2}, "abca", 5),
        ({"stop_token_ids": (ord("c"),), "stop": ("bc",)}, "ab", 3),
        ({"min_tokens": 9}, "abcabc", 6),
        ({"ignore_eos": True}, "abcabc", 6),
    ],
)
async def test_what_ends_an_answer(fields: Mapping[str, Any], text: str, tokens: int) -> None:
    deltas = await answer("abcabc", sampling=Sampling(100, **fields))
    assert (joined(deltas), len(token_ids(deltas)), deltas[-1].finish_reason) == (text, tokens, "stop")


@given(
    few_letters,
    endings(),
    st.none() | st.integers(0, 3),
    st.none() | st.integers(0, 3),
    st.booleans(),
)
async def test_an_echo_is_certain(
    text: str, sampling: Sampling, logprobs: int | None, prompt_logprobs: int | None, stream: bool
) -> None:
    asked = replace(sampling, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
    deltas = await answer(text, stream=stream, sampling=asked)
    expected = (
        []
        if logprobs is None
        else [TokenLogprob(id_, 0.0, ((id_, 0.0),)[:logprobs], 1) for id_ in token_ids(deltas)]
    )
    assert [one for delta in deltas for one in delta.logprobs] == expected
    of_prompt = list(deltas[0].prompt_logprobs)
    if prompt_logprobs is None or not text:
        assert of_prompt == []
    else:
        certain = [TokenLogprob(ord(one), 0.0, ((ord(one), 0.0),)[:prompt_logprobs]) for one in text]
        assert of_prompt == [None, *certain[1:]]
    assert not any(delta.prompt_logprobs for delta in deltas[1:])


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 2.0, "top_p": 0.1, "top_k": 1, "min_p": 1.0, "seed": 7},
        {"presence_penalty": 2.0, "frequency_penalty": -2.0, "repetition_penalty": 9.0},
        {"logit_bias": {ord("a"): -100.0, sys.maxunicode: 100.0}},
        {"bad_words": ("d", "ca b"), "allowed_token_ids": tuple(map(ord, "abc"))},
        {"skip_special_tokens": False, "spaces_between_special_tokens": False},
    ],
)
async def test_what_only_moves_probabilities_changes_nothing(fields: Mapping[str, Any]) -> None:
    assert joined(await answer("abcabc", sampling=Sampling(100, **fields))) == "abcabc"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured": StructuredOutput("json_object")}, "structured"),
        ({"bad_words": ("x", " ca")}, "bad_words"),
        ({"allowed_token_ids": (ord("a"), ord("b"))}, "allowed_token_ids"),
    ],
)
async def test_what_would_make_another_answer_is_refused(fields: Mapping[str, Any], param: str) -> None:
    with pytest.raises(RequestRefused, match="The simulated engine only echoes: ") as refused:
        await answer("abcabc", sampling=Sampling(100, **fields))
    assert refused.value.param == param


@pytest.mark.parametrize(
    "fields", [{"bad_words": ("ca",)}, {"allowed_token_ids": tuple(map(ord, "ab"))}, {"bad_words": ("cb",)}]
)
async def test_only_the_tokens_of_the_answer_count(fields: Mapping[str, Any]) -> None:
    assert joined(await answer("abca", sampling=Sampling(2, **fields))) == "ab"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stop_token_ids": (sys.maxunicode + 1,)}, "stop_token_ids"),
        ({"stop_token_ids": (-1,)}, "stop_token_ids"),
        ({"logit_bias": {sys.maxunicode + 1: 0.0}}, "logit_bias"),
        ({"logit_bias": {5: 100.5}}, "logit_bias"),
        ({"logit_bias": {5: math.nan}}, "logit_bias"),
        ({"allowed_token_ids": ()}, "allowed_token_ids"),
        ({"allowed_token_ids": (97, -1)}, "allowed_token_ids"),
        ({"min_tokens": 101}, "min_tokens"),
    ],
)
async def test_fields_out_of_range_are_refused(fields: Mapping[str, Any], param: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        await answer("abc", sampling=Sampling(100, **fields))
    assert refused.value.param == param


@pytest.mark.parametrize("token_id", [-1, sys.maxunicode + 1])
async def test_a_prompt_of_what_are_no_code_points_is_refused(token_id: int) -> None:
    with pytest.raises(RequestRefused, match=f"Token id {token_id} .* 0 to {sys.maxunicode}") as refused:
        await SimulatedEngine().submit(replace(echo_request("abc"), prompt_token_ids=[97, token_id]))
    assert refused.value.param == "prompt"


async def test_it_has_no_queue_to_be_earlier_in() -> None:
    with pytest.raises(RequestRefused) as refused:
        await SimulatedEngine().submit(replace(echo_request("abc"), priority=1))
    assert refused.value.param == "priority"


@given(few_letters, stops)
async def test_nothing_that_may_still_become_a_stop_string_is_given_out(
    text: str, stop: tuple[str, ...]
) -> None:
    stream = await SimulatedEngine().submit(echo_request(text, stop=stop))
    given_out = generated = ""
    delta = await stream.next()
    while delta.finish_reason is None:
        given_out += delta.text
        generated += "".join(map(chr, delta.token_ids))
        # Whatever came next, the text given out would stand before the stop string.
        for string in stop:
            ending = next(n for n in range(len(string), -1, -1) if generated.endswith(string[:n]))
            assert len(given_out) <= len(generated) - ending
        assert generated.startswith(given_out)
        delta = await stream.next()


async def test_a_stop_string_ends_the_answer_before_it_and_its_tokens_count() -> None:
    deltas = await answer("one STOP two", stop=("STOP",))
    assert joined(deltas) == "one "
    assert len(token_ids(deltas)) == len("one STOP")
    assert deltas[-1].finish_reason == "stop"


@pytest.mark.parametrize(("stop", "text"), [(("bc", "abc"), "xa"), (("abc", "bc"), "x")])
async def test_of_stop_strings_that_end_together_the_first_listed_wins(
    stop: tuple[str, ...], text: str
) -> None:
    assert joined(await answer("xabcx", stop=stop)) == text


async def test_a_stop_string_across_max_tokens_is_not_completed() -> None:
    deltas = await answer("abcd", max_tokens=2, stop=("bc",))
    assert (joined(deltas), deltas[-1].finish_reason) == ("ab", "length")


@pytest.mark.parametrize(("max_tokens", "reason"), [(2, "length"), (3, "stop"), (4, "stop")])
async def test_an_answer_of_exactly_max_tokens_ended_by_itself(max_tokens: int, reason: str) -> None:
    assert (await answer("abc", max_tokens=max_tokens))[-1].finish_reason == reason


@pytest.mark.parametrize("stream", [True, False])
async def test_an_empty_message_gives_an_empty_answer(stream: bool) -> None:
    (delta,) = await answer("", stream=stream)
    assert (delta.text, list(delta.token_ids), delta.finish_reason) == ("", [], "stop")


async def test_an_answer_that_is_not_streamed_comes_in_one_piece() -> None:
    assert len(await answer("abc" * 100, stream=False)) == 1


@given(
    texts,
    st.integers(0, 30),
    st.sampled_from([None, 0.001, 50_000.0]),
    st.integers(1, 30),
    st.booleans(),
)
async def test_an_abort_at_any_moment_keeps_what_was_generated(
    text: str, read_before: int, tokens_per_second: float | None, max_tokens: int, stream: bool
) -> None:
    # At one token in 1,000 seconds only the first one is there without waiting.
    read_before = min(read_before, 1) if tokens_per_second == 0.001 else read_before
    assume(tokens_per_second != 0.001 or stream or len(text) < 2 or read_before == 0)
    engine = SimulatedEngine(tokens_per_second=tokens_per_second)
    running = await engine.submit(echo_request(text, max_tokens=max_tokens, stream=stream))
    deltas: list[Delta] = []
    while len(deltas) < read_before and not (deltas and deltas[-1].finish_reason):
        deltas.append(await running.next())
    await running.abort()
    if not deltas or deltas[-1].finish_reason is None:
        deltas += await rest_of(running)
    count = len(token_ids(deltas))
    assert joined(deltas) == text[:count]
    assert token_ids(deltas) == [ord(character) for character in joined(deltas)]
    assert deltas[-1].prompt_tokens == len(text)
    whole = min(len(text), max_tokens)
    assert count <= whole
    if count < whole:
        assert deltas[-1].finish_reason == "abort"


@given(texts, st.integers(0, 30), st.sampled_from([None, 50_000.0]), st.booleans(), st.booleans())
async def test_the_counters_have_what_was_given_out(
    text: str, read_before: int, tokens_per_second: float | None, stream: bool, taken: bool
) -> None:
    """Also what an aborted request had generated, ``taken`` or not."""
    prompt, generation = COUNTS.prompt, COUNTS.generation
    running = await SimulatedEngine(tokens_per_second=tokens_per_second).submit(
        echo_request(text, stream=stream)
    )
    deltas: list[Delta] = []
    while len(deltas) < read_before and not (deltas and deltas[-1].finish_reason):
        deltas.append(await running.next())
    await running.abort()
    counted = COUNTS.generation - generation
    if taken and not (deltas and deltas[-1].finish_reason):
        deltas += await rest_of(running)
        assert counted == len(token_ids(deltas))
    assert counted >= len(token_ids(deltas))
    assert COUNTS.generation - generation == counted
    # As in vLLM, a prompt counts when its first token is there.
    assert COUNTS.prompt - prompt == (len(text) if counted else 0)


@given(few_letters, endings(), st.integers(0, 20))
async def test_an_aborted_answer_is_the_beginning_of_the_whole_one(
    text: str, sampling: Sampling, read_before: int
) -> None:
    whole, tokens, _ = generated_one_by_one(text, sampling)
    stream = await SimulatedEngine().submit(echo_request(text, sampling=sampling))
    deltas: list[Delta] = []
    while len(deltas) < read_before and not (deltas and deltas[-1].finish_reason):
        deltas.append(await stream.next())
    await stream.abort()
    if not deltas or deltas[-1].finish_reason is None:
        deltas += await rest_of(stream)
    assert whole.startswith(joined(deltas))
    assert len(joined(deltas)) <= len(token_ids(deltas)) <= tokens
    assert text.startswith("".join(map(chr, token_ids(deltas))))


@pytest.mark.parametrize("stream", [True, False])
async def test_an_abort_while_the_first_token_is_awaited_ends_the_wait(stream: bool) -> None:
    running = await SimulatedEngine(ttft_ms=AN_HOUR_MS).submit(echo_request("abc", stream=stream))
    waiting = asyncio.create_task(running.next())
    await asyncio.sleep(0)
    await running.abort()
    delta = await waiting
    assert (delta.text, list(delta.token_ids), delta.finish_reason) == ("", [], "abort")
    assert delta.prompt_tokens == 3


async def test_an_abort_between_tokens_ends_the_wait() -> None:
    running = await SimulatedEngine(tokens_per_second=0.001).submit(echo_request("abc"))
    first = await running.next()
    waiting = asyncio.create_task(running.next())
    await asyncio.sleep(0)
    await running.abort()
    last = await waiting
    assert (first.text, last.text, last.finish_reason) == ("a", "", "abort")


async def test_an_abort_after_the_end_or_twice_does_nothing() -> None:
    running = await SimulatedEngine().submit(echo_request("ab"))
    assert joined(await rest_of(running)) == "ab"
    await running.abort()
    await running.abort()


@given(st.text(min_size=1, max_size=40))
async def test_a_paced_answer_is_the_same_answer(text: str) -> None:
    engine = SimulatedEngine(ttft_ms=0.1, tokens_per_second=100_000)
    deltas = await rest_of(await engine.submit(echo_request(text)))
    assert joined(deltas) == text
    assert len(token_ids(deltas)) == len(text)


async def test_what_does_not_fit_the_context_is_refused() -> None:
    engine = SimulatedEngine()
    await engine.submit(echo_request("abc", max_tokens=MAX_MODEL_LEN - 3))
    with pytest.raises(RequestRefused, match="do not fit") as refused:
        await engine.submit(echo_request("abc", max_tokens=MAX_MODEL_LEN - 2))
    assert refused.value.param == "max_tokens"


async def test_it_says_its_own_name_and_is_always_well() -> None:
    engine = SimulatedEngine()
    await engine.start()
    await engine.check()
    assert (engine.card.name, engine.card.engine, engine.tokenizer) == ("simulated", "simulated", None)
    await engine.shutdown()
    await engine.shutdown()


@pytest.mark.vllm
@given(few_letters, endings())
def test_an_echo_ends_as_vllms_own_detokenizer_ends_it(text: str, sampling: Sampling) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    with mock.patch.dict(os.environ):
        prepare_environment()
        from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer

    class CodePoints(BaseIncrementalDetokenizer):  # type: ignore[misc]
        def decode_next(self, next_token_id: int) -> str:
            return chr(next_token_id)

    detokenizer = CodePoints(SimpleNamespace(sampling_params=sampling))
    finish_reason = "stop"
    for count, token in enumerate(text, start=1):
        # A stop token has no chance before min_tokens: vllm/v1/sample/logits_processor/builtin.py.
        stopped = ord(token) in sampling.stop_token_ids and count > sampling.min_tokens
        if detokenizer.update([ord(token)], stopped) or stopped:
            break
        if count == sampling.max_tokens < len(text):
            finish_reason = "length"
            break
    assert cut(text, sampling)[:3] == (
        detokenizer.output_text,
        detokenizer.num_output_tokens(),
        finish_reason,
    )
