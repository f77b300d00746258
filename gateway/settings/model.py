"""The model, and the engine that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    field_validator,
    model_validator,
    with_config,
)
from pydantic_settings import NoDecode
from typing_extensions import TypedDict

from gateway.prompt_templates import read_templates
from gateway.settings.fields import Section, also, parsed_json

DEMO = "demo"


@with_config(ConfigDict(extra="forbid", allow_inf_nan=False))
class SamplingDefaults(TypedDict, total=False):
    """What is taken for fields of a request that a client leaves out; vLLM's names and ranges."""

    temperature: Annotated[float, Field(ge=0, le=2)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0)]
    min_p: Annotated[float, Field(ge=0, le=1)]
    repetition_penalty: Annotated[float, Field(gt=0)]
    presence_penalty: Annotated[float, Field(ge=-2, le=2)]
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)]


class Model(Section):
    """The model, and the engine that runs it."""

    engine: Literal["vllm", "simulated", "upstream"] = Field(
        "vllm",
        description="vllm runs a model; simulated echoes, for tests and load; upstream asks another "
        "OpenAI-compatible server.",
    )
    model: str = Field(
        DEMO,
        validation_alias=also("model", "MODEL_PATH"),
        description="Folder of the model, or 'demo' for the small one that comes along.",
    )
    served_model_name: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="What clients call the model; default: the folder's name.",
    )
    # Read as text, from wherever it comes: pydantic-settings would merge the objects of several sources.
    engine_args: Annotated[dict[str, JsonValue], NoDecode, BeforeValidator(parsed_json)] = Field(
        default_factory=dict, description="JSON object of vllm.AsyncEngineArgs fields."
    )
    sampling_defaults: Annotated[SamplingDefaults, NoDecode, BeforeValidator(parsed_json)] = Field(
        default_factory=SamplingDefaults,
        description='What is taken where a client gives none, as {"temperature": 0.8, "top_p": 0.8}; '
        "default: the model's own.",
    )
    prompt_templates: Path | None = Field(
        None,
        description="YAML file of prompt templates, type -> name -> template, which replaces those that come "
        "along entry by entry; default: those that come along.",
    )
    tool_call_parser: str | None = Field(
        None,
        min_length=1,
        description="How the model writes tool calls: hermes, llama3_json, mistral, or the name of another "
        "parser of vLLM; default: what its chat template tells.",
    )
    simulated_ttft_ms: float = Field(
        0.0, ge=0, description="Simulated engine: pause before the first token, in milliseconds."
    )
    simulated_tokens_per_second: float | None = Field(
        None, gt=0, description="Simulated engine: tokens per second of one request; default: no pause."
    )

    @field_validator("prompt_templates")
    @classmethod
    def _usable(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        path = value.expanduser().absolute()
        read_templates(path)
        return path

    @model_validator(mode="after")
    def _model_folder(self) -> Self:
        if self.engine == "vllm" and self.model != DEMO and not (Path(self.model) / "config.json").is_file():
            raise ValueError(f"model: {self.model} is not a model's folder: it has no config.json")
        return self
