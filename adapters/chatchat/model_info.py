"""What Chatchat's user interfaces ask about the server: its models, settings and prompt templates.

Source: server/llm_api.py, server/api.py and webui_pages/utils.py of Langchain-Chatchat 0.2.10. Of all that
its settings have there is here what an interface reads, and nothing that an operator would keep to himself.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from adapters.chatchat.chat_request import TEMPERATURE
from adapters.chatchat.native_body import NativeBody
from adapters.prompt_templates import DEFAULT, LLM_CHAT, PromptTemplates
from engine.base import ModelCard

# What Chatchat's own interfaces begin with.
HISTORY_LEN = 3

ONE_MODEL = "This gateway serves one model, '{name}', for as long as it runs: it can't be {done} from here."
NO_EMBEDDINGS = "This gateway serves a chat model, '{name}', and has none for embeddings."


class NoFields(NativeBody):
    """A body of which nothing is taken."""


class ConfigModels(NativeBody):
    """POST /llm_model/list_config_models."""

    types: list[Literal["local", "online"]] = Field(
        ["local", "online"], description="Which kinds of models. Default: both."
    )


class NamedModel(NativeBody):
    """POST /llm_model/get_model_config."""

    model_name: str | None = Field(None, description="Default: the one that is served.")


class NamedTemplate(NativeBody):
    """POST /server/get_prompt_template."""

    type: str = Field(LLM_CHAT, description="As llm_chat or completion. Default: 'llm_chat'.")
    name: str = Field(DEFAULT, description="Default: 'default'.")


def model_config(card: ModelCard) -> dict[str, Any]:
    """What an interface may know of the served model."""
    return {
        "online_api": False,
        "model_path_exists": True,
        "engine": card.engine,
        "max_model_len": card.max_model_len,
        "sampling_defaults": dict(card.sampling_defaults),
    }


def running_models(card: ModelCard) -> dict[str, Any]:
    """Each running model with its settings."""
    return {card.name: model_config(card)}


def config_models(card: ModelCard, types: list[Literal["local", "online"]]) -> dict[str, Any]:
    """The models of each kind; all there is runs here."""
    return {kind: running_models(card) if kind == "local" else {} for kind in types}


def server_configs(card: ModelCard, templates: PromptTemplates, base_url: str) -> dict[str, Any]:
    """``base_url``: as the client knows the gateway, without a slash at its end."""
    return {
        "LLM_MODELS": [card.name],
        "HISTORY_LEN": HISTORY_LEN,
        "TEMPERATURE": TEMPERATURE,
        "MAX_TOKENS": None,
        "PROMPT_TEMPLATES": templates.texts,
        "max_model_len": card.max_model_len,
        "api_address": base_url,
        "openai_api_address": f"{base_url}/v1",
    }
