"""The bodies of the admin's routes, and their answers, in the manner of OpenAI's admin API: what is there is
changed by POST, and a list tells by ``has_more`` that there is more after its ``last_id``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from adapters.accounts import NewPassword, UserName, without_controls
from adapters.openai.answer_types import closed

MOST_KEY_NAME = 200
MOST_LIMIT = 2**53 - 1
MOST_WEIGHT = 1000.0

ScopeName = Literal["inference", "feedback", "read", "admin"]
Scopes = Annotated[list[ScopeName], Field(min_length=1, max_length=4)]
KeyName = Annotated[str, Field(max_length=MOST_KEY_NAME), AfterValidator(without_controls)]
Weight = Annotated[float, Field(gt=0, le=MOST_WEIGHT, allow_inf_nan=False)]
Limit = Annotated[int, Field(ge=1, le=MOST_LIMIT)]
# The year 9999 is the last one that PostgreSQL and Python agree on.
Moment = Annotated[int, Field(ge=0, le=253_402_300_799)]

_SCOPES = "What it may do: inference, feedback, read (the user's own rows), admin (all; only of an admin)."
_WEIGHT = "With twice the weight it is served twice as much where there is not enough for all."
_EXPIRES = "Unix time in seconds; null: never."


class Body(BaseModel):
    """What all bodies here have in common."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class LimitFields(Body):
    """How much may be asked for; null: as much as there is. What is left out stays as it is."""

    requests_per_minute: Limit | None = None
    tokens_per_minute: Annotated[Limit | None, Field(description="Of prompts and answers together.")] = None
    tokens_per_day: Annotated[Limit | None, Field(description="Of UTC.")] = None
    concurrent_requests: Limit | None = None

    @property
    def given(self) -> dict[str, int | None]:
        """Those that were sent."""
        return self.model_dump(exclude_unset=True)


class NewKey(Body):
    """POST /admin/keys."""

    user_id: str = Field(max_length=64, description="Whose it is.")
    name: KeyName = Field("", description="What it is for.")
    scopes: Scopes = Field(["inference", "feedback", "read"], description=_SCOPES)
    limits: LimitFields = Field(
        default_factory=lambda: LimitFields(), description="Of what comes with this key."
    )
    weight: Weight = Field(1.0, description=_WEIGHT)
    expires_at: Moment | None = Field(None, description=_EXPIRES)


class ChangedKey(Body):
    """POST /admin/keys/{key_id}; what is left out stays as it is."""

    name: KeyName | None = Field(None, description="What it is for.")
    scopes: Scopes | None = Field(None, description=_SCOPES)
    limits: LimitFields | None = Field(None, description="Of what comes with this key.")
    weight: Weight | None = Field(None, description=_WEIGHT)
    expires_at: Moment | None = Field(None, description=_EXPIRES)


class NewUser(Body):
    """POST /admin/users."""

    username: UserName = Field(description="Up to 255 characters; blanks around it do not count.")
    password: NewPassword | None = Field(
        None, repr=False, description="8 characters to 1024 bytes; without one he has keys only."
    )
    is_admin: bool = Field(False, description="Whether he sees and does all.")
    limits: LimitFields = Field(default_factory=lambda: LimitFields(), description="Of all that he does.")


class ChangedUser(Body):
    """POST /admin/users/{user_id}; what is left out stays as it is."""

    password: NewPassword | None = Field(
        None, repr=False, description="Another one; whoever is logged in is so no more."
    )
    is_admin: bool | None = Field(None, description="Whether he sees and does all.")
    limits: LimitFields | None = Field(None, description="Of all that he does.")


@closed
class LimitsObject(TypedDict):
    """How much may be asked for; null: as much as there is."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    tokens_per_day: int | None
    concurrent_requests: int | None


@closed
class KeyObject(TypedDict):
    """A key, without what makes it one."""

    object: Literal["api_key"]
    id: str
    name: str
    prefix: Annotated[str, Field(description="How it begins.")]
    user_id: str
    username: str
    scopes: list[str]
    limits: LimitsObject
    weight: float
    status: Literal["active", "expired", "revoked"]
    created_at: int | None
    expires_at: int | None
    revoked_at: int | None


@closed
class NewKeyObject(KeyObject):
    """A key that has just been made."""

    key: Annotated[str, Field(description="The key itself, which is stored nowhere: it is not shown again.")]


@closed
class UserObject(TypedDict):
    """A user."""

    object: Literal["user"]
    id: str
    username: str
    is_admin: bool
    has_password: Annotated[bool, Field(description="Without one he can't log in.")]
    limits: LimitsObject
    created_at: int | None


@closed
class KeyList(TypedDict):
    """Some keys, newest first."""

    object: Literal["list"]
    data: list[KeyObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@closed
class UserList(TypedDict):
    """Some users, newest first."""

    object: Literal["list"]
    data: list[UserObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@closed
class CallerLimits(TypedDict):
    """Those of the key, and those of all that its user does."""

    key: LimitsObject
    user: LimitsObject


@closed
class CallerObject(TypedDict):
    """Who asks."""

    object: Literal["caller"]
    user_id: str | None
    key_id: str | None
    scopes: list[str]
    limits: CallerLimits
    weight: float


def list_object(data: Sequence[Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """A page of a list."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def unix(moment: datetime | None) -> int | None:
    """As OpenAI's answers have it, in seconds."""
    return None if moment is None else int(moment.timestamp())
