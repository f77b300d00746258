"""Pieces of /openapi.json that the operations of every dialect are made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

Described = dict[str, dict[str, Any]]

REF = "#/components/schemas/{model}"


def ref(model: type[Any] | str) -> dict[str, str]:
    """A schema of the components."""
    return {"$ref": REF.format(model=model if isinstance(model, str) else model.__name__)}


def json_answer(description: str, schema: dict[str, Any], example: Any) -> dict[str, Any]:
    """A response of JSON."""
    content = {"schema": schema, "example": example}
    return {"description": description, "content": {"application/json": content}}


def json_body(model: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """A request's body, which has to be there."""
    content = {"schema": ref(model), "examples": examples}
    return {"required": True, "content": {"application/json": content}}


def parameter(
    name: str, description: str, schema: dict[str, Any], *, in_path: bool = False
) -> dict[str, Any]:
    """A parameter of the query or the path."""
    place = {"in": "path", "required": True} if in_path else {"in": "query", "required": False}
    return {"name": name, "description": description, "schema": schema, **place}


def exact_object(**properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has all of these and no others."""
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }
