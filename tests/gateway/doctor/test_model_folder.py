from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.doctor.finding import Finding
from gateway.doctor.memory import available_memory, check_machine_memory, check_shared_memory, needed_by
from gateway.doctor.model_folder import check_model, shape_of, weights_of
from gateway.settings import load

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_size": 576,
    "max_position_embeddings": 8192,
    "dtype": "bfloat16",
}
CHATGLM3 = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "num_layers": 28,
    "num_attention_heads": 32,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "kv_channels": 128,
    "hidden_size": 4096,
    "seq_length": 8192,
    "torch_dtype": "float16",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with all that is needed."""
    found = tmp_path / "model"
    found.mkdir()
    (found / "config.json").write_text(json.dumps(LLAMA))
    (found / "tokenizer.json").write_text("{}")
    (found / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    (found / "model.safetensors").write_bytes(b"x" * 4096)
    return found


def found_in(folder: Path, **settings: Any) -> list[Finding]:
    return list(check_model(load({"model": str(folder)} | settings), folder))


def worst(folder: Path, **settings: Any) -> Finding:
    """The one finding that is not ok."""
    (finding,) = [one for one in found_in(folder, **settings) if one.level != "ok"]
    return finding


def test_a_whole_folder_is_well(folder: Path) -> None:
    assert [one.level for one in found_in(folder)] == ["ok", "ok", "ok"]


def test_chatglm3s_own_names_are_read_as_its_model_is_made() -> None:
    shape = shape_of(CHATGLM3, {})
    # 28 layers x 2 groups x 128 x keys and values x 2 bytes.
    assert (shape.context, shape.bytes_per_token, shape.dtype) == (8192, 28 * 1024, "float16")


def test_hugging_faces_names_and_what_engine_args_change() -> None:
    assert shape_of(LLAMA, {}).bytes_per_token == 2 * 30 * 3 * 64 * 2
    assert shape_of({"text_config": LLAMA}, {}).bytes_per_token == 2 * 30 * 3 * 64 * 2
    assert shape_of(LLAMA, {"kv_cache_dtype": "fp8"}).bytes_per_token == 2 * 30 * 3 * 64
    assert shape_of(LLAMA, {"max_model_len": 512}).context == 512
    assert shape_of(LLAMA, {"dtype": "float32"}).bytes_per_token == 2 * 30 * 3 * 64 * 4
    assert shape_of({"num_hidden_layers": "many"}, {}).bytes_per_token is None


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert (worst(folder).level, "model-2.safetensors" in worst(folder).found) == ("problem", True)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"x" * 4096)
    assert (worst(folder).level, "no weights" in worst(folder).found) == ("problem", True)


def test_pointers_of_git_lfs_are_not_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert (worst(folder).level, "git lfs pull" in worst(folder).remedy) == ("problem", True)


def test_pickled_weights_are_a_warning_and_safetensors_are_taken_before_them(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"x" * 8192)
    assert weights_of(folder).bytes == 4096
    (folder / "model.safetensors").unlink()
    assert (worst(folder).level, "pickled" in worst(folder).found) == ("warning", True)


@pytest.mark.parametrize("text", ["{", "[]", "\xff"])
def test_a_config_that_can_not_be_read(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text, "latin-1")
    assert worst(folder).level == "problem"


def test_an_index_that_can_not_be_read(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("[1]")
    assert worst(folder).level == "problem"


def test_a_tokenizer_is_needed_and_a_chat_template_for_chats(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")
    assert (worst(folder).level, "chat template" in worst(folder).found) == ("warning", True)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert [one.level for one in found_in(folder)] == ["ok", "ok", "ok"]
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    assert (worst(folder).level, "no tokenizer" in worst(folder).found) == ("problem", True)


def test_chatglm3_needs_its_tokenizer_model_and_no_remote_code(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CHATGLM3))
    assert "tokenizer.model is missing" in worst(folder).found
    (folder / "tokenizer.model").write_bytes(b"x")
    assert [one.level for one in found_in(folder)] == ["ok", "ok", "ok"]
    assert "trust_remote_code" in worst(folder, engine_args={"trust_remote_code": True}).found


def test_the_machines_memory_and_the_cache_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    needed = needed_by(12_487_168_064, shape_of(CHATGLM3, {}))

    def levels(available: int, engine_args: dict[str, Any]) -> list[str]:
        return [one.level for one in check_machine_memory(needed, engine_args, available, "here")]

    assert levels(32 * 1024**3, {}) == ["ok"]
    assert levels(8 * 1024**3, {}) == ["problem"]
    assert levels(32 * 1024**3, {"kv_cache_memory_bytes": 1024**2}) == ["ok", "problem"]
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "40")
    assert levels(32 * 1024**3, {}) == ["problem"]


def test_a_containers_limit_counts_where_it_is_less_than_the_machine_has(tmp_path: Path) -> None:
    machine, where = available_memory(tmp_path)
    assert where == "on this machine"
    (tmp_path / "memory.max").write_text("2000000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    assert available_memory(tmp_path) == (1_500_000, "within the container's or cgroup's limit")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path)[1] == where
    assert machine > 0


def test_shared_memory_that_is_missing_or_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (missing,) = check_shared_memory(several=False, folder=str(tmp_path / "shm"))
    assert missing.level == "problem"
    monkeypatch.setattr("gateway.doctor.memory.SHARED_MEMORY_BYTES", 2**60)
    (small,) = check_shared_memory(several=False, folder=str(tmp_path))
    assert (small.level, "--shm-size" in small.remedy) == ("warning", True)
