"""How the fields of a body are described: each says whose it is.

That is OpenAI's published specification, vLLM's server (0.32), Langchain-Chatchat, fufan-chat-api, which is
a fork of it, or nobody else's.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import Field

Origin = Literal["OpenAI", "vLLM", "Chatchat", "fufan", "chatglm-gateway"]


def _described(origin: Origin, description: str, **constraints: Any) -> Any:
    """A field that may be left out; null is as good."""
    default = "" if "Default: " in description else " Default: none."
    return Field(
        None,
        description=f"{description}{default} ({origin})",
        json_schema_extra={"x-origin": origin},
        **constraints,
    )


openai = partial(_described, "OpenAI")
vllm = partial(_described, "vLLM")
chatchat = partial(_described, "Chatchat")
fufan = partial(_described, "fufan")
own = partial(_described, "chatglm-gateway")
