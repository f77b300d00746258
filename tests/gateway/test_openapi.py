from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from adapters.openai.refused import IGNORED, REFUSED
from gateway.app import create_app
from gateway.settings import load

POSTS: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
}


@pytest.fixture
def document() -> dict[str, Any]:
    return create_app(load({"engine": "simulated"})).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(value: object) -> Iterator[str]:
    """All ``$ref`` at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_it_is_json_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    json.dumps(document, allow_nan=False)
    assert document["openapi"].startswith("3.")
    found = set(references(document))
    assert found
    for reference in found:
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        assert isinstance(place, dict)


def test_it_has_every_route(document: dict[str, Any]) -> None:
    assert {(method, path) for path, method, _ in operations(document)} == {
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("post", "/v1/chat/completions"),
        ("post", "/v1/completions"),
        ("post", "/tokenize"),
        ("post", "/detokenize"),
        ("get", "/health/live"),
        ("get", "/health/ready"),
        ("get", "/metrics"),
    }


@pytest.mark.parametrize("path", POSTS)
def test_the_examples_of_a_body_are_accepted(document: dict[str, Any], path: str) -> None:
    body = document["paths"][path]["post"]["requestBody"]
    content = body["content"]["application/json"]
    assert body["required"] is True
    assert content["schema"]["$ref"].endswith(f"/{POSTS[path].__name__}")
    assert content["examples"]
    for example in content["examples"].values():
        POSTS[path].model_validate_json(json.dumps(example["value"]))


@pytest.mark.parametrize("path", POSTS)
def test_every_field_of_a_body_is_described(document: dict[str, Any], path: str) -> None:
    schema = document["components"]["schemas"][POSTS[path].__name__]
    assert schema["properties"].keys() == POSTS[path].model_fields.keys()
    required = set(schema.get("required", ()))
    for name, field in schema["properties"].items():
        assert field["x-origin"] in ("OpenAI", "vLLM", "Chatchat")
        assert field["description"].endswith(f"({field['x-origin']})")
        assert ("Default: " in field["description"]) == (name not in required), name


@pytest.mark.parametrize("path", POSTS)
def test_what_is_refused_or_ignored_is_told_too(document: dict[str, Any], path: str) -> None:
    said = document["paths"][path]["post"]["description"]
    assert all(f"`{name}`: " in said for name in (*REFUSED, *IGNORED))


def test_every_answer_has_an_example(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        assert operation["summary"]
        for status, answer in operation["responses"].items():
            for content in answer["content"].values():
                assert "example" in content, (path, method, status)


def test_every_failure_has_the_shape_of_openais_errors(document: dict[str, Any]) -> None:
    required = document["components"]["schemas"]["Error"]["properties"]["error"]["required"]
    for path in POSTS:
        responses = document["paths"][path]["post"]["responses"]
        assert set(responses) == {"200", "400", "404", "408", "413", "415", "500", "503", "504"}
        for status, answer in responses.items():
            if status != "200":
                content = answer["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Error"}
                assert set(content["example"]["error"]) == set(required)


@pytest.mark.parametrize(("path", "also"), [("/tokenize", {"503"}), ("/detokenize", set())])
def test_what_the_engine_is_not_asked_for_fails_on_its_body_and_on_stored_turns_only(
    document: dict[str, Any], path: str, also: set[str]
) -> None:
    responses = document["paths"][path]["post"]["responses"]
    assert set(responses) == {"200", "400", "404", "408", "413", "415"} | also


def test_fastapis_own_validation_is_not_in_it(document: dict[str, Any]) -> None:
    assert all("422" not in operation["responses"] for _, _, operation in operations(document))
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()
