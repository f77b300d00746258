"""What a process writes to standard error, whoever in it logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

LOGS = """
import json, logging, logging.config, os, sys, threading, warnings
from gateway.logs import configure_logging
from gateway.logs.engine_processes import PROCESS, VLLM_CONFIG

configure_logging("info", sys.argv[1])
assert os.environ["VLLM_LOGGING_CONFIG_PATH"] == str(VLLM_CONFIG)
logging.getLogger("gateway.x").info("one\\nforged")
if sys.argv[2] == "engine":
    os.environ[PROCESS] = "1"
# As vLLM does it, without vLLM.
config = json.loads(VLLM_CONFIG.read_text())
config["loggers"]["vllm"]["level"] = "INFO"
logging.config.dictConfig(config)
logging.getLogger("vllm.core").info("two")
logging.getLogger("alembic").info("nobody needs that")
logging.getLogger("uvicorn.error").warning("three")
warnings.warn("four")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
logging.getLogger("gateway.x").info("five")
raise RuntimeError("six")
"""


def logged(log_format: str, process: str = "gateway") -> str:
    """What the process above has written by its end."""
    ended = subprocess.run(
        [sys.executable, "-c", LOGS, log_format, process],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("VLLM_")},
    )
    assert ended.stdout == b""
    return ended.stderr.decode("utf-8")


def test_all_lines_are_objects_also_those_of_others_and_of_what_nobody_caught() -> None:
    lines = [json.loads(line) for line in logged("auto").splitlines()]
    assert [(line["logger"], line["level"]) for line in lines] == [
        ("gateway.x", "info"),
        ("vllm.core", "info"),
        ("uvicorn.error", "warning"),
        ("py.warnings", "warning"),
        ("gateway", "critical"),
        ("gateway.x", "info"),
        ("gateway", "critical"),
    ]
    assert lines[0]["message"] == "one\nforged"
    assert lines[4]["exception"].endswith("ZeroDivisionError: division by zero")
    assert lines[6]["exception"].endswith("RuntimeError: six")


def test_vllms_own_processes_write_the_same_form_and_who_they_are() -> None:
    lines = [json.loads(line) for line in logged("json", "engine").splitlines()]
    (line,) = [line for line in lines if line["logger"] == "vllm.core"]
    assert (line["message"], line["process"]) == ("two", "vllm")
    assert line["pid"] > 0


def test_text_is_for_people() -> None:
    lines = logged("text").splitlines()
    assert lines[0].endswith(" INFO    gateway.x: one")
    assert lines[1] == "    forged"
    assert lines[-1] == "    RuntimeError: six"
