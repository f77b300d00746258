"""A request's body, read with a bound and checked against a model."""

from __future__ import annotations

from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from gateway.errors import BodyTooLarge, from_validation

Parsed = TypeVar("Parsed", bound=BaseModel)


async def read(request: Request, model: type[Parsed], most_bytes: int) -> Parsed:
    """The body as ``model``. Raises InvalidRequest, and BodyTooLarge without reading to the end."""
    declared = request.headers.get("content-length", "0")
    too_large = BodyTooLarge(f"The body is larger than {most_bytes} bytes.")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise too_large
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > most_bytes:
            raise too_large
        pieces.append(piece)
    try:
        return model.model_validate_json(b"".join(pieces))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise from_validation(found) from error
