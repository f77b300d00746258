"""How much a caller may ask for."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Field, with_config
from pydantic_settings import NoDecode
from typing_extensions import TypedDict

from gateway.settings.fields import Section, parsed_json

Count = Annotated[int, Field(ge=1, le=10**15)]


@with_config(ConfigDict(extra="forbid", strict=True))
class LimitFields(TypedDict, total=False):
    """Limits that are set; as in caller_limits.Limits."""

    requests_per_minute: Count
    tokens_per_minute: Count
    tokens_per_day: Count
    concurrent_requests: Count


# Read as text, from wherever it comes: pydantic-settings would merge the objects of several sources.
Given: TypeAlias = Annotated[LimitFields, NoDecode, BeforeValidator(parsed_json)]


class Limits(Section):
    """How much a caller may ask for."""

    key_limits: Given = Field(
        default_factory=LimitFields,
        description="Limits of each API key that has none of its own, as a JSON object: requests_per_minute, "
        "tokens_per_minute, tokens_per_day, concurrent_requests; default: none.",
    )
    user_limits: Given = Field(
        default_factory=LimitFields,
        description="The same for all that one user does, with whatever keys and logins; default: none.",
    )
    anonymous_limits: Annotated[LimitFields | None, NoDecode, BeforeValidator(parsed_json)] = Field(
        None,
        description="The same for each address (of IPv6 each /64) whose callers need not say who they are; "
        "default: none on loopback, and beyond it 300 requests per minute, 32 at once.",
    )
    limited_answer_tokens: int = Field(
        1024,
        ge=1,
        description="Longest answer to a request without max_tokens whose caller has a limit of tokens, in "
        "tokens; all of it is reserved.",
    )
    limits_store: Literal["memory", "postgresql"] = Field(
        "memory",
        description="Where limits are counted: memory, by each gateway for itself; postgresql, for all "
        "gateways of one database together.",
    )
    limits_timeout_seconds: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="PostgreSQL counts as away when a request waits longer for its limits, in seconds; only "
        "with limits_store=postgresql.",
    )
    limits_gateways: int = Field(
        2,
        ge=1,
        le=10_000,
        description="Among how many gateways limits are divided while PostgreSQL is away; only with "
        "limits_store=postgresql.",
    )
