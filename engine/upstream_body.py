"""What an upstream server is asked: the body of /v1/chat/completions, or of /v1/completions.

Source: OpenAI's published specification (github.com/openai/openai-openapi); vLLM's server 0.32
(vllm/entrypoints/openai/chat_completion/protocol.py) for the fields that it adds. What the server could not
be asked is refused; nothing that a client asked is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from engine.base import (
    AsAsked,
    ChatMessage,
    GenerationRequest,
    RequestRefused,
    Sampling,
    StructuredOutput,
    ToolCall,
)
from engine.refusals import is_unicode

Dialect = Literal["openai", "vllm"]
"""What a server takes: OpenAI's fields, or vLLM's beside them."""

_OPENAI_FIELDS = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")
_VLLM_FIELDS = ("top_k", "min_p", "repetition_penalty")

# Of both dialects: the constraints that response_format has a name for.
_FORMATS = ("json", "json_object")


def path_and_body(
    request: GenerationRequest, model: str | None, dialect: Dialect, defaults: Mapping[str, float]
) -> tuple[str, dict[str, Any]]:
    """Where to ask, below the server's base URL, and what. ``defaults`` are sampling values for what the
    client left out. Raises RequestRefused."""
    sampling = request.sampling
    asked = request.asked or as_sampled(sampling)
    fields: dict[str, Any] = {} if model is None else {"model": model}
    if asked.completion is None:
        path = "chat/completions"
        fields["messages"] = message_fields(request.messages)
        fields |= _tool_fields(asked) | _logprob_fields(sampling)
    else:
        path = "completions"
        fields["prompt"] = asked.completion
        if sampling.logprobs is not None:
            raise _refused("logprobs", "a completion's log-probabilities are not told apart by bytes there")
    fields["stream"] = request.stream
    if request.stream:
        fields["stream_options"] = {"include_usage": True}
    if asked.max_tokens is not None or asked.completion is not None:
        # Left out, it would be 16 for a completion.
        fields["max_tokens"] = asked.max_tokens
    for name in _OPENAI_FIELDS:
        if (value := _chosen(sampling, name, defaults)) is not None:
            fields[name] = value
    if asked.stop:
        fields["stop"] = list(asked.stop)
    fields |= _structured_fields(asked.structured, dialect)
    _refuse_ids(sampling, asked, dialect)
    extended = dict(_extended_fields(request, asked, defaults))
    if extended and dialect != "vllm":
        raise _refused(next(iter(extended)), "it is not among OpenAI's fields")
    if dialect == "vllm" and request.stream:
        fields["stream_options"]["continuous_usage_stats"] = True
    fields |= extended
    if not all_unicode(fields):
        raise RequestRefused("The request has a lone surrogate, which is no text.", "prompt")
    return path, fields


def as_sampled(sampling: Sampling) -> AsAsked:
    """What a request asks that says no more than its messages and its sampling."""
    return AsAsked(
        max_tokens=sampling.max_tokens,
        stop=sampling.stop,
        stop_token_ids=sampling.stop_token_ids,
        logit_bias=sampling.logit_bias,
        structured=sampling.structured,
        skip_special_tokens=sampling.skip_special_tokens,
    )


def message_fields(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as OpenAI has them. The older form of calls, which have no ids, becomes the one with them,
    which every server takes. Raises RequestRefused where such a call has no result to go with."""
    told: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []
    for place, message in enumerate(messages):
        fields: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.tool_calls:
            without_id = [call.name for call in message.tool_calls if not call.id]
            waiting += [(name, f"call_{place}") for name in without_id]
            fields["tool_calls"] = [_call_fields(call, f"call_{place}") for call in message.tool_calls]
            fields["content"] = message.content or None
        if message.role == "function":
            answered = next((one for one in waiting if one[0] == message.name), None)
            if answered is None:
                raise RequestRefused("This function's message answers no call.", f"messages.{place}")
            waiting.remove(answered)
            fields = {"role": "tool", "content": message.content, "tool_call_id": answered[1]}
        elif message.tool_call_id is not None:
            fields["tool_call_id"] = message.tool_call_id
        told.append(fields)
    return told


def _call_fields(call: ToolCall, other_id: str) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id or other_id, "type": "function", "function": function}


def _tool_fields(asked: AsAsked) -> dict[str, Any]:
    if not asked.tools:
        return {}
    tools = [{"type": "function", "function": dict(tool.definition)} for tool in asked.tools]
    choice: Any = "auto"
    if not asked.may_call:
        choice = "none"
    elif asked.must_call and len(asked.may_call) == 1:
        choice = {"type": "function", "function": {"name": asked.may_call[0].name}}
    elif asked.must_call:
        choice = "required"
    parallel = {} if asked.parallel_tool_calls else {"parallel_tool_calls": False}
    return {"tools": tools, "tool_choice": choice, **parallel}


def _logprob_fields(sampling: Sampling) -> dict[str, Any]:
    if sampling.logprobs is None:
        return {}
    return {"logprobs": True, "top_logprobs": sampling.logprobs}


def _structured_fields(structured: StructuredOutput | None, dialect: Dialect) -> dict[str, Any]:
    if structured is None:
        return {}
    if structured.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if structured.kind == "json" and isinstance(structured.value, Mapping):
        schema: dict[str, Any] = {"name": structured.name, "schema": structured.value}
        if structured.strict is not None:
            schema["strict"] = structured.strict
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    if dialect != "vllm":
        raise _refused("structured", f"OpenAI has no name for '{structured.kind}' of this form")
    return {"structured_outputs": {structured.kind: structured.value}}


def _refuse_ids(sampling: Sampling, asked: AsAsked, dialect: Dialect) -> None:
    """Token ids are those of a model; only a server that says whose it is could be given them."""
    for name, given in (
        ("prompt", asked.is_ids),
        ("logit_bias", asked.logit_bias),
        ("stop_token_ids", asked.stop_token_ids),
        ("allowed_token_ids", sampling.allowed_token_ids is not None),
        ("prompt_logprobs", sampling.prompt_logprobs is not None),
        ("return_token_ids", asked.token_ids),
    ):
        if given:
            raise _refused(name, "it is about token ids, and those of its model are not known")


def _extended_fields(
    request: GenerationRequest, asked: AsAsked, defaults: Mapping[str, float]
) -> Iterator[tuple[str, Any]]:
    """What only vLLM's servers take, where it says anything."""
    sampling = request.sampling
    for name in _VLLM_FIELDS:
        if (value := _chosen(sampling, name, defaults)) is not None:
            yield name, value
    for name, value in (
        ("min_tokens", sampling.min_tokens),
        ("ignore_eos", sampling.ignore_eos),
        ("include_stop_str_in_output", sampling.include_stop_str_in_output),
        ("bad_words", list(sampling.bad_words)),
        ("continue_final_message", asked.continue_final_message),
        ("chat_template_kwargs", dict(asked.template_kwargs)),
        ("priority", request.priority),
        ("cache_salt", request.cache_salt),
    ):
        if value:
            yield name, value
    for name, value in (
        ("skip_special_tokens", asked.skip_special_tokens),
        ("spaces_between_special_tokens", sampling.spaces_between_special_tokens),
        ("add_generation_prompt", asked.add_generation_prompt),
        ("add_special_tokens", asked.add_special_tokens),
    ):
        if not value:
            yield name, value


def _chosen(sampling: Sampling, name: str, defaults: Mapping[str, float]) -> Any:
    value = getattr(sampling, name)
    return defaults.get(name) if value is None else value


def _refused(param: str, why: str) -> RequestRefused:
    return RequestRefused(f"The server that answers here can't be asked this: {why}.", param)


def all_unicode(value: Any) -> bool:
    """Whether every text of a JSON value can be written as UTF-8."""
    if isinstance(value, str):
        return is_unicode(value)
    if isinstance(value, Mapping):
        return all(is_unicode(key) and all_unicode(one) for key, one in value.items())
    return not isinstance(value, list | tuple) or all(map(all_unicode, value))
