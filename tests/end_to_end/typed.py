"""What is said of an answer, by OpenAI's specification, by the SDK's types and by /openapi.json: all of it
has to be true, strictly. The SDK itself builds its objects without checking them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TypeVar

from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel, TypeAdapter

from adapters.openai import answer_types
from tests.openai_schemas import check

SPECIFIED = {
    ChatCompletion: "CreateChatCompletionResponse",
    ChatCompletionChunk: "CreateChatCompletionStreamResponse",
    Completion: "CreateCompletionResponse",
}
DOCUMENTED: dict[type[BaseModel], TypeAdapter[Any]] = {
    ChatCompletion: TypeAdapter(answer_types.ChatCompletion),
    ChatCompletionChunk: TypeAdapter(answer_types.ChatCompletionChunk),
    Completion: TypeAdapter(answer_types.Completion),
}

Typed = TypeVar("Typed", bound=BaseModel)


def checked(kind: type[Typed], text: str | bytes, *extra: str) -> Typed:
    """``text`` as a ``kind`` that has ``extra`` and no other field beside OpenAI's own, each named by its
    path without its places in lists."""
    check(SPECIFIED[kind], json.loads(text), also=frozenset(extra))
    DOCUMENTED[kind].validate_json(text, strict=True)
    answer = kind.model_validate_json(text, strict=True)
    assert set(extras(answer)) == set(extra)
    return answer


def extras(value: object, path: str = "") -> Iterator[str]:
    """The paths of all fields that the types do not know."""
    if isinstance(value, list):
        for item in value:
            yield from extras(item, path)
    elif isinstance(value, BaseModel):
        yield from (f"{path}{name}" for name in value.model_extra or {})
        for name in type(value).model_fields:
            yield from extras(getattr(value, name), f"{path}{name}.")


def nulls(value: object, path: str = "") -> Iterator[str]:
    """The paths of all nulls of a JSON text's value."""
    if isinstance(value, list):
        for item in value:
            yield from nulls(item, path)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from (f"{path}{name}",) if item is None else nulls(item, f"{path}{name}.")


def events(stream: str) -> list[Any]:
    """What the events of a stream hold; it has to end well."""
    *lines, done, end = stream.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]
