"""Users and conversations, as fufan-chat-api's front end asks for them.

Source: fufan-chat-api, a fork of Langchain-Chatchat 0.2, and its front end. As there, other fields than these
are ignored, as the ``code`` that comes with a login.
"""

from __future__ import annotations

import re
from typing import Annotated, Any
from unicodedata import category, normalize
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from adapters.chatchat.parameters import MOST_ID_CHARACTERS

MOST_NAME_CHARACTERS = 255
LEAST_PASSWORD_CHARACTERS = 8
MOST_PASSWORD_BYTES = 1024

NEW_CHAT = "new_chat"
GENERAL_CHAT = "general_chat"

SUCCESS: dict[str, Any] = {"status": 200}
WRONG = {"status": 401, "message": "用户名或密码错误。"}
"""The same for a wrong password and for a name that is not known."""
TAKEN = "用户名已存在。"

_UUID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def _name(value: str) -> str:
    """One user's name in all the ways that it may be typed: composed (NFC), without blanks around it."""
    name = normalize("NFC", value).strip()
    if not 1 <= len(name) <= MOST_NAME_CHARACTERS:
        raise ValueError(f"must have 1 to {MOST_NAME_CHARACTERS} characters")
    return _without_controls(name)


def _without_controls(value: str) -> str:
    if any(category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise ValueError("must not have control characters")
    return value


def _short_enough(value: str) -> str:
    if len(value.encode()) > MOST_PASSWORD_BYTES:
        raise ValueError(f"must have at most {MOST_PASSWORD_BYTES} bytes in UTF-8")
    return value


def _long_enough(value: str) -> str:
    if len(value) < LEAST_PASSWORD_CHARACTERS:
        raise ValueError(f"must have at least {LEAST_PASSWORD_CHARACTERS} characters")
    return value


Password = Annotated[str, AfterValidator(_short_enough)]


class Login(BaseModel):
    """POST /api/users/login."""

    model_config = ConfigDict(hide_input_in_errors=True)

    username: Annotated[str, AfterValidator(_name)] = Field(
        description="Up to 255 characters; blanks around it do not count. (fufan)"
    )
    password: Password = Field(repr=False, description="Up to 1024 bytes. (fufan)")


class Registration(Login):
    """POST /api/users/register."""

    password: Annotated[Password, AfterValidator(_long_enough)] = Field(
        repr=False, description="8 characters to 1024 bytes. (fufan)"
    )


class NewConversation(BaseModel):
    """POST /api/conversations."""

    user_id: str | None = Field(None, description="Whose it is. Default: the caller's. (fufan)")
    name: str | None = Field(None, description="Cut to 50 characters. Default: 'new_chat'. (fufan)")
    chat_type: Annotated[str, Field(max_length=50), AfterValidator(_without_controls)] | None = Field(
        None, description="Default: 'general_chat'. (fufan)"
    )


class NewName(BaseModel):
    """PUT /api/conversations/{id}/update_name."""

    name: str = Field(description="Cut to 50 characters. (fufan)")


def uuid_of(text: str) -> UUID | None:
    """The id that ``text`` spells, with dashes or without."""
    return UUID(text) if _UUID.fullmatch(text) else None


def is_conversation_id(text: str) -> bool:
    """Whether a conversation may have this id."""
    return 0 < len(text) <= MOST_ID_CHARACTERS


def found(data: list[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """The answer that lists ``data``."""
    return SUCCESS | {"msg": "success", "data": data, "has_more": has_more}
