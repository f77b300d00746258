from __future__ import annotations

import inspect

import httpx
import pytest
from hypothesis import settings

# Time limits for single examples only make busy machines fail.
settings.register_profile("house", max_examples=60, deadline=None)
settings.load_profile("house")

# Where a test says nothing else, httpx gives up an answer after 5 s: so long a busy machine may take.
_usual: httpx.Timeout = inspect.signature(httpx.Client).parameters["timeout"].default
_usual.connect = _usual.read = _usual.write = _usual.pool = 60.0

# Fixtures that start the real engine.
REAL = {"demo", "chatglm3"}


def pytest_itemcollected(item: pytest.Item) -> None:
    """Whoever needs the real engine is marked so, for ``-m vllm`` and ``-m 'not vllm'``."""
    if REAL & set(getattr(item, "fixturenames", ())):
        item.add_marker(pytest.mark.vllm)
