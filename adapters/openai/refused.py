"""Fields that are not honoured, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a field is refused, and the values that ask for nothing special and are taken; null always is."""

    why: str
    taken: tuple[Any, ...] = ()


_STRUCTURED = Refusal("vLLM has given it up: use 'structured_outputs'.")
_NOT_HERE = Refusal("It is not supported.")
_OFF = Refusal("It is not supported.", (False,))

REFUSED: Mapping[str, Refusal] = {
    # OpenAI's.
    "audio": Refusal("Answers are text."),
    "modalities": Refusal("Answers are text.", (["text"],)),
    "suffix": Refusal("The model continues a text, it does not fill in.", ("",)),
    "web_search_options": Refusal("Nothing is looked up on the web."),
    # vLLM's.
    "chat_template": Refusal("A client can't bring a template: the model's own one is used."),
    "documents": Refusal("The model is given no documents: put them into a message.", ([],)),
    "ec_transfer_params": _NOT_HERE,
    "guided_choice": _STRUCTURED,
    "guided_decoding_backend": _STRUCTURED,
    "guided_grammar": _STRUCTURED,
    "guided_json": _STRUCTURED,
    "guided_regex": _STRUCTURED,
    "kv_transfer_params": _NOT_HERE,
    "logprob_token_ids": _NOT_HERE,
    "prompt_embeds": Refusal("A prompt is text or token ids."),
    "return_prompt_text": _OFF,
    "return_token_offsets": _OFF,
    "return_tokens_as_token_ids": Refusal("Use 'return_token_ids'.", (False,)),
    "thinking_token_budget": _NOT_HERE,
    "truncate_prompt_tokens": Refusal("A prompt is never cut: a longer one is refused."),
    "use_beam_search": _OFF,
    "vllm_xargs": Refusal("It is not supported.", ({},)),
    "watermarking": Refusal("It is not supported.", (False,)),
}
"""Fields that would change the answer and are not honoured."""

IGNORED: Mapping[str, str] = {
    "include_reasoning": "the model's answer has no part for reasoning",
    "length_penalty": "means something with beam search only",
    "media_io_kwargs": "messages are text",
    "mm_processor_kwargs": "messages are text",
    "prediction": "changes only how fast the answer comes",
    "prompt_cache_key": "prefixes are cached by their tokens; use cache_salt to keep them apart",
    "prompt_cache_retention": "the cache is the engine's own",
    "reasoning_effort": "the model does not reason apart from its answer",
    "request_id": "send the header x-request-id",
    "stream_interval": "an operator's choice: engine_args",
    "truncation_side": "a prompt is never cut",
    "verbosity": "the model has no such setting: say it in a message",
}
"""Fields that are known and change nothing here; like unknown ones they are named in the answer's header
x-gateway-ignored-fields."""
