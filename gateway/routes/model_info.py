"""What the user interfaces of Chatchat and fufan ask about the server."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request, Response

from adapters.chatchat.base_response import base_response
from adapters.chatchat.model_info import (
    NO_EMBEDDINGS,
    ONE_MODEL,
    ConfigModels,
    NamedModel,
    NamedTemplate,
    NoFields,
    config_models,
    model_config,
    running_models,
    server_configs,
)
from adapters.prompt_templates import UnknownTemplate
from gateway.access.caller import Scope
from gateway.access.identification import caller_of
from gateway.errors import ModelNotFound, NotFound
from gateway.lifecycle import Lifecycle, lifecycle_of
from gateway.prompting import check_model
from gateway.routes.body import Parsed, read

router = APIRouter(tags=["Chatchat"])


async def asked(request: Request, model: type[Parsed]) -> tuple[Lifecycle, Parsed]:
    """Who asks may ask, and the body, which need not be there."""
    lifecycle = lifecycle_of(request)
    await caller_of(request, Scope.INFERENCE)
    return lifecycle, await read(request, model, lifecycle.settings.max_body_bytes, optional=True)


@router.post("/llm_model/list_running_models", summary="The running models, with their settings")
async def list_running_models(request: Request) -> dict[str, Any]:
    """There is one."""
    lifecycle, _ = await asked(request, NoFields)
    return base_response(running_models(lifecycle.engine.card))


@router.get("/api/llm_model/list_running_models", summary="The running models' names (fufan)")
@router.get("/api/api/llm_model/list_running_models", include_in_schema=False)
async def list_model_names(request: Request) -> dict[str, Any]:
    """There is one. fufan's front end, as it is built, writes `/api` twice."""
    await caller_of(request, Scope.INFERENCE)
    return {"status": 200, "msg": "success", "data": {"models": [lifecycle_of(request).engine.card.name]}}


@router.post("/llm_model/list_config_models", summary="All models, by their kind")
async def list_config_models(request: Request) -> dict[str, Any]:
    """All there is runs: one local model."""
    lifecycle, body = await asked(request, ConfigModels)
    return base_response(config_models(lifecycle.engine.card, body.types))


@router.post("/llm_model/get_model_config", summary="A model's settings")
async def get_model_config(request: Request) -> dict[str, Any]:
    """A name that is not served is a `code` of 404."""
    lifecycle, body = await asked(request, NamedModel)
    card = lifecycle.engine.card
    try:
        check_model(body.model_name, card)
    except ModelNotFound as error:
        return base_response({}, error.message, error.status)
    return base_response(model_config(card))


@router.post("/llm_model/stop", summary="Not here: stop a model")
async def stop(request: Request) -> dict[str, Any]:
    """A `code` of 500: there is one model, and it runs."""
    return await refused(request, ONE_MODEL, "stopped")


@router.post("/llm_model/change", summary="Not here: change the model")
async def change(request: Request) -> dict[str, Any]:
    """A `code` of 500: there is one model, and it runs."""
    return await refused(request, ONE_MODEL, "changed")


@router.post("/other/embed_texts", summary="Not here: embed texts")
async def embed_texts(request: Request) -> dict[str, Any]:
    """A `code` of 500: the model that runs is for chats."""
    return await refused(request, NO_EMBEDDINGS)


async def refused(request: Request, why: str, done: str = "") -> dict[str, Any]:
    """What the gateway has not got, as Chatchat's clients understand it."""
    lifecycle, _ = await asked(request, NoFields)
    return base_response(msg=why.format(name=lifecycle.engine.card.name, done=done), code=500)


@router.post("/server/configs", summary="What an interface reads of the settings")
async def configs(request: Request) -> Response:
    """An object of its own, without `code` and `data`."""
    lifecycle, _ = await asked(request, NoFields)
    base_url = str(request.base_url).rstrip("/")
    return as_json(server_configs(lifecycle.engine.card, lifecycle.prompt_templates, base_url))


@router.post("/server/list_search_engines", summary="The search engines")
async def list_search_engines(request: Request) -> dict[str, Any]:
    """There are none."""
    await asked(request, NoFields)
    return base_response([])


@router.post("/server/get_prompt_template", summary="A prompt template")
async def get_prompt_template(request: Request) -> Response:
    """A bare JSON string; 404, with the names that there are, for an unknown one."""
    lifecycle, body = await asked(request, NamedTemplate)
    try:
        text = lifecycle.prompt_templates.text(body.type, body.name)
    except UnknownTemplate as error:
        raise NotFound(str(error), "name") from error
    return as_json(text)


def as_json(value: object) -> Response:
    """Also with what an operator's templates may have that is no character."""
    content = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace")
    return Response(content, media_type="application/json")
