"""vLLM's records: in the gateway's process they go the way of all others, in vLLM's own processes, which it
starts anew, to a handler that writes them in the same form.

vLLM configures its logger ``vllm`` in each of its processes from the file that VLLM_LOGGING_CONFIG_PATH
names, a ``logging.config.dictConfig``; ``vllm.json`` here names ``handler``. What is not logged but printed
(C++ libraries, a crashing interpreter) stays as it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import MutableMapping
from pathlib import Path

from gateway.logs.formats import JsonFormatter, TextFormatter

VLLM_CONFIG = Path(__file__).parent / "vllm.json"

# Which form, and which process is the gateway: for processes below it.
FORMAT = "CHATGLM_GATEWAY_LOG_FORMAT"
PROCESS = "CHATGLM_GATEWAY_LOG_PROCESS"


def share_with_engine(log_format: str, environment: MutableMapping[str, str]) -> None:
    """Tell vLLM, and the processes that it starts, how to log; a configuration of the operator's own wins."""
    environment[FORMAT], environment[PROCESS] = log_format, str(os.getpid())
    environment.setdefault("VLLM_LOGGING_CONFIG_PATH", str(VLLM_CONFIG))


def handler() -> logging.Handler:
    """What ``vllm.json`` names as the handler of vLLM's records."""
    if os.environ.get(PROCESS) == str(os.getpid()):
        return ToRoot()
    to_stderr = logging.StreamHandler()
    as_json = os.environ.get(FORMAT) == "json"
    to_stderr.setFormatter(JsonFormatter("vllm") if as_json else TextFormatter("vllm"))
    return to_stderr


class ToRoot(logging.Handler):
    """Hands records to the handlers of the root logger."""

    def emit(self, record: logging.LogRecord) -> None:
        """As if the record's logger propagated, which vLLM's does not."""
        for each in logging.getLogger().handlers:
            if record.levelno >= each.level:
                each.handle(record)
