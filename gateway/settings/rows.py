"""Where rows go, and what they keep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import Field, field_validator, model_validator

from gateway.settings.fields import Section, also
from gateway.text_file import text_of


class Rows(Section):
    """Where rows go, and what they keep."""

    database_url: str | None = Field(
        None,
        validation_alias=also("database_url", "DATABASE_URL"),
        description="postgresql://… with libpq's options, user and password percent-encoded; default: an "
        "embedded PostgreSQL.",
    )
    database_url_file: Path | None = Field(
        None,
        validation_alias=also("database_url_file", "DATABASE_URL_FILE"),
        description="File that database_url stands in, as a secret that is mounted; database_url itself "
        "wins.",
    )
    durability: Literal["commit", "async", "strict"] = Field(
        "commit",
        description="commit: an answer ends when its row is in PostgreSQL, or in the local journal while "
        "PostgreSQL is away; async: it does not wait; strict: as commit, but no request is taken meanwhile.",
    )
    commit_wait_seconds: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="How long an answer's end waits for its row, in seconds, where neither PostgreSQL nor "
        "the journal takes it; the answer then ends as failed.",
    )
    database_timeout_seconds: float = Field(
        2.0,
        gt=0,
        allow_inf_nan=False,
        description="PostgreSQL counts as away when it takes longer to write rows, in seconds.",
    )
    database_pool_size: int = Field(
        5, ge=1, le=1000, description="Most connections for reading; one more writes the rows."
    )
    journal_max_bytes: int = Field(
        1024**3,
        ge=1024**2,
        description="How much the local journal may hold while PostgreSQL is away, in bytes; above it no "
        "request is taken.",
    )
    store_content: Literal["full", "last", "none"] = Field(
        "full",
        description="What rows keep of the text: all messages, the last query and the response only, or "
        "none; counts always.",
    )
    content_max_characters: int = Field(
        1024**2, ge=1, description="Most characters of one text in a row; what is longer is cut, and marked."
    )
    retain_content_days: int | None = Field(
        None, ge=1, description="Text of rows older than so many days is dropped; default: kept."
    )
    retain_rows_days: int | None = Field(
        None,
        ge=1,
        description="Months whose rows are all older than so many days are dropped; their sums stay; "
        "default: kept.",
    )

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, value: str | None) -> str | None:
        return checked_url(value) if value else None

    @field_validator("database_url_file")
    @classmethod
    def _holds_a_url(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = value.expanduser().absolute()
        url_in(path)
        return path

    @model_validator(mode="after")
    def _url_from_its_file(self) -> Self:
        if self.database_url is None and self.database_url_file is not None:
            self.database_url = url_in(self.database_url_file)
        return self


def url_in(path: Path) -> str:
    """The URL of PostgreSQL that a file holds. Raises ValueError, which tells nothing of what is in it."""
    try:
        return checked_url(text_of(path).strip())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def checked_url(url: str) -> str:
    """Raises ValueError, which tells nothing of ``url``: it may hold a password. What asyncpg would take for
    a port or an option, and name in its error, may be a part of one that is not percent-encoded."""
    try:
        parts = urlsplit(url)
        usable = _usable(url, parts)
    except ValueError:
        raise ValueError(f"is not a URL; {ENCODE}") from None
    if parts.scheme not in ("postgresql", "postgres"):
        raise ValueError("must be a postgresql:// URL")
    if not usable:
        raise ValueError(f"has a host, a port or an option that is none; {ENCODE}")
    return url


ENCODE = (
    "in user and password every character but A-Z a-z 0-9 . _ ~ - must be percent-encoded "
    "(@ is %40, / is %2F, : is %3A, # is %23, ? is %3F)"
)

# One of several, in libpq's and asyncpg's form.
_HOST = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(:[0-9]{0,5})?")
_MAY_HAVE_AT = ("user=", "password=", "sslpassword=")


def _usable(url: str, parts: SplitResult) -> bool:
    """Raises ValueError where the query is none."""
    if not url.isprintable() or " " in url or "#" in url:
        return False
    _, at, hosts = parts.netloc.partition("@")
    hosts = hosts if at else parts.netloc
    if parts.query:
        parse_qsl(parts.query, strict_parsing=True)
    return (
        "@" not in hosts + parts.path
        and all(_HOST.fullmatch(host) for host in hosts.split(","))
        and all("@" not in pair or pair.startswith(_MAY_HAVE_AT) for pair in parts.query.split("&"))
    )
