"""Users and conversations, as fufan-chat-api's front end asks for them.

Source: fufan-chat-api, a fork of Langchain-Chatchat 0.2, and its front end. As there, other fields than these
are ignored, as the ``code`` that comes with a login.
"""

from __future__ import annotations

import re
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from adapters.accounts import NewPassword, Password, UserName, without_controls
from adapters.chatchat.parameters import MOST_ID_CHARACTERS

NEW_CHAT = "new_chat"
GENERAL_CHAT = "general_chat"

SUCCESS: dict[str, Any] = {"status": 200}
WRONG = {"status": 401, "message": "用户名或密码错误。"}
"""The same for a wrong password and for a name that is not known."""
TAKEN = "用户名已存在。"

_UUID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class Login(BaseModel):
    """POST /api/users/login."""

    model_config = ConfigDict(hide_input_in_errors=True)

    username: UserName = Field(description="Up to 255 characters; blanks around it do not count. (fufan)")
    password: Password = Field(repr=False, description="Up to 1024 bytes. (fufan)")


class Registration(Login):
    """POST /api/users/register."""

    password: NewPassword = Field(repr=False, description="8 characters to 1024 bytes. (fufan)")


class NewConversation(BaseModel):
    """POST /api/conversations."""

    user_id: str | None = Field(None, description="Whose it is. Default: the caller's. (fufan)")
    name: str | None = Field(None, description="Cut to 50 characters. Default: 'new_chat'. (fufan)")
    chat_type: Annotated[str, Field(max_length=50), AfterValidator(without_controls)] | None = Field(
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
