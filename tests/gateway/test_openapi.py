from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from adapters.openai.chat_request import ChatCompletionRequest
from adapters.openai.completion_request import CompletionRequest
from adapters.openai.refused import IGNORED, REFUSED
from gateway.app import create_app
from gateway.error_shapes import NATIVE, OPENAI, TELLING_STATUS
from gateway.openapi import FORMS, OPERATIONS
from gateway.settings import load

BODIES = {model.__name__: model for model in FORMS["validation"]}
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


def test_each_of_its_routes_is_described(document: dict[str, Any]) -> None:
    assert document["paths"].keys() == OPERATIONS.keys()
    assert document["paths"].keys() >= {
        *POSTS,
        "/v1/models",
        "/tokenize",
        "/metrics",
        "/chat/chat",
        "/api/chat",
    }


def test_the_examples_of_a_body_are_accepted(document: dict[str, Any]) -> None:
    bodies = [
        operation["requestBody"] for _, _, operation in operations(document) if "requestBody" in operation
    ]
    assert bodies
    for body in bodies:
        content = body["content"]["application/json"]
        model: type[BaseModel] = BODIES[content["schema"]["$ref"].rpartition("/")[2]]
        assert content["examples"]
        for example in content["examples"].values():
            model.model_validate_json(json.dumps(example["value"]))


def test_the_examples_of_an_answer_have_its_form(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            if content := answer.get("content", {}).get("application/json"):
                schema = content["schema"] | {"components": document["components"]}
                problems = list(Draft202012Validator(schema).iter_errors(content["example"]))
                assert not problems, (path, method, status)


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
            # A router's probe is told a status and no more.
            assert ("content" in answer) != (path == "/health")
            for content in answer.get("content", {}).values():
                assert "example" in content, (path, method, status)


def test_whoever_has_to_say_who_he_is_may_be_refused_for_it(document: dict[str, Any]) -> None:
    refused = [
        set(operation["responses"])
        for _, _, operation in operations(document)
        if "401" in operation["responses"]
    ]
    assert len(refused) > 30
    assert all({"403", "429", "503"} <= statuses for statuses in refused)


def test_every_failure_has_the_shape_of_openais_errors(document: dict[str, Any]) -> None:
    required = document["components"]["schemas"]["Error"]["properties"]["error"]["required"]
    for path in POSTS:
        responses = document["paths"][path]["post"]["responses"]
        assert set(responses) == {
            "200",
            "400",
            "401",
            "403",
            "404",
            "408",
            "413",
            "415",
            "429",
            "500",
            "503",
            "504",
        }
        for status, answer in responses.items():
            if status != "200":
                content = answer["content"]["application/json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Error"}
                assert set(content["example"]["error"]) == set(required)


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_what_the_engine_is_not_asked_for_does_not_fail_there(document: dict[str, Any], path: str) -> None:
    responses = document["paths"][path]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "403", "404", "408", "413", "415", "429", "503"}


def test_every_failure_of_a_native_route_has_chatchats_shape(document: dict[str, Any]) -> None:
    for path, _, operation in operations(document):
        if not path.startswith(NATIVE) or path in OPENAI:
            assert "422" not in operation["responses"]
            continue
        name = "FufanError" if path.startswith(TELLING_STATUS) else "NativeError"
        for status, answer in operation["responses"].items():
            if int(status) >= 400:
                content = answer["content"]["application/json"]
                assert content["schema"] == {"$ref": f"#/components/schemas/{name}"}
                assert content["example"]["code"] == int(status)


def test_fastapis_own_validation_is_not_in_it(document: dict[str, Any]) -> None:
    assert not {"HTTPValidationError", "ValidationError"} & document["components"]["schemas"].keys()
