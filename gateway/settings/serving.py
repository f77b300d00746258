"""How the gateway listens and answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field, field_validator

from gateway.settings.fields import Section, also


def default_data_dir() -> Path:
    """Of the machine for root, of the user for anyone else."""
    if os.geteuid() == 0:
        return Path("/var/lib/chatglm-gateway")
    return Path(platformdirs.user_data_dir("chatglm-gateway"))


class Serving(Section):
    """How the gateway listens and answers."""

    host: str = Field("127.0.0.1", validation_alias=also("host", "HOST"), description="Address to listen on.")
    port: int = Field(
        8000, ge=0, le=65535, validation_alias=also("port", "PORT"), description="Port; 0 takes a free one."
    )
    max_body_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, description="Largest request body, in bytes; above it the answer is 413."
    )
    body_timeout_seconds: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a request's body may take to arrive, in seconds; above it the answer is 408.",
    )
    max_url_bytes: int = Field(8192, ge=256, description="Longest URL, in bytes; above it the answer is 414.")
    max_headers: int = Field(100, ge=10, description="Most headers of a request; above it the answer is 431.")
    max_header_bytes: int = Field(
        32 * 1024, ge=1024, description="A request's headers together, in bytes; above it the answer is 431."
    )
    header_timeout_seconds: float = Field(
        15.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a request's head may take to arrive, in seconds; above it the answer is 408.",
    )
    send_timeout_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a client may read nothing of what it is sent, in seconds; then its connection "
        "is cut and its request ended.",
    )
    keep_alive_seconds: float = Field(
        75.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a connection may stay open between two requests, in seconds.",
    )
    max_connections: int = Field(
        10_000,
        ge=1,
        description="Most open connections; for a new one the one is closed that has waited longest for a "
        "request, and where none waits the answer is 503.",
    )
    max_connections_per_address: int | None = Field(
        None,
        ge=1,
        description="The same for each address, where the answer is 429; not behind a proxy, whose clients "
        "all have its address. Default: no bound.",
    )
    request_timeout_seconds: float = Field(
        600.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a request may take, from its arrival to the end of generation, in seconds; a "
        "client's header x-request-timeout may only shorten it.",
    )
    sse_keep_alive_seconds: float = Field(
        15.0,
        ge=0,
        allow_inf_nan=False,
        description="A stream that waits sends a comment line so often, in seconds; 0: never.",
    )
    drain_notice_seconds: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="How long new requests are still taken after SIGTERM, in seconds, while /health and "
        "/health/ready say no: for balancers that ask these; before drain_seconds.",
    )
    drain_seconds: float = Field(
        30.0, ge=0, description="How long running requests may go on after SIGTERM, in seconds."
    )
    stream_style: Literal["delta", "cumulative"] = Field(
        "delta",
        description="Chatchat's streams: each event has what is new, or the whole text so far.",
    )
    web_root: Path | None = Field(
        None, description="Folder of a built web front end, served at /; default: none."
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Where the embedded PostgreSQL, the journal and the demo model live.",
    )

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("web_root")
    @classmethod
    def _has_a_page(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = value.expanduser().absolute()
        if not (path / "index.html").is_file():
            raise ValueError(f"{value} is not the folder of a built front end: it has no index.html")
        return path
