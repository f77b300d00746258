"""``chatglm-gateway`` whose simulated engine writes down what it is given, in the file that PROMPTS_FILE
names: ``python -m`` this module, with ``serve`` and its options."""

from __future__ import annotations

import json
import os
from pathlib import Path
from unittest.mock import patch

from engine.base import GenerationRequest
from engine.simulated import SimulatedEngine, SimulatedStream
from gateway.cli import main

VARIABLE = "PROMPTS_FILE"

submit = SimulatedEngine.submit


def prompts_of(path: Path) -> dict[str, str]:
    """The prompt of each engine request, by its id. The simulated engine's tokens are code points."""
    lines = path.read_text().splitlines()
    return {given["id"]: "".join(map(chr, given["prompt"])) for given in map(json.loads, lines)}


async def submit_and_keep(engine: SimulatedEngine, request: GenerationRequest) -> SimulatedStream:
    """Append the request's id and prompt to the file, as one line of JSON."""
    with open(os.environ[VARIABLE], "a") as file:
        given = {"id": request.request_id, "prompt": list(request.prompt_token_ids)}
        file.write(json.dumps(given) + "\n")
    return await submit(engine, request)


if __name__ == "__main__":
    with patch.object(SimulatedEngine, "submit", submit_and_keep):
        main()
