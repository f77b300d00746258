"""The Dockerfile; that its steps work is shown by ``make test-fresh``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from gateway.settings import Settings
from tests.fresh.dockerfile import Ignored, Instruction, Stage, Unknown, assignments, instructions, stages

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
DEFAULTS, STAGES = stages(TEXT)
LAST = STAGES[-1]
DATA = "/var/lib/chatglm-gateway"

HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))


def only(stage: Stage, name: str) -> Instruction:
    (found,) = (one for one in stage.instructions if one.name == name)
    return found


def environment() -> dict[str, str]:
    return assignments(only(LAST, "ENV").arguments, {"PATH": "/usr/bin"})


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


def test_it_is_for_a_gpu_unless_told_otherwise_on_a_base_with_a_version() -> None:
    assert DEFAULTS["BASE"].partition(":")[2] not in ("", "latest")
    variants = [one.arguments for stage in STAGES for one in stage.instructions if one.name == "ARG"]
    assert set(variants) == {"VARIANT=cuda"}


def test_it_runs_as_a_user_without_rights_and_writes_into_one_volume() -> None:
    assert only(LAST, "USER").arguments == "10001:10001"
    assert only(LAST, "VOLUME").arguments == DATA
    written = {
        name: value
        for name, value in environment().items()
        if name.endswith(("HOME", "_DIR", "_ROOT", "_BASE"))
    }
    assert {"HOME", "XDG_CACHE_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "GATEWAY_DATA_DIR"} <= set(
        written
    )
    assert all(PurePosixPath(value).is_relative_to(DATA) for value in written.values())


def test_its_settings_are_settings() -> None:
    given = {name.removeprefix("GATEWAY_").lower() for name in environment() if name.startswith("GATEWAY_")}
    assert given == {"host", "port", "data_dir"}
    assert given <= set(Settings.model_fields)


def test_the_gateway_itself_gets_the_signal() -> None:
    assert only(LAST, "CMD").words == ["chatglm-gateway", "serve"]
    assert only(LAST, "STOPSIGNAL").arguments == "SIGTERM"
    assert not any(one.name == "ENTRYPOINT" for one in LAST.instructions)


def test_the_health_check_asks_for_readiness_with_the_python_that_is_there() -> None:
    health = Instruction("CMD", only(LAST, "HEALTHCHECK").arguments.removeprefix("CMD "))
    program, option, code = health.words
    assert (program, option) == ("python", "-c")
    assert "/health/ready" in code
    compile(code, "the health check", "exec")


def test_pip_s_settings_are_in_no_layer() -> None:
    runs = [
        one
        for stage in STAGES
        for one in stage.instructions
        if one.name == "RUN" and "install.sh" in one.arguments
    ]
    assert runs
    for run in runs:
        assert ("mount", "type=secret,id=pip,target=/etc/pip.conf") in run.flags
    assert not any("INDEX" in one.arguments.upper() for stage in STAGES for one in stage.instructions)


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    ignored = Ignored((ROOT / ".dockerignore").read_text())
    copied = [
        source
        for stage in STAGES
        for one in stage.instructions
        if one.name == "COPY" and one.flag("from") is None
        for source in one.words[:-1]
    ]
    assert {"gateway", "deploy/install.sh", "pyproject.toml"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert not ignored(PurePosixPath(source)), source
    for other in (
        ".env",
        ".git/config",
        "deploy/secrets/database_url",
        "deploy/compose.yaml",
        "tests/conftest.py",
        "gateway/__pycache__/app.cpython-311.pyc",
    ):
        assert ignored(PurePosixPath(other)), other


def test_every_package_of_the_project_is_in_the_image() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "benchmarks", "deploy"}
    copied = {one.words[-1] for one in LAST.instructions if one.name == "COPY"}
    assert packages <= copied


def test_a_dockerfile_is_read_as_docker_reads_it() -> None:
    text = """
# a comment
ARG BASE=debian:12
FROM ${BASE} AS one
RUN --mount=type=cache,target=/a \\
    # another
    first \\
    && second
ENV A=/x B=$A/y
COPY --from=zero a b c/
CMD ["serve", "it now"]
"""
    defaults, (stage,) = stages(text)
    assert (defaults, stage.base, stage.name) == ({"BASE": "debian:12"}, "debian:12", "one")
    run, env, copy, command = stage.instructions
    assert (run.arguments, run.flags) == ("first && second", (("mount", "type=cache,target=/a"),))
    assert assignments(env.arguments, {"A": "old"}) == {"A": "/x", "B": "old/y"}
    assert (copy.flag("from"), copy.words) == ("zero", ["a", "b", "c/"])
    assert command.words == json.loads('["serve", "it now"]')


@pytest.mark.parametrize("line", ["ADD a b", "run x", 'ENV A="b c"'])
def test_what_it_would_read_wrongly_is_refused(line: str) -> None:
    with pytest.raises(Unknown):
        for one in instructions(line):
            assignments(one.arguments, {})
