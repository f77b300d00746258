from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.gateway.access.house import House, open_house


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def house() -> AsyncIterator[House]:
    """One for all that use it; its tests run in the package's loop."""
    async with open_house(registration="open") as house:
        yield house
