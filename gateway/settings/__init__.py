"""Every setting once: name, default, unit, and where its value came from.

A setting is given as a command line option, as ``GATEWAY_<NAME>`` in the environment, or there in a
file ``.env``; the first of these wins. DATABASE_URL, MODEL_PATH, HOST, PORT and LOG_LEVEL are honoured
under those names too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import unquote

from dotenv import dotenv_values
from pydantic import AliasChoices, ValidationError, model_validator

from gateway.access.address import is_loopback
from gateway.settings.access import Access
from gateway.settings.admission import Admission
from gateway.settings.fallbacks import Fallbacks
from gateway.settings.fields import PREFIX
from gateway.settings.guard import Guard
from gateway.settings.limits import Limits
from gateway.settings.model import DEMO, Model
from gateway.settings.observability import Observability
from gateway.settings.rows import Rows
from gateway.settings.serving import Serving

__all__ = [
    "DEMO",
    "PREFIX",
    "Described",
    "InvalidSetting",
    "Settings",
    "describe",
    "load",
    "mask_password",
    "variables_of",
]


class InvalidSetting(Exception):
    """A setting has a value that can't be used; the message is one line that names it."""


# The last one's stand first.
class Settings(Observability, Guard, Fallbacks, Admission, Limits, Rows, Access, Model, Serving):
    """What an operator can choose."""

    @property
    def proves_itself(self) -> bool:
        """Whether the model is one that there is a question with a known answer for."""
        return self.engine == "vllm" and self.model == DEMO

    @property
    def authenticates(self) -> bool:
        """Whether callers have to say who they are."""
        if self.authentication is not None:
            return self.authentication
        return not self.on_loopback

    @property
    def on_loopback(self) -> bool:
        """Whether nobody reaches the gateway but from this machine."""
        return self.host == "localhost" or is_loopback(self.host)

    @property
    def registers(self) -> bool:
        """Whether strangers may make themselves users."""
        return not self.authenticates if self.registration is None else self.registration == "open"

    @model_validator(mode="after")
    def _has_upstream(self) -> Self:
        if self.engine == "upstream" and self.upstream_url is None:
            raise ValueError("upstream_url: the engine 'upstream' needs the base URL of a server")
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
            source=_source_of_all(name, settings, given),
            variables=variables_of(name),
            description=field.description or "",
        )


def variables_of(name: str) -> list[str]:
    """The environment variables that set ``name``, the winning one first."""
    alias = Settings.model_fields[name].validation_alias
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str) and choice.isupper()]
    return [PREFIX + name.upper()]


def _source_of_all(name: str, settings: Settings, given: Mapping[str, Any]) -> str:
    source = _source(name, given)
    if (name, source) == ("database_url", "default") and settings.database_url is not None:
        return "database_url_file"
    return source


def _source(name: str, given: Mapping[str, Any]) -> str:
    if name not in Settings.model_fields:
        return "settings"
    if given.get(name) is not None:
        return "command line"
    for where, values in (("environment", os.environ), (".env", dotenv_values(".env"))):
        folded = {key.upper() for key, value in values.items() if value}
        for variable in variables_of(name):
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
    # What stands before an @ may be pairs, too: user names of some services have one.
    pieces = map(_mask_pair, re.split("([?&])", f"{user}{at}{rest}"))
    return f"{scheme}{separator}{''.join(pieces)}"


def _mask_pair(pair: str) -> str:
    key, equals, _ = pair.partition("=")
    return f"{key}=***" if equals and unquote(key) in ("password", "sslpassword") else pair
