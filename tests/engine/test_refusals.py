from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from engine.base import GenerationRequest, ModelCard, RequestRefused, Sampling, StructuredOutput
from engine.refusals import STRUCTURED_CHARACTERS, check_structured, fault, refused_as_said

CARD = ModelCard("m", "test", max_model_len=8, chat_format="chat_template", vocabulary_size=100)


def request(**changed: Any) -> GenerationRequest:
    plain = GenerationRequest("r", [0, 99], (), Sampling(4), stream=True)
    return replace(plain, **changed)


@pytest.mark.parametrize(
    ("changed", "param", "word"),
    [
        ({"prompt_token_ids": []}, "prompt", "empty"),
        ({"prompt_token_ids": [5] * 8}, "prompt", "8 tokens"),
        ({"prompt_token_ids": [5, 100]}, "prompt", "Token id 100 .* 0 to 99"),
        ({"prompt_token_ids": [-2, 5]}, "prompt", "Token id -2"),
        ({"sampling": Sampling(2**63)}, "max_tokens", "64 bits"),
        ({"sampling": Sampling(4, seed=-(2**63) - 1)}, "seed", "64 bits"),
        ({"sampling": Sampling(4, top_k=2**70)}, "top_k", "64 bits"),
        ({"priority": 2**63}, "priority", "64 bits"),
        ({"cache_salt": "\ud800"}, "cache_salt", "surrogate"),
        ({"sampling": Sampling(4, stop=("a", "\udfff"))}, "stop", "surrogate"),
        ({"sampling": Sampling(4, bad_words=("😀", "\ud83d"))}, "bad_words", "surrogate"),
    ],
)
def test_a_known_fault_is_named(changed: dict[str, Any], param: str, word: str) -> None:
    found = fault(request(**changed), CARD)
    assert found is not None
    assert found.param == param
    with pytest.raises(RequestRefused, match=word):
        raise found


def test_what_is_well_has_no_fault() -> None:
    sampling = Sampling(2**63 - 1, seed=-(2**63), stop=("😀",), bad_words=("é",))
    assert fault(request(sampling=sampling, cache_salt="\0"), CARD) is None


@pytest.mark.parametrize(
    "structured",
    [
        StructuredOutput("json_object"),
        StructuredOutput("json", {}),
        StructuredOutput("json", "{"),
        StructuredOutput("regex", ""),
        StructuredOutput("choice", ["", "\0", "😀"]),
        StructuredOutput("choice", ("a",)),
        StructuredOutput("grammar", "x" * STRUCTURED_CHARACTERS),
    ],
)
def test_values_of_the_right_kind_are_left_to_the_backend(structured: StructuredOutput) -> None:
    check_structured(structured)


@pytest.mark.parametrize(
    ("structured", "word"),
    [
        (StructuredOutput("json", True), "JSON schema"),
        (StructuredOutput("json", None), "JSON schema"),
        (StructuredOutput("json", {"minimum": math.nan}), "no JSON"),
        (StructuredOutput("json", {"enum": ["\ud800"]}), "surrogate"),
        (
            StructuredOutput("json", {"a": "x" * STRUCTURED_CHARACTERS}),
            f"it may have {STRUCTURED_CHARACTERS}",
        ),
        (StructuredOutput("regex", ["a"]), "a text"),
        (StructuredOutput("regex", "\ud800"), "surrogate"),
        (StructuredOutput("choice", []), "not empty"),
        (StructuredOutput("choice", "ab"), "list of texts"),
        (StructuredOutput("choice", [1]), "list of texts"),
        (StructuredOutput("grammar", None), "a text"),
        (StructuredOutput("grammar", "x" * (STRUCTURED_CHARACTERS + 1)), "characters"),
    ],
)
def test_values_of_another_kind_are_refused(structured: StructuredOutput, word: str) -> None:
    with pytest.raises(RequestRefused, match=word) as refused:
        check_structured(structured)
    assert refused.value.param == "structured"


class Said(Exception):
    """As vLLM's VLLMValidationError, whose text has the parameter and its value appended."""

    def __init__(self, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter

    def __str__(self) -> str:
        return f"{self.args[0]} (parameter={self.parameter}, value=[...])"


STRUCTURED = Sampling(4, structured=StructuredOutput("regex", "("))


@pytest.mark.parametrize(
    ("error", "sampling", "message", "param"),
    [
        (Said("too many", "logprobs"), Sampling(4), "too many", "logprobs"),
        (Said("min_p must be in [0, 1], got 2."), Sampling(4), "min_p must be in [0, 1], got 2.", "min_p"),
        (Said("top_k must be"), STRUCTURED, "top_k must be", "top_k"),
        (Said("Something else"), Sampling(4), "Something else", None),
        (
            Said("No grammar: [15:47:14] /project/cpp/regex_converter.cc:83: Not closed.\n  at (\n"),
            STRUCTURED,
            "No grammar: Not closed.",
            "structured",
        ),
        (ValueError(), Sampling(4), "Refused.", None),
        (ValueError("x" * 5000), Sampling(4), "x" * 300, None),
    ],
)
def test_an_engines_own_words_become_one_line(
    error: Exception, sampling: Sampling, message: str, param: str | None
) -> None:
    refused = refused_as_said(error, sampling)
    assert (str(refused), refused.param) == (message, param)


def test_a_reason_that_the_message_lacks_is_added() -> None:
    error = Said("Invalid grammar specification.")
    error.__cause__ = RuntimeError('[15:47:14] /project/cpp/grammar_parser.cc:820: Rule "b" is not defined\n')
    assert str(refused_as_said(error, STRUCTURED)) == (
        'Invalid grammar specification: Rule "b" is not defined'
    )
