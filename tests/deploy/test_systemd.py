"""deploy/systemd/: systemd reads it, and the gateway tells systemd what its unit waits for."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gateway.server import AFTER_DRAIN_SECONDS
from gateway.settings import Settings, load
from tests.end_to_end.served import running

FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = "chatglm-gateway.service"
NVIDIA = "chatglm-gateway-nvidia.service"
DROP_IN = "external-database.conf"
FILTERED = "tests.deploy.filtered"
TEXT = (FOLDER / UNIT).read_text()
SYSTEMS = Path("/lib/systemd/system")

systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None or not SYSTEMS.is_dir(), reason="systemd is not installed"
)


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """With a path short enough for a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        yield Path(folder)


def values(name: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)


def seconds(name: str) -> float:
    (value,) = values(name)
    number, unit = re.fullmatch(r"(\d+)(s|min|h)", value).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "min": 60, "h": 3600}[unit]


@systemd
@pytest.mark.parametrize("drop_ins", [(), (DROP_IN,)])
@pytest.mark.parametrize("units", [(UNIT,), (UNIT, NVIDIA)])
def test_systemd_finds_nothing_wrong(
    tmp_path: Path, units: tuple[str, ...], drop_ins: tuple[str, ...]
) -> None:
    shutil.copytree(SYSTEMS, tmp_path / "lib/systemd/system", symlinks=True)
    system = tmp_path / "etc/systemd/system"
    (system / f"{UNIT}.d").mkdir(parents=True)
    for name in units:
        shutil.copy(FOLDER / name, system)
        program = tmp_path / values("ExecStart", (FOLDER / name).read_text())[0].split()[0].lstrip("/")
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for name in drop_ins:
        shutil.copy(FOLDER / name, system / f"{UNIT}.d")
    command = ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", *units]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@systemd
def test_systemd_finds_it_little_exposed() -> None:
    command = [
        "systemd-analyze",
        "security",
        "--offline=yes",
        "--no-pager",
        "--threshold=25",
        str(FOLDER / UNIT),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_its_settings_are_settings() -> None:
    given = dict(
        one.split("=", 1)
        for one in values("Environment") + values("Environment", (FOLDER / DROP_IN).read_text())
    )
    assert {"GATEWAY_DATA_DIR", "DATABASE_URL_FILE"} <= set(given)
    names = {
        name.removeprefix("GATEWAY_").lower() for name in given if name.startswith(("GATEWAY_", "DATABASE_"))
    }
    assert names <= set(Settings.model_fields)
    assert given["GATEWAY_DATA_DIR"] == f"/var/lib/{values('StateDirectory')[0]}"


def test_what_is_away_at_boot_is_waited_for() -> None:
    """A start without PostgreSQL fails at once: however often it does, there is another one."""
    assert values("Restart") == ["on-failure"]
    assert values("StartLimitIntervalSec") == ["0"]
    # Nor is the journal filled meanwhile.
    assert seconds("RestartSec") >= 10


def test_a_stop_while_it_starts_is_no_failure() -> None:
    """130: StartInterrupted of gateway.server.run; 143: before that, by gateway.cli.end."""
    (statuses,) = values("SuccessExitStatus")
    assert statuses.split() == ["130", "143"]


def test_nvidia_s_devices_come_first_where_their_unit_is_enabled() -> None:
    text = (FOLDER / NVIDIA).read_text()
    assert values("Before", text) == values("WantedBy", text) == [UNIT]
    # It need not be there.
    assert NVIDIA not in TEXT


def test_it_waits_as_long_as_the_end_takes() -> None:
    assert seconds("TimeoutStopSec") > load().drain_seconds + AFTER_DRAIN_SECONDS


@systemd
def test_under_its_filter_of_system_calls_the_gateway_serves_and_tells_systemd_how_it_is(
    tmp_path: Path, data_dir: Path
) -> None:
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "GATEWAY_DRAIN_SECONDS": "7"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(120)
        manager.bind(environment["NOTIFY_SOCKET"])
        options = ("--engine", "simulated")
        with running(
            data_dir, *options, program=FILTERED, WATCHDOG_USEC="600000000", **environment
        ) as gateway:
            started = heard_until(manager, "READY=1")
            assert "WATCHDOG=1" in started
            assert any(told.startswith("STATUS=Starting the engine") for told in started)
            assert is_filtered(gateway.process.pid)
            body = {"messages": [{"role": "user", "content": "Are you there?"}]}
            answer = httpx.post(f"{gateway.base_url}/v1/chat/completions", json=body, timeout=60)
            assert "Are you there?" in answer.json()["choices"][0]["message"]["content"]
            gateway.signal(signal.SIGTERM)
            ending = heard_until(manager, "STOPPING=1")[-1].splitlines()
            assert f"EXTEND_TIMEOUT_USEC={int((7 + AFTER_DRAIN_SECONDS) * 1e6)}" in ending
            assert gateway.wait() == 0


def is_filtered(process: int) -> bool:
    """Whether a process has filters of system calls: proc(5), Seccomp."""
    return "Seccomp:\t2" in Path(f"/proc/{process}/status").read_text().splitlines()


def heard_until(manager: socket.socket, wanted: str) -> list[str]:
    """All that is told, up to the first that says ``wanted``."""
    heard: list[str] = []
    while not heard or wanted not in heard[-1].splitlines():
        heard.append(manager.recv(4096).decode())
    return heard
