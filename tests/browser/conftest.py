from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

from tests.browser.visitor import WEB_ROOT, chromium, missing
from tests.end_to_end import prompts_kept
from tests.end_to_end.served import Gateway, running

TOKENS_PER_SECOND = 500


@pytest.fixture(scope="package")
def gateway() -> Iterator[Gateway]:
    """A gateway that serves this folder's page and lets nobody in who has not logged in."""
    if why := missing():
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    with running(
        folder,
        "--engine",
        "simulated",
        "--simulated-tokens-per-second",
        str(TOKENS_PER_SECOND),
        "--authentication",
        "--registration",
        "open",
        "--web-root",
        str(WEB_ROOT),
        program=prompts_kept.__name__,
        **{prompts_kept.VARIABLE: str(folder / "prompts")},
    ) as gateway:
        yield gateway
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def browser(gateway: Gateway) -> AsyncIterator[Browser]:
    """Chromium; each visitor needs a context of his own in it."""
    async with async_playwright() as playwright:
        # Its sandbox does not start for root.
        yield await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
