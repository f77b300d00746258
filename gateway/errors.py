"""Everything that can go wrong for a client, and the one place that gives it a status and a body.

::

    GatewayError
     |- InvalidRequest               400  invalid_request_error
     |   |- ContextLengthExceeded    400  code context_length_exceeded
     |   |- ModelNotFound            404  code model_not_found
     |   '- BodyTooLarge             413  code body_too_large
     |- GenerationError              500  server_error
     '- Unavailable                  503  code overloaded or what is away; carries Retry-After
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from engine.base import EngineDead, EngineError, EngineOverloaded, RequestRefused

RETRY_AFTER_SECONDS = 5


class GatewayError(Exception):
    """A failure that a client is told about.

    ``message`` is for people; ``code`` and ``param`` for programs: what went wrong, and the field of
    the request that is at fault.
    """

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.headers: dict[str, str] = {}


class InvalidRequest(GatewayError):
    """The request can't be understood or honoured as it is."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer do not fit the model's context."""

    code = "context_length_exceeded"


class ModelNotFound(InvalidRequest):
    """The request names a model that is not served."""

    status = 404
    code = "model_not_found"


class BodyTooLarge(InvalidRequest):
    """The body is larger than the setting allows."""

    status = 413
    code = "body_too_large"


class GenerationError(GatewayError):
    """The engine failed on this request."""


class Unavailable(GatewayError):
    """Not now: the gateway is full, starting, or on its way down."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param, code)
        self.headers["retry-after"] = str(RETRY_AFTER_SECONDS)


class DeadlineExceeded(GatewayError):
    """The request took longer than it may."""

    status = 504
    code = "timeout"


def from_engine(error: EngineError) -> GatewayError:
    """What an engine's failure means to a client."""
    match error:
        case RequestRefused():
            return InvalidRequest(str(error), error.param)
        case EngineOverloaded():
            return Unavailable("The engine's queue is full; try again soon.")
        case EngineDead():
            return Unavailable("The engine is not running.", code="engine_unavailable")
        case _:
            return GenerationError("The engine failed on this request.")


def from_validation(errors: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """pydantic's errors as one sentence that names the first field at fault."""
    param = _param(errors[0])
    # Of a union's members, the one that has the right type and says what else is wrong.
    first = next(
        (error for error in errors if _param(error) == param and not error["type"].endswith("_type")),
        errors[0],
    )
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return InvalidRequest(f"The body is not valid JSON: {message.removeprefix('Invalid JSON: ')}.")
    if param is None and first["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return InvalidRequest("The body must be a JSON object.")
    if first["type"] == "missing":
        return InvalidRequest(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
    return InvalidRequest(f"Invalid value for '{param}': {message}.", param, "invalid_value")


def _param(error: Mapping[str, Any]) -> str | None:
    """The field as a client knows it: without the members of unions, as ``str`` or ``list[...]``."""
    types = ("str", "list", "int", "float", "bool", "none")
    fields = (str(part) for part in error["loc"] if part not in types)
    return ".".join(part for part in fields if part.replace("_", "").isalnum()) or None


def body_of(error: GatewayError) -> dict[str, Any]:
    """OpenAI's error object; all four keys are always there."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def response_to(error: GatewayError) -> Response:
    """The answer to a request that failed before its first byte."""
    return Response(
        json.dumps(body_of(error), ensure_ascii=False).encode(errors="backslashreplace"),
        status_code=error.status,
        media_type="application/json",
        headers=error.headers,
    )


def from_status(status: int, detail: str, method: str, path: str) -> GatewayError:
    """Starlette's own refusals, which carry a status only."""
    messages = {404: f"Unknown URL: {method} {path}", 405: f"Not allowed: {method} {path}"}
    codes = {404: "unknown_url", 405: "method_not_allowed"}
    error = InvalidRequest(messages.get(status, detail or HTTPStatus(status).phrase), code=codes.get(status))
    error.status = status
    if status >= 500:
        error.type = "server_error"
    return error
