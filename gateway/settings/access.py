"""Who may come in."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from gateway.settings.fields import Section, items

# As a browser sends it: a scheme, a host and perhaps a port, in lower case and with nothing behind.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")


class Access(Section):
    """Who may come in."""

    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(items)] = Field(
        default_factory=list,
        description="Origins of web pages that may call the gateway, as https://chat.example.com; JSON or "
        "separated by commas; * for all; default: none.",
    )
    cors_allow_credentials: bool = Field(
        False, description="Whether those pages may send cookies and HTTP logins; not with *."
    )
    authentication: bool | None = Field(
        None,
        description="Whether callers need an API key or a login, and see only what is theirs; default: where "
        "the gateway listens beyond loopback.",
    )
    session_days: float = Field(
        30.0, gt=0, le=3650, description="How long a login holds when it is not used, in days."
    )

    registration: Literal["open", "closed"] | None = Field(
        None,
        description="Whether strangers may make themselves users: open or closed; default: closed where "
        "callers need an API key or a login.",
    )
    metrics_public: bool = Field(
        False, description="Whether /metrics needs no admin where callers need an API key or a login."
    )
    docs_public: bool = Field(
        False,
        description="Whether /docs and /openapi.json need no admin where callers need an API key or a login.",
    )

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        for origin in value:
            if origin not in ("*", "null") and _ORIGIN.fullmatch(origin) is None:
                raise ValueError(f"{origin!r} is not an origin, as https://chat.example.com or *")
        return value

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        if self.cors_allow_credentials and "*" in self.cors_origins:
            raise ValueError(
                "cors_allow_credentials: name the origins; with cors_origins=* every page's "
                "user would be taken for yours"
            )
        return self
