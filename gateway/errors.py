"""Everything that can go wrong for a client, and the one place that gives it a status and a body.

::

    GatewayError                     500  server_error
     |- InvalidRequest               400  invalid_request_error
     |   |- ContextLengthExceeded    400  code context_length_exceeded
     |   |- InvalidApiKey            401  code invalid_api_key; carries WWW-Authenticate
     |   |- PermissionDenied         403  code permission_denied
     |   |- ModelNotFound            404  code model_not_found
     |   |- UnknownUrl               404  code unknown_url
     |   |- NotFound                 404  code not_found
     |   |- MethodNotAllowed         405  code method_not_allowed
     |   |- BodyTimeout              408  code request_timeout; closes the connection
     |   |- Conflict                 409  code conflict
     |   |- BodyTooLarge             413  code body_too_large; closes the connection
     |   |- UnsupportedMediaType     415  code unsupported_media_type; closes the connection
     |   '- UnsupportedEncoding      415  code unsupported_encoding; closes the connection
     |- RateLimitExceeded            429  rate_limit_error, code rate_limit_exceeded; carries Retry-After
     |- InsufficientQuota            429  insufficient_quota; not to be retried
     |- GenerationError              500  server_error
     |- Unavailable                  503  code overloaded or what is away; carries Retry-After
     '- DeadlineExceeded             504  code timeout; not to be retried

A type that is not told is that of the class above. Further codes of InvalidRequest: invalid_value,
missing_required_parameter, unknown_parameter, unsupported_parameter; of Unavailable: shutting_down,
engine_unavailable, database_unavailable (not taken), not_recorded (answered, and the row is safe nowhere).
Clients decide by the status; OpenAI's SDKs retry 408, 409, 429 and from 500 on, wait as long as
``retry-after-ms`` or ``retry-after`` say, and obey ``x-should-retry``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel

from engine.base import EngineDead, EngineError, EngineOverloaded, RequestRefused
from gateway.validation import explained

RETRY_AFTER_SECONDS = 5

NO_RETRY = {"x-should-retry": "false"}

# Why a request that was let in came to no engine all the same: the queue had no place, or the engine did not
# take it.
RefusedAs = Literal[
    "caller_queue_full",
    "caller_wait_too_long",
    "queue_full",
    "wait_too_long",
    "engine_dead",
    "engine_failed",
    "engine_full",
    "engine_refused",
]


class GatewayError(Exception):
    """A failure that a client is told about.

    ``message`` is for people; ``code`` and ``param`` for programs: what went wrong, and the field of
    the request that is at fault. ``closes`` where the request's body may be left unread.
    ``invalid_fields``: pydantic's errors, where a body did not pass. ``refused_as``: what it counts as where
    it ends the request, for whoever raises it can't know: others may answer.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    closes = False
    fixed_headers: ClassVar[Mapping[str, str]] = {}

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.headers: dict[str, str] = dict(self.fixed_headers)
        self.invalid_fields: Sequence[Mapping[str, Any]] = ()
        self.refused_as: RefusedAs | None = None

    def counted_as(self, reason: RefusedAs) -> Self:
        """The same, with this ``refused_as``."""
        self.refused_as = reason
        return self


class InvalidRequest(GatewayError):
    """The request can't be understood or honoured as it is."""

    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer do not fit the model's context."""

    code = "context_length_exceeded"


class InvalidApiKey(InvalidRequest):
    """The request carries no key, or none that is known."""

    status = 401
    code = "invalid_api_key"
    fixed_headers: ClassVar = {"www-authenticate": "Bearer"}


class PermissionDenied(InvalidRequest):
    """The key is known and may not do this."""

    status = 403
    code = "permission_denied"


class ModelNotFound(InvalidRequest):
    """The request names a model that is not served."""

    status = 404
    code = "model_not_found"


class UnknownUrl(InvalidRequest):
    """Nothing is served under this path."""

    status = 404
    code = "unknown_url"


class NotFound(InvalidRequest):
    """What the request names is not there, or is somebody else's."""

    status = 404
    code = "not_found"


class MethodNotAllowed(InvalidRequest):
    """The path is served, the method is not."""

    status = 405
    code = "method_not_allowed"


class BodyTimeout(InvalidRequest):
    """The body did not arrive in time."""

    status = 408
    code = "request_timeout"
    closes = True


class Conflict(InvalidRequest):
    """The request contradicts what another one has made so."""

    status = 409
    code = "conflict"


class BodyTooLarge(InvalidRequest):
    """The body is larger than the setting allows."""

    status = 413
    code = "body_too_large"
    closes = True


class UnsupportedMediaType(InvalidRequest):
    """The body is not declared as JSON."""

    status = 415
    code = "unsupported_media_type"
    closes = True


class UnsupportedEncoding(InvalidRequest):
    """The body is compressed in a way that is not understood."""

    status = 415
    code = "unsupported_encoding"
    closes = True
    fixed_headers: ClassVar = {"accept-encoding": "gzip, identity"}


class RateLimitExceeded(GatewayError):
    """The caller's own limit is reached; it is free again after ``retry_after_seconds``."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, retry_after_seconds: float, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param, code)
        self.headers |= retry_headers(retry_after_seconds)


class InsufficientQuota(GatewayError):
    """The caller's budget is used up: waiting does not help."""

    status = 429
    type = "insufficient_quota"
    code = "insufficient_quota"
    fixed_headers: ClassVar = NO_RETRY


class GenerationError(GatewayError):
    """The engine failed on this request."""


class Unavailable(GatewayError):
    """Not now: the gateway is full, starting, or on its way down."""

    status = 503
    code = "overloaded"

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float = RETRY_AFTER_SECONDS,
    ) -> None:
        super().__init__(message, param, code)
        self.headers |= retry_headers(retry_after_seconds)


class DeadlineExceeded(GatewayError):
    """The request took longer than it may; an SDK would start the same long generation again."""

    status = 504
    code = "timeout"
    fixed_headers: ClassVar = NO_RETRY


def retry_headers(seconds: float) -> dict[str, str]:
    """When to come again, in whole seconds for all clients and in milliseconds for OpenAI's SDKs."""
    return {
        "retry-after": str(max(1, math.ceil(seconds))),
        "retry-after-ms": str(max(1, math.ceil(seconds * 1000))),
    }


def from_engine(error: EngineError) -> GatewayError:
    """What an engine's failure means to a client."""
    match error:
        case RequestRefused():
            return InvalidRequest(str(error), error.param).counted_as("engine_refused")
        case EngineOverloaded():
            return Unavailable("The engine's queue is full; try again soon.").counted_as("engine_full")
        case EngineDead():
            dead = Unavailable("The engine is not running.", code="engine_unavailable")
            return dead.counted_as("engine_dead")
        case _:
            return GenerationError("The engine failed on this request.").counted_as("engine_failed")


def from_validation(
    errors: Sequence[Mapping[str, Any]], model: type[BaseModel] | None = None
) -> InvalidRequest:
    """pydantic's errors as one sentence that names the first field at fault; with the ``model`` that was
    asked for, also a number's whole range."""
    refusal = InvalidRequest(*explained(errors, model))
    refusal.invalid_fields = errors
    return refusal


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


def from_status(status: int, detail: str, method: str, path: str) -> GatewayError:
    """Starlette's own refusals, which carry a status only."""
    match status:
        case 404:
            return UnknownUrl(f"Unknown URL: {method} {path}")
        case 405:
            return MethodNotAllowed(f"Not allowed: {method} {path}")
    error = (InvalidRequest if status < 500 else GatewayError)(detail or HTTPStatus(status).phrase)
    error.status = status
    return error
