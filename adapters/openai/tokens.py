"""The bodies of vLLM's /tokenize and /detokenize.

Source: vllm/entrypoints/serve/tokenize/protocol.py of vLLM 0.32. A conversation is taken with every field
that /v1/chat/completions takes, and gives the ids that it would be answered from.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag

from adapters.openai.chat_request import ChatCompletionRequest

MOST_TOKEN_ID = 2**31 - 1


class TokenizePrompt(BaseModel):
    """A text, as /v1/completions takes it."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    prompt: str = Field(description="The text.")
    add_special_tokens: bool = Field(True, description="With what the model's prompts begin with.")
    return_token_strs: bool | None = Field(
        None, description="Also tell how the vocabulary writes each token."
    )


class TokenizeChat(ChatCompletionRequest):
    """A conversation."""

    return_token_strs: bool | None = Field(
        None, description="Also tell how the vocabulary writes each token."
    )


def _form(value: object) -> str:
    """A prompt alone is a text; with a history it is a question, as /v1/chat/completions takes it."""
    names = ("messages", "query", "history", "history_len")
    is_chat = isinstance(value, dict) and any(value.get(name) is not None for name in names)
    return "a-chat" if is_chat else "a-prompt"


class TokenizeRequest(
    RootModel[
        Annotated[
            Annotated[TokenizeChat, Tag("a-chat")] | Annotated[TokenizePrompt, Tag("a-prompt")],
            Discriminator(_form),
        ]
    ]
):
    """POST /tokenize."""


class DetokenizeRequest(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, le=MOST_TOKEN_ID)]] = Field(
        fail_fast=True, description="The ids."
    )
