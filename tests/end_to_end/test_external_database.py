"""An external PostgreSQL: migrated on request, never by serving."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from persistence.embedded import EmbeddedPostgres
from tests.end_to_end.served import clean_environment, launch, rows, running


@pytest.fixture
def database_url() -> Iterator[str]:
    """A server of its own, without a schema."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-"))
    server = EmbeddedPostgres(folder)
    yield server.start()
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def migrate(database_url: str, *options: str, says: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "migrate", *options],
        input=says,
        capture_output=True,
        text=True,
        env=clean_environment() | {"DATABASE_URL": database_url},
    )


def test_serving_refuses_an_old_schema_until_it_is_migrated(data_dir: Path, database_url: str) -> None:
    refused = launch(data_dir, "--engine", "simulated", DATABASE_URL=database_url)
    assert refused.wait() == 1
    assert "chatglm-gateway migrate" in refused.output
    assert "Traceback" not in refused.output

    for _ in range(2):
        migrated = migrate(database_url)
        assert (migrated.returncode, migrated.stdout) == (0, "The schema is up to date.\n"), migrated.stderr

    # Whoever goes back is asked, and told what goes.
    refused_back = migrate(database_url, "--to", "0004", says="n\n")
    assert refused_back.returncode == 1
    assert "0005: How much of their limits" in refused_back.stdout
    back = migrate(database_url, "--to", "0004", "--yes")
    assert (back.returncode, back.stdout.splitlines()[-1]) == (0, "The schema is at revision 0004.")
    assert migrate(database_url).returncode == 0

    with running(data_dir, "--engine", "simulated", DATABASE_URL=database_url) as gateway:
        body = {"messages": [{"role": "user", "content": "kept"}]}
        assert httpx.post(f"{gateway.base_url}/v1/chat/completions", json=body).status_code == 200
    assert not (data_dir / "postgres").exists()
    assert [row["response"] for row in rows(database_url)] == ["kept"]


# The first packet of a client that wants TLS (PostgreSQL's protocol, SSLRequest).
SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@pytest.mark.parametrize(("mode", "asks"), [("require", True), ("disable", False)])
def test_the_urls_tls_options_are_honoured(data_dir: Path, mode: str, asks: bool) -> None:
    """Against a server that has no TLS and says so: who requires it goes no further."""
    packets: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            packets.append(connection.recv(8))
            connection.sendall(b"N")
            packets.append(connection.recv(1))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        url = f"postgresql://me@127.0.0.1:{listener.getsockname()[1]}/rows?sslmode={mode}"
        refused = launch(data_dir, "--engine", "simulated", DATABASE_URL=url)
        assert refused.wait() == 1
        thread.join(timeout=60)
    assert "The gateway can't start: PostgreSQL:" in refused.output
    assert (packets[0] == SSL_REQUEST) is asks
    if asks:
        assert packets[1] == b""


def test_a_root_certificate_that_is_not_there_is_named(data_dir: Path) -> None:
    url = "postgresql://me@127.0.0.1:1/rows?sslmode=verify-full&sslrootcert=/no/such/root.crt"
    refused = launch(data_dir, "--engine", "simulated", DATABASE_URL=url)
    assert refused.wait() == 1
    assert "No such file" in refused.output or "/no/such/root.crt" in refused.output
