from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway.doctor import data_dir, machine
from gateway.doctor.finding import Finding
from gateway.doctor.packages import Installed, check_packages, check_torch, constants_of
from gateway.settings import load

ROOT = Path(__file__).parents[3]
CPU = Installed(None, "0.32.0", "2.13.0+cpu", None, None)
GPU = Installed("0.32.0", None, "2.13.0+cu128", "0.28.0+cu128", "12.8")


def one(findings: Any) -> Finding:
    (finding,) = findings
    assert isinstance(finding, Finding)
    return finding


def test_a_port_that_is_free_and_one_that_somebody_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        taken = one(machine.check_port(load({"port": port})))
        assert taken.level == "problem"
        assert f"process {os.getpid()} " in taken.found
    assert one(machine.check_port(load({"port": 0}))).level == "ok"


def test_an_address_that_is_not_this_machines() -> None:
    assert one(machine.check_port(load({"host": "203.0.113.77", "port": 0}))).level == "problem"
    assert one(machine.check_port(load({"host": "no such host", "port": 0}))).level == "problem"


@pytest.mark.parametrize(
    ("chosen", "levels"),
    [
        ({}, ["ok"]),
        ({"host": "0.0.0.0"}, ["ok"]),
        ({"host": "0.0.0.0", "authentication": False}, ["warning"]),
        ({"host": "0.0.0.0", "metrics_public": True}, ["ok", "warning"]),
    ],
)
def test_who_may_come_in(chosen: dict[str, Any], levels: list[str]) -> None:
    assert [finding.level for finding in machine.check_access(load(chosen))] == levels


@pytest.mark.parametrize(
    ("now", "synchronised", "level"),
    [
        (1_767_225_600.0, True, "ok"),
        (1_767_225_600.0, None, "ok"),
        (1_767_225_600.0, False, "warning"),
        (0.0, True, "problem"),
        (5e9, True, "problem"),
    ],
)
def test_a_clock(now: float, synchronised: bool | None, level: str) -> None:
    assert one(machine.check_clock(now, synchronised)).level == level


def test_whether_the_clock_is_kept_can_be_asked() -> None:
    assert machine.is_synchronised() in (True, False, None)


def test_too_few_files_may_be_open_and_the_setting_at_fault_is_named() -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
from gateway.doctor.machine import check_files
from gateway.settings import load
for most in (10_000, 100):
    for finding in check_files(load({"max_connections": most})):
        print(finding.level, finding.found, finding.remedy)
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    few, enough = told.stdout.splitlines()
    assert few.startswith("warning 1000 files may be open, max_connections needs 10512")
    assert "LimitNOFILE" in few
    assert enough.startswith("ok ")


@pytest.mark.parametrize(
    ("chosen", "setting"),
    [
        ({"drain_seconds": 0}, "drain_seconds"),
        ({"limits_store": "postgresql"}, "limits_store"),
        ({"retain_content_days": 9, "retain_rows_days": 5}, "retain_content_days"),
        ({"durability": "async"}, "durability"),
        ({"log_content": True}, "log_content"),
        ({"port": 0}, "port"),
    ],
)
def test_settings_that_contradict_each_other_are_named(chosen: dict[str, Any], setting: str) -> None:
    finding = one(machine.check_contradictions(load(chosen)))
    assert finding.level == "warning"
    assert setting in finding.found
    assert list(machine.check_contradictions(load())) == []


def test_a_data_directory_is_tried_and_nothing_is_left_there(tmp_path: Path) -> None:
    settings = load({"data_dir": tmp_path, "database_url": "postgresql://h/d", "journal_max_bytes": 1024**2})
    assert {finding.level for finding in data_dir.check_data_dir(settings)} <= {"ok", "warning"}
    assert list(tmp_path.iterdir()) == []
    new = load({"data_dir": tmp_path / "new" / "folder"})
    assert "made at the first start" in next(iter(data_dir.check_data_dir(new))).found
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert one(data_dir.check_data_dir(load({"data_dir": tmp_path / "file" / "data"}))).level == "problem"


def test_a_data_directory_that_does_not_keep_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    finding = one(data_dir.check_data_dir(load({"data_dir": tmp_path})))
    assert (finding.level, "No space left" in finding.found) == ("problem", True)


@pytest.mark.parametrize("number", [errno.EISDIR, errno.EOPNOTSUPP])
def test_what_could_not_be_tried_is_not_said_to_be_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def unsupported(folder: Path, *_: int) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", unsupported)
    found = list(data_dir.check_data_dir(load({"data_dir": tmp_path})))
    monkeypatch.undo()
    assert (found[0].level, "could not be tried here" in found[0].found) == ("ok", True)


def test_a_clock_that_nothing_is_told_of_is_not_said_to_be_right() -> None:
    assert "is not told" in one(machine.check_clock(1_767_225_600.0, None)).found


MOUNTS = r"""
22 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw
30 22 0:26 / /mnt/with\040space rw - tmpfs tmpfs rw
31 22 0:27 / {data} rw - overlay overlay rw
32 31 0:28 / {data}/volume rw - xfs /dev/sdb rw
"""


def test_the_filesystem_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.strip().format(data=tmp_path))
    (tmp_path / "volume").mkdir()
    kinds = [data_dir.filesystem_of(path, mounts) for path in (Path("/"), tmp_path, tmp_path / "volume")]
    assert kinds == ["ext4", "overlay", "xfs"]
    assert data_dir.filesystem_of(Path("/mnt/with space"), mounts) == "tmpfs"
    assert data_dir.filesystem_of(tmp_path, tmp_path / "missing") is None


def test_a_disk_with_too_little_room_says_what_fills_it() -> None:
    embedded, external = load(), load({"database_url": "postgresql://h/d"})
    assert data_dir.check_room(embedded, 10 * 1024**3).level == "ok"
    assert data_dir.check_room(external, 2 * 1024**3).level == "ok"
    low = data_dir.check_room(embedded, 2 * 1024**3)
    assert (low.level, "journal_max_bytes" in low.remedy) == ("warning", True)


def levels(found: Installed, has_gpu: bool, **settings: Any) -> list[str]:
    chosen = load({"engine": "vllm"} | settings)
    return [finding.level for finding in check_packages(chosen, found, has_gpu)]


def test_which_vllm_is_installed_and_which_machine_it_is_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    model = {"model": str(tmp_path)}
    assert levels(CPU, False, **model) == ["ok", "ok"]
    assert levels(GPU, True, **model) == ["ok", "ok"]
    assert levels(CPU, True, **model) == ["warning", "ok"]
    assert levels(GPU, False, **model)[0] == "problem"
    assert levels(Installed("0.32.0", "0.32.0", "2.13.0+cpu", None, None), False, **model)[0] == "problem"
    assert levels(Installed(None, "0.30.0", "2.13.0+cpu", None, None), False, **model)[0] == "warning"
    assert levels(Installed(None, None, None, None, None), False, **model) == ["problem"]
    assert levels(Installed(None, None, None, None, None), False, engine="simulated") == ["ok"]


def test_torch_and_torchvision_that_are_not_of_one_build() -> None:
    mixed = Installed(None, "0.32.0", "2.13.0+cpu", "0.28.0+cu128", None)
    assert [finding.level for finding in check_torch(mixed)] == ["ok", "warning"]
    of_gpu = Installed(None, "0.32.0", "2.13.0+cu128", None, "12.8")
    assert [finding.level for finding in check_torch(of_gpu)] == ["problem"]


def test_torchs_version_file_is_read_without_importing_it() -> None:
    source = (
        "from typing import Optional\n__version__ = '2.13'\ncuda: Optional[str] = '12.8'\nhip: x = None\n"
    )
    assert constants_of(source) == {"__version__": "2.13", "cuda": "12.8"}
