"""Where rows go, and what they keep."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from gateway.settings.fields import Section, also


class Rows(Section):
    """Where rows go, and what they keep."""

    database_url: str | None = Field(
        None,
        validation_alias=also("database_url", "DATABASE_URL"),
        description="postgresql://… with libpq's options; default: an embedded PostgreSQL.",
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
        if not value:
            return None
        if urlsplit(value).scheme not in ("postgresql", "postgres"):
            raise ValueError("must be a postgresql:// URL")
        return value
