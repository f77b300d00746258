"""Memory against the model: of the GPUs, or of the machine and what its cgroup leaves of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from gateway.doctor.finding import Finding, in_units, ok, problem, warning
from gateway.doctor.gpu import Gpus
from gateway.doctor.model_folder import Shape

# vLLM's own default.
UTILIZATION = 0.92
# On the CPU, where nothing else is said: engine/vllm_engine.py.
CPU_KV_CACHE_BYTES = 1024**3
# Beside weights and cache: Python, torch and activations of vLLM's processes, and the gateway, PostgreSQL.
GPU_OVERHEAD, CPU_OVERHEAD = 2 * 1024**3, 3 * 1024**3
SHARED_MEMORY_BYTES, SHARED_MEMORY_SEVERAL = 256 * 1024**2, 2 * 1024**3

CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Needed:
    """In bytes, of all GPUs together or of the machine. ``cache``: of one request as long as the context."""

    weights: int
    cache: int | None
    context: int | None


def needed_by(weights: int, shape: Shape) -> Needed:
    """What the model takes to answer one request."""
    known = shape.context is not None and shape.bytes_per_token is not None
    cache = shape.context * shape.bytes_per_token if known else None  # type: ignore[operator]
    return Needed(weights, cache, shape.context)


def ranks(engine_args: Mapping[str, Any]) -> int:
    """Among how many GPUs a copy of the model is divided."""
    sizes = (engine_args.get(name, 1) for name in ("tensor_parallel_size", "pipeline_parallel_size"))
    first, second = (size if isinstance(size, int) and size > 0 else 1 for size in sizes)
    return first * second


def copies(engine_args: Mapping[str, Any]) -> int:
    """How many copies of the model are on this machine, each on GPUs of its own."""
    count = engine_args.get("data_parallel_size_local", engine_args.get("data_parallel_size", 1))
    return count if isinstance(count, int) and count > 0 else 1


def check_gpu_memory(needed: Needed, gpus: Gpus, engine_args: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether weights and the cache of one request fit into what vLLM may take of each GPU."""
    part, given = ranks(engine_args), engine_args.get("gpu_memory_utilization", UTILIZATION)
    share = float(given) if isinstance(given, int | float) and 0 < given <= 1 else UTILIZATION
    for gpu in gpus.found[: part * copies(engine_args)]:
        takes = share * gpu.total
        wants = (needed.weights + (needed.cache or 0)) / part + GPU_OVERHEAD
        told = f"GPU {gpu.index}: vLLM takes {in_units(takes)} of it, {told_of(needed, part)}"
        if gpu.free < takes:
            yield problem(
                f"{told}; {in_units(gpu.free)} are free, and vLLM does not start with less than it takes",
                "end what else uses the GPU ('nvidia-smi' lists it), or set "
                f"engine_args.gpu_memory_utilization to {max(0.0, gpu.free / gpu.total - 0.02):.2f}",
            )
        elif takes < needed.weights / part + GPU_OVERHEAD:
            yield problem(
                f"{told}: the weights do not fit",
                "take a larger GPU, several (engine_args.tensor_parallel_size), or a quantized model",
            )
        elif takes < wants:
            yield problem(
                f"{told}: no request as long as the context fits, and vLLM does not start then",
                f"lower engine_args.max_model_len below {room(takes - GPU_OVERHEAD, needed, part)}",
            )
        else:
            yield ok(told)


def told_of(needed: Needed, part: int) -> str:
    """The need in words."""
    told = f"weights {in_units(needed.weights / part)}"
    if needed.cache is None:
        return f"{told}; what its cache takes is not known"
    return f"{told}, cache of one request of {needed.context} tokens {in_units(needed.cache / part)}"


def room(takes: float, needed: Needed, part: int) -> int:
    """For how many tokens there is room beside the weights."""
    assert needed.cache is not None
    assert needed.context is not None
    return max(0, int((takes - needed.weights / part) * part / (needed.cache / needed.context)))


def check_machine_memory(
    needed: Needed | None, engine_args: Mapping[str, Any], available: int, limit: str
) -> Iterator[Finding]:
    """Whether a model on the CPU fits into ``available``; ``limit`` says what that is of."""
    if needed is None:
        yield ok(f"memory: {in_units(available)} available {limit}")
        return
    space = cpu_cache_bytes(engine_args)
    total = needed.weights + space + CPU_OVERHEAD
    told = f"{in_units(available)} available {limit}; weights {in_units(needed.weights)}"
    told += f", cache {in_units(space)} and about {in_units(CPU_OVERHEAD)} more are needed"
    if total > available:
        yield problem(told, "give the machine or the container more memory, or take a smaller model")
    else:
        yield ok(told)
    if needed.cache is not None and needed.cache > space:
        yield problem(
            f"the cache ({in_units(space)}) does not hold one request of {needed.context} tokens "
            f"({in_units(needed.cache)}): vLLM does not start then",
            "raise engine_args.kv_cache_memory_bytes or VLLM_CPU_KVCACHE_SPACE (GiB), or lower "
            "engine_args.max_model_len",
        )


def cpu_cache_bytes(engine_args: Mapping[str, Any]) -> int:
    """What vLLM takes for keys and values on the CPU."""
    given = engine_args.get("kv_cache_memory_bytes")
    if isinstance(given, int) and given > 0:
        return given
    try:
        return int(float(os.environ["VLLM_CPU_KVCACHE_SPACE"]) * 1024**3) or CPU_KV_CACHE_BYTES
    except (KeyError, ValueError, OverflowError):
        return CPU_KV_CACHE_BYTES


def available_memory(cgroup: Path = CGROUP) -> tuple[int, str]:
    """Bytes that processes here may still take, and of what."""
    free = psutil.virtual_memory().available
    for most, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            left = int((cgroup / most).read_text()) - int((cgroup / used).read_text())
        except (OSError, ValueError):
            continue
        if left < free:
            return max(0, left), "within the container's or cgroup's limit"
    return free, "on this machine"


def check_shared_memory(several: bool, folder: str = "/dev/shm") -> Iterator[Finding]:  # noqa: S108
    """What vLLM's processes talk through; containers have 64 MiB where nothing is said."""
    try:
        size = psutil.disk_usage(folder).total
    except OSError as error:
        yield problem(f"{folder}: {error.strerror}", "mount a tmpfs there: vLLM's processes talk through it")
        return
    least = SHARED_MEMORY_SEVERAL if several else SHARED_MEMORY_BYTES
    if size < least:
        yield warning(
            f"{folder} has {in_units(size)}: vLLM's processes end with a bus error where it is full",
            f"give it {in_units(least)} or more: docker run --shm-size, in Kubernetes an emptyDir with "
            "medium Memory mounted there",
        )
    else:
        yield ok(f"{folder} has {in_units(size)}")
