"""Every setting once: name, default, unit, and where its value came from.

A setting is given as a command line option, as ``GATEWAY_<NAME>`` in the environment, or there in a
file ``.env``; the first of these wins. DATABASE_URL, MODEL_PATH, HOST, PORT and LOG_LEVEL are honoured
under those names too.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit

import platformdirs
from dotenv import dotenv_values
from pydantic import (
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
    with_config,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from typing_extensions import TypedDict

from gateway.prompt_templates import read_templates

PREFIX = "GATEWAY_"
DEMO = "demo"

# As a browser sends it: a scheme, a host and perhaps a port, in lower case and with nothing behind.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\sA-Z]+")


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
class SamplingDefaults(TypedDict, total=False):
    """What is taken for fields of a request that a client leaves out; vLLM's names and ranges."""

    temperature: Annotated[float, Field(ge=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0)]
    min_p: Annotated[float, Field(ge=0, le=1)]
    repetition_penalty: Annotated[float, Field(gt=0)]
    presence_penalty: Annotated[float, Field(ge=-2, le=2)]
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)]


class InvalidSetting(Exception):
    """A setting has a value that can't be used; the message is one line that names it."""


def default_data_dir() -> Path:
    """Of the machine for root, of the user for anyone else."""
    if os.geteuid() == 0:
        return Path("/var/lib/chatglm-gateway")
    return Path(platformdirs.user_data_dir("chatglm-gateway"))


def _also(name: str, plain: str) -> AliasChoices:
    """``GATEWAY_<NAME>`` first, then a name that people know."""
    return AliasChoices(PREFIX + name.upper(), plain)


def _json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _items(value: object) -> object:
    """A list as JSON, or separated by commas."""
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return _json(value)
    return [item for item in map(str.strip, value.split(",")) if item]


class Settings(BaseSettings):
    """What an operator can choose."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    host: str = Field(
        "127.0.0.1", validation_alias=_also("host", "HOST"), description="Address to listen on."
    )
    port: int = Field(
        8000, ge=0, le=65535, validation_alias=_also("port", "PORT"), description="Port; 0 takes a free one."
    )
    engine: Literal["vllm", "simulated"] = Field(
        "vllm", description="vllm runs a model; simulated echoes, for tests and load."
    )
    model: str = Field(
        DEMO,
        validation_alias=_also("model", "MODEL_PATH"),
        description="Folder of the model, or 'demo' for the small one that comes along.",
    )
    served_model_name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="What clients call the model; default: the folder's name.",
    )
    # Read as text, from wherever it comes: pydantic-settings would merge the objects of several sources.
    engine_args: Annotated[dict[str, JsonValue], NoDecode, BeforeValidator(_json)] = Field(
        default_factory=dict, description="JSON object of vllm.AsyncEngineArgs fields."
    )
    sampling_defaults: Annotated[SamplingDefaults, NoDecode, BeforeValidator(_json)] = Field(
        default_factory=SamplingDefaults,
        description='What is taken where a client gives none, as {"temperature": 0.8, "top_p": 0.8}; '
        "default: the model's own.",
    )
    prompt_templates: Path | None = Field(
        None,
        description="YAML file of prompt templates, type -> name -> template, which replaces those that come "
        "along entry by entry; default: those that come along.",
    )
    tool_call_parser: str | None = Field(
        None,
        min_length=1,
        description="How the model writes tool calls: hermes, llama3_json, mistral, or the name of another "
        "parser of vLLM; default: what its chat template tells.",
    )
    database_url: str | None = Field(
        None,
        validation_alias=_also("database_url", "DATABASE_URL"),
        description="postgresql://… with libpq's options; default: an embedded PostgreSQL.",
    )
    data_dir: Path = Field(
        default_factory=default_data_dir,
        description="Where the embedded PostgreSQL, the journal and the demo model live.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias=_also("log_level", "LOG_LEVEL"), description="Least level that is logged."
    )
    access_log: bool = Field(True, description="Log one line for each request.")
    max_body_bytes: int = Field(
        8 * 1024 * 1024, ge=1024, description="Largest request body, in bytes; above it the answer is 413."
    )
    body_timeout_seconds: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a request's body may take to arrive, in seconds; above it the answer is 408.",
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
    cors_origins: Annotated[list[str], NoDecode, BeforeValidator(_items)] = Field(
        default_factory=list,
        description="Origins of web pages that may call the gateway, as https://chat.example.com; JSON or "
        "separated by commas; * for all; default: none.",
    )
    cors_allow_credentials: bool = Field(
        False, description="Whether those pages may send cookies and HTTP logins; not with *."
    )
    authentication: bool = Field(
        False, description="Whether callers have to log in, and see only what is theirs."
    )
    session_days: float = Field(
        30.0, gt=0, le=3650, description="How long a login holds when it is not used, in days."
    )
    stream_style: Literal["delta", "cumulative"] = Field(
        "delta",
        description="Chatchat's streams: each event has what is new, or the whole text so far.",
    )
    web_root: Path | None = Field(
        None, description="Folder of a built web front end, served at /; default: none."
    )
    drain_seconds: float = Field(
        30.0, ge=0, description="How long running requests may go on after SIGTERM, in seconds."
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
    simulated_ttft_ms: float = Field(
        0.0, ge=0, description="Simulated engine: pause before the first token, in milliseconds."
    )
    simulated_tokens_per_second: float | None = Field(
        None, gt=0, description="Simulated engine: tokens per second of one request; default: no pause."
    )

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url")
    @classmethod
    def _postgresql(cls, value: str | None) -> str | None:
        if not value:
            return None
        if urlsplit(value).scheme not in ("postgresql", "postgres"):
            raise ValueError("must be a postgresql:// URL")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        for origin in value:
            if origin not in ("*", "null") and _ORIGIN.fullmatch(origin) is None:
                raise ValueError(f"{origin!r} is not an origin, as https://chat.example.com or *")
        return value

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

    @field_validator("prompt_templates")
    @classmethod
    def _usable(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = value.expanduser().absolute()
        read_templates(path)
        return path

    @model_validator(mode="after")
    def _credentials(self) -> Settings:
        if self.cors_allow_credentials and "*" in self.cors_origins:
            raise ValueError(
                "cors_allow_credentials: name the origins; with cors_origins=* every page's "
                "user would be taken for yours"
            )
        return self

    @model_validator(mode="after")
    def _model_folder(self) -> Settings:
        if self.engine == "vllm" and self.model != DEMO and not (Path(self.model) / "config.json").is_file():
            raise ValueError(f"model: {self.model} is not a model's folder: it has no config.json")
        return self


def load(given: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings; ``given`` are the command line's and win.

    Raises InvalidSetting for the first value that can't be used.
    """
    chosen = {name: value for name, value in (given or {}).items() if value is not None}
    try:
        return Settings(**chosen)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message = " ".join(first["msg"].removeprefix("Value error, ").splitlines())
        if not first["loc"]:
            raise InvalidSetting(message) from error
        name = str(first["loc"][0]).lower().removeprefix(PREFIX.lower())
        raise InvalidSetting(f"{name} ({_source(name, chosen)}): {message}") from error
    except Exception as error:
        # pydantic-settings' own errors, as for JSON that does not parse, name the field.
        raise InvalidSetting(str(error).splitlines()[0]) from error


@dataclass(frozen=True)
class Described:
    """One setting as an operator sees it, secrets masked."""

    name: str
    value: str
    default: str
    source: str
    variables: list[str]
    description: str


def describe(settings: Settings, given: Mapping[str, Any]) -> Iterator[Described]:
    """All settings, in their order."""
    for name, field in Settings.model_fields.items():
        yield Described(
            name=name,
            value=_shown(name, getattr(settings, name)),
            default=_shown(name, field.get_default(call_default_factory=True)),
            source=_source(name, given),
            variables=_names(name),
            description=field.description or "",
        )


def _names(name: str) -> list[str]:
    """The environment variables that set ``name``, the winning one first."""
    alias = Settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str) and choice.isupper()]
    return [PREFIX + name.upper()]


def _source(name: str, given: Mapping[str, Any]) -> str:
    if name not in Settings.model_fields:
        return "settings"
    if given.get(name) is not None:
        return "command line"
    for where, values in (("environment", os.environ), (".env", dotenv_values(".env"))):
        folded = {key.upper() for key, value in values.items() if value}
        for variable in _names(name):
            if variable in folded:
                return f"{where} {variable}"
    return "default"


def _shown(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name == "database_url" and isinstance(value, str):
        return mask_password(value)
    return str(value)


def mask_password(url: str) -> str:
    """``url`` with its password, wherever libpq takes one, replaced by ``***``; quoted or not."""
    scheme, separator, rest = url.partition("://")
    user, at, rest = rest.rpartition("@")
    if ":" in user:
        user = user.partition(":")[0] + ":***"
    address, question, query = rest.partition("?")
    return f"{scheme}{separator}{user}{at}{address}{question}{'&'.join(map(_mask_pair, query.split('&')))}"


def _mask_pair(pair: str) -> str:
    key, equals, _ = pair.partition("=")
    return f"{key}=***" if equals and unquote(key) in ("password", "sslpassword") else pair
