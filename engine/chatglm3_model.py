"""ChatGLM3's tokenizer: a fast one, built once from the model's own tokenizer.model.

The tokenizer that comes with the model is remote code that no longer runs on transformers 5. Built
from the same SentencePiece file, the fast one gives the same ids for every string, vLLM takes its
folder as ``tokenizer=``, and no code of a model's repository is ever loaded.

Why the ids are equal: SentencePiece merges the two neighbours whose piece has the best score, the
leftmost first; ``tokenizers`` the pair of the best rank, the leftmost first. Ranks follow the scores,
and no two pieces share one, so the two could only differ where a piece can be made of two pairs at
once, as "anan" + "a" and "an" + "ana". That never happens: up to then, what was merged inside either
place is what would be merged if the piece stood alone, and alone it ends in one pair.

Sources: sentencepiece_model.proto and bpe_model.cc of SentencePiece, tokenization_chatglm.py of
ChatGLM3 (github.com/zai-org/ChatGLM3).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from engine.base import EngineError
from engine.sentencepiece_file import BYTE, CONTROL, NORMAL, SETTINGS, UNKNOWN, Piece, parse

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

NAME = "chatglm3-6b"

# What the model's authors use in model.chat.
SAMPLING_DEFAULTS = {"temperature": 0.8, "top_p": 0.8}

# They follow the SentencePiece vocabulary, in this order.
CONTROL_TOKENS = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)

# Of the published model, and the sha256 of what its vocabulary holds (see ``vocabulary_digest``).
PUBLISHED_ROWS = 65024
PUBLISHED_VOCABULARY = "5485fd1efa0bc5c92762341732b18b87067aa37d082133ff1943b1b00523731b"

# Models that are a "chatglm" too but are spoken to differently.
OTHER_MODELS = ("chatglm2", "chatglm-6b", "codegeex")

# A new number makes every folder be built anew.
BUILDER_VERSION = 1


def is_chatglm(folder: Path) -> bool:
    """Whether the config.json in ``folder`` says so; False where there is none to read."""
    try:
        return read_config(folder / "config.json").get("model_type") == "chatglm"
    except EngineError:
        return False


def ensure_tokenizer(model: Path, data_dir: Path) -> Path:
    """The folder of the fast tokenizer for the model in ``model``, built first where it is missing (1 s).

    It holds tokenizer.json, tokenizer_config.json and a config.json that names no remote code. It
    appears whole or not at all, also when the building is killed or runs twice at once.
    Raises EngineError when ``model`` is no ChatGLM3, or lacks a file, or has another model's.
    """
    config_path, vocabulary_path = model / "config.json", model / "tokenizer.model"
    config = read_config(config_path)
    refuse_other_models(config, config_path)
    vocabulary = read(vocabulary_path)
    target = data_dir / "tokenizers" / key(vocabulary, read(config_path))
    if is_whole(target):
        return target
    pieces = read_vocabulary(vocabulary, vocabulary_path)
    check_published(pieces, vocabulary_path, config, config_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target.parent)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{NAME}.{os.getpid()}.", dir=target.parent))
    try:
        write(unfinished, pieces, config)
        unfinished.chmod(0o755)
        try:
            unfinished.rename(target)
        except OSError:
            # Another process was first.
            if not is_whole(target):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def is_whole(folder: Path) -> bool:
    return (folder / "tokenizer.json").exists()


def key(vocabulary: bytes, config: bytes) -> str:
    """The name of the folder for these two files."""
    digests = [hashlib.sha256(content).hexdigest() for content in (vocabulary, config)]
    return f"{NAME}-{hashlib.sha256(f'{BUILDER_VERSION} {digests}'.encode()).hexdigest()[:16]}"


def remove_leftovers(tokenizers: Path) -> None:
    """Remove what killed builders left behind, not what a living one is writing."""
    for path in tokenizers.glob(f".{NAME}.*.*"):
        if not psutil.pid_exists(int(path.name.split(".")[2])):
            shutil.rmtree(path, ignore_errors=True)


# What is in the model's folder


def read(path: Path) -> bytes:
    """The bytes of a file. Raises EngineError where there is none to read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise EngineError(
            f"{path} is missing: download it from the model's repository"
            + (" beside config.json." if path.name != "config.json" else ".")
        ) from error
    except OSError as error:
        raise EngineError(f"{path} can't be read: {error.strerror}.") from error
    if content.startswith(b"version https://git-lfs"):
        raise EngineError(
            f"{path} is only a Git LFS pointer: run 'git lfs pull' in the model's folder, "
            "or download the file itself from the model's repository."
        )
    return content


def read_config(path: Path) -> dict[str, Any]:
    """A model's config.json. Raises EngineError where it can't be read."""
    try:
        config = json.loads(read(path))
    except (ValueError, RecursionError) as error:
        raise EngineError(
            f"{path} is not valid JSON: download it again from the model's repository."
        ) from error
    if not isinstance(config, dict):
        raise EngineError(f"{path} is no JSON object: download it again from the model's repository.")
    return config


def refuse_other_models(config: Mapping[str, Any], path: Path) -> None:
    """Raise EngineError for a config that is not of ChatGLM3, as far as it tells."""
    if config.get("model_type") != "chatglm":
        raise EngineError(f"{path} has no model_type 'chatglm', so this is not ChatGLM3.")
    name = re.split(r"[/\\]", str(config.get("_name_or_path", "")).rstrip("/\\"))[-1].lower()
    if any(other in name for other in OTHER_MODELS):
        raise EngineError(
            f"{path} is of the model '{name}', which is spoken to differently: give a folder of ChatGLM3."
        )
    if config.get("quantization_bit"):
        raise EngineError(
            f"{path} is of weights quantised by the model's own code (quantization_bit), which vLLM can't "
            "read: give the fp16 folder, or one in a form that vLLM knows."
        )


def check_published(
    pieces: Sequence[Piece], path: Path, config: Mapping[str, Any], config_path: Path
) -> None:
    """Raise EngineError unless the vocabulary is the one that a model of this size has."""
    rows = config.get("padded_vocab_size")
    if not isinstance(rows, int):
        raise EngineError(f"{config_path} has no padded_vocab_size, so this is not ChatGLM3.")
    if rows == PUBLISHED_ROWS and vocabulary_digest(pieces) != PUBLISHED_VOCABULARY:
        raise EngineError(
            f"{path} does not hold ChatGLM3's vocabulary (it may be CodeGeeX2's, which has the same size): "
            "download it again from the model's repository."
        )
    if len(pieces) + len(CONTROL_TOKENS) > rows:
        raise EngineError(
            f"{path} has {len(pieces)} pieces, which with {len(CONTROL_TOKENS)} control tokens do not fit "
            f"into the padded_vocab_size {rows} of {config_path.name}: both must come from the same model."
        )


# The vocabulary


# What ids 0 to 258 are.
FIRST_PIECES = [
    ("<unk>", UNKNOWN),
    ("<s>", CONTROL),
    ("</s>", CONTROL),
    *((f"<0x{byte:02X}>", BYTE) for byte in range(256)),
]


def read_vocabulary(content: bytes, path: Path) -> list[Piece]:
    """The pieces of a SentencePiece file by id. ``path`` is for messages.

    Raises EngineError unless it is one of ChatGLM3's kind, whose ids the fast tokenizer gives exactly.
    """
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", content):
        raise EngineError(
            f"{path} looks like GLM-4's tokenizer, so this is not ChatGLM3: give a folder of ChatGLM3."
        )
    try:
        pieces, settings = parse(content)
    except ValueError as error:
        raise EngineError(
            f"{path} is not a SentencePiece model: download it again from the model's repository."
        ) from error
    lacks = [setting.meaning for setting in SETTINGS if settings[setting] != setting.chatglm3]
    if lack := ", ".join(lacks) or structural_lack(pieces):
        raise EngineError(
            f"{path} is a SentencePiece model of another kind than ChatGLM3's (it lacks {lack}): "
            "download ChatGLM3's from its repository."
        )
    return pieces


def structural_lack(pieces: Sequence[Piece]) -> str | None:
    """What the vocabulary lacks of what exact ids need."""
    if [(piece.text, piece.type) for piece in pieces[: len(FIRST_PIECES)]] != FIRST_PIECES:
        return "<unk>, <s>, </s> and the byte pieces at ids 0 to 258"
    rest = pieces[len(FIRST_PIECES) :]
    if any(piece.type != NORMAL for piece in rest):
        return "only normal pieces from id 259 on"
    texts = {piece.text for piece in rest}
    if len(texts | {piece.text for piece in pieces} | {*CONTROL_TOKENS}) != len(pieces) + len(CONTROL_TOKENS):
        return "a text of its own for each piece and control token"
    if len({piece.score for piece in rest}) != len(rest):
        return "a score of its own for each piece"
    if not set().union(*texts) <= texts:
        return "a piece for each character that its pieces are made of"
    return None


def vocabulary_digest(pieces: Sequence[Piece]) -> str:
    """The sha256 of all that decides the ids of a text, whatever else the file holds."""
    settings = [(setting.meaning, str(setting.chatglm3)) for setting in SETTINGS]
    return hashlib.sha256(json.dumps([settings, pieces]).encode()).hexdigest()


# The fast tokenizer


def write(folder: Path, pieces: Sequence[Piece], config: Mapping[str, Any]) -> None:
    """Write all files of the tokenizer into ``folder`` and sync them to disk."""
    build(pieces).save(str(folder / "tokenizer.json"), pretty=False)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<unk>",
            # No text of a user becomes a control token.
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
        },
    )
    # vLLM logs errors without it.
    write_json(folder / "config.json", {name: value for name, value in config.items() if name != "auto_map"})
    for path in folder.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def build(pieces: Sequence[Piece]) -> FastTokenizer:
    """The fast tokenizer for a vocabulary that ``read_vocabulary`` took.

    Raises EngineError when the package for it is not installed.
    """
    try:
        from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    except ImportError as error:
        raise EngineError(
            f"ChatGLM3's tokenizer can't be built ({error}): install the extra 'cpu' or 'cuda'."
        ) from error
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece.text: token_id for token_id, piece in enumerate(pieces)},
            merges=merges(pieces),
            byte_fallback=True,
            fuse_unk=True,
            unk_token="<unk>",  # noqa: S106
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(text, special=True, normalized=False)
            for text in (*(piece.text for piece in pieces[:3]), *CONTROL_TOKENS)
        ]
    )
    return tokenizer


def merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, the best first: by its score, then by the pair's ids."""
    ids = {piece.text: token_id for token_id, piece in enumerate(pieces) if piece.type == NORMAL}
    ranked = [
        (-pieces[token_id].score, ids[text[:end]], ids[text[end:]])
        for text, token_id in ids.items()
        for end in range(1, len(text))
        if text[:end] in ids and text[end:] in ids
    ]
    return [(pieces[left].text, pieces[right].text) for _, left, right in sorted(ranked)]
