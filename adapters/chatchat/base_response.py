"""Langchain-Chatchat's BaseResponse: its clients look at ``code``, not at the HTTP status."""

from __future__ import annotations

from typing import Any


def base_response(data: Any = None, msg: str = "success", code: int = 200) -> dict[str, Any]:
    """All three keys are always there."""
    return {"code": code, "msg": msg, "data": data}
