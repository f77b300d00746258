"""Who answers where the engine does not, and how it comes back; and a server that answers in its place
altogether."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import NoDecode

from gateway.settings.fields import Section, parsed_json

if TYPE_CHECKING:
    from engine.upstream import Upstream


def _base_url(value: str) -> str:
    """Without a slash at its end; ``/v1`` where it has no path. What it is is not repeated in errors."""
    try:
        parts = urlsplit(value)
        # Reading it finds what is no number.
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    plain = value.isascii() and value.isprintable() and " " not in value
    if not usable or not plain or parts.scheme not in ("http", "https"):
        raise ValueError("it must be the base URL of a server, as https://host:8000/v1")
    if "@" in parts.netloc:
        raise ValueError("it must have no user and no password; the key is a setting of its own")
    if parts.query or parts.fragment:
        raise ValueError("it must have no query and no fragment")
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _key(value: SecretStr) -> SecretStr:
    key = value.get_secret_value()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("it must be ASCII without blanks")
    return value


BaseUrl = Annotated[str, AfterValidator(_base_url)]
ApiKey = Annotated[SecretStr, AfterValidator(_key)]
Dialect = Literal["openai", "vllm"]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
ModelName = Annotated[str, Field(min_length=1, max_length=200)]
ContextLength = Annotated[int, Field(ge=1, lt=2**31)]


class UpstreamSettings(BaseModel):
    """One upstream server."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = Field(
        description="What rows, headers, metrics and the log call it."
    )
    url: BaseUrl = Field(description="Its base URL, as https://host:8000/v1.")
    model: ModelName | None = Field(
        default=None, description="What it calls the model; default: it is not told one."
    )
    api_key: ApiKey | None = Field(default=None, description="Sent as Authorization: Bearer.")
    dialect: Dialect = Field(default="openai", description="vllm: it also takes the fields that vLLM adds.")
    max_model_len: ContextLength | None = Field(default=None, description="Its context in tokens.")
    connect_seconds: Seconds = Field(default=5.0, description="How long a connection may take.")
    first_byte_seconds: Seconds = Field(default=60.0, description="How long a stream's first byte may take.")
    between_seconds: Seconds = Field(default=30.0, description="How long the next piece may take.")
    whole_seconds: Seconds = Field(default=600.0, description="How long an answer in one piece may take.")
    retries: Annotated[int, Field(ge=0, le=10)] = Field(
        default=2, description="How often it is asked again before its first byte."
    )

    @property
    def upstream(self) -> Upstream:
        """For the engine."""
        from engine.upstream import Upstream

        key = self.api_key.get_secret_value() if self.api_key is not None else None
        return Upstream(**self.model_dump(exclude={"api_key"}), api_key=key)


NOTICE = "notice"
"""What a fallback_notice is called where the others are called by their names."""


def _told_apart(value: list[UpstreamSettings]) -> list[UpstreamSettings]:
    names = [one.name for one in value]
    if len({*names, NOTICE}) <= len(names):
        raise ValueError(f"each needs a name of its own, and none is called {NOTICE}")
    return value


class Fallbacks(Section):
    """Who answers where the engine does not, and how it comes back; and a server that answers in its place
    altogether."""

    fallbacks: Annotated[
        list[UpstreamSettings], NoDecode, BeforeValidator(parsed_json), AfterValidator(_told_apart)
    ] = Field(
        default_factory=list,
        max_length=16,
        description="Servers that answer where the engine can't, the first of them first: JSON list of "
        'objects as {"name": "spare", "url": "https://host:8000/v1", "api_key": "..."}.',
    )
    fallback_notice: str | None = Field(
        None,
        min_length=1,
        max_length=2000,
        description="Text that is answered where neither the engine nor a fallback can; default: none, the "
        "answer is a 503.",
    )
    fallback_on_overload: bool = Field(
        False, description="Fallbacks also take the requests that the engine has no place for."
    )
    engine_restart: bool = Field(
        True, description="An engine that has died is built anew; otherwise it stays dead."
    )
    engine_restart_seconds: float = Field(
        1.0,
        gt=0,
        allow_inf_nan=False,
        description="Pause before the second attempt to build a dead engine anew, in seconds; it doubles "
        "with each further one.",
    )
    engine_restart_longest_seconds: float = Field(
        60.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest pause between two such attempts, in seconds; an engine that has lived for so "
        "long is built anew without one.",
    )
    upstream_url: BaseUrl | None = Field(
        None,
        description="Engine upstream: base URL of the OpenAI-compatible server that answers, as "
        "https://host:8000/v1.",
    )
    upstream_model: ModelName | None = Field(
        None, description="Engine upstream: what it calls the model; default: the first that it lists."
    )
    upstream_api_key: ApiKey | None = Field(
        None, description="Engine upstream: the key that it is sent; default: none."
    )
    upstream_dialect: Dialect = Field(
        "openai",
        description="Engine upstream: what it can be asked. openai: what OpenAI's specification has, the "
        "rest is refused; vllm: also what vLLM adds to it, and it counts tokens as they come.",
    )
    upstream_max_model_len: ContextLength | None = Field(
        None, description="Engine upstream: its context in tokens; default: what it tells, else 32768."
    )
    upstream_connect_seconds: Seconds = Field(
        5.0, description="Engine upstream: how long a connection may take, in seconds."
    )
    upstream_first_byte_seconds: Seconds = Field(
        60.0, description="Engine upstream: how long a stream's first byte may take, in seconds."
    )
    upstream_between_seconds: Seconds = Field(
        30.0, description="Engine upstream: how long the next piece of an answer may take, in seconds."
    )
    upstream_whole_seconds: Seconds = Field(
        600.0,
        description="Engine upstream: how long an answer that is not streamed may take to begin, in seconds.",
    )
    upstream_retries: int = Field(
        2,
        ge=0,
        le=10,
        description="Engine upstream: how often it is asked again where it refuses connections, breaks them, "
        "or answers 429, 502, 503 or 504; never after the first byte of an answer.",
    )

    @property
    def main_upstream(self) -> UpstreamSettings:
        """The server behind engine upstream; only where upstream_url is set."""
        assert self.upstream_url is not None
        return UpstreamSettings(
            name="upstream",
            url=self.upstream_url,
            model=self.upstream_model,
            api_key=self.upstream_api_key,
            dialect=self.upstream_dialect,
            max_model_len=self.upstream_max_model_len,
            connect_seconds=self.upstream_connect_seconds,
            first_byte_seconds=self.upstream_first_byte_seconds,
            between_seconds=self.upstream_between_seconds,
            whole_seconds=self.upstream_whole_seconds,
            retries=self.upstream_retries,
        )
