"""The model's folder: whether all is there that vLLM reads, and how much memory it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import chatglm3_model, demo_model
from gateway.doctor.finding import Finding, in_units, ok, problem, warning
from gateway.settings import DEMO, Settings

MOST_JSON_BYTES = 64 * 1024**2
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "tekken.json")
BYTES_OF = {"float32": 4, "float16": 2, "bfloat16": 2, "half": 2, "float": 4}


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of the files that vLLM loads; ``missing``: those that the index names and are not there."""

    bytes: int
    files: int
    pickled: bool
    missing: list[str]


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a model's attention. ``bytes_per_token``: of its keys and values."""

    context: int | None
    bytes_per_token: int | None
    dtype: str


def folder_of(settings: Settings) -> Path | None:
    """Of the model that is run here; None where none is."""
    if settings.engine != "vllm":
        return None
    return demo_model.folder(settings.data_dir) if settings.model == DEMO else Path(settings.model).absolute()


def read_json(path: Path) -> Any:
    """Raises OSError and ValueError."""
    if path.stat().st_size > MOST_JSON_BYTES:
        raise ValueError(f"larger than {in_units(MOST_JSON_BYTES)}")
    return json.loads(path.read_text("utf-8"))


def weights_of(folder: Path) -> Weights:
    """safetensors where there are any, as vLLM chooses. Raises OSError and ValueError."""
    for pattern, index, pickled in (
        ("*.safetensors", "model.safetensors.index.json", False),
        ("*.bin", "pytorch_model.bin.index.json", True),
        ("*.pt", "", True),
    ):
        # Not training_args.bin, and not what a shell would hide.
        files = [path for path in folder.glob(pattern) if not path.name.startswith((".", "training_"))]
        missing: list[str] = []
        if index and (folder / index).is_file():
            named = set(read_json(folder / index)["weight_map"].values())
            missing = sorted(name for name in named if not (folder / name).is_file())
        if files or missing:
            return Weights(sum(path.stat().st_size for path in files), len(files), pickled, missing)
    return Weights(0, 0, False, [])


def shape_of(config: Mapping[str, Any], engine_args: Mapping[str, Any]) -> Shape:
    """From config.json, in Hugging Face's words or ChatGLM's; ``engine_args`` win."""
    text = config.get("text_config") or config

    def number(*names: str) -> int | None:
        return next(
            (text[name] for name in names if isinstance(text.get(name), int) and text[name] > 0), None
        )

    dtype = engine_args.get("dtype")
    if dtype in (None, "auto"):
        dtype = str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "float16")
    layers, heads = (
        number("num_hidden_layers", "num_layers", "n_layer"),
        number("num_attention_heads", "n_head"),
    )
    groups = number("multi_query_group_num") if text.get("multi_query_attention") else None
    kv_heads = groups or number("num_key_value_heads") or heads
    size, hidden = number("head_dim", "kv_channels"), number("hidden_size", "n_embd")
    if size is None and hidden and heads:
        size = hidden // heads
    per_value = (
        1 if str(engine_args.get("kv_cache_dtype", "auto")).startswith("fp8") else BYTES_OF.get(dtype, 2)
    )
    given = engine_args.get("max_model_len")
    context = (
        given if isinstance(given, int) and given > 0 else number("max_position_embeddings", "seq_length")
    )
    if layers is None or kv_heads is None or size is None:
        return Shape(context, None, dtype)
    return Shape(context, 2 * layers * kv_heads * size * per_value, dtype)


def check_model(settings: Settings, folder: Path) -> Iterator[Finding]:
    """Whether vLLM finds all that it needs."""
    if settings.model == DEMO and not demo_model.is_there(settings.data_dir):
        yield ok("the demo model is converted at the first start (about 20 s, 0.3 GB below data_dir)")
        return
    try:
        config = read_json(folder / "config.json")
        weights = weights_of(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        yield problem(
            f"{folder}: {error}", "set model to a folder with config.json that the gateway's user may read"
        )
        return
    if not isinstance(config, dict):
        yield problem(f"{folder}/config.json is no JSON object", "copy the model's folder again, whole")
        return
    names = ", ".join(map(str, config.get("architectures") or ["no architecture named"]))
    yield ok(f"{folder}: {names}")
    yield from check_weights(folder, weights)
    yield from check_tokenizer(folder, settings)


def check_weights(folder: Path, weights: Weights) -> Iterator[Finding]:
    """Whether they are all there and may be read."""
    unreadable = [path.name for path in folder.iterdir() if path.is_file() and not readable(path)]
    if weights.missing:
        told = ", ".join(weights.missing[:3]) + (" …" if len(weights.missing) > 3 else "")
        yield problem(
            f"files of weights are missing, {len(weights.missing)} in all: {told}",
            "copy the model's folder again, whole",
        )
    elif not weights.files:
        yield problem(
            f"{folder} has no weights (*.safetensors or *.bin)", "copy the model's folder again, whole"
        )
    elif unreadable:
        yield problem(f"{', '.join(unreadable[:3])} can't be read", f"let the gateway's user read {folder}")
    elif weights.bytes < 1024 * weights.files:
        yield problem(
            f"{weights.files} files of weights have {in_units(weights.bytes)}: pointers of Git LFS?",
            "run 'git lfs pull' in the model's folder",
        )
    elif weights.pickled:
        yield warning(
            f"weights are pickled: {weights.files} files, {in_units(weights.bytes)}",
            "take only files that you trust, or convert them to safetensors, which also load faster",
        )
    else:
        yield ok(f"weights: {weights.files} files, {in_units(weights.bytes)}")


def readable(path: Path) -> bool:
    """Whether its first byte can be read."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


def check_tokenizer(folder: Path, settings: Settings) -> Iterator[Finding]:
    """Whether there is one, and it is known how the model is spoken to."""
    if chatglm3_model.is_chatglm(folder):
        if (folder / "tokenizer.model").is_file():
            yield ok("ChatGLM3's tokenizer.model is there; no remote code is needed")
        else:
            yield problem("tokenizer.model is missing", "copy it from the model's repository into the folder")
        if settings.engine_args.get("trust_remote_code"):
            yield problem(
                "engine_args.trust_remote_code is refused for ChatGLM3", "take it out of engine_args"
            )
        return
    given = settings.engine_args.get("tokenizer")
    if given is None and not any((folder / name).is_file() for name in TOKENIZERS):
        yield problem("the folder has no tokenizer", "copy tokenizer.json and tokenizer_config.json into it")
        return
    yield ok("a tokenizer is there")
    if given is None and not has_chat_template(folder):
        yield warning(
            "the tokenizer has no chat template: /v1/chat/completions will be refused",
            "put chat_template.jinja into the folder, or use /v1/completions",
        )


def has_chat_template(folder: Path) -> bool:
    """In a file of its own, or in tokenizer_config.json."""
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    try:
        return bool(read_json(folder / "tokenizer_config.json").get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False
