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


few_letters = st.text(alphabet="abc", max_size=20)


@st.composite
def endings(draw: st.DrawFn) -> Sampling:
    """All that ends an answer made of few letters, often."""
    max_tokens = draw(st.integers(1, 25))
    return Sampling(
        max_tokens,
        min_tokens=draw(st.integers(0, max_tokens)),
        stop=draw(st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=4).map(tuple)),
        stop_token_ids=draw(st.lists(st.sampled_from([ord("b"), ord("c"), ord("x")]), max_size=2).map(tuple)),
        include_stop_str_in_output=draw(st.booleans()),
    )


def echo_request(
    text: str,
    *,
    max_tokens: int = 1000,
    stop: tuple[str, ...] = (),
    stream: bool = True,
    sampling: Sampling | None = None,
) -> GenerationRequest:
    """What the simulated engine is asked to answer with ``text``; ``sampling`` stands for the two before."""
    return GenerationRequest(
        request_id="r",
        prompt_token_ids=[ord(character) for character in text],
        messages=(ChatMessage("user", text),),
        sampling=sampling or Sampling(max_tokens, stop=stop),
        stream=stream,
    )
