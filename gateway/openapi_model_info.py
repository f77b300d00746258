"""What /openapi.json says of the routes that tell an interface about the server."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from adapters.chatchat.answer_types import (
    ConfiguredModels,
    NamedModelConfig,
    NotHere,
    RunningModels,
    SearchEngines,
    ServerConfigs,
)
from adapters.chatchat.base_response import base_response
from adapters.chatchat.model_info import ConfigModels, NamedModel, NamedTemplate, NoFields
from gateway.openapi_native import ACCESS, BODY, failures
from gateway.openapi_parts import json_answer, json_body, ref

_CONFIG = {
    "online_api": False,
    "model_path_exists": True,
    "engine": "vllm",
    "max_model_len": 8192,
    "sampling_defaults": {"temperature": 0.8},
}
_MODELS = {"chatglm3-6b": _CONFIG}
_TEMPLATES = {"llm_chat": {"default": "{{ input }}"}, "completion": {"default": "{input}"}}


def _asking(
    model: type[BaseModel], asked: dict[str, Any], schema: dict[str, Any], answer: Any, *statuses: int
) -> dict[str, Any]:
    """An operation whose body need not be there."""
    return {
        "requestBody": json_body(model, {"body": {"summary": "A body", "value": asked}})
        | {"required": False},
        "responses": {
            "200": json_answer("What it is.", schema, answer),
            **failures(*ACCESS, *BODY, *statuses),
        },
    }


def _not_here(asked: dict[str, Any], why: str) -> dict[str, Any]:
    return _asking(NoFields, asked, ref(NotHere), base_response(msg=why, code=500))


_STAYS = "This gateway serves one model, 'chatglm3-6b', for as long as it runs: it can't be {} from here."

BODIES = (NoFields, ConfigModels, NamedModel, NamedTemplate)
ANSWERS = (RunningModels, ConfiguredModels, NamedModelConfig, NotHere, SearchEngines, ServerConfigs)
OPERATIONS: dict[str, dict[str, Any]] = {
    "/llm_model/list_running_models": _asking(NoFields, {}, ref(RunningModels), base_response(_MODELS)),
    "/llm_model/list_config_models": _asking(
        ConfigModels,
        {"types": ["local", "online"]},
        ref(ConfiguredModels),
        base_response({"local": _MODELS, "online": {}}),
    ),
    "/llm_model/get_model_config": _asking(
        NamedModel, {"model_name": "chatglm3-6b"}, ref(NamedModelConfig), base_response(_CONFIG)
    ),
    "/llm_model/stop": _not_here({"model_name": "chatglm3-6b"}, _STAYS.format("stopped")),
    "/llm_model/change": _not_here(
        {"model_name": "chatglm3-6b", "new_model_name": "qwen"}, _STAYS.format("changed")
    ),
    "/other/embed_texts": _not_here(
        {"texts": ["你好"]}, "This gateway serves a chat model, 'chatglm3-6b', and has none for embeddings."
    ),
    "/server/configs": _asking(
        NoFields,
        {},
        ref(ServerConfigs),
        {
            "LLM_MODELS": ["chatglm3-6b"],
            "HISTORY_LEN": 3,
            "TEMPERATURE": 0.7,
            "MAX_TOKENS": None,
            "PROMPT_TEMPLATES": _TEMPLATES,
            "max_model_len": 8192,
            "api_address": "http://127.0.0.1:8000",
            "openai_api_address": "http://127.0.0.1:8000/v1",
        },
    ),
    "/server/list_search_engines": _asking(NoFields, {}, ref(SearchEngines), base_response([])),
    "/server/get_prompt_template": _asking(
        NamedTemplate, {"type": "llm_chat", "name": "default"}, {"type": "string"}, "{{ input }}", 404
    ),
}
