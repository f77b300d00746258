"""/openapi.json is true: whatever is asked, the answer has a status, a type and a form that it tells of."""

from __future__ import annotations

from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case, Config
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.app import create_app
from gateway.error_shapes import NATIVE
from gateway.settings import load
from tests.end_to_end.served import Gateway

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
GENERATING = ("completions", "/completion", "/chat", "/message/")
SECONDS = 60
MOST_TOKENS = 32


DOCUMENT = create_app(load({"engine": "simulated"})).openapi()
# What was sent is shown as it was: the fields about tokens are no secrets.
CONFIG = Config.from_dict({"output": {"sanitization": {"enabled": False}}})
schema = schemathesis.openapi.from_dict(DOCUMENT, config=CONFIG)


def test_it_is_what_is_served(client: httpx.Client) -> None:
    assert client.get("/openapi.json").json() == DOCUMENT


NATIVE_PATHS = rf"^({'|'.join(NATIVE)})"


@schema.exclude(path_regex=NATIVE_PATHS).parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_documented(simulated: Gateway, case: Case[Any]) -> None:
    check(case, simulated, [*CHECKS, negative_data_rejection])


@schema.include(path_regex=NATIVE_PATHS).parametrize()
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_native_answer_is_documented(simulated: Gateway, case: Case[Any]) -> None:
    """Those routes also take what can be read as what is meant."""
    check(case, simulated, CHECKS)


def check(case: Case[Any], gateway: Gateway, checks: list[Any], headers: dict[str, str] | None = None) -> int:
    """Of one request and its answer, whose status it gives."""
    if isinstance(case.body, dict) and case.operation.path.endswith(GENERATING):
        # So that what ignores its end ends.
        for name in ("max_tokens", "max_completion_tokens"):
            asked = case.body.get(name)
            if asked is None or (type(asked) is int and not 0 < asked < MOST_TOKENS):
                case.body[name] = MOST_TOKENS
    answer = case.call_and_validate(
        base_url=gateway.base_url, headers=headers, checks=checks, timeout=SECONDS
    )
    return answer.status_code
