"""What no engine takes of a request, each refused with the field at fault.

``check_sampling`` and ``check_structured`` are for what an engine would take and do wrong, so they come
before it. ``fault`` is for what it would refuse in its own words: it says them plainly, and costs nothing
until then.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from engine.base import GenerationRequest, ModelCard, RequestRefused, Sampling, StructuredOutput

MOST_BIAS = 100
STRUCTURED_CHARACTERS = 120_000
"""A longer schema, expression or grammar is refused: compiling one takes seconds of a processor, and
nothing can stop it. OpenAI allows a schema this many characters of names and values."""

MESSAGE_CHARACTERS = 300

SAMPLING_FIELDS = frozenset(field.name for field in dataclasses.fields(Sampling))

# Before a message of xgrammar's: "[15:47:14] /project/cpp/regex_converter.cc:83: ".
SOURCE_LINE = re.compile(r"\[\d\d:\d\d:\d\d\] \S+:\d+: ")


def check_sampling(sampling: Sampling, vocabulary_size: int) -> None:
    """Raises RequestRefused for ids that are no tokens, a bias out of range, and an answer that would have
    to be longer than it may be."""
    if sampling.min_tokens > sampling.max_tokens:
        raise RequestRefused(
            f"min_tokens is {sampling.min_tokens}; it must be at most max_tokens, "
            f"which is {sampling.max_tokens} here.",
            "min_tokens",
        )
    if sampling.stop_token_ids:
        check_ids(sampling.stop_token_ids, vocabulary_size, "stop_token_ids")
    if sampling.logit_bias:
        check_ids(sampling.logit_bias, vocabulary_size, "logit_bias")
        for token_id, bias in sampling.logit_bias.items():
            # NaN is in no range.
            if not -MOST_BIAS <= bias <= MOST_BIAS:
                raise RequestRefused(
                    f"logit_bias of token {token_id} is {bias}; it must be from -{MOST_BIAS} to {MOST_BIAS}.",
                    "logit_bias",
                )
    if sampling.allowed_token_ids is not None:
        if not sampling.allowed_token_ids:
            raise RequestRefused("allowed_token_ids must name at least one token.", "allowed_token_ids")
        check_ids(sampling.allowed_token_ids, vocabulary_size, "allowed_token_ids")


def check_ids(token_ids: Collection[int], vocabulary_size: int, param: str) -> None:
    """Raises RequestRefused where one is not in the vocabulary. ``token_ids`` is not empty."""
    least, most = min(token_ids), max(token_ids)
    if least < 0 or most >= vocabulary_size:
        raise RequestRefused(
            f"Token id {least if least < 0 else most} in {param} is not in the vocabulary, "
            f"whose ids are 0 to {vocabulary_size - 1}.",
            param,
        )


def check_structured(structured: StructuredOutput) -> None:
    """Raises RequestRefused for a value of the wrong kind, that is no Unicode text, or too long."""
    kind, value = structured.kind, structured.value
    if kind == "json_object":
        return
    wanted = {
        "json": ("a JSON schema: an object, or its text", isinstance(value, dict | str)),
        "choice": (
            "a list of texts, not empty",
            isinstance(value, list | tuple) and value and all(isinstance(text, str) for text in value),
        ),
    }
    shape, fits = wanted.get(kind, ("a text", isinstance(value, str)))
    if not fits:
        raise RequestRefused(f"The value of '{kind}' must be {shape}.", "structured")
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise RequestRefused(
            f"The value of '{kind}' is no JSON: {one_line(str(error))}", "structured"
        ) from error
    if not is_unicode(text):
        raise RequestRefused(f"The value of '{kind}' has a lone surrogate.", "structured")
    if len(text) > STRUCTURED_CHARACTERS:
        raise RequestRefused(
            f"The value of '{kind}' has {len(text)} characters; it may have {STRUCTURED_CHARACTERS}.",
            "structured",
        )


def fault(request: GenerationRequest, card: ModelCard) -> RequestRefused | None:
    """What is wrong with a request that an engine has not taken, if it is one of the known."""
    ids = request.prompt_token_ids
    if not ids:
        return RequestRefused("The prompt is empty.", "prompt")
    if len(ids) >= card.max_model_len:
        return RequestRefused(
            f"The prompt has {len(ids)} tokens; this model's context is {card.max_model_len} tokens, "
            "and the answer needs at least one of them.",
            "prompt",
        )
    try:
        check_ids(ids, card.vocabulary_size, "prompt")
    except RequestRefused as refused:
        return refused
    for name, number in (*numbers(request.sampling), ("priority", request.priority)):
        if not -(2**63) <= number < 2**63:
            return RequestRefused(f"{name} does not fit 64 bits.", name)
    for name, text in texts(request):
        if not is_unicode(text):
            return RequestRefused(f"{name} has a lone surrogate.", name)
    return None


def numbers(sampling: Sampling) -> Iterator[tuple[str, int]]:
    for name in ("max_tokens", "min_tokens", "top_k", "seed", "logprobs", "prompt_logprobs"):
        if (number := getattr(sampling, name)) is not None:
            yield name, number


def texts(request: GenerationRequest) -> Iterator[tuple[str, str]]:
    for name in ("stop", "bad_words"):
        for text in getattr(request.sampling, name):
            yield name, text
    if request.cache_salt is not None:
        yield "cache_salt", request.cache_salt


def is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def refused_as_said(error: Exception, sampling: Sampling) -> RequestRefused:
    """An engine's own refusal in one line, with the field that it names: in ``parameter``, or as its first
    word, as vLLM's do."""
    said = str(error.args[0]) if error.args else str(error)
    if error.__cause__ is not None and str(error.__cause__) not in said:
        said = f"{said.rstrip('.')}: {error.__cause__}"
    message = one_line(said)
    param: Any = getattr(error, "parameter", None)
    if param is None:
        first = message.partition(" ")[0]
        param = first if first in SAMPLING_FIELDS else None
    if param is None and sampling.structured is not None:
        param = "structured"
    return RequestRefused(message, param)


def one_line(said: str) -> str:
    """The first line, without the place in a library's source."""
    lines = SOURCE_LINE.sub("", said).strip().splitlines() or ["Refused."]
    return lines[0][:MESSAGE_CHARACTERS]
