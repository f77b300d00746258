"""The body of POST /v1/feedback, and its answer. OpenAI has no such route; the form is this gateway's own."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

MOST_ID_CHARACTERS = 255
THUMBS = {"up": 100, "down": 0}


class FeedbackRequest(BaseModel):
    """What somebody says of an answer; null is as good as absent."""

    model_config = ConfigDict(strict=True, extra="forbid")

    completion_id: str | None = Field(
        None, max_length=MOST_ID_CHARACTERS, description="The answer's id, as chatcmpl-… or cmpl-…."
    )
    message_id: str | None = Field(
        None,
        max_length=MOST_ID_CHARACTERS,
        validate_default=True,
        description="In place of completion_id: its 32 hex digits, with or without dashes.",
    )
    thumbs: Literal["up", "down"] | None = Field(None, description="up is a score of 100, down of 0.")
    score: int | None = Field(
        None,
        ge=0,
        le=100,
        validate_default=True,
        description="In place of thumbs: 0 to 100, higher is better.",
    )
    reason: str | None = Field(None, description="Why. Default: none.")
    correction: str | None = Field(None, description="The answer as it should have been. Default: none.")
    id: str | None = Field(
        None,
        min_length=1,
        max_length=MOST_ID_CHARACTERS,
        description="Your own id for this feedback, up to 255 characters: sent again it is the same one. "
        "Default: a new one.",
    )

    @field_validator("message_id")
    @classmethod
    def _one_message(cls, value: str | None, info: ValidationInfo) -> str | None:
        _check_one(value, info, "completion_id")
        return value

    @field_validator("score")
    @classmethod
    def _one_score(cls, value: int | None, info: ValidationInfo) -> int | None:
        _check_one(value, info, "thumbs")
        return value

    @property
    def message(self) -> str:
        """The id of the message, as it was sent."""
        return self.message_id or self.completion_id or ""

    @property
    def points(self) -> int:
        """The score."""
        return THUMBS[self.thumbs] if self.thumbs is not None else self.score or 0


def _check_one(value: object, info: ValidationInfo, other: str) -> None:
    if other in info.data and (value is None) == (info.data[other] is None):
        raise ValueError(f"exactly one of '{info.field_name}' and '{other}' is required")


def feedback_object(
    id_: str, message_id: str, score: int, reason: str, correction: str | None, created: datetime
) -> dict[str, Any]:
    """The answer: what is stored."""
    return {
        "object": "feedback",
        "id": id_,
        "message_id": message_id,
        "score": score,
        "reason": reason,
        "correction": correction,
        "created": int(created.timestamp()),
    }
