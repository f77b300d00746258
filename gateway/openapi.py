"""What /docs and /openapi.json say beyond what FastAPI sees: bodies are read and answers written by hand,
so their schemas and examples are put in here."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode

from gateway import openapi_admin, openapi_chatchat, openapi_fufan, openapi_model_info, openapi_operations
from gateway.openapi_operations import ERROR_SCHEMA, FIELDS_TEXT, GENERATING
from gateway.openapi_parts import REF

PARTS = (openapi_operations, openapi_chatchat, openapi_fufan, openapi_model_info, openapi_admin)
FORMS: dict[JsonSchemaMode, list[type[Any]]] = {
    "validation": [model for part in PARTS for model in part.BODIES],
    "serialization": [model for part in PARTS for model in part.ANSWERS],
}
OPERATIONS = {path: operation for part in PARTS for path, operation in part.OPERATIONS.items()}


def describe(app: FastAPI) -> None:
    """Give ``app`` an ``openapi()`` that knows bodies, answers and the error."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            known: list[tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = [
                (model.__name__, mode, TypeAdapter(model))
                for mode, models in FORMS.items()
                for model in models
            ]
            _, definitions = TypeAdapter.json_schemas(known, ref_template=REF)
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(definitions["$defs"])
            schemas["Error"] = ERROR_SCHEMA
            for path, operations in schema["paths"].items():
                for method, operation in operations.items():
                    # FastAPI would drop the nulls out of the examples.
                    told = OPERATIONS.get(path, {})
                    operation.update(told.get(method, told))
                    if path in GENERATING:
                        operation["description"] += f"\n\n{FIELDS_TEXT}"
            for name in ("HTTPValidationError", "ValidationError"):
                schemas.pop(name, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
