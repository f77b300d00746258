"""Who asks, and what he may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
from uuid import UUID

from persistence.caller_limits import UNLIMITED, Limits


class Scope(StrEnum):
    """What a caller may do. Who may ADMIN may do all, also with what is other people's."""

    INFERENCE = "inference"
    FEEDBACK = "feedback"
    READ = "read"
    ADMIN = "admin"


# Of whoever has logged in, and of whoever need not.
OWN = frozenset({Scope.INFERENCE, Scope.FEEDBACK, Scope.READ})


@dataclass(frozen=True, slots=True)
class Caller:
    """``user_id`` is None for whoever has not said who he is; with authentication nobody like that comes in.

    ``key_id``: the API key that he came with. ``address``: where he comes from. ``key_limits`` are those of
    his key, ``user_limits`` those of all that he does. A caller with twice the ``weight`` is served twice as
    much where there is not enough for all.
    """

    user_id: UUID | None = None
    key_id: UUID | None = None
    scopes: frozenset[Scope] = OWN
    address: str = ""
    key_limits: Limits = UNLIMITED
    user_limits: Limits = UNLIMITED
    weight: float = 1.0

    @property
    def is_admin(self) -> bool:
        """Whether he sees what is other people's."""
        return Scope.ADMIN in self.scopes

    @property
    def kind(self) -> Literal["key", "user", "anonymous"]:
        """How he has said who he is, for metrics: few kinds, whoever comes."""
        if self.key_id is not None:
            return "key"
        return "user" if self.user_id is not None else "anonymous"

    @property
    def name(self) -> str:
        """Whom others wait for in turn: the key, else the user, else the address."""
        if self.key_id is not None:
            return f"key:{self.key_id.hex}"
        return f"user:{self.user_id.hex}" if self.user_id is not None else f"address:{self.address}"


ANONYMOUS = Caller()
