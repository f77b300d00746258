"""OpenAI's schemas of answers, and whether an answer fits one. README.md says where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

FOLDER = Path(__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def check(name: str, instance: Any, also: Set[str] = frozenset()) -> None:
    """Raises AssertionError, with all that is wrong, unless ``instance`` is parsed JSON that fits the schema
    ``name`` (one of NAMES).

    A key that the schema does not have is wrong, and so is a null where it has none. ``also`` are the paths
    of keys beyond the schema that may be there with any value: ``"choices.token_ids"`` is that key of every
    element of ``choices``.
    """
    errors = validator(name).iter_errors(without(instance, also, ""))
    if wrong := [message for error in errors for message in messages(error)]:
        raise AssertionError(f"This is no {name}:\n" + "\n".join(wrong))


def messages(error: ValidationError) -> Iterator[str]:
    """What is wrong and where; of a value that may be of several kinds, why it is none of them."""
    if error.context:
        for kind in error.context:
            yield from messages(kind)
    else:
        yield f"{'.'.join(map(str, error.absolute_path)) or 'the whole'}: {error.message}"


@cache
def validator(name: str) -> Draft202012Validator:
    """For one of the schemas."""
    schema = json.loads((FOLDER / f"{name}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def without(value: Any, paths: Set[str], at: str) -> Any:
    """A copy that lacks the keys at ``paths``; elements of a list have no part in a path."""
    if isinstance(value, list):
        return [without(element, paths, at) for element in value]
    if not isinstance(value, dict):
        return value
    kept = {key: f"{at}.{key}".removeprefix(".") for key in value}
    return {key: without(value[key], paths, path) for key, path in kept.items() if path not in paths}
