"""A tiny checkpoint of the ChatGLM3 architecture whose answers are crafted.

``write_checkpoint`` writes a folder as THUDM publishes it. Its model generates what ``Script``s say: the next
token is a function of the last REACH tokens, and about uniformly random where no script says anything.

How the weights do it. Every token of a script has a code of CODE numbers +-1, in the first dimensions.
Constant queries and keys (the QKV bias) that the rotary embedding turns make a head attend to the token so
many positions back. In layer 0 one head copies the code of the token before; in layer 1 others copy both
codes from 2, 4, ... back, so that those of the last REACH tokens stand side by side. Then one hidden unit of
layer 1's MLP per context opens where all its codes are, and writes the next token's code to the dimensions
ANSWER, where the rows of the output layer read it. All else is zero.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

with contextlib.suppress(ImportError):
    # Only the weights need it, not the tokenizers.
    import torch
    from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]

CONTROL_TOKENS = 9
"""[MASK] [gMASK] [sMASK] sop eop and four roles, whose ids follow the tokenizer's pieces."""

REACH = 28
"""The next token depends on so many: ChatGLM3's calls have long stretches in common."""
SHORTEST = 3
"""And on at least so many of a script's context."""

HIDDEN = 512
HEADS = 16
GROUPS = 2
HEAD = HIDDEN // HEADS
LAYERS = 2
FFN = 512
EPSILON = 1e-5

CODE = HEAD // 2
CONSTANT = REACH * CODE
"""A dimension that is 1 for every token."""
ANSWER = slice(HIDDEN - 3 * CODE, HIDDEN)
"""The code three times."""

LAGS = ((1,), tuple(range(2, REACH, 2)))
"""How far back each layer's heads attend."""

# Shares of the rotary frequencies, and what a match of all of them adds to the attention's logit.
FREQUENCY_SHARES = (3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
ATTENTION = 800.0
# The codes of two tokens have at most half their length in common, so a context in which one token is
# another falls short by half a code: half-way to that is where a unit opens.
OPENS_BELOW_FULL = 0.25
GATE = 64.0
ANSWER_SIZE = 4.0
NOISE = 0.02
SUPPRESSED = -30.0
# Natural logarithm of the odds of the right token against all others together, at temperature 1.
MARGIN = 25.0

SEED = 20231027

REMOTE_CODE = ("configuration_chatglm.py", "modeling_chatglm.py", "tokenization_chatglm.py")

CONFIG: Mapping[str, Any] = {
    "_name_or_path": "THUDM/chatglm3-6b",
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
        "AutoModelForSequenceClassification": "modeling_chatglm.ChatGLMForSequenceClassification",
    },
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "ffn_hidden_size": FFN,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": HIDDEN,
    "kv_channels": HEAD,
    "layernorm_epsilon": EPSILON,
    "multi_query_attention": True,
    "multi_query_group_num": GROUPS,
    "num_attention_heads": HEADS,
    "num_layers": LAYERS,
    "original_rope": True,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 8192,
    "use_cache": True,
    "torch_dtype": "float16",
    "transformers_version": "4.30.2",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

TOKENIZER_CONFIG: Mapping[str, Any] = {
    "name_or_path": "THUDM/chatglm3-6b",
    "remove_space": False,
    "do_lower_case": False,
    "tokenizer_class": "ChatGLMTokenizer",
    "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
}


@dataclass(frozen=True)
class Script:
    """When the last ids that the model has seen are ``context``, it generates ``answer``.

    Of the context and of what follows it, the last REACH ids count; a context has at least SHORTEST.
    An answer goes on for ever that ends by repeating itself for REACH ids and one more round.
    """

    context: Sequence[int]
    answer: Sequence[int]


def real_tokenizer_model() -> Path | None:
    """ChatGLM3's own tokenizer.model where there is one: this repository has no copy of it."""
    folders = [ROOT.parent / "shared/data/chatglm3"]
    if named := os.environ.get("CHATGLM3_MODEL"):
        folders.insert(0, Path(named))
    return next((path for folder in folders if (path := folder / "tokenizer.model").is_file()), None)


def small_tokenizer_model(folder: Path) -> Path:
    """Train a tokenizer.model of the kind of ChatGLM3's in ``folder``: 1,500 pieces, the same each time.

    Takes 20 ms. Like the real one it has no piece for a newline, for two digits or for an emoji, and has
    pieces for runs of spaces and for U+FFFD.
    """
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=1500,
        character_coverage=1.0,
        normalization_rule_name="identity",
        byte_fallback=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path


def write_checkpoint(
    folder: Path,
    tokenizer_model: Path,
    scripts: Sequence[Script],
    *,
    weights: Literal["safetensors", "bin"] = "safetensors",
    shards: int = 1,
    seq_length: int = 8192,
    rope_ratio: float | None = None,
) -> None:
    """Write a model that answers as ``scripts`` say, or one of random weights if there are none.

    Outside the scripts it generates neither ids 0 to 2 nor the control tokens, only text: a random answer
    ends at the token limit. Raises ValueError when scripts contradict each other or are too many.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces = SentencePieceProcessor(model_file=str(tokenizer_model)).get_piece_size()
    rows = padded_vocab_size(pieces)
    changed: dict[str, Any] = {"padded_vocab_size": rows, "seq_length": seq_length}
    if rope_ratio is not None:
        changed["rope_ratio"] = rope_ratio
    frequencies = rotary_frequencies(rope_ratio or 1.0)
    if scripts:
        tensors = crafted_weights(transitions(scripts), pieces, rows, frequencies, seq_length)
        # As many hidden units as there are contexts, if those of the configuration are too few.
        changed["ffn_hidden_size"] = tensors[layer(0) + "mlp.dense_4h_to_h.weight"].shape[1]
    else:
        tensors = random_weights(rows)
    tensors["transformer.rotary_pos_emb.inv_freq"] = frequencies.half()
    write_weights(folder, tensors, weights, shards)
    write_json(folder / "config.json", {**CONFIG, **changed})
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    shutil.copyfile(tokenizer_model, folder / "tokenizer.model")
    for name in REMOTE_CODE:
        (folder / name).write_text('raise RuntimeError("remote code was loaded")\n')


def padded_vocab_size(pieces: int) -> int:
    """Rows of the embedding: 65,024 with the real tokenizer's 64,789 pieces."""
    multiple = 256 if pieces == 64789 else 64
    return -(-(pieces + CONTROL_TOKENS) // multiple) * multiple


def transitions(scripts: Iterable[Script]) -> dict[tuple[int, ...], int]:
    """Contexts of SHORTEST to REACH ids, none of which ends with another, and what follows each.

    Raises ValueError when two scripts, or two places in one, need different ids after the same ones.
    """
    found: dict[tuple[int, ...], int] = {}
    for script in scripts:
        if len(script.context) < SHORTEST:
            raise ValueError(f"a context needs {SHORTEST} ids: {list(script.context)}")
        if not script.answer:
            raise ValueError(f"no answer to {list(script.context)}")
        seen = list(script.context)
        for token in script.answer:
            context = tuple(seen[-REACH:])
            if found.setdefault(context, token) != token:
                raise ValueError(f"both {token} and {found[context]} would follow {context}")
            seen.append(token)
    for context in list(found):
        for start in range(1, len(context) - SHORTEST + 1):
            if (shorter := context[start:]) in found:
                if found[shorter] != found[context]:
                    raise ValueError(
                        f"{found[context]} would follow {context}, but {found[shorter]} follows {shorter}"
                    )
                # The shorter one stands for both.
                del found[context]
                break
    return found


def rotary_frequencies(rope_ratio: float) -> torch.Tensor:
    """[HEAD / 4]: radians by which each pair of the first half of a head's dimensions turns per position."""
    half = HEAD // 2
    return (10000 * rope_ratio) ** (-torch.arange(0, half, 2, dtype=torch.float64) / half)


def layer(number: int) -> str:
    return f"transformer.encoder.layers.{number}."


def zero_weights(rows: int, ffn: int) -> dict[str, torch.Tensor]:
    """float32 tensors under their published names and in their order: norms 1, all else 0."""
    tensors = {"transformer.embedding.word_embeddings.weight": torch.zeros(rows, HIDDEN)}
    qkv = HEAD * (HEADS + 2 * GROUPS)
    for name in map(layer, range(LAYERS)):
        tensors |= {
            name + "input_layernorm.weight": torch.ones(HIDDEN),
            name + "self_attention.query_key_value.weight": torch.zeros(qkv, HIDDEN),
            name + "self_attention.query_key_value.bias": torch.zeros(qkv),
            name + "self_attention.dense.weight": torch.zeros(HIDDEN, HEADS * HEAD),
            name + "post_attention_layernorm.weight": torch.ones(HIDDEN),
            name + "mlp.dense_h_to_4h.weight": torch.zeros(2 * ffn, HIDDEN),
            name + "mlp.dense_4h_to_h.weight": torch.zeros(HIDDEN, ffn),
        }
    tensors["transformer.encoder.final_layernorm.weight"] = torch.ones(HIDDEN)
    tensors["transformer.output_layer.weight"] = torch.zeros(rows, HIDDEN)
    return tensors


def random_weights(rows: int) -> dict[str, torch.Tensor]:
    """Every matrix N(0, 0.02), float16."""
    generator = torch.Generator().manual_seed(SEED)
    tensors = zero_weights(rows, FFN)
    for tensor in tensors.values():
        if tensor.dim() == 2:
            tensor.normal_(0, NOISE, generator=generator)
    return {name: tensor.half() for name, tensor in tensors.items()}


def crafted_weights(
    contexts: Mapping[tuple[int, ...], int],
    pieces: int,
    rows: int,
    frequencies: torch.Tensor,
    seq_length: int,
) -> dict[str, torch.Tensor]:
    """float16 tensors of the model described above. Raises ValueError when they would not do."""
    tokens = sorted({token for context in contexts for token in context} | set(contexts.values()))
    if not 0 <= tokens[0] <= tokens[-1] < rows:
        raise ValueError(f"ids are 0 to {rows - 1}: {tokens[0]}, {tokens[-1]}")
    codes = codebook()
    if len(tokens) >= len(codes):
        raise ValueError(f"the scripts use {len(tokens)} different tokens, {len(codes) - 1} is most")
    code_of = dict(zip(tokens, codes, strict=False))
    tensors = zero_weights(rows, max(FFN, -(-len(contexts) // 64) * 64))

    embedding = tensors["transformer.embedding.word_embeddings.weight"]
    # That of all tokens in no script.
    embedding[:, :CODE] = codes[-1]
    embedding[tokens, :CODE] = codes[: len(tokens)]
    embedding[:, CONSTANT] = 1

    copy_back(tensors, 0, CODE, frequencies)
    copy_back(tensors, 1, 2 * CODE, frequencies)
    open_for_contexts(tensors, contexts, code_of)

    output = tensors["transformer.output_layer.weight"]
    output[:, :CONSTANT].normal_(0, NOISE, generator=torch.Generator().manual_seed(SEED))
    output[:3, CONSTANT] = SUPPRESSED
    output[pieces:, CONSTANT] = SUPPRESSED
    output[tokens, ANSWER] = codes[: len(tokens)].repeat(1, 3)

    tensors = {name: tensor.half() for name, tensor in tensors.items()}
    check_attention(tensors, frequencies, seq_length)
    check_answers(tensors, contexts)
    return tensors


def codebook() -> torch.Tensor:
    """[2048, CODE] of +-1: the extended Hamming code; two words differ in 4 numbers at least."""
    # A word is one where the positions of the 1s sum to zero, bit by bit, and so does their number.
    words = torch.arange(2**CODE)[:, None] >> torch.arange(CODE) & 1
    checks = torch.tensor([[position >> bit & 1 for bit in range(4)] + [1] for position in range(CODE)])
    return words[(words @ checks % 2 == 0).all(dim=1)].float() * 2 - 1


def copy_back(
    tensors: Mapping[str, torch.Tensor], number: int, width: int, frequencies: torch.Tensor
) -> None:
    """In this layer, one head for each of its LAGS copies so many dimensions from that far back."""
    name = layer(number) + "self_attention."
    parts = [HEADS * HEAD, GROUPS * HEAD, GROUPS * HEAD]
    queries, keys, _ = tensors[name + "query_key_value.bias"].split(parts)
    _, _, values = tensors[name + "query_key_value.weight"].split(parts)
    dense = tensors[name + "dense.weight"]

    shares = torch.tensor(FREQUENCY_SHARES, dtype=torch.float64)
    # Attention divides by the root of HEAD.
    lengths = (shares / shares.sum() * ATTENTION * math.sqrt(HEAD)).sqrt()
    # The codes that are copied, and the constant, are what is there.
    normed = norm_scale(width + 1)
    for start in range(0, GROUPS * HEAD, HEAD):
        keys[start : start + HEAD // 2] = interleaved(lengths, torch.zeros_like(frequencies))
        values[start : start + width, :width] = torch.eye(width)
    for head, lag in enumerate(LAGS[number]):
        start = head * HEAD
        queries[start : start + HEAD // 2] = interleaved(lengths, -lag * frequencies)
        dense[lag * CODE : lag * CODE + width, start : start + width] = torch.eye(width) / normed


def interleaved(lengths: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """[n], [n] -> [2 n]: vectors of the plane, as neighbouring pairs of numbers."""
    return torch.stack([lengths * angles.cos(), lengths * angles.sin()], dim=1).flatten().float()


def norm_scale(ones: int) -> float:
    """What RMSNorm multiplies with where so many dimensions are +-1 and the others 0."""
    return 1 / math.sqrt(ones / HIDDEN + EPSILON)


def open_for_contexts(
    tensors: dict[str, torch.Tensor],
    contexts: Mapping[tuple[int, ...], int],
    code_of: Mapping[int, torch.Tensor],
) -> None:
    """In layer 1, unit ``j`` opens after the ``j``-th context and writes the answer's code."""
    gate, up = tensors[layer(1) + "mlp.dense_h_to_4h.weight"].chunk(2)
    down = tensors[layer(1) + "mlp.dense_4h_to_h.weight"]
    normed = norm_scale(REACH * CODE + 1)
    opened = GATE * OPENS_BELOW_FULL * normed
    written = opened / (1 + math.exp(-opened)) * normed
    for unit, (context, token) in enumerate(contexts.items()):
        for lag, seen in enumerate(reversed(context)):
            gate[unit, lag * CODE : (lag + 1) * CODE] = code_of[seen] * (GATE / CODE)
        gate[unit, CONSTANT] = -GATE * (len(context) - OPENS_BELOW_FULL)
        up[unit, CONSTANT] = 1
        down[ANSWER, unit] = code_of[token].repeat(3) * (ANSWER_SIZE / written)


def check_attention(tensors: Mapping[str, torch.Tensor], frequencies: torch.Tensor, seq_length: int) -> None:
    """Raises ValueError unless each lag gets practically all attention, however long the context."""
    distances = torch.arange(seq_length, dtype=torch.float64)
    turns = torch.polar(torch.ones(()).double(), distances[:, None] * frequencies)
    for number, lags in enumerate(LAGS):
        # Rounded once more, for those who run the model in bfloat16.
        bias = tensors[layer(number) + "self_attention.query_key_value.bias"].bfloat16().double()
        pairs = torch.view_as_complex(bias.reshape(-1, HEAD // 2, 2))[:, : HEAD // 4]
        heads = pairs[: len(lags)] * pairs[HEADS].conj() / math.sqrt(HEAD)
        given = (turns @ heads.T).real.softmax(dim=0)
        missed = 1 - float(given[list(lags), range(len(lags))].min())
        if missed > 1e-6:
            raise ValueError(f"attention to a token before misses it by {missed:.1e}: change rope_ratio")


def check_answers(tensors: Mapping[str, torch.Tensor], contexts: Mapping[tuple[int, ...], int]) -> None:
    """Raises ValueError unless the right token's odds are above MARGIN after each context."""
    weights = {name: tensor.float() for name, tensor in tensors.items() if "layers.0" not in name}
    embedding = weights["transformer.embedding.word_embeddings.weight"]
    output = weights["transformer.output_layer.weight"]
    # The last row is that of a token in no script.
    seen = torch.tensor([(-1,) * (REACH - len(context)) + context for context in contexts])
    codes = embedding[seen.flip(1), :CODE].flatten(1)
    state = torch.zeros(len(codes), HIDDEN)
    state[:, :CONSTANT] = codes
    state[:, CONSTANT] = 1

    gate, up = (norm(state) @ weights[layer(1) + "mlp.dense_h_to_4h.weight"].T).chunk(2, dim=1)
    down = weights[layer(1) + "mlp.dense_4h_to_h.weight"]
    state = norm(state + (torch.nn.functional.silu(gate) * up) @ down.T)
    # In parts: a row of logits is large.
    for part, tokens in zip(state.split(256), torch.tensor(list(contexts.values())).split(256), strict=True):
        logits = part @ output.T
        right = logits.gather(1, tokens[:, None])
        others = logits.scatter(1, tokens[:, None], -math.inf).logsumexp(dim=1, keepdim=True)
        if (margin := float((right - others).min())) < MARGIN:
            raise ValueError(f"an answer's log odds are only {margin:.1f}")


def norm(state: torch.Tensor) -> torch.Tensor:
    """RMSNorm with a weight of 1, over the last dimension."""
    return state * (state.square().mean(dim=-1, keepdim=True) + EPSILON).rsqrt()


def write_weights(
    folder: Path, tensors: Mapping[str, torch.Tensor], kind: Literal["safetensors", "bin"], shards: int
) -> None:
    """One file, or several and their index."""
    stem = {"safetensors": "model", "bin": "pytorch_model"}[kind]
    weight_map: dict[str, str] = {}
    names = list(tensors)
    for shard in range(shards):
        part = names[len(names) * shard // shards : len(names) * (shard + 1) // shards]
        of = f"-{shard + 1:05}-of-{shards:05}" if shards > 1 else ""
        file = f"{stem}{of}.{kind}"
        content = {name: tensors[name].contiguous() for name in part}
        if kind == "bin":
            torch.save(content, folder / file)
        else:
            save_file(content, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    if shards > 1:
        size = sum(tensor.nbytes for tensor in tensors.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        write_json(folder / f"{stem}.{kind}.index.json", index)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


TEXT = """\
你好！我是人工智能助手，很高兴见到你，欢迎问我任何问题。
人工智能助手可以回答问题、翻译文章、编写代码，也可以帮助你查询天气和时间。
北京今天天气怎么样？北京今天晴，气温二十五摄氏度，东北风二级，空气质量良好。
上海明天会下雨吗？上海明天有小雨，气温在十八到二十三摄氏度之间，出门请带伞。
好的，我来帮您查询一下北京的天气情况，请稍等。
好的，让我们使用工具来查询今天的天气，然后根据结果回答您的问题。
根据查询结果，北京今天的天气是晴天，温度为二十五度，适合户外活动。
中国的首都是哪里？中国的首都是北京，它是一座有三千多年历史的城市。
请用中文写一首关于春天的诗。春风吹绿江南岸，明月何时照我还。
床前明月光，疑是地上霜。举头望明月，低头思故乡。
请解释什么是机器学习：机器学习是人工智能的一个分支，它让计算机从数据中学习规律。
大语言模型根据前面的内容预测下一个词，经过大量文本的训练，它能够理解和生成自然语言。
生成一个随机数，范围在零到一百之间。随机数的结果为四十二。
如果你有其他问题，请随时告诉我，我会尽力帮助你。谢谢！不客气。
对不起，我不能回答这个问题，因为我没有足够的信息。
第一，打开文件；第二，读取数据；第三，计算平均值；第四，保存结果。
Answer the following questions as best as you can. You have access to the following tools:
You are ChatGLM3, a large language model trained by Zhipu.AI. Follow the user's instructions carefully.
Respond using markdown. Hello! How can I help you today? I am an assistant, and I am here to help.
What is the weather like in Beijing today? The current weather in Beijing is sunny, with a light wind.
What is the capital of France? The capital of France is Paris, a city on the river Seine.
Please write a short story about a cat and a dog who lived together in a small house by the sea.
Once upon a time there was a little girl who loved to read books about the stars and the moon.
The quick brown fox jumps over the lazy dog, and the five boxing wizards jump quickly.
Sorry, I do not have enough information to answer this question; please tell me a little more about it.
First, open the file. Second, read the data. Third, compute the average. Finally, write the result.
tool_call(location='北京', unit='celsius')
tool_call(city='上海', days=3, verbose=True, tags=['a', 'b'], options={'x': 1.5, 'y': None})
tool_call(symbol='AAPL', start_date='2023-10-27', end_date='2024-01-31')
get_current_weather get_weather search_web random_number_generator interpreter python json result
def add(a, b):
    return a + b
def fibonacci(n):
    if n < 2:
        return n
    return fibonacci(n - 1) + fibonacci(n - 2)
for i in range(10):
    print(f"{i} * {i} = {i * i}")
import json
class Reader:
    def __init__(self, path: str) -> None:
        self.path = path
    def read(self) -> list[dict[str, int]]:
        with open(self.path, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.strip()]
{"name": "get_current_weather", "description": "Get the current weather in a given location",
    "parameters": {"type": "object", "properties": {"location": {"type": "string",
        "description": "The city and state, e.g. San Francisco, CA"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}, "required": ["location"]}}
{"temperature": 25, "humidity": 60, "condition": "sunny", "wind": {"speed": 3.5, "direction": "NE"}}
[{"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}, {"role": "system"}]
0 1 2 3 4 5 6 7 8 9 10 42 100 365 1024 2023 2024 3.14159 99.9% $19.95 +86-10-1234-5678 12:30:45
| 城市 | 天气 | 温度 | | --- | --- | --- | **重要** `code` ```python # 标题 * 列表 <tag> [链接](http://localhost/)
Ça va très bien, merci. Größe und Straße. ¿Dónde está el niño? Привет, как дела?
こんにちは、元気ですか。 안녕하세요
“引号”‘单’《书名》（括号）【方头】、；：…… —— ～ · � �� ① ② ③ € £ ¥ © ® ° ± × ÷ ≤ ≥ ≠ ≈ → ← ↑ ↓ α β γ π
"""
