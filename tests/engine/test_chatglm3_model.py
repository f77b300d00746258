"""The fast tokenizer against SentencePiece itself, and the folder it is kept in.

What needs the published tokenizer.model looks for it in the folder $CHATGLM3_MODEL, then where the
project's workplace keeps it, and is skipped without it; the rest runs on small vocabularies.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import chatglm3_model
from engine.base import EngineError
from engine.chatglm3_model import CONTROL_TOKENS
from engine.sentencepiece_file import BYTE, CONTROL, NORMAL, UNKNOWN
from tests.strategies import NASTY, texts

sentencepiece: Any = pytest.importorskip("sentencepiece")
transformers: Any = pytest.importorskip("transformers")

from tests.chatglm3.checkpoint import real_tokenizer_model, small_tokenizer_model  # noqa: E402

ROOT = Path(__file__).parents[2]
VECTORS = ROOT.parent / "shared/data/chatglm3/vectors.json"

CONFIG = {"model_type": "chatglm", "padded_vocab_size": 2048, "auto_map": {"AutoModel": "remote.Code"}}


# Models


class Model(NamedTuple):
    folder: Path
    tokenizer_folder: Path
    reference: Any
    fast: Any

    def ids(self, text: str) -> list[int]:
        return list(self.fast.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return str(self.fast.decode(ids, skip_special_tokens=skip_special_tokens))


def write_config(folder: Path, **changed: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changed))
    return folder


def loaded(folder: Path, data_dir: Path) -> Model:
    """Loaded as vLLM loads it."""
    tokenizer_folder = chatglm3_model.ensure_tokenizer(folder, data_dir)
    return Model(
        folder,
        tokenizer_folder,
        sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")),
        transformers.AutoTokenizer.from_pretrained(tokenizer_folder),
    )


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = write_config(tmp_path_factory.mktemp("small"))
    small_tokenizer_model(folder)
    return loaded(folder, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = real_tokenizer_model()
    if path is None:
        pytest.skip("no published tokenizer.model here")
    folder = write_config(tmp_path_factory.mktemp("published"), padded_vocab_size=65024)
    shutil.copy(path, folder / "tokenizer.model")
    return loaded(folder, tmp_path_factory.mktemp("data"))


@pytest.fixture(params=["small", "published"])
def model(request: pytest.FixtureRequest) -> Model:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Model)
    return found


# SentencePiece files made by hand


def field(number: int, value: int | float | str | bytes) -> bytes:
    """A field of a protocol buffers message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


PieceFields = tuple[str, float, int]

FIRST: list[PieceFields] = [
    ("<unk>", 0.0, UNKNOWN),
    ("<s>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    *((f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)),
]


def normal(*pieces: str) -> list[PieceFields]:
    """Normal pieces, the best first."""
    return [(piece, float(-rank), NORMAL) for rank, piece in enumerate(pieces)]


ORDINARY = normal("▁a", "ab", "▁", "a", "b")
TRAINER = field(2, field(3, 2) + field(35, 1))
NORMALIZER = field(3, field(1, "identity") + field(3, 1) + field(4, 0))


def sentencepiece_file(pieces: Sequence[PieceFields], more: bytes = b"") -> bytes:
    """``more`` comes last, so what it sets holds."""
    parts = (field(1, field(1, text) + field(2, score) + field(3, kind)) for text, score, kind in pieces)
    return b"".join(parts) + TRAINER + NORMALIZER + more


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Write a model's folder."""

    def put(vocabulary: bytes | None = None, **changed: object) -> Path:
        folder = write_config(tmp_path / "model", **changed)
        content = sentencepiece_file(FIRST + ORDINARY) if vocabulary is None else vocabulary
        (folder / "tokenizer.model").write_bytes(content)
        return folder

    return put


# Ids


PIECE_LIKE = [*CONTROL_TOKENS, "<unk>", "<s>", "</s>", "<0x0A>", "\ufffd", "▁", "\0", "\r\n", " ", "\n"]


@functools.cache
def strings(vocabulary: tuple[str, ...]) -> st.SearchStrategy[str]:
    """Any string, often of what a tokenizer could stumble over."""
    pieces = st.sampled_from(vocabulary)
    words = st.sampled_from([piece.replace("▁", " ") for piece in vocabulary])
    characters = st.sampled_from(" \n.-=*_#!?/\\a1▁的。😀\0") | st.characters(codec="utf-8")
    units = pieces | words | characters
    mixed = st.lists(units | st.sampled_from(PIECE_LIKE), max_size=8).map("".join)
    runs = st.builds(str.__mul__, characters, st.integers(1, 60))
    periodic = st.builds(lambda unit, times, end: unit * times + unit[:end], units, *[st.integers(1, 9)] * 2)
    few = st.text("aonti ▁.", max_size=40)
    return st.one_of(texts, mixed, runs, periodic, st.builds(str.__add__, units, periodic), few)


def vocabulary_of(model: Model) -> tuple[str, ...]:
    return tuple(model.reference.id_to_piece(range(259, model.reference.get_piece_size())))


def test_any_text_has_the_ids_of_sentencepiece(model: Model) -> None:
    """10,000 texts, five of each example, and back."""
    any_text = strings(vocabulary_of(model))

    @settings(max_examples=2_000, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(one=any_text, other=any_text)
    def check(one: str, other: str) -> None:
        for text in (one, other, one + other, f" {other}{one * 2}", f"{one}\n{other * 3} "):
            ids = model.reference.encode(text)
            assert model.ids(text) == ids
            assert model.decode(ids) == model.reference.decode(ids)

    check()


@pytest.mark.parametrize("alphabet", ["ab", "na ", "▁ ", ".", " \n", "的一是", NASTY, "01", "<|>sop"])
def test_words_without_an_end(model: Model, alphabet: str) -> None:
    text = "".join(random.Random(0).choices(alphabet, k=5_000))
    ids = model.reference.encode(text)
    assert model.ids(text) == ids
    assert model.decode(ids) == model.reference.decode(ids)


def test_every_piece_beside_itself(model: Model) -> None:
    for piece in vocabulary_of(model)[:: 1 + model.reference.get_piece_size() // 4_000]:
        for text in (piece, piece * 2, f"x{piece * 3}"):
            assert model.ids(text) == model.reference.encode(text)


ab_pieces = st.lists(st.text("ab▁", min_size=2, max_size=6), unique=True, max_size=25)


@settings(max_examples=150)
@given(pieces=ab_pieces, text_list=st.lists(st.text("ab ", max_size=30), min_size=20, max_size=40))
def test_any_vocabulary_gives_the_ids_of_sentencepiece(pieces: list[str], text_list: list[str]) -> None:
    """Also one whose pieces can be made in several ways, or have a worse score than their whole."""
    content = sentencepiece_file(FIRST + normal(*pieces, "a", "b", "▁"))
    reference = sentencepiece.SentencePieceProcessor(model_proto=content)
    fast = chatglm3_model.build(chatglm3_model.read_vocabulary(content, Path("tokenizer.model")))
    assert [fast.encode(text).ids for text in text_list] == reference.encode(text_list)


def test_control_text_is_text(model: Model) -> None:
    first_control = model.reference.get_piece_size()
    for token in (*CONTROL_TOKENS, "</s>", "<unk>", "<s>", "<0x0A>"):
        for text in (token, f"a{token} b", token * 3, f"\n{token}"):
            for ids in (
                model.ids(text),
                model.fast(text)["input_ids"],
                model.fast.backend_tokenizer.encode(text).ids,
            ):
                assert ids == model.reference.encode(text)
                assert all(2 < token_id < first_control for token_id in ids)


def test_control_tokens_follow_the_vocabulary(model: Model) -> None:
    first_control = model.reference.get_piece_size()
    ids = list(range(first_control, first_control + len(CONTROL_TOKENS)))
    assert model.fast.convert_tokens_to_ids(list(CONTROL_TOKENS)) == ids
    assert len(model.fast) == first_control + len(CONTROL_TOKENS)
    assert [model.decode([token_id]) for token_id in ids] == list(CONTROL_TOKENS)
    assert model.decode([*ids, 0, 1, 2], skip_special_tokens=True) == ""
    special = (model.fast.eos_token_id, model.fast.unk_token_id, model.fast.pad_token_id)
    assert special == (2, 0, 0)


def vectors(*kinds: str) -> list[dict[str, Any]]:
    found = json.loads(VECTORS.read_text())["items"] if VECTORS.exists() else []
    return [vector for vector in found if vector["kind"] in kinds]


@pytest.mark.parametrize(
    "vector", vectors("text", "text_prefixed"), ids=lambda vector: repr(vector["input"])[:40]
)
def test_published_ids(published: Model, vector: dict[str, Any]) -> None:
    prefix = [64790, 64792] if vector["kind"] == "text_prefixed" else []
    assert prefix + published.ids(vector["input"]) == vector["expected"]


@pytest.mark.parametrize("vector", vectors("decode"), ids=lambda vector: repr(vector["expected"])[:40])
def test_published_texts(published: Model, vector: dict[str, Any]) -> None:
    """The authors' decoder shows control tokens, but nothing for </s>."""
    ids = [token_id for token_id in vector["input"] if token_id != 2]
    assert published.decode(ids) == vector["expected"]


# Which files are taken


def test_the_same_content_in_other_bytes_is_taken(
    published: Model, put: Callable[..., Path], tmp_path: Path
) -> None:
    content = (published.folder / "tokenizer.model").read_bytes()
    folder = put(content + field(2, field(4, 1)), padded_vocab_size=65024)
    again = chatglm3_model.ensure_tokenizer(folder, tmp_path / "data")
    assert again.name != published.tokenizer_folder.name
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        assert (again / name).read_bytes() == (published.tokenizer_folder / name).read_bytes()


def test_another_vocabulary_of_the_published_size_is_refused(
    published: Model, put: Callable[..., Path], tmp_path: Path
) -> None:
    content = (published.folder / "tokenizer.model").read_bytes()
    one, other = ("你好".encode(), "好你".encode())
    folder = put(content.replace(one, other, 1), padded_vocab_size=65024)
    with pytest.raises(EngineError, match=r"tokenizer\.model does not hold ChatGLM3's vocabulary.*CodeGeeX2"):
        chatglm3_model.ensure_tokenizer(folder, tmp_path)


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:e7dc4c39\nsize 1018370\n"
NO_DUMMY_PREFIX = field(3, field(3, 0))

FILES = [
    (LFS_POINTER, r"is only a Git LFS pointer: run 'git lfs pull'"),
    (b"IQ== 0\nIg== 1\n", r"looks like GLM-4's tokenizer, so this is not ChatGLM3"),
    (b"", r"is not a SentencePiece model: download it again"),
    (b"\xff" * 50, r"is not a SentencePiece model"),
    (b"<html><body>Not found</body></html>", r"is not a SentencePiece model"),
    (sentencepiece_file(FIRST + ORDINARY)[:-3], r"is not a SentencePiece model"),
    (field(1, field(1, "no score").replace(b"no", b"\xff\xff")), r"is not a SentencePiece model"),
    (field(1, field(1, "a") + field(2, "x")), r"is not a SentencePiece model"),
    (sentencepiece_file(FIRST + ORDINARY, field(2, field(3, 1))), r"another kind.*lacks BPE\)"),
    (sentencepiece_file(FIRST + ORDINARY, field(2, field(35, 0))), r"lacks byte fallback\)"),
    (sentencepiece_file(FIRST + ORDINARY, field(2, field(24, 1))), r"lacks whitespace in front of words\)"),
    (sentencepiece_file(FIRST + ORDINARY, field(3, field(2, "nfkc"))), r"lacks the identity normalizer\)"),
    (sentencepiece_file(FIRST + ORDINARY, NO_DUMMY_PREFIX), r"lacks a dummy prefix\)"),
    (sentencepiece_file(FIRST + ORDINARY, field(3, field(4, 1))), r"lacks whitespace kept as it is\)"),
    (sentencepiece_file(FIRST + ORDINARY, field(3, field(5, 0))), r"lacks escaped whitespace\)"),
    (sentencepiece_file(FIRST + ORDINARY, field(5, field(2, "x"))), r"lacks text given back as it is\)"),
    (sentencepiece_file(FIRST[1:] + ORDINARY), r"lacks <unk>, <s>, </s> and the byte pieces"),
    (sentencepiece_file(FIRST[:-1] + ORDINARY), r"lacks <unk>, <s>, </s> and the byte pieces"),
    (sentencepiece_file([*FIRST, *ORDINARY, ("x", -9.0, 4)]), r"lacks only normal pieces"),
    (sentencepiece_file([*FIRST, *ORDINARY, ("a", -9.0, NORMAL)]), r"lacks a text of its own"),
    (sentencepiece_file(FIRST + normal("sop", "s", "o", "p", "▁")), r"lacks a text of its own"),
    (sentencepiece_file([*FIRST, *ORDINARY, ("c", -4.0, NORMAL)]), r"lacks a score of its own"),
    (sentencepiece_file(FIRST + normal("ab", "a", "▁")), r"lacks a piece for each character"),
]


@pytest.mark.parametrize(("content", "message"), FILES, ids=[message for _, message in FILES])
def test_another_file_is_refused(
    put: Callable[..., Path], tmp_path: Path, content: bytes, message: str
) -> None:
    with pytest.raises(EngineError, match=rf"tokenizer\.model .*{message}"):
        chatglm3_model.ensure_tokenizer(put(content), tmp_path)
    assert not (tmp_path / "tokenizers").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "llama"}, r"config\.json has no model_type 'chatglm', so this is not ChatGLM3"),
        ({"padded_vocab_size": None}, r"config\.json has no padded_vocab_size"),
        ({"padded_vocab_size": 272}, r"tokenizer\.model has 264 pieces.*do not fit.*272"),
        ({"padded_vocab_size": 65024}, r"does not hold ChatGLM3's vocabulary"),
        (
            {"_name_or_path": "THUDM/chatglm2-6b-32k"},
            r"model 'chatglm2-6b-32k', which is spoken to differently",
        ),
        ({"_name_or_path": "/models/ChatGLM-6B/"}, r"model 'chatglm-6b', which is spoken to differently"),
        ({"_name_or_path": "C:\\models\\codegeex2-6b"}, r"model 'codegeex2-6b'"),
        ({"quantization_bit": 4}, r"quantization_bit"),
    ],
    ids=str,
)
def test_another_model_is_refused(
    put: Callable[..., Path], tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        chatglm3_model.ensure_tokenizer(put(**changed), tmp_path)


@pytest.mark.parametrize("name", ["THUDM/chatglm3-6b", "chatglm2-tuned/chatglm3-6b", "", None])
def test_names_of_chatglm3_are_taken(put: Callable[..., Path], tmp_path: Path, name: str | None) -> None:
    assert chatglm3_model.ensure_tokenizer(put(_name_or_path=name), tmp_path).is_dir()


def test_a_vocabulary_that_just_fits_is_taken(put: Callable[..., Path], tmp_path: Path) -> None:
    assert chatglm3_model.ensure_tokenizer(put(padded_vocab_size=273), tmp_path).is_dir()


def test_a_missing_file_is_named(put: Callable[..., Path], tmp_path: Path) -> None:
    folder = put()
    (folder / "tokenizer.model").unlink()
    message = r"tokenizer\.model is missing: download it from the model's repository beside config\.json"
    with pytest.raises(EngineError, match=message):
        chatglm3_model.ensure_tokenizer(folder, tmp_path)
    (folder / "tokenizer.model").mkdir()
    with pytest.raises(EngineError, match=r"tokenizer\.model can't be read"):
        chatglm3_model.ensure_tokenizer(folder, tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(EngineError, match=r"config\.json is missing"):
        chatglm3_model.ensure_tokenizer(folder, tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_a_config_that_is_none(put: Callable[..., Path], tmp_path: Path, content: bytes) -> None:
    folder = put()
    assert chatglm3_model.is_chatglm(folder)
    (folder / "config.json").write_bytes(content)
    assert not chatglm3_model.is_chatglm(folder)
    with pytest.raises(EngineError, match=r"config\.json is (not valid JSON|no JSON object)"):
        chatglm3_model.ensure_tokenizer(folder, tmp_path)


def test_other_folders_are_not_chatglm(put: Callable[..., Path], tmp_path: Path) -> None:
    assert not chatglm3_model.is_chatglm(tmp_path / "nowhere")
    assert not chatglm3_model.is_chatglm(put(model_type="llama"))


# The folder


def test_the_folder_names_no_remote_code(model: Model) -> None:
    folder = model.tokenizer_folder
    names = ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    config = json.loads((folder / "config.json").read_text())
    original = json.loads((model.folder / "config.json").read_text())
    assert "auto_map" in original
    assert config == {name: value for name, value in original.items() if name != "auto_map"}
    assert "auto_map" not in (folder / "tokenizer_config.json").read_text()


def entries(data_dir: Path) -> list[str]:
    return [path.name for path in (data_dir / "tokenizers").iterdir()]


def test_the_tokenizer_is_built_once(
    put: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put()
    first = chatglm3_model.ensure_tokenizer(folder, tmp_path)
    assert first.parent == tmp_path / "tokenizers"
    with monkeypatch.context() as patch:
        patch.setattr(chatglm3_model, "write", lambda *_: pytest.fail("built twice"))
        assert chatglm3_model.ensure_tokenizer(folder, tmp_path) == first


def test_each_model_has_its_own_folder(
    put: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [
        chatglm3_model.ensure_tokenizer(put(), tmp_path),
        chatglm3_model.ensure_tokenizer(put(seq_length=32768), tmp_path),
        chatglm3_model.ensure_tokenizer(put(sentencepiece_file(FIRST + normal("a", "▁"))), tmp_path),
    ]
    monkeypatch.setattr(chatglm3_model, "BUILDER_VERSION", chatglm3_model.BUILDER_VERSION + 1)
    folders.append(chatglm3_model.ensure_tokenizer(put(), tmp_path))
    assert sorted({folder.name for folder in folders}) == sorted(entries(tmp_path))
    assert len(entries(tmp_path)) == 4


def test_a_failed_build_leaves_nothing(
    put: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path, *_: object) -> None:
        (folder / "tokenizer.json").touch()
        raise OSError("no more disk")

    monkeypatch.setattr(chatglm3_model, "write", fail)
    with pytest.raises(OSError, match="no more disk"):
        chatglm3_model.ensure_tokenizer(put(), tmp_path)
    assert entries(tmp_path) == []


def test_of_two_builders_the_first_wins(
    put: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, write = put(), chatglm3_model.write

    def second(target: Path, *_: object) -> None:
        monkeypatch.setattr(chatglm3_model, "write", write)
        chatglm3_model.ensure_tokenizer(folder, tmp_path)
        (target / "tokenizer.json").write_text("of the loser")

    monkeypatch.setattr(chatglm3_model, "write", second)
    found = chatglm3_model.ensure_tokenizer(folder, tmp_path)
    assert entries(tmp_path) == [found.name]
    assert (found / "tokenizer.json").read_text() != "of the loser"


BUILD = (
    "import sys, pathlib; from engine import chatglm3_model as m; paths = map(pathlib.Path, sys.argv[1:]);"
)


def builder(folder: Path, data_dir: Path, before: str = "") -> subprocess.Popen[str]:
    code = f"{BUILD} {before} print(m.ensure_tokenizer(*paths))"
    command = [sys.executable, "-c", code, str(folder), str(data_dir)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_processes_that_build_at_once_agree(put: Callable[..., Path], tmp_path: Path) -> None:
    folder = put()
    builders = [builder(folder, tmp_path) for _ in range(4)]
    told = {process.communicate()[0].strip() for process in builders}
    assert [process.returncode for process in builders] == [0] * 4
    assert told == {str(chatglm3_model.ensure_tokenizer(folder, tmp_path))}
    assert len(entries(tmp_path)) == 1


def test_a_killed_builder_leaves_nothing_for_long(put: Callable[..., Path], tmp_path: Path) -> None:
    folder = put()
    die = "import os, signal; m.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL);"
    killed = builder(folder, tmp_path, die)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    [leftover] = entries(tmp_path)
    assert leftover.startswith(".")
    living = tmp_path / "tokenizers" / f".{chatglm3_model.NAME}.{os.getpid()}.x"
    living.mkdir()
    found = chatglm3_model.ensure_tokenizer(folder, tmp_path)
    assert sorted(entries(tmp_path)) == sorted([found.name, living.name])


def test_the_module_is_cheap_to_import() -> None:
    code = "import sys, engine.chatglm3_model; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert not {"sentencepiece", "tokenizers", "transformers", "torch", "vllm"} & set(result.stdout.split())
