"""Writes the schemas beside this file: ``python -m tests.openai_schemas.derive``.

The types of the openai package say which fields there are and of what kind. They do not tell a field that
may be absent from one that may be null, so that stands here, as OpenAI's published specification has it:
``required`` and ``nullable`` in github.com/openai/openai-openapi, openapi.yaml at 578000861507. (That a
chunk's usage and a model's shutdown_date may be null, only their descriptions say, the latter's in the
package.) A field that is in neither list below may be absent, and is not null.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import openai.types
import openai.types.chat
from pydantic import BaseModel, TypeAdapter

FOLDER = Path(__file__).parent
DIALECT = "https://json-schema.org/draft/2020-12/schema"


class ListModelsResponse(BaseModel):
    """The package has a page of its own for lists."""

    object: Literal["list"]
    data: list[openai.types.Model]


class ErrorResponse(BaseModel):
    """The package reads what is inside."""

    error: openai.types.ErrorObject


TYPES: Mapping[str, Any] = {
    "CreateChatCompletionResponse": openai.types.chat.ChatCompletion,
    "CreateChatCompletionStreamResponse": openai.types.chat.ChatCompletionChunk,
    "CreateCompletionResponse": openai.types.Completion,
    "ListModelsResponse": ListModelsResponse,
    "Model": openai.types.Model,
    "ErrorResponse": ErrorResponse,
}

# Always there, and null where there is nothing to tell.
REQUIRED_AND_NULLABLE: Mapping[str, set[str]] = {
    "ChatCompletionMessage": {"content", "refusal"},
    "ChatCompletionTokenLogprob": {"bytes"},
    "Choice": {"logprobs"},
    "ChunkChoice": {"finish_reason"},
    "ChoiceLogprobs": {"content", "refusal"},
    "CompletionChoice": {"logprobs"},
    "ErrorObject": {"code", "param"},
    "TopLogprob": {"bytes"},
}
# May be absent, and may be null.
NULLABLE: Mapping[str, set[str]] = {
    "ChatCompletion": {"service_tier"},
    "ChatCompletionChunk": {"service_tier", "usage"},
    "ChoiceDelta": {"content", "refusal"},
    "ChunkChoice": {"logprobs"},
    "Model": {"shutdown_date"},
}


def schemas() -> dict[str, Any]:
    """Each schema by its name in the specification; CreateCompletionStreamResponse is none of its."""
    derived = {name: derive(type_) for name, type_ in TYPES.items()}
    completion = derived["CreateCompletionResponse"]
    logprobs = completion["$defs"]["Logprobs"]["properties"]
    for name in ("token_logprobs", "top_logprobs"):
        # With echo the first token of the prompt has none.
        logprobs[name]["prefixItems"] = [or_null(logprobs[name]["items"])]
    stream = derived["CreateCompletionStreamResponse"] = copy.deepcopy(completion)
    # Not in the specification's schema, but in its example of a stream and what include_usage does.
    choice = stream["$defs"]["CompletionChoice"]["properties"]
    choice["finish_reason"] = or_null(choice["finish_reason"])
    stream["properties"]["usage"] = or_null(stream["properties"]["usage"])
    return derived


def derive(type_: Any) -> dict[str, Any]:
    """The JSON schema of one of the package's types, closed and without its texts."""
    whole = TypeAdapter(type_).json_schema()
    definitions = whole.pop("$defs", {})
    for name, definition in definitions.items():
        # The package has two types of the name Choice, never in one schema.
        known_as = "ChunkChoice" if name == "Choice" and "delta" in definition["properties"] else name
        narrow(known_as, definition)
    narrow(type_.__name__, whole)
    return {"$schema": DIALECT, **whole} | ({"$defs": definitions} if definitions else {})


def narrow(name: str, definition: dict[str, Any]) -> None:
    """Make a definition say what may be absent and what may be null, and nothing beside it."""
    required = REQUIRED_AND_NULLABLE.get(name, set())
    nullable = required | NULLABLE.get(name, set())
    properties = definition["properties"]
    assert nullable <= properties.keys(), (name, nullable - properties.keys())
    for field, schema in properties.items():
        stated = without_texts(schema)
        properties[field] = stated if field in nullable else without_null(stated)
    definition["required"] = sorted({*definition.get("required", ()), *required})
    definition["additionalProperties"] = False
    for text in ("title", "description"):
        definition.pop(text, None)


def without_texts(schema: Any) -> Any:
    if isinstance(schema, list):
        return [without_texts(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    texts = ("title", "description", "default", "discriminator")
    return {key: without_texts(value) for key, value in schema.items() if key not in texts}


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    return kinds[0] if len(kinds) == 1 else schema | ({"anyOf": kinds} if kinds else {})


def or_null(schema: Any) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


if __name__ == "__main__":
    for name, schema in schemas().items():
        (FOLDER / f"{name}.json").write_text(json.dumps(schema, indent=2) + "\n")
