"""How the gateways of these tests are started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.end_to_end.served import Gateway, launch, running
from tests.faults.form import either

# Answers of more than a second, so that some are under way whenever something breaks.
TOKENS_PER_SECOND = 30
OPTIONS = (
    "--engine", "simulated", "--no-access-log", "--simulated-tokens-per-second", str(TOKENS_PER_SECOND),
)  # fmt: skip

# What takes PostgreSQL longer than this counts as away; the default in the long form.
DATABASE_TIMEOUT_SECONDS = either(0.5, 2.0)


def environment(url: str, settings: dict[str, str]) -> dict[str, str]:
    timeout = {"GATEWAY_DATABASE_TIMEOUT_SECONDS": str(DATABASE_TIMEOUT_SECONDS)}
    return timeout | settings | {"DATABASE_URL": url}


def serving(url: str, data_dir: Path, **settings: str) -> AbstractContextManager[Gateway]:
    """A gateway whose rows go to ``url``; ``settings`` by their names in the environment."""
    return running(data_dir, *OPTIONS, **environment(url, settings))


@contextmanager
def launching(url: str, data_dir: Path, **settings: str) -> Iterator[Gateway]:
    """The same, still starting; to be killed, at the latest here."""
    gateway = launch(data_dir, *OPTIONS, **environment(url, settings))
    try:
        yield gateway
    finally:
        kill(gateway)


def kill(gateway: Gateway) -> None:
    """SIGKILL, wherever it stands."""
    gateway.process.kill()
    gateway.wait()
