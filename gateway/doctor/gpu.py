"""The GPUs and their driver, as nvidia-smi tells of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gateway.doctor.finding import Finding, in_units, ok, problem, warning
from gateway.doctor.packages import Installed

VISIBLE = "CUDA_VISIBLE_DEVICES"
SMI_SECONDS = 15.0
QUERY = ("index", "name", "driver_version", "memory.total", "memory.free", "compute_cap", "uuid")
COMMAND = ("nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits")

# The least driver for each major version of CUDA, on Linux: later minor versions run on it, too (NVIDIA's
# CUDA compatibility, "minor version compatibility").
LEAST_DRIVER = {"11": (450, 80), "12": (525, 60), "13": (580, 65)}

# What vLLM's kernels need, and bfloat16.
LEAST_CAPABILITY, BFLOAT16_CAPABILITY = (7, 0), (8, 0)


@dataclass(frozen=True, slots=True)
class Gpu:
    """Memory in bytes."""

    index: int
    name: str
    driver: str
    total: int
    free: int
    capability: tuple[int, int]
    uuid: str


@dataclass(frozen=True, slots=True)
class Gpus:
    """Those that CUDA shows to this process, in its order. ``failure``: why nothing is known of them, and
    nothing works; ``untold``: why it is not known which they are. ``hidden``: how many others there are."""

    found: Sequence[Gpu] = ()
    failure: str | None = None
    untold: str | None = None
    hidden: int = 0


def find_gpus(command: Sequence[str] = COMMAND) -> Gpus:
    """Those that nvidia-smi sees, and CUDA_VISIBLE_DEVICES does not hide; none where it is not installed."""
    try:
        ended = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, errors="replace", timeout=SMI_SECONDS
        )
    except FileNotFoundError:
        return Gpus()
    except (OSError, subprocess.TimeoutExpired) as error:
        return Gpus(failure=f"nvidia-smi: {error}")
    if ended.returncode != 0:
        said = (ended.stdout + ended.stderr).strip().splitlines() or ["no reason given"]
        return Gpus(failure=f"nvidia-smi: {said[0][:200]}")
    return visible(read_gpus(ended.stdout), os.environ.get(VISIBLE))


def visible(gpus: Gpus, chosen: str | None) -> Gpus:
    """As CUDA takes the variable: indexes, and UUIDs or how they begin, up to the first that there is not.
    nvidia-smi has the order of the bus, CUDA the same where all GPUs are alike, or CUDA_DEVICE_ORDER is
    PCI_BUS_ID."""
    if chosen is None or gpus.failure is not None:
        return gpus
    names = [name.strip() for name in chosen.split(",")]
    if any(name.startswith("MIG-") for name in names):
        return Gpus(untold=f"{VISIBLE} names parts of GPUs (MIG), of which nvidia-smi's table does not tell")
    found: list[Gpu] = []
    for name in names:
        same = [gpu for gpu in gpus.found if is_named(gpu, name)]
        if len(same) != 1 or same[0] in found:
            break
        found += same
    return Gpus(found, hidden=len(gpus.found) - len(found))


def is_named(gpu: Gpu, name: str) -> bool:
    """Whether it is meant by an element of the variable."""
    if name.isdecimal():
        return int(name) == gpu.index
    return name.startswith("GPU-") and gpu.uuid.lower().startswith(name.lower())


def read_gpus(output: str) -> Gpus:
    """nvidia-smi's CSV, of which memory is in MiB."""
    try:
        return Gpus(
            [gpu_of([cell.strip() for cell in line.split(",")]) for line in output.split("\n") if line]
        )
    except (ValueError, IndexError):
        return Gpus(failure=f"nvidia-smi tells what can't be read: {output[:200]!r}")


def gpu_of(cells: Sequence[str]) -> Gpu:
    """One line's. Raises ValueError and IndexError."""
    major, minor = (int(part) for part in cells[5].split("."))
    total, free = (int(cell) * 1024**2 for cell in cells[3:5])
    return Gpu(int(cells[0]), cells[1], cells[2], total, free, (major, minor), cells[6])


def check_gpus(gpus: Gpus, installed: Installed, wanted: int, dtype: str) -> Iterator[Finding]:
    """Whether there are as many as ``wanted``, and they can run vLLM with ``dtype``."""
    if gpus.failure is not None:
        yield problem(gpus.failure, "install or reload NVIDIA's driver; in a container, start it with GPUs")
        return
    if gpus.untold is not None:
        yield warning(
            f"{gpus.untold}: whether the GPUs are enough is not known", "'nvidia-smi -L' lists all parts"
        )
        return
    if not gpus.found and gpus.hidden and installed.for_gpu:
        yield problem(
            f"{VISIBLE} is {os.environ.get(VISIBLE, '')!r}, which hides all GPUs ({gpus.hidden})",
            "set it to indexes or UUIDs that 'nvidia-smi -L' lists, or unset it",
        )
        return
    if not gpus.found:
        need = "the engine is built for one" if installed.for_gpu else None
        remedy = (
            "install NVIDIA's driver; in a container, its container toolkit, and start it with --gpus all"
        )
        yield problem(f"no NVIDIA GPU is seen, and {need}", remedy) if need else ok("no GPU; none is needed")
        return
    for gpu in gpus.found:
        told = f"GPU {gpu.index}: {gpu.name}, {in_units(gpu.free)} of {in_units(gpu.total)} free, "
        told += f"driver {gpu.driver}, compute capability {gpu.capability[0]}.{gpu.capability[1]}"
        yield check_gpu(gpu, told, dtype)
    yield from check_driver(gpus.found[0].driver, installed.torch_cuda)
    if installed.for_gpu and len(gpus.found) < wanted:
        yield problem(
            f"engine_args ask for {wanted} GPUs, {len(gpus.found)} are here"
            + (f", {VISIBLE} hides {gpus.hidden}" if gpus.hidden else ""),
            "lower tensor_parallel_size, pipeline_parallel_size or data_parallel_size",
        )


def check_gpu(gpu: Gpu, told: str, dtype: str) -> Finding:
    """What one can run."""
    if gpu.capability < LEAST_CAPABILITY:
        return problem(told, "vLLM needs compute capability 7.0 or higher: take a newer GPU")
    if gpu.capability < BFLOAT16_CAPABILITY and dtype == "bfloat16":
        return problem(
            f"{told}; the model's dtype is bfloat16, which needs 8.0",
            'set engine_args to {"dtype": "float16"}',
        )
    return ok(told)


def check_driver(driver: str, torch_cuda: str | None) -> Iterator[Finding]:
    """Whether the driver runs the CUDA that torch was built for."""
    if torch_cuda is None:
        return
    least = LEAST_DRIVER.get(torch_cuda.partition(".")[0])
    try:
        major, minor = (int(part) for part in driver.split(".")[:2])
    except ValueError:
        least = None
    if least is None:
        yield warning(
            f"whether driver {driver} runs CUDA {torch_cuda} is not known",
            "see NVIDIA's table of CUDA versions and drivers",
        )
    elif (major, minor) < least:
        yield problem(
            f"driver {driver} is too old for CUDA {torch_cuda}, which torch was built for",
            f"install driver {least[0]}.{least[1]} or newer",
        )
    else:
        yield ok(f"driver {driver} runs CUDA {torch_cuda}")
