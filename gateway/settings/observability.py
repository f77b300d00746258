"""What the gateway tells of itself."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, field_validator

from gateway.settings.fields import PREFIX, Section, also

TRACES_PATH = "v1/traces"

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def _collector_url(value: str) -> str:
    """As it is. What it is is not repeated in errors."""
    try:
        parts = urlsplit(value)
        # Reading it finds what is no number.
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    plain = value.isascii() and value.isprintable() and " " not in value
    if not usable or not plain or parts.scheme not in ("http", "https"):
        raise ValueError("it must be a URL of a collector, as http://host:4318")
    if "@" in parts.netloc:
        raise ValueError("it must have no user and no password; otlp_headers may have them")
    return value


def _headers(value: SecretStr) -> SecretStr:
    parsed_headers(value.get_secret_value())
    return value


def parsed_headers(text: str) -> dict[str, str]:
    """Of ``name=value,name=value``, values percent-encoded where they have to be; as OpenTelemetry's
    specification has it (OTEL_EXPORTER_OTLP_HEADERS). Raises ValueError, which repeats nothing of it."""
    found = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        name, equals, value = pair.partition("=")
        name, value = name.strip(), unquote(value.strip())
        if not equals or not _HEADER_NAME.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise ValueError("it must be headers, as name=value,name=value")
        found[name.lower()] = value
    return found


CollectorUrl = Annotated[str, AfterValidator(_collector_url)]


class Observability(Section):
    """What the gateway tells of itself."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias=also("log_level", "LOG_LEVEL"), description="Least level that is logged."
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="text for people, json for machines, one object for each line; auto: text where standard "
        "error is a terminal, else json.",
    )
    access_log: bool = Field(True, description="Log one line for each request.")
    log_content: bool = Field(
        False,
        description="Whether that line has what was asked last and what was answered, up to 2,000 characters "
        "of each: people's text, kept wherever logs are.",
    )
    otlp_endpoint: CollectorUrl | None = Field(
        None,
        validation_alias=also("otlp_endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        description="Where traces are sent: the base URL of an OpenTelemetry collector that takes OTLP over "
        f"HTTP, as http://host:4318; /{TRACES_PATH} is added. Default: nowhere, there are none.",
    )
    otlp_traces_endpoint: CollectorUrl | None = Field(
        None,
        validation_alias=also("otlp_traces_endpoint", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        description="In place of otlp_endpoint: the whole URL that traces are sent to.",
    )
    otlp_headers: Annotated[SecretStr, AfterValidator(_headers)] | None = Field(
        None,
        validation_alias=AliasChoices(
            PREFIX + "OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"
        ),
        description="Headers that are sent with them, as name=value,name=value.",
    )
    otel_sdk_disabled: bool = Field(
        False,
        validation_alias=also("otel_sdk_disabled", "OTEL_SDK_DISABLED"),
        description="No traces, wherever they would be sent.",
    )
    service_name: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        validation_alias=also("service_name", "OTEL_SERVICE_NAME"),
        description="What traces call the gateway. Default: what OTEL_RESOURCE_ATTRIBUTES says, else "
        "chatglm-gateway.",
    )
    trace_sample_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How much of the requests that come without a traceparent is traced: 0 to 1. With one "
        "that is believed, its sampled flag decides.",
    )
    trace_context: Literal["all", "authenticated", "none"] = Field(
        "authenticated",
        description="Whose traceparent and tracestate are believed: everybody's, those of callers who have "
        "said who they are (everybody's where nobody has to), or nobody's. A request of others begins a "
        "trace of its own, with a link to theirs.",
    )
    trace_content: bool = Field(
        False, description="Traces have the text of prompts, answers and feedback, up to a bound."
    )
    trace_client_address: bool = Field(False, description="Traces have the addresses of clients.")

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @property
    def traces_url(self) -> str | None:
        """Where traces are sent; None: there are none. As OpenTelemetry's specification has it (protocol,
        exporter, "Endpoint URLs for OTLP/HTTP")."""
        if self.otel_sdk_disabled:
            return None
        if self.otlp_traces_endpoint is not None:
            return self.otlp_traces_endpoint
        return f"{self.otlp_endpoint.rstrip('/')}/{TRACES_PATH}" if self.otlp_endpoint is not None else None
