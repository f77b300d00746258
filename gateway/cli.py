"""The command line. Imports what a command needs when it runs, so that ``--help`` is quick."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from gateway import keys_command, users_command
from gateway.operator import DatabaseUrl, DataDir, fail, load_or_exit

app = typer.Typer(
    name="chatglm-gateway",
    help="An OpenAI-compatible inference gateway with its engine inside.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(keys_command.app, name="keys")
app.add_typer(users_command.app, name="users")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: 8000.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm (default), simulated or upstream.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A model's folder, or 'demo' (default) for the one that comes along."),
    ] = None,
    served_model_name: Annotated[
        str | None, typer.Option(help="What clients call the model. Default: the folder's name.")
    ] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
    engine_args: Annotated[
        str | None,
        typer.Option(help='JSON of vllm.AsyncEngineArgs fields, as {"max_model_len": 4096}.'),
    ] = None,
    sampling_defaults: Annotated[
        str | None,
        typer.Option(help='JSON of what is taken where a client gives none, as {"temperature": 0.7}.'),
    ] = None,
    prompt_templates: Annotated[
        Path | None, typer.Option(help="YAML file of prompt templates, which prompt_name names.")
    ] = None,
    tool_call_parser: Annotated[
        str | None,
        typer.Option(help="How the model writes tool calls. Default: what its chat template tells."),
    ] = None,
    web_root: Annotated[
        Path | None, typer.Option(help="Folder of a built web front end, served at /. Default: none.")
    ] = None,
    authentication: Annotated[
        bool | None,
        typer.Option(
            "--authentication/--no-authentication",
            help="Callers need an API key or a login. Default: where the gateway listens beyond loopback.",
        ),
    ] = None,
    registration: Annotated[
        str | None,
        typer.Option(
            help="Strangers may make themselves users: open or closed. Default: closed with authentication."
        ),
    ] = None,
    access_log: Annotated[
        bool | None, typer.Option("--access-log/--no-access-log", help="Log one line for each request.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info (default), warning or error.")] = None,
    upstream_url: Annotated[
        str | None,
        typer.Option(help="Engine upstream: base URL of the server that answers, as https://host:8000/v1."),
    ] = None,
    upstream_model: Annotated[
        str | None,
        typer.Option(help="Engine upstream: what it calls the model. Default: the first that it lists."),
    ] = None,
    simulated_ttft_ms: Annotated[
        float | None, typer.Option(help="Simulated engine: pause before the first token, in milliseconds.")
    ] = None,
    simulated_tokens_per_second: Annotated[
        float | None, typer.Option(help="Simulated engine: tokens per second of one request.")
    ] = None,
) -> None:
    """Start the engine and the database, and serve. Every option is a setting too: see 'settings'."""
    settings = load_or_exit(dict(locals()))
    from gateway.server import run

    raise typer.Exit(run(settings))


@app.command()
def settings() -> None:
    """Print every setting with its value, default and source. Secrets are masked."""
    chosen = load_or_exit({})
    from gateway.settings import describe

    for setting in describe(chosen, {}):
        print(f"{setting.name} = {setting.value}")
        print(f"    {setting.description}")
        print(
            f"    default: {setting.default}; from: {setting.source}; set by: {', '.join(setting.variables)}"
        )


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for machines.")] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm, simulated or upstream.")] = None,
    model: Annotated[str | None, typer.Option(help="A model's folder, or 'demo'.")] = None,
    engine_args: Annotated[str | None, typer.Option(help="JSON of vllm.AsyncEngineArgs fields.")] = None,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Look for what would keep a gateway from running well here, and say what to do. Changes nothing. Exit
    status 1 where there is a problem."""
    given = {name: value for name, value in locals().items() if name != "as_json"}
    from gateway.doctor.examination import examine
    from gateway.doctor.report import tell, tell_json
    from gateway.settings import InvalidSetting, Settings, load

    chosen: Settings | InvalidSetting
    try:
        chosen = load(given)
    except InvalidSetting as error:
        chosen = error
    raise typer.Exit(0 if (tell_json if as_json else tell)(examine(chosen)) else 1)


@app.command()
def migrate(
    to: Annotated[
        str | None, typer.Option(help="Another revision, as 0004: to go back before an older program runs.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before something is given up.")] = False,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Bring the database's schema to what this version needs, or to another revision."""
    chosen = load_or_exit({"database_url": database_url, "data_dir": data_dir, "engine": "simulated"})
    import asyncio

    from persistence.database import Database

    async def run() -> None:
        database = Database(chosen.database_url, chosen.data_dir)
        try:
            await database.connect()
            if to is not None and (lost := await database.given_up(to)):
                print(
                    "What these revisions have brought is deleted, with all that it holds:", *lost, sep="\n  "
                )
                if not yes:
                    typer.confirm("Go back?", abort=True)
            await database.migrate(to)
        finally:
            await database.close()

    try:
        asyncio.run(run())
    except typer.Abort:
        fail("The schema was not changed.")
    except Exception as error:
        fail(f"The schema was not changed: {error}")
    print("The schema is up to date." if to is None else f"The schema is at revision {to}.")


@app.command()
def usage(
    days: Annotated[int, typer.Option(min=1, max=10_000, help="How many days of UTC, today included.")] = 30,
    database_url: DatabaseUrl = None,
    data_dir: DataDir = None,
) -> None:
    """Print requests and tokens per day, model, endpoint and status."""
    chosen = load_or_exit({"database_url": database_url, "data_dir": data_dir, "engine": "simulated"})
    from datetime import UTC, datetime, timedelta

    from gateway.operator import run
    from persistence.database import Database
    from persistence.usage import Usage, table, usage_between

    async def sums_of(database: Database) -> list[Usage]:
        today = datetime.now(UTC).date()
        return await usage_between(database, today - timedelta(days=days - 1), today)

    sums = run(chosen, sums_of, "The sums can't be read")
    print(table(sums))


def main() -> None:
    """Entry point."""
    # Until the loop of ``serve`` takes the signal, seconds later: as the first process of a container it
    # would not be ended by it.
    signal.signal(signal.SIGTERM, end)
    app()


def end(number: int, frame: FrameType | None) -> NoReturn:
    """As a shell tells of a process that a signal has ended."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
