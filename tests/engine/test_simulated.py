from __future__ import annotations

import asyncio

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from engine.base import Delta, DeltaStream, FinishReason, RequestRefused, Sampling
from engine.simulated import MAX_MODEL_LEN, SimulatedEngine
from tests.strategies import echo_request, texts

AN_HOUR_MS = 3_600_000.0

few_letters = st.text(alphabet="abc", max_size=20)
stops = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4).map(tuple)


async def rest_of(stream: DeltaStream) -> list[Delta]:
    deltas = [await stream.next()]
    while deltas[-1].finish_reason is None:
        deltas.append(await stream.next())
    return deltas


async def answer(
    text: str, *, max_tokens: int = 1000, stop: tuple[str, ...] = (), stream: bool = True
) -> list[Delta]:
    request = echo_request(text, max_tokens=max_tokens, stop=stop, stream=stream)
    return await rest_of(await SimulatedEngine().submit(request))


def joined(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def token_ids(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def generated_one_by_one(text: str, sampling: Sampling) -> tuple[str, int, FinishReason]:
    """The answer's text, its tokens and its end, found by generating it."""
    for count in range(1, len(text) + 1):
        so_far = text[:count]
        for stop in sampling.stop:
            if stop in so_far:
                return so_far[: so_far.index(stop)], count, "stop"
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


@given(few_letters, st.integers(1, 25), stops)
async def test_max_tokens_and_stop_strings_end_the_answer_as_if_generated_one_by_one(
    text: str, max_tokens: int, stop: tuple[str, ...]
) -> None:
    expected = generated_one_by_one(text, Sampling(max_tokens, stop=stop))
    for stream in (True, False):
        deltas = await answer(text, max_tokens=max_tokens, stop=stop, stream=stream)
        assert (joined(deltas), len(token_ids(deltas)), deltas[-1].finish_reason) == expected
        assert token_ids(deltas) == [ord(character) for character in text[: expected[1]]]


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


@given(few_letters, stops, st.integers(0, 20))
async def test_an_aborted_answer_is_the_beginning_of_the_whole_one(
    text: str, stop: tuple[str, ...], read_before: int
) -> None:
    whole, tokens, _ = generated_one_by_one(text, Sampling(1000, stop=stop))
    stream = await SimulatedEngine().submit(echo_request(text, stop=stop))
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
