"""An operator's commands, beside the running gateway."""

from __future__ import annotations

from uuid import uuid4

from typer.testing import CliRunner, Result

from gateway.cli import app
from tests.end_to_end.served import Gateway


def command(gateway: Gateway, *arguments: str, given: str | None = None) -> Result:
    """What it ended with."""
    where = ("--data-dir", str(gateway.data_dir))
    return CliRunner().invoke(app, [*arguments, *where], input=given, env={"DATABASE_URL": ""})


def done(gateway: Gateway, *arguments: str, given: str | None = None) -> str:
    """What it printed."""
    result = command(gateway, *arguments, given=given)
    assert result.exit_code == 0, result.output
    return result.stdout


def new_key(gateway: Gateway, *options: str) -> str:
    return done(gateway, "keys", "create", "--user", f"u-{uuid4().hex}", *options).strip()
