"""What property tests are fed with, and requests to feed engines with."""

from __future__ import annotations

from hypothesis import strategies as st

from engine.base import ChatMessage, GenerationRequest, Sampling

NASTY = '\0\ufdd001"\\/\x01\x1b\x7f\x85\n\r\t\u2028\u2029\ufeff\uf8f0\uf8f1\uffff{}<|>é中😀\u200d\u0301'

texts = st.text() | st.text(alphabet=NASTY)
"""Any string of Unicode scalar values, often of those that break things."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def echo_request(
    text: str, *, max_tokens: int = 1000, stop: tuple[str, ...] = (), stream: bool = True
) -> GenerationRequest:
    """What the simulated engine is asked to answer with ``text``."""
    return GenerationRequest(
        request_id="r",
        prompt_token_ids=[ord(character) for character in text],
        messages=(ChatMessage("user", text),),
        sampling=Sampling(max_tokens, stop=stop),
        stream=stream,
    )
