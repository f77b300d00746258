"""The real engine on the demo model, started once: what each field does, and what is refused.

It is started as on a machine without a C++ compiler.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import math
import os
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from engine import demo_model
from engine.base import (
    LEAST_LOGPROB,
    Delta,
    GenerationRequest,
    RepetitionStop,
    RequestRefused,
    Sampling,
    StructuredOutput,
    TokenLogprob,
)
from engine.vllm_engine import VllmEngine
from engine.vllm_stream import VllmStream
from tests.end_to_end.conftest import DEMO_DATA

if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

VOCABULARY = 49152
MAX_MODEL_LEN = 1024
END = 2  # <|im_end|>
REPETITIVE = "a b a b a b a b a b a"
QUESTION = "The capital of France is"

request_numbers = itertools.count()


@dataclass
class Answer:
    deltas: list[Delta]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def ids(self) -> list[int]:
        return [token_id for delta in self.deltas for token_id in delta.token_ids]

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [one for delta in self.deltas for one in delta.logprobs]

    @property
    def finish_reason(self) -> str | None:
        return self.deltas[-1].finish_reason


@dataclass
class Served:
    engine: VllmEngine

    def ids_of(self, text: str) -> list[int]:
        return list(self.engine.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids)

    async def submit(
        self,
        prompt: str | Sequence[int],
        *,
        stream: bool = True,
        priority: int = 0,
        cache_salt: str | None = None,
        max_tokens: int = 6,
        temperature: float | None = 0.0,
        **fields: Any,
    ) -> VllmStream:
        request = GenerationRequest(
            f"test-{next(request_numbers)}",
            self.ids_of(prompt) if isinstance(prompt, str) else prompt,
            (),
            Sampling(max_tokens, temperature=temperature, **fields),
            stream,
            priority=priority,
            cache_salt=cache_salt,
        )
        return await self.engine.submit(request)

    async def ask(self, prompt: str | Sequence[int] = QUESTION, **fields: Any) -> Answer:
        return Answer(await rest_of(await self.submit(prompt, **fields)))

    @property
    def unfinished(self) -> int:
        return int(self.engine._llm.get_num_unfinished_requests())


async def rest_of(stream: VllmStream) -> list[Delta]:
    deltas = [await stream.next()]
    while deltas[-1].finish_reason is None:
        deltas.append(await stream.next())
    return deltas


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    without_compiler = {
        "CXX": "/nonexistent/c++",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path_factory.mktemp("inductor")),
    }
    # Also takes back what the engine sets for its processes.
    with mock.patch.dict(os.environ, without_compiler):
        # In float32 the same logits come out however a prompt is cut into batches.
        arguments = {"max_model_len": MAX_MODEL_LEN, "dtype": "float32"}
        engine = VllmEngine(demo_model.ensure_demo_model(DEMO_DATA), "demo", arguments)
        await engine.start()
        yield Served(engine)
        await engine.shutdown()


async def test_the_card_knows_the_vocabulary(served: Served) -> None:
    assert served.engine.card.vocabulary_size == VOCABULARY


# What each field does


async def test_a_bias_of_100_makes_a_token_certain(served: Served) -> None:
    assert (await served.ask(logit_bias={1234: 100.0}, max_tokens=3)).ids == [1234] * 3


async def test_only_allowed_tokens_come(served: Served) -> None:
    answer = await served.ask(allowed_token_ids=(500, 501, 502), temperature=2.0, max_tokens=8)
    assert set(answer.ids) <= {500, 501, 502}


async def test_bad_words_do_not_come(served: Served) -> None:
    word = (await served.ask(max_tokens=1)).text.strip()
    assert word
    assert word not in (await served.ask(bad_words=(word,), max_tokens=8)).text


async def test_nothing_ends_an_answer_before_min_tokens(served: Served) -> None:
    certain_end = {END: 100.0}
    at_once = await served.ask(logit_bias=certain_end)
    assert (len(at_once.ids), at_once.finish_reason) == (1, "stop")
    later = await served.ask(logit_bias=certain_end, min_tokens=3)
    assert (len(later.ids), later.ids[-1], later.finish_reason) == (4, END, "stop")


async def test_with_ignore_eos_the_count_is_exact(served: Served) -> None:
    answer = await served.ask(logit_bias={END: 100.0}, ignore_eos=True, max_tokens=5)
    assert (answer.ids, answer.finish_reason) == ([END] * 5, "length")


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 2.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}]
)
async def test_penalties_change_a_repetitive_answer(served: Served, penalty: dict[str, float]) -> None:
    plain = await served.ask(REPETITIVE, max_tokens=24)
    assert len(set(plain.ids)) < len(plain.ids)
    penalized = await served.ask(REPETITIVE, max_tokens=24, **penalty)
    assert len(set(penalized.ids)) > len(set(plain.ids))


@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_that_says_the_same_again_and_again_is_cut(served: Served, stream: bool) -> None:
    only = served.ids_of(" a")
    bias = {only[0]: 100.0}
    plain = await served.ask(max_tokens=20, logit_bias=bias)
    assert (plain.ids, plain.finish_reason, plain.deltas[-1].repetition) == (only * 20, "length", False)
    answer = await served.ask(
        max_tokens=20, logit_bias=bias, repetition=RepetitionStop(4, 6, min_pattern_size=1), stream=stream
    )
    assert (answer.ids, answer.finish_reason) == (only * 6, "length")
    assert answer.deltas[-1].repetition


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("include", [True, False])
async def test_a_stop_token_ends_the_answer(served: Served, include: bool, stream: bool) -> None:
    plain = await served.ask()
    at = next(at for at, token_id in enumerate(plain.ids) if at and token_id not in plain.ids[:at])
    answer = await served.ask(
        stop_token_ids=(plain.ids[at],), include_stop_str_in_output=include, stream=stream
    )
    assert (answer.ids, answer.finish_reason) == (plain.ids[: at + 1], "stop")
    shown = answer.ids if include else answer.ids[:-1]
    assert answer.text == served.engine.tokenizer.backend_tokenizer.decode(shown)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("include", [True, False])
async def test_a_stop_string_ends_the_answer(served: Served, include: bool, stream: bool) -> None:
    text = (await served.ask()).text
    stop = text.strip()[3:5]
    answer = await served.ask(stop=(stop,), include_stop_str_in_output=include, stream=stream)
    end = text.index(stop) + (len(stop) if include else 0)
    assert (answer.text, answer.finish_reason) == (text[:end], "stop")


@pytest.mark.parametrize("spaces", [True, False])
async def test_special_tokens_are_text_if_asked_for(served: Served, spaces: bool) -> None:
    fields: dict[str, Any] = {
        "logit_bias": {END: 100.0},
        "ignore_eos": True,
        "max_tokens": 2,
        "spaces_between_special_tokens": spaces,
    }
    assert (await served.ask(**fields)).text == ""
    assert (await served.ask(**fields, skip_special_tokens=False)).text == "<|im_end|>" * 2


async def test_a_seed_is_reproducible(served: Served) -> None:
    first, again, other = [
        (await served.ask(temperature=1.0, seed=seed, max_tokens=12)).ids for seed in (1, 1, 2)
    ]
    assert first == again != other


@pytest.mark.parametrize("field", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}, {"temperature": 0.0}])
async def test_only_the_likeliest_token_is_left(served: Served, field: dict[str, Any]) -> None:
    greedy = (await served.ask()).ids
    fields: dict[str, Any] = {"temperature": 1.0, **field}
    assert (await served.ask(**fields)).ids == greedy


async def test_what_is_left_out_is_the_models_and_what_is_given_wins(served: Served) -> None:
    engine = VllmEngine.__new__(VllmEngine)
    engine.__dict__.update(served.engine.__dict__)
    defaults = {"temperature": 0.5, "top_p": 0.25, "top_k": 7, "min_p": 0.125, "repetition_penalty": 1.5}
    engine._card = replace(served.engine.card, sampling_defaults=defaults)

    def parameters(**fields: Any) -> Any:
        return engine._parameters(GenerationRequest("r", [1], (), Sampling(4, **fields), True))

    left_out = parameters()
    assert {name: getattr(left_out, name) for name in defaults} == defaults
    given_fields: dict[str, Any] = {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": -1.0,
        "frequency_penalty": 0.0,
        "seed": 0,
        "min_tokens": 1,
        "ignore_eos": True,
        "stop": ("a",),
        "stop_token_ids": (5,),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "bad_words": ("b",),
        "allowed_token_ids": (6,),
        "logprobs": 0,
        "prompt_logprobs": 0,
        "logit_bias": {7: 0.0},
    }
    chosen = parameters(**given_fields)
    for name, value in given_fields.items():
        got = getattr(chosen, name)
        assert (tuple(got) if isinstance(value, tuple) else got) == value, name


# Logprobs


@pytest.mark.parametrize("stream", [True, False])
async def test_logprobs_have_ranks_and_the_likeliest(served: Served, stream: bool) -> None:
    greedy = await served.ask(logprobs=3, stream=stream)
    assert [one.token_id for one in greedy.logprobs] == greedy.ids
    for one in greedy.logprobs:
        values = [value for _, value in one.top]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
        assert (one.rank, one.top[0]) == (1, (one.token_id, one.logprob))
        assert all(LEAST_LOGPROB <= value <= 0 for value in values)
    forced = await served.ask(logprobs=3, logit_bias={1234: 100.0}, max_tokens=1, stream=stream)
    (unlikely,) = forced.logprobs
    assert unlikely.rank > 3
    assert 1234 not in dict(unlikely.top)
    assert unlikely.logprob < unlikely.top[-1][1]


@pytest.mark.parametrize("stream", [True, False])
async def test_the_prompts_logprobs_are_those_of_reading_it_token_by_token(
    served: Served, stream: bool
) -> None:
    prompt = served.ids_of("Paris is the capital of France")
    answer = await served.ask(prompt, prompt_logprobs=2, stream=stream, max_tokens=3)
    first, *rest = answer.deltas[0].prompt_logprobs
    assert first is None
    assert [one.token_id for one in rest if one] == prompt[1:]
    assert not any(delta.prompt_logprobs for delta in answer.deltas[1:])
    for at, one in enumerate(rest, start=1):
        assert one is not None
        (alone,) = (
            await served.ask(prompt[:at], logit_bias={prompt[at]: 100.0}, logprobs=2, max_tokens=1)
        ).logprobs
        assert alone.token_id == one.token_id
        assert one.logprob == pytest.approx(alone.logprob, abs=0.01)
        assert [value for _, value in one.top] == pytest.approx([value for _, value in alone.top], abs=0.01)
        assert len(one.top) == 2
        assert (one.rank == 1) == (one.token_id == one.top[0][0])


async def test_no_likeliest_tokens_of_the_prompt_are_none(served: Served) -> None:
    answer = await served.ask(prompt_logprobs=0, max_tokens=1)
    told = answer.deltas[0].prompt_logprobs
    assert len(told) == len(served.ids_of(QUESTION))
    assert all(one.top == [] for one in told[1:] if one)


# What comes with the first delta


@pytest.mark.parametrize("stream", [True, False])
async def test_the_first_delta_knows_the_queue_and_the_prompt(served: Served, stream: bool) -> None:
    first = (await served.ask(stream=stream)).deltas[0]
    assert first.queue_seconds is not None
    assert 0 <= first.queue_seconds < 60
    assert first.prompt_tokens == len(served.ids_of(QUESTION))


async def test_a_cache_salt_keeps_prompts_apart(served: Served) -> None:
    prompt = [random.randrange(100, VOCABULARY) for _ in range(300)]

    async def cached(salt: str | None) -> int:
        return (await served.ask(prompt, cache_salt=salt, max_tokens=1)).deltas[0].cached_tokens

    assert [await cached(salt) for salt in ("a", "b", None)] == [0, 0, 0]
    for salt in ("a", "b", None):
        assert await cached(salt) > 0


# Refusals

REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"prompt": []}, "prompt", "empty"),
    ({"prompt": [5, VOCABULARY]}, "prompt", f"Token id {VOCABULARY} .* 0 to {VOCABULARY - 1}"),
    ({"prompt": [5, -1]}, "prompt", "Token id -1"),
    ({"prompt": [5] * MAX_MODEL_LEN}, "prompt", f"context is {MAX_MODEL_LEN}"),
    ({"prompt": [5] * (MAX_MODEL_LEN + 1)}, "prompt", f"context is {MAX_MODEL_LEN}"),
    ({"stop_token_ids": (VOCABULARY,)}, "stop_token_ids", "vocabulary"),
    ({"logit_bias": {VOCABULARY: 1.0}}, "logit_bias", "vocabulary"),
    ({"logit_bias": {5: math.nan}}, "logit_bias", "-100 to 100"),
    ({"allowed_token_ids": (VOCABULARY,)}, "allowed_token_ids", "vocabulary"),
    ({"allowed_token_ids": ()}, "allowed_token_ids", "at least one"),
    ({"bad_words": (" ",)}, "bad_words", "at least one token"),
    ({"bad_words": ("",)}, "bad_words", "empty"),
    ({"bad_words": tuple(f"w{n}" for n in range(200))}, "bad_words", "max number"),
    ({"bad_words": ("\ud800",)}, "bad_words", "surrogate"),
    ({"stop": ("\ud800",)}, "stop", "surrogate"),
    ({"stop": ("",)}, "stop", "empty"),
    ({"cache_salt": "\ud800"}, "cache_salt", "surrogate"),
    ({"min_tokens": 7}, "min_tokens", "at most max_tokens"),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"max_tokens": 2**70}, "max_tokens", "64 bits"),
    ({"seed": 2**70}, "seed", "64 bits"),
    ({"top_k": 2**70, "temperature": 1.0}, "top_k", "64 bits"),
    ({"top_k": -2}, "top_k", "at least 1"),
    ({"top_p": 0.0}, "top_p", "0, 1"),
    ({"min_p": math.nan}, "min_p", "0, 1"),
    ({"temperature": math.nan}, "temperature", "finite"),
    ({"temperature": 2.5}, "temperature", "0, 2"),
    ({"presence_penalty": math.nan}, "presence_penalty", "-2, 2"),
    ({"frequency_penalty": 3.0}, "frequency_penalty", "-2, 2"),
    ({"repetition_penalty": 0.0}, "repetition_penalty", "greater than zero"),
    ({"logprobs": 21}, "logprobs", "max allowed: 20"),
    ({"logprobs": -1}, "logprobs", "max allowed: 20"),
    ({"prompt_logprobs": 21}, "prompt_logprobs", "max allowed: 20"),
    ({"priority": 1}, "priority", "scheduling_policy"),
    *(
        ({"structured": StructuredOutput(kind, value)}, "structured", word)  # type: ignore[arg-type]
        for kind, value, word in [
            ("regex", "(", "not closed"),
            ("regex", "(?=a)b", "Lookahead"),
            ("regex", "a\0", "NUL"),
            ("regex", "(" * 5000 + "a" + ")" * 5000, "Nest"),
            ("choice", [], "not empty"),
            ("grammar", "root ::= nope", '"nope" is not defined'),
            ("grammar", " ", "empty"),
            ("grammar", "x" * 200_000, "120000"),
            ("json", "{", "JSON"),
            ("json", "3", "schema"),
            ("json", {"type": "nope"}, "nope"),
            ("json", {"enum": []}, "must not be empty"),
            ("json", {"$ref": "#/nope"}, "nope"),
            ("json", {"type": "integer", "minimum": 5, "maximum": 3}, "minimum greater than maximum"),
            ("json", {"type": "integer", "multipleOf": 3}, "not supported"),
            ("json", {"a": [[[[]]]] * 3, "b": "[" * 70, "c": math.inf}, "no JSON"),
        ]
    ),
]


@pytest.mark.parametrize(("fields", "param", "word"), REFUSED, ids=lambda value: repr(value)[:40])
async def test_a_bad_request_is_refused_before_any_token(
    served: Served, fields: dict[str, Any], param: str | None, word: str
) -> None:
    for stream in (True, False):
        with pytest.raises(RequestRefused, match=word) as refused:
            await served.submit(**{"prompt": QUESTION, "stream": stream, **fields})
        assert refused.value.param == param
        assert "\n" not in str(refused.value)
        assert "parameter=" not in str(refused.value)
    assert served.unfinished == 0


async def test_ids_that_only_the_tokenizer_knows_are_refused(served: Served) -> None:
    engine = VllmEngine.__new__(VllmEngine)
    engine.__dict__.update(served.engine.__dict__)
    engine._card = replace(served.engine.card, vocabulary_size=100)
    engine._tokenizer_knows_more = True
    with pytest.raises(RequestRefused, match="0 to 99") as refused:
        await Served(engine).submit([5, 100])
    assert refused.value.param == "prompt"


async def test_priority_is_handed_on_where_the_engine_schedules_by_it(served: Served) -> None:
    engine = VllmEngine.__new__(VllmEngine)
    engine.__dict__.update(served.engine.__dict__)
    engine._by_priority = True
    for structured in (None, StructuredOutput("choice", ["a"])):
        stream = await Served(engine).submit(QUESTION, priority=-3, structured=structured)
        assert (await rest_of(stream))[-1].finish_reason in ("stop", "length")


@pytest.mark.parametrize(
    "structured",
    [
        StructuredOutput("regex", "a{1000000}"),
        StructuredOutput("regex", "((a{1000}){1000}){1000}"),
        StructuredOutput("regex", r"[^\s\S]"),
        StructuredOutput("grammar", "root ::= root"),
        StructuredOutput("json", {"$ref": "#"}),
        StructuredOutput("json", {"not": {}}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
async def test_no_constraint_ends_the_engine(
    served: Served, structured: StructuredOutput, temperature: float
) -> None:
    """What no text fits ends with an error of its own, not as an answer."""
    answer = await served.ask(structured=structured, temperature=temperature, max_tokens=3)
    assert answer.finish_reason in ("length", "error")
    assert (answer.finish_reason == "error") == (answer.text == "")
    assert (await served.ask(max_tokens=1)).finish_reason == "length"


async def test_structured_output_does_not_depend_on_what_was_asked_before(served: Served) -> None:
    for structured, texts in [
        (StructuredOutput("choice", ["yes", "no"]), {"yes", "no"}),
        (StructuredOutput("regex", "[5]{2}"), {"55"}),
        (StructuredOutput("grammar", 'root ::= "up" | "down"'), {"up", "down"}),
        (StructuredOutput("json", {"const": 7}), {"7"}),
        (StructuredOutput("json", '{"const": 8}'), {"8"}),
    ]:
        for _ in range(2):
            assert (await served.ask(structured=structured)).text in texts
        with pytest.raises(RequestRefused):
            await served.submit(QUESTION, structured=StructuredOutput("json", {"allOf": [{}, {}]}))
    json_object = await served.ask(structured=StructuredOutput("json_object"), max_tokens=2)
    assert json_object.text.lstrip().startswith("{")


# Leaving


def generated() -> float:
    """vLLM's own count of the tokens it has generated."""
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "vllm:generation_tokens_total"
    )


async def test_the_tokens_of_cancelled_requests_are_vllms_own_count(served: Served) -> None:
    before, chance = generated(), random.Random(4)

    async def left(number: int) -> int:
        stream = await served.submit(
            [number + 100] * chance.choice([3, 400]),
            stream=number % 3 > 0,
            max_tokens=20,
            ignore_eos=True,
            prompt_logprobs=[0, None, 2][number % 3],
            logprobs=[None, 1][number % 2],
            min_tokens=[0, 10][number % 2],
        )
        read: list[Delta] = []
        for _ in range(chance.randrange(5) if number % 3 else 0):
            read.append(await stream.next())
        await asyncio.sleep(chance.random() / 2)
        await stream.abort()
        if not read or read[-1].finish_reason is None:
            read += await rest_of(stream)
        answer = Answer(read)
        told = [delta.prompt_logprobs for delta in read if delta.prompt_logprobs]
        assert len(told) <= 1
        assert all(len(one) == read[0].prompt_tokens for one in told)
        assert not answer.ids or bool(told) == (number % 3 != 1)
        assert len(answer.logprobs) == (len(answer.ids) if number % 2 else 0)
        return len(answer.ids)

    counts = await asyncio.gather(*(left(number) for number in range(40)))
    assert served.unfinished == 0
    assert any(0 < count < 20 for count in counts)
    # The stats of an output are recorded after it was handed on; one more request comes after all of them.
    await served.ask(max_tokens=1)
    async with asyncio.timeout(60):
        while generated() - before <= sum(counts):
            await asyncio.sleep(0.01)
    assert generated() - before == sum(counts) + 1


@pytest.mark.parametrize("fields", [{}, {"structured": StructuredOutput("choice", ["a"])}])
async def test_a_caller_that_leaves_while_handing_over_leaves_nothing(
    served: Served, fields: dict[str, Any]
) -> None:
    for steps in range(6):
        task = asyncio.create_task(served.submit(QUESTION, max_tokens=500, ignore_eos=True, **fields))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        try:
            stream = await task
        except asyncio.CancelledError:
            pass
        else:
            await stream.abort()
        assert served.unfinished == 0
