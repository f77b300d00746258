"""All checks, each within its time, and none kept from running by another one's failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from gateway.doctor import data_dir, database, gpu, machine, memory, model_folder, packages
from gateway.doctor.finding import Finding, in_units, ok, problem, warning
from gateway.settings import InvalidSetting, Settings

# Longer than any time limit inside a check.
CHECK_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Check:
    """``run`` gives what it finds."""

    topic: str
    run: Callable[[], Iterable[Finding]]


def examine(settings: Settings | InvalidSetting) -> Iterator[tuple[str, list[Finding]]]:
    """Each topic with its findings, as soon as they are there."""
    for check in checks_of(settings):
        yield check.topic, findings_of(check)


def findings_of(check: Check, seconds: float = CHECK_SECONDS) -> list[Finding]:
    """What a check finds, at most what it has found within ``seconds``."""
    found: list[Finding] = []

    def run() -> None:
        try:
            for finding in check.run():
                found.append(finding)
        except Exception as error:
            found.append(warning(f"this check failed: {type(error).__name__}: {error}", "please report it"))

    # Not waited for at the end of the process: a disk or a driver that hangs hangs its thread.
    thread = threading.Thread(target=run, name=f"doctor-{check.topic}", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        late = problem(
            f"no answer within {seconds:g} s", "something that the check asks hangs: look at it by hand"
        )
        return [*found, late]
    return found


def checks_of(settings: Settings | InvalidSetting) -> Sequence[Check]:
    """In the order in which a start would meet them. Without settings only what needs none."""
    now, synchronised = time.time(), machine.is_synchronised
    always = [
        Check("Python", packages.check_python),
        Check("Clock", lambda: machine.check_clock(now, synchronised())),
    ]
    if isinstance(settings, InvalidSetting):
        told = str(settings)
        remedy = (
            "correct it; 'chatglm-gateway settings' lists all. Other checks need settings and were left out"
        )
        return [Check("Settings", lambda: [problem(told, remedy)]), *always]
    return [
        Check("Settings", lambda: check_settings(settings)),
        *always,
        Check("Data directory", lambda: data_dir.check_data_dir(settings)),
        Check("Database", lambda: database.check_database(settings)),
        Check("Port", lambda: machine.check_port(settings)),
        Check("Access", lambda: machine.check_access(settings)),
        Check("Open files", lambda: machine.check_files(settings)),
        Check("Packages", lambda: check_packages(settings)),
        Check("GPU", lambda: check_gpus(settings)),
        Check("Model", lambda: check_model(settings)),
        Check("Memory", lambda: check_memory(settings)),
    ]


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Whether they contradict each other."""
    found = list(machine.check_contradictions(settings))
    yield from found or [ok("all can be used, and none contradicts another")]


def check_packages(settings: Settings) -> Iterator[Finding]:
    """Those of the engine."""
    installed = packages.installed()
    gpus = gpu.find_gpus()
    yield from packages.check_packages(settings, installed, has_gpu=bool(gpus.found or gpus.untold))
    if settings.engine == "vllm":
        yield from packages.check_libraries(installed)
        yield from packages.check_compiler(installed)


def check_gpus(settings: Settings) -> Iterator[Finding]:
    """Those of the machine, against what the settings ask for."""
    if settings.engine != "vllm":
        yield ok(f"engine is {settings.engine}: no GPU is needed")
        return
    folder, arguments = model_folder.folder_of(settings), settings.engine_args
    assert folder is not None
    wanted = memory.ranks(arguments) * memory.copies(arguments)
    try:
        dtype = model_folder.shape_of(model_folder.read_json(folder / "config.json"), arguments).dtype
    except (OSError, ValueError, AttributeError):
        dtype = "auto"
    yield from gpu.check_gpus(gpu.find_gpus(), packages.installed(), wanted, dtype)


def check_model(settings: Settings) -> Iterator[Finding]:
    """The folder."""
    folder = model_folder.folder_of(settings)
    if folder is None:
        yield ok(f"engine is {settings.engine}: no model is loaded here")
    else:
        yield from model_folder.check_model(settings, folder)


def check_memory(settings: Settings) -> Iterator[Finding]:
    """Against the model."""
    available, limit = memory.available_memory()
    folder, arguments = model_folder.folder_of(settings), settings.engine_args
    if folder is None:
        yield from memory.check_machine_memory(None, arguments, available, limit)
        return
    try:
        shape = model_folder.shape_of(model_folder.read_json(folder / "config.json"), arguments)
        weights = model_folder.weights_of(folder).bytes
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        yield ok(f"{in_units(available)} available {limit}; what the model takes is not known yet")
        return
    needed = memory.needed_by(weights, shape)
    if packages.installed().for_gpu:
        gpus = gpu.find_gpus()
        if not gpus.found:
            told = memory.told_of(needed, memory.ranks(arguments))
            yield warning(
                f"each GPU needs: {told}; what GPUs have is not known, none is seen", "see the GPU's check"
            )
        yield from memory.check_gpu_memory(needed, gpus, arguments)
        yield from memory.check_machine_memory(None, arguments, available, limit)
    else:
        yield from memory.check_machine_memory(needed, arguments, available, limit)
    several = memory.ranks(arguments) * memory.copies(arguments) > 1
    yield from memory.check_shared_memory(several)
