"""What meta_data keeps where no text is kept: what is known to be no text, and nothing else.

Numbers and booleans of known names, words of our own, and the client's labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from persistence.storable import REPLACEABLE, REPLACED

# What is kept of a value where no text is; _GONE where nothing is.
Form = Callable[[Any], Any]
_GONE = object()


def _whole(value: Any) -> Any:
    return value


def _number(value: Any) -> Any:
    return value if isinstance(value, bool | int | float) else _GONE


def _word(*words: str) -> Form:
    return lambda value: value if isinstance(value, str) and value in words else _GONE


def _id(value: Any) -> Any:
    return value if isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) else _GONE


def _each(form: Form) -> Form:
    def kept(value: Any) -> Any:
        if not isinstance(value, list):
            return _GONE
        return [one for one in map(form, value) if one is not _GONE]

    return kept


def _fields(forms: dict[str, Form]) -> Form:
    def kept(value: Any) -> Any:
        if not isinstance(value, dict):
            return _GONE
        found = {name: form(value[name]) for name, form in forms.items() if name in value}
        return {name: one for name, one in found.items() if one is not _GONE}

    return kept


# Numbers and booleans. Lists of token ids are not here: they spell text.
_SAMPLING_NUMBERS = (
    "add_generation_prompt",
    "add_special_tokens",
    "best_of",
    "continue_final_message",
    "echo",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "priority",
    "prompt_logprobs",
    "repetition_penalty",
    "seed",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "temperature",
    "top_k",
    "top_logprobs",
    "top_p",
)
_REPETITION_NUMBERS = ("max_pattern_size", "min_count", "min_pattern_size")
_END_REASONS = (
    "stop",
    "length",
    "tool_calls",
    "content_filter",
    "cancelled",
    "timeout",
    "shutdown",
    "error",
)

# What is not named here is not kept.
TEXTLESS: dict[str, Form] = {
    "stream": _number,
    # The API key's id.
    "key": _id,
    "sampling": _fields(
        dict.fromkeys(_SAMPLING_NUMBERS, _number)
        | {
            "response_format": _fields({"type": _word("text", "json_object", "json_schema")}),
            "repetition_detection": _fields(dict.fromkeys(_REPETITION_NUMBERS, _number)),
        }
    ),
    "choices": _each(_fields({"finish_reason": _word(*_END_REASONS), "completion_tokens": _number})),
    "answer": _fields({"id": _id, "prompt": _number}),
    REPLACED: _each(_word(*REPLACEABLE)),
    "repetition": _number,
    "usage": _word("untold"),
    # The operator's own names for rules and servers, beside numbers and words of ours.
    "guard": _whole,
    "degraded": _whole,
    # The client's own names for who asked, what for, and after what.
    "user": _whole,
    "safety_identifier": _whole,
    "session_id": _whole,
    "metadata": _whole,
    "prompt_name": _whole,
}


def without_text(meta_data: dict[str, Any]) -> dict[str, Any]:
    """What is no text of ``meta_data``, in a new dictionary."""
    kept: dict[str, Any] = _fields(TEXTLESS)(meta_data)
    return kept
