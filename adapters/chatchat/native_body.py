"""What the bodies of Chatchat's native routes have in common.

Source: FastAPI's ``Body(default)`` as Langchain-Chatchat 0.2 uses it: null is as good as absent, fields that
are not known are left alone, and a number may come as a string, a string as a number.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator


class NativeBody(BaseModel):
    """A body in which null means the default."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False, coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None}
