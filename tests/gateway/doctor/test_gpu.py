"""What nvidia-smi says, recorded: there is no GPU where these tests run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from gateway.doctor import examination, gpu, packages
from gateway.doctor.finding import Finding
from gateway.doctor.gpu import Gpus, check_driver, check_gpus, find_gpus, read_gpus, visible
from gateway.doctor.memory import Needed, check_gpu_memory
from gateway.doctor.packages import Installed, check_compiler
from gateway.settings import load

GIB = 1024**3
A10 = "0, NVIDIA A10, 550.90.07, 23028, 22515, 8.6, GPU-aa11\n"
TWO_T4 = (
    "0, Tesla T4, 535.183.01, 15360, 14926, 7.5, GPU-aa11\n"
    "1, Tesla T4, 535.183.01, 15360, 14926, 7.5, GPU-Aa22\n"
)
CUDA_12 = Installed("0.32.0", None, "2.13.0+cu128", None, "12.8")
CPU = Installed(None, "0.32.0", "2.13.0+cpu", None, None)
# ChatGLM3-6B: 12.5 GB of weights, 28 KiB of cache for each of 8192 tokens.
CHATGLM3 = Needed(12_487_168_064, 28 * 1024 * 8192, 8192)


def levels(findings: Iterable[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def test_what_nvidia_smi_tells_is_read() -> None:
    (gpu,) = read_gpus(A10).found
    assert (gpu.index, gpu.name, gpu.driver, gpu.capability) == (0, "NVIDIA A10", "550.90.07", (8, 6))
    assert (gpu.total, gpu.free) == (23028 * 1024**2, 22515 * 1024**2)
    assert len(read_gpus(TWO_T4).found) == 2


@pytest.mark.parametrize("output", ["0, A10", "0, A10, 1, [N/A], [N/A], 8.6, GPU-1", "No devices were found"])
def test_what_can_not_be_read_is_a_failure_that_says_so(output: str) -> None:
    gpus = read_gpus(output)
    assert gpus.failure is not None
    assert "can't be read" in gpus.failure


def test_nvidia_smi_that_is_missing_fails_or_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_gpus(["/no/such/nvidia-smi"]) == Gpus()
    fails = (
        "print('NVIDIA-SMI has failed because it could not communicate with the driver'); raise SystemExit(9)"
    )
    failed = find_gpus([sys.executable, "-c", fails])
    assert (
        failed.failure == "nvidia-smi: NVIDIA-SMI has failed because it could not communicate with the driver"
    )
    monkeypatch.setattr("gateway.doctor.gpu.SMI_SECONDS", 0.1)
    hangs = find_gpus([sys.executable, "-c", "import time; time.sleep(1000)"])
    assert hangs.failure is not None
    assert "timed out" in hangs.failure
    assert levels(check_gpus(hangs, CUDA_12, 1, "float16")) == ["problem"]


def test_a_gpu_that_fits_is_well() -> None:
    assert levels(check_gpus(read_gpus(A10), CUDA_12, 1, "bfloat16")) == ["ok", "ok"]
    assert levels(check_gpus(Gpus(), CPU, 1, "bfloat16")) == ["ok"]


def test_no_gpu_for_an_engine_that_needs_one() -> None:
    (finding,) = check_gpus(Gpus(), CUDA_12, 1, "float16")
    assert finding.level == "problem"
    assert "--gpus all" in finding.remedy


def test_an_old_gpu_can_not_run_bfloat16_and_says_what_can_be_set() -> None:
    *findings, _driver = check_gpus(read_gpus(TWO_T4), CUDA_12, 2, "bfloat16")
    assert levels(findings) == ["problem", "problem"]
    assert '{"dtype": "float16"}' in findings[0].remedy
    assert levels(check_gpus(read_gpus(TWO_T4), CUDA_12, 2, "float16")) == ["ok", "ok", "ok"]


def test_more_gpus_than_there_are() -> None:
    *_, finding = check_gpus(read_gpus(TWO_T4), CUDA_12, 4, "float16")
    assert (finding.level, "ask for 4 GPUs, 2 are here" in finding.found) == ("problem", True)


@pytest.mark.parametrize(
    ("driver", "cuda", "level"),
    [
        ("525.60.13", "12.8", "ok"),
        ("515.105.01", "12.8", "problem"),
        ("550.90.07", "13.0", "problem"),
        ("580.65.06", "13.0", "ok"),
        ("580.65.06", "21.0", "warning"),
        ("unknown", "12.8", "warning"),
    ],
)
def test_a_driver_against_the_cuda_that_torch_was_built_for(driver: str, cuda: str, level: str) -> None:
    (finding,) = check_driver(driver, cuda)
    assert finding.level == level


def memory(output: str, needed: Needed = CHATGLM3, **engine_args: Any) -> list[Finding]:
    return list(check_gpu_memory(needed, read_gpus(output), engine_args))


def test_chatglm3_fits_a_gpu_of_24_gb() -> None:
    (finding,) = memory(A10)
    assert finding.level == "ok"
    assert "weights 11.6 GiB, cache of one request of 8192 tokens 224.0 MiB" in finding.found


def test_weights_that_do_not_fit_and_that_fit_on_two() -> None:
    (finding,) = memory(TWO_T4.splitlines()[0], Needed(25 * 10**9, 10**9, 8192))
    assert (finding.level, "weights do not fit" in finding.found) == ("problem", True)
    assert "tensor_parallel_size" in finding.remedy
    two = memory(TWO_T4, CHATGLM3, tensor_parallel_size=2)
    assert levels(two) == ["ok", "ok"]
    assert "weights 5.8 GiB" in two[1].found


def test_a_context_that_does_not_fit_says_which_one_does() -> None:
    long = Needed(12 * GIB, 40 * GIB, 131_072)
    (finding,) = memory(A10, long)
    assert finding.level == "problem"
    most = int(finding.remedy.rpartition(" ")[2])
    assert levels(memory(A10, Needed(12 * GIB, 40 * GIB * most // 131_072, most))) == ["ok"]


def test_a_gpu_that_somebody_uses_says_what_to_set() -> None:
    (finding,) = memory("0, NVIDIA A10, 550.90.07, 23028, 18000, 8.6, GPU-aa11\n")
    assert (finding.level, "17.6 GiB are free" in finding.found) == ("problem", True)
    share = float(finding.remedy.rpartition(" ")[2])
    assert levels(
        memory("0, NVIDIA A10, 550.90.07, 23028, 18000, 8.6, GPU-aa11\n", gpu_memory_utilization=share)
    ) == ["ok"]


@pytest.mark.parametrize(
    ("chosen", "indexes"),
    [
        (None, [0, 1]),
        ("1", [1]),
        ("1, 0", [1, 0]),
        ("GPU-aa22", [1]),
        ("GPU-aa2,0", [1, 0]),
        ("GPU-aa", []),
        ("", []),
        ("-1", []),
        ("0,-1,1", [0]),
        ("7,0", []),
        ("0,0", [0]),
        ("no", []),
    ],
)
def test_only_gpus_that_cuda_shows_are_looked_at_in_its_order(chosen: str | None, indexes: list[int]) -> None:
    seen = visible(read_gpus(TWO_T4), chosen)
    assert [one.index for one in seen.found] == indexes
    assert seen.hidden == 2 - len(indexes)


def test_gpus_that_are_hidden_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    seen = find_gpus([sys.executable, "-c", f"print({TWO_T4!r})"])
    (finding,) = check_gpus(seen, CUDA_12, 1, "float16")
    assert (finding.level, "CUDA_VISIBLE_DEVICES is '-1'" in finding.found) == ("problem", True)
    *_, finding = check_gpus(visible(read_gpus(TWO_T4), "0"), CUDA_12, 2, "float16")
    assert "CUDA_VISIBLE_DEVICES hides 1" in finding.found
    assert levels(check_gpus(visible(read_gpus(TWO_T4), "MIG-x"), CUDA_12, 1, "float16")) == ["warning"]


def test_a_full_gpu_that_is_hidden_does_not_matter() -> None:
    full = TWO_T4.replace("14926", "100", 1)
    seen = visible(read_gpus(full), "1")
    (finding,) = check_gpu_memory(Needed(GIB, GIB, 8192), seen, {})
    assert (finding.level, finding.found[:5]) == ("ok", "GPU 1")


def test_each_copys_gpu_is_looked_at() -> None:
    second_full = "".join(TWO_T4.rsplit("14926", 1)[0]) + "100, 7.5, GPU-aa22\n"
    small = Needed(GIB, GIB, 8192)
    assert levels(memory(second_full, small)) == ["ok"]
    assert levels(memory(second_full, small, data_parallel_size=2)) == ["ok", "problem"]
    assert levels(memory(second_full, small, data_parallel_size=2, data_parallel_size_local=1)) == ["ok"]


def test_the_build_for_gpus_without_one_is_not_taken_for_the_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    monkeypatch.setattr(packages, "installed", lambda: CUDA_12)
    monkeypatch.setattr(gpu, "find_gpus", lambda: Gpus(failure="nvidia-smi: broken"))
    found = list(examination.check_memory(load({"model": str(tmp_path), "data_dir": tmp_path / "data"})))
    assert "is not known" in found[0].found
    assert "VLLM_CPU" not in repr(found)


@pytest.mark.parametrize(("status", "level"), [(0, "ok"), (1, "problem")])
def test_a_compiler_has_to_find_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, level: str
) -> None:
    compiler = tmp_path / "cc"
    said = "-:2:10: fatal error: Python.h: No such file or directory"
    compiler.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{said}' >&2\nexit {status}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    (finding,) = check_compiler(CUDA_12)
    assert finding.level == level
    if status:
        assert "Python.h: No such file" in finding.found
        assert "python3-dev" in finding.remedy


def test_no_compiler_is_a_problem_of_the_build_for_gpus_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = check_compiler(CUDA_12)
    assert (finding.level, "gcc, libc6-dev" in finding.remedy) == ("problem", True)
    assert list(check_compiler(CPU)) == []
    monkeypatch.setenv("CC", str(tmp_path / "nowhere"))
    assert levels(check_compiler(CUDA_12)) == ["problem"]
