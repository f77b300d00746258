"""Prometheus' rules and Grafana's dashboard: the files fit each other, the pages, and their own tests."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS, GRAFANA = ROOT / "deploy" / "prometheus", ROOT / "deploy" / "grafana"
REMEDIES = "docs/operations-alerts.md"
METRICS = (ROOT / "docs" / "metrics.md").read_text()


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / name).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return found


def test_alerts_fire_as_their_unit_tests_say(promtool: str) -> None:
    command = [promtool, "test", "rules", "alerts_test.yml"]
    tested = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_configuration_is_valid(promtool: str) -> None:
    command = [promtool, "check", "config", "--lint-fatal", "prometheus.yml"]
    checked = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alert_has_a_remedy_and_a_unit_test_in_which_it_fires() -> None:
    alerts = rules("alerts.yml")
    names = [alert["alert"] for alert in alerts]
    remedies = (ROOT / REMEDIES).read_text()
    assert sorted(re.findall(r"^### (\w+)$", remedies, re.MULTILINE)) == sorted(names)
    fired = re.findall(r'alertname="(\w+)", severity="(\w+)"', (PROMETHEUS / "alerts_test.yml").read_text())
    assert set(fired) == {(alert["alert"], alert["labels"]["severity"]) for alert in alerts}
    for alert in alerts:
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == f"{REMEDIES}#{alert['alert'].lower()}"
        told = remedies.partition(f"\n### {alert['alert']}\n")[2].partition("\n#")[0]
        assert told.startswith(f"\n**{alert['labels']['severity']}"), alert["alert"]


def test_rules_and_panels_only_name_metrics_that_there_are() -> None:
    recorded = {rule["record"] for rule in rules("rules.yml")}
    expressions = [rule["expr"] for name in ("rules.yml", "alerts.yml") for rule in rules(name)]
    expressions += [query for panel in panels() for query in queries(panel)]
    used = {name for one in expressions for name in re.findall(r"(?<![\w:])gateway_\w+", one)}
    there = set(re.findall(r"`(gateway_\w+)`", METRICS))
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in used} <= there
    assert {name for one in expressions for name in re.findall(r"\w+:gateway_\w+:\w+", one)} <= recorded


def test_every_metric_is_in_a_panel_or_for_who_looks_closer() -> None:
    shown = {name for panel in panels() for one in queries(panel) for name in re.findall(r"gateway_\w+", one)}
    shown = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    closer = {
        "gateway_guard_matches_total",
        "gateway_guard_too_slow_total",
        "gateway_engine_rebuild_seconds",
        "gateway_upstream_openings",
    }
    told = set(re.findall(r"`(gateway_\w+)`", METRICS))
    assert told - shown == closer


def test_the_dashboard_is_what_its_file_of_python_writes() -> None:
    module = runpy.run_path(str(GRAFANA / "dashboard.py"))
    assert (GRAFANA / "dashboard.json").read_text() == module["text"]()


def test_panels_have_a_place_of_their_own_and_a_number() -> None:
    found = runpy.run_path(str(GRAFANA / "dashboard.py"))["dashboard"]()["panels"]
    assert [panel["id"] for panel in found] == list(range(1, len(found) + 1))
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in found):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken
        taken |= cells


def panels() -> list[dict[str, Any]]:
    """Without the rows' titles."""
    found = runpy.run_path(str(GRAFANA / "dashboard.py"))["dashboard"]()["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]
