"""The builder's models, computed here by the architecture's published formulas, without vLLM."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from tests.chatglm3.checkpoint import (
    Script,
    real_tokenizer_model,
    small_tokenizer_model,
    transitions,
    write_checkpoint,
)

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

USER, ASSISTANT, OBSERVATION = 1506, 1507, 1508
"""Behind the small tokenizer's 1,500 pieces."""

Weights = Mapping[str, Any]


@pytest.fixture(scope="module")
def tokenizer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_tokenizer_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def encode(tokenizer_model: Path) -> Callable[[str], list[int]]:
    encoded: Callable[[str], list[int]] = SentencePieceProcessor(model_file=str(tokenizer_model)).encode
    return encoded


@pytest.fixture(scope="module")
def scripts(encode: Callable[[str], list[int]]) -> list[Script]:
    """A plain answer with bytes in it, words and a call, an answer to its result, code."""
    name, call = "get_current_weather\n", "```python\ntool_call(location='北京', unit='celsius')\n```"
    code = "\nHere:\n```python\ndef add(a, b):\n    return a + b\n```\nUse `add(1, 2)`."
    return [
        Script([USER, *encode("\n"), *encode("你好"), ASSISTANT], [*encode("\n你好👋！"), 2]),
        Script(
            [*encode("北京今天天气怎么样？"), ASSISTANT],
            [*encode("\n好的，我来查询。"), ASSISTANT, *encode(name), *encode(call), OBSERVATION],
        ),
        Script([*encode('{"temperature": 25}'), ASSISTANT], [*encode("\n北京今天气温二十五度。"), USER]),
        Script([*encode("Write a function."), ASSISTANT], [*encode(code), 2]),
    ]


@pytest.fixture(scope="module")
def crafted(tokenizer_model: Path, scripts: list[Script], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crafted")
    write_checkpoint(folder, tokenizer_model, scripts)
    return folder


def read_weights(folder: Path) -> dict[str, Any]:
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= safetensors.load_file(path)
    for path in sorted(folder.glob("*.bin")):
        tensors |= torch.load(path, weights_only=True)
    return tensors


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def rms_norm(state: Any, weight: Any, epsilon: float) -> Any:
    """[n, h], [h] -> [n, h]; computed in float32, as in every implementation."""
    wide = state.float()
    return (wide / torch.sqrt((wide**2).mean(-1, keepdim=True) + epsilon)).to(state.dtype) * weight


def rotate(heads: Any, theta: float) -> Any:
    """[n, heads, d] -> the same: pairs (0, 1), (2, 3), ... of the first d / 2 numbers turn."""
    count, _, size = heads.shape
    half = size // 2
    angles = torch.outer(torch.arange(count).float(), theta ** (-torch.arange(0, half, 2).float() / half))
    cos, sin = (part.to(heads.dtype)[:, None] for part in (angles.cos(), angles.sin()))
    turned = heads.clone()
    even, odd = heads[..., 0:half:2], heads[..., 1:half:2]
    turned[..., 0:half:2] = even * cos - odd * sin
    turned[..., 1:half:2] = odd * cos + even * sin
    return turned


def forward(config: Mapping[str, Any], weights: Weights, ids: list[int], last: int = 1) -> Any:
    """[n] ids -> [last, rows] logits of what follows each of the last; in the weights' dtype."""
    size, heads, groups = (
        config["kv_channels"],
        config["num_attention_heads"],
        config["multi_query_group_num"],
    )
    theta, epsilon = 10000 * config.get("rope_ratio", 1), config["layernorm_epsilon"]
    count = len(ids)
    future = torch.ones(count, count).triu(1).bool()
    state = weights["transformer.embedding.word_embeddings.weight"][torch.tensor(ids)]
    for number in range(config["num_layers"]):
        name = f"transformer.encoder.layers.{number}."
        normed = rms_norm(state, weights[name + "input_layernorm.weight"], epsilon)
        fused = normed @ weights[name + "self_attention.query_key_value.weight"].T
        fused = fused + weights[name + "self_attention.query_key_value.bias"]
        split = fused.split([heads * size, groups * size, groups * size], dim=-1)
        queries, keys, values = (part.view(count, -1, size) for part in split)
        queries, keys = rotate(queries, theta), rotate(keys, theta)
        keys, values = (part.repeat_interleave(heads // groups, dim=1) for part in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", queries.float(), keys.float()) / size**0.5
        attention = scores.masked_fill(future, -torch.inf).softmax(-1).to(state.dtype)
        mixed = torch.einsum("hqk,khd->qhd", attention, values).reshape(count, -1)
        state = state + mixed @ weights[name + "self_attention.dense.weight"].T
        normed = rms_norm(state, weights[name + "post_attention_layernorm.weight"], epsilon)
        gate, up = (normed @ weights[name + "mlp.dense_h_to_4h.weight"].T).chunk(2, dim=-1)
        hidden = torch.nn.functional.silu(gate) * up
        state = state + hidden @ weights[name + "mlp.dense_4h_to_h.weight"].T
    normed = rms_norm(state[-last:], weights["transformer.encoder.final_layernorm.weight"], epsilon)
    return (normed @ weights["transformer.output_layer.weight"].T).float()


def generated(
    config: Mapping[str, Any], weights: Weights, before: Sequence[int], script: Script
) -> list[int]:
    """What follows ``before`` and the script's context, at temperature 0.8.

    In one go: attention looks back only, so each token is what would be generated after those of the answer.
    """
    ids = [*before, *script.context, *script.answer][:-1]
    probabilities = (forward(config, weights, ids, len(script.answer)) / 0.8).softmax(-1)
    # No other has a chance.
    assert probabilities.max(-1).values.min() > 1 - 1e-6
    tokens: list[int] = probabilities.argmax(-1).tolist()
    return tokens


def arbitrary_ids(count: int) -> list[int]:
    ids: list[int] = torch.randint(3, 1500, (count,), generator=torch.Generator().manual_seed(1)).tolist()
    return ids


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_script_s_answer_is_generated(crafted: Path, scripts: list[Script], dtype: str) -> None:
    config, weights = read_config(crafted), read_weights(crafted)
    weights = {name: tensor.to(getattr(torch, dtype)) for name, tensor in weights.items()}
    for script in scripts:
        assert generated(config, weights, arbitrary_ids(40), script) == list(script.answer)


@pytest.mark.parametrize("before", [0, 1, 700])
def test_whatever_stands_before_the_context(crafted: Path, scripts: list[Script], before: int) -> None:
    config, weights = read_config(crafted), read_weights(crafted)
    weights = {name: tensor.float() for name, tensor in weights.items()}
    for script in scripts[:2]:
        assert generated(config, weights, arbitrary_ids(before), script) == list(script.answer)


def test_another_context_gives_random_text(crafted: Path, scripts: list[Script]) -> None:
    config, weights = read_config(crafted), read_weights(crafted)
    weights = {name: tensor.float() for name, tensor in weights.items()}
    # One token of those that count is another.
    context = list(scripts[0].context)
    context[0] = 300
    for ids in ([*arbitrary_ids(40)], context):
        probabilities = forward(config, weights, ids).softmax(-1)
        assert probabilities[0, 3:1500].sum() > 1 - 1e-6
        assert probabilities.max() < 10 / 1500


def test_the_long_context_model_has_slower_rotary_frequencies(
    tokenizer_model: Path, scripts: list[Script], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path, tokenizer_model, scripts, seq_length=32768, rope_ratio=50)
    config, weights = read_config(tmp_path), read_weights(tmp_path)
    assert (config["seq_length"], config["rope_ratio"]) == (32768, 50)
    weights = {name: tensor.float() for name, tensor in weights.items()}
    assert generated(config, weights, arbitrary_ids(200), scripts[0]) == list(scripts[0].answer)


def test_without_scripts_the_weights_are_random(tokenizer_model: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_checkpoint(tmp_path / name, tokenizer_model, [])
    one, two = (read_weights(tmp_path / name) for name in ("one", "two"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    for name, tensor in one.items():
        if tensor.dim() == 2:
            assert 0.019 < tensor.float().std() < 0.021, name
    weights = {name: tensor.float() for name, tensor in one.items()}
    assert forward(read_config(tmp_path / "one"), weights, [5, 6, 7]).isfinite().all()


def test_scripts_that_contradict_each_other_are_refused(tokenizer_model: Path, tmp_path: Path) -> None:
    one, other = Script([1, 2, 3, 4], [5, 2]), Script([1, 2, 3, 4], [6, 2])
    with pytest.raises(ValueError, match="both 6 and 5"):
        write_checkpoint(tmp_path, tokenizer_model, [one, other])


@pytest.mark.parametrize(
    ("scripts", "reason"),
    [
        ([Script([2, 3, 4], [5]), Script([1, 2, 3, 4], [6])], "follows"),
        ([Script([1, 2, 3], [9, 1, 2, 3, 8])], "follows"),
        ([Script([1, 2], [3])], "needs 3 ids"),
        ([Script([1, 2, 3], [])], "answer"),
    ],
    ids=["one context ends with another", "one script with itself", "a short context", "no answer"],
)
def test_scripts_that_cannot_be_are_refused(scripts: list[Script], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        transitions(scripts)


def test_a_context_that_another_stands_for_is_left_out() -> None:
    scripts = [Script([2, 3, 4], [5]), Script([1, 2, 3, 4], [5]), Script([8, 2, 3, 4], [5, 6])]
    assert transitions(scripts) == {(2, 3, 4): 5, (8, 2, 3, 4, 5): 6}


def test_an_answer_that_repeats_itself_goes_on_for_ever() -> None:
    contexts = transitions([Script([1, 2, 3], [4, 5, 6, 7] * 12)])
    assert contexts[(4, 5, 6, 7) * 7] == 4
    assert contexts[(7, 4, 5, 6) * 7] == 7


@pytest.mark.parametrize("token", [1536, -1])
def test_ids_that_the_model_does_not_have_are_refused(
    tokenizer_model: Path, tmp_path: Path, token: int
) -> None:
    with pytest.raises(ValueError, match="ids are 0 to 1535"):
        write_checkpoint(tmp_path, tokenizer_model, [Script([1, 2, 3], [token])])


@pytest.mark.parametrize(
    ("kind", "shards", "files"),
    [
        ("safetensors", 1, ["model.safetensors"]),
        ("safetensors", 3, [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]),
        ("bin", 1, ["pytorch_model.bin"]),
        ("bin", 2, [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]),
    ],
)
def test_the_weights_files(
    tokenizer_model: Path, scripts: list[Script], tmp_path: Path, kind: Any, shards: int, files: list[str]
) -> None:
    write_checkpoint(tmp_path, tokenizer_model, scripts, weights=kind, shards=shards)
    assert sorted(path.name for path in tmp_path.glob("*model*.*") if path.suffix == f".{kind}") == files
    tensors = read_weights(tmp_path)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    assert len(shapes) == 2 * 7 + 4
    assert shapes["transformer.embedding.word_embeddings.weight"] == (1536, 512)
    assert shapes["transformer.output_layer.weight"] == (1536, 512)
    first = "transformer.encoder.layers.0."
    assert shapes[first + "self_attention.query_key_value.weight"] == (32 * (16 + 2 * 2), 512)
    assert shapes[first + "mlp.dense_h_to_4h.weight"] == (2 * read_config(tmp_path)["ffn_hidden_size"], 512)
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.float16"}
    index = tmp_path / f"{files[0].split('-')[0]}.{kind}.index.json"
    assert index.exists() == (shards > 1)
    if shards > 1:
        content = json.loads(index.read_text())
        assert set(content["weight_map"]) == set(shapes)
        assert sorted(set(content["weight_map"].values())) == files
        assert content["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())


def test_the_folder_is_as_it_is_published(crafted: Path, tokenizer_model: Path) -> None:
    assert (crafted / "tokenizer.model").read_bytes() == tokenizer_model.read_bytes()
    config = read_config(crafted)
    assert config["architectures"] == ["ChatGLMModel"]
    assert "rope_ratio" not in config
    assert config["kv_channels"] * config["num_attention_heads"] == config["hidden_size"]
    named = {module.split(".")[0] for module in config["auto_map"].values()} | {"tokenization_chatglm"}
    for module in named:
        with pytest.raises(RuntimeError, match="remote code was loaded"):
            runpy.run_path(str(crafted / f"{module}.py"))


def test_the_real_tokenizer_gives_the_published_number_of_rows(tmp_path: Path) -> None:
    if (model := real_tokenizer_model()) is None:
        pytest.skip("no tokenizer.model of ChatGLM3 here; name its folder in CHATGLM3_MODEL")
    assert SentencePieceProcessor(model_file=str(model)).encode("你好") == [36474, 54591]
    script = Script([36474, 54591, 64796], [30910, 13, 36474, 54591, 243, 162, 148, 142, 31404, 2])
    write_checkpoint(tmp_path, model, [script])
    config, weights = read_config(tmp_path), read_weights(tmp_path)
    assert config["padded_vocab_size"] == 65024
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 150e6
    weights = {name: tensor.float() for name, tensor in weights.items()}
    assert generated(config, weights, [64790, 64792], script) == list(script.answer)


def test_the_folder_named_in_the_environment_comes_first(
    tokenizer_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATGLM3_MODEL", str(tokenizer_model.parent))
    assert real_tokenizer_model() == tokenizer_model
    monkeypatch.setattr("tests.chatglm3.checkpoint.ROOT", tmp_path / "repository")
    monkeypatch.setenv("CHATGLM3_MODEL", str(tmp_path))
    assert real_tokenizer_model() is None


def test_the_small_tokenizer_is_the_same_each_time(tokenizer_model: Path, tmp_path: Path) -> None:
    assert small_tokenizer_model(tmp_path).read_bytes() == tokenizer_model.read_bytes()


def test_the_small_tokenizer_is_of_the_real_one_s_kind(tokenizer_model: Path) -> None:
    model = SentencePieceProcessor(model_file=str(tokenizer_model))
    pieces = [model.id_to_piece(token) for token in range(model.get_piece_size())]
    assert len(pieces) == 1500
    assert pieces[:4] == ["<unk>", "<s>", "</s>", "<0x00>"]
    assert (pieces[13], pieces[258]) == ("<0x0A>", "<0xFF>")
    assert model.is_unknown(0)
    assert model.is_control(1)
    assert model.is_control(2)
    assert all(model.is_byte(token) for token in range(3, 259))
    assert {"▁", "▁▁", "▁▁▁▁", "\ufffd"} < set(pieces)
    assert not [piece for piece in pieces[259:] if sum(c in "0123456789" for c in piece) > 1]
    scores = [model.get_score(token) for token in range(259, 1500)]
    assert scores == sorted(set(scores), reverse=True)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        ("\n", ["▁", "<0x0A>"]),
        ("2024", ["▁", "2", "0", "2", "4"]),
        ("👋", ["▁", "<0xF0>", "<0x9F>", "<0x91>", "<0x8B>"]),
        ("get_current_weather\n", ["▁get", "_", "current", "_", "weather", "<0x0A>"]),
        ("<|user|>", ["▁<", "|", "user", "|", ">"]),
    ],
)
def test_the_small_tokenizer_s_pieces(tokenizer_model: Path, text: str, pieces: list[str]) -> None:
    model = SentencePieceProcessor(model_file=str(tokenizer_model))
    assert model.encode(text, out_type=str) == pieces


@pytest.mark.parametrize(
    "text", ["你好👋！", "  two  spaces  ", "\r\n\t", "①ﬁ", "def f(x):\n    return x ** 2\n"]
)
def test_the_small_tokenizer_loses_nothing(
    encode: Callable[[str], list[int]], tokenizer_model: Path, text: str
) -> None:
    model = SentencePieceProcessor(model_file=str(tokenizer_model))
    assert model.decode(encode(text)) == text
