"""The body of Chatchat's POST /chat/feedback.

Source: server/chat/feedback.py of Langchain-Chatchat 0.2.10.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from adapters.chatchat.native_body import NativeBody

DASHED_CHARACTERS = 36


class ChatFeedback(NativeBody):
    """What somebody says of an answer."""

    message_id: str = Field(
        "", max_length=32, description="The message_id of its events: 32 hex digits, or dashed."
    )
    score: int = Field(0, description="0 to 100, higher is better; -1 takes back what was said before.")
    reason: str = Field("", description="Why.")

    @field_validator("message_id", mode="before")
    @classmethod
    def _without_dashes(cls, value: object) -> object:
        if isinstance(value, str) and len(value) == DASHED_CHARACTERS:
            bare = value.replace("-", "")
            return bare if len(bare) == DASHED_CHARACTERS - 4 else value
        return value
