from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import settings

# Time limits for single examples only make busy machines fail.
settings.register_profile("house", max_examples=60, deadline=None)
settings.load_profile("house")

END_TO_END = Path(__file__).parent / "end_to_end"
# Fixtures that start the real engine.
REAL = {"demo", "chatglm3"}


# Before xdist reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """What may run side by side where several workers do (``-n``): a start of the engine, and the data
    directory of the demo model, are shared by all tests that need them; any other test by its file."""
    for item in items:
        if item.get_closest_marker("vllm") or REAL & set(getattr(item, "fixturenames", ())):
            group = "engine"
        else:
            group = "end_to_end" if item.path.is_relative_to(END_TO_END) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
