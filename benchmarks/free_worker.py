"""A vLLM worker without a model, so that a benchmark sees the serving process alone.

Scheduler, KV-cache bookkeeping and message queues are vLLM's own; a step of the model costs nothing. With
FREE_WORKER_STEP_SECONDS in the environment a step that continues answers also keeps a GPU's pace: it starts
that long after the one before, or at once when that is past. (Without a pace the engine can outrun a front
end, which then merges several tokens into one event: ``events_per_token`` shows it.) A step of new prompts
alone never waits.

Selected with ``worker_cls="benchmarks.free_worker.FreeWorker"``. Read against vLLM 0.32.
"""

from __future__ import annotations

import os
import time

import torch
from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
from vllm.tasks import SupportedTask
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.worker_base import CompilationTimes, WorkerBase

STEP_SECONDS = float(os.environ.get("FREE_WORKER_STEP_SECONDS", "0"))
KV_CACHE_BYTES = 1 << 30  # claimed, never allocated: room for 32,768 blocks of the one small layer
VOCABULARY_SIZE = 64  # distinct words that answers are made of


class FreeWorker(WorkerBase):  # type: ignore[misc]  # mypy does not read vllm
    """Answers each request with a fixed sequence of ordinary words that never ends by itself."""

    def init_device(self) -> None:
        self.device = torch.device("cpu")
        init_distributed_environment(
            self.parallel_config.world_size, self.rank, self.distributed_init_method, self.local_rank, "gloo"
        )
        ensure_model_parallel_initialized(
            self.parallel_config.tensor_parallel_size, self.parallel_config.pipeline_parallel_size
        )

    def load_model(self, *, load_dummy_weights: bool = False) -> None:
        self._words = _ordinary_words(self)
        self._prompt_lengths: dict[str, int] = {}
        self._next_step_at = 0.0  # seconds of the monotonic clock

    def get_supported_tasks(self) -> tuple[SupportedTask, ...]:
        return ("generate",)

    def get_kv_cache_spec(self) -> dict[str, KVCacheSpec]:
        layer = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=1,
            head_size=self.model_config.get_head_size(),
            dtype=torch.bfloat16,
        )
        return {"model.layers.0.self_attn.attn": layer}

    def determine_available_memory(self) -> int:
        return KV_CACHE_BYTES

    def initialize_from_config(self, kv_cache_config: KVCacheConfig) -> None:
        self.cache_config.num_gpu_blocks = kv_cache_config.num_blocks

    def compile_or_warm_up_model(self) -> CompilationTimes:
        return CompilationTimes(language_model=0.0, encoder=0.0)

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        """One token for each scheduled request whose known tokens are all computed after this step."""
        cached = scheduler_output.scheduled_cached_reqs
        if cached.req_ids:
            time.sleep(max(0.0, self._next_step_at - time.monotonic()))
        self._next_step_at = time.monotonic() + STEP_SECONDS

        for finished in scheduler_output.finished_req_ids:
            self._prompt_lengths.pop(finished, None)
        scheduled = scheduler_output.num_scheduled_tokens
        request_ids: list[str] = []
        sampled: list[list[int]] = []
        for new in scheduler_output.scheduled_new_reqs:
            self._prompt_lengths[new.req_id] = new.prompt_len
            request_ids.append(new.req_id)
            computed = new.num_computed_tokens + scheduled[new.req_id]
            sampled.append(self._sample(new.req_id, computed, generated=0))
        for request_id, before, generated in zip(
            cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        ):
            request_ids.append(request_id)
            sampled.append(self._sample(request_id, before + scheduled[request_id], generated))

        return ModelRunnerOutput(
            req_ids=request_ids,
            req_id_to_index={request_id: index for index, request_id in enumerate(request_ids)},
            sampled_token_ids=sampled,
        )

    def sample_tokens(self, grammar_output: GrammarOutput) -> ModelRunnerOutput:
        raise NotImplementedError("execute_model() has already sampled")

    def _sample(self, request_id: str, computed: int, generated: int) -> list[int]:
        """The next word, or nothing while a chunked prefill has tokens left to compute."""
        if computed < self._prompt_lengths[request_id] + generated:
            return []
        return [self._words[generated % VOCABULARY_SIZE]]


def _ordinary_words(worker: WorkerBase) -> list[int]:
    """The first tokens of the vocabulary that read as a space and at least two ASCII letters."""
    tokenizer = cached_tokenizer_from_config(worker.model_config)
    words: list[int] = []
    for token_id in range(worker.vocab_size):
        text = tokenizer.decode([token_id])
        if text.startswith(" ") and len(text) > 2 and text[1:].isascii() and text[1:].isalpha():
            words.append(token_id)
            if len(words) == VOCABULARY_SIZE:
                return words
    raise ValueError(f"the tokenizer has only {len(words)} ordinary words, {VOCABULARY_SIZE} are needed")
