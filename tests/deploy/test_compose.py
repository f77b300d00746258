"""deploy/compose.yaml: of the Compose Specification's form, and fitting what it starts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from engine.vllm_engine import SHUTDOWN_SECONDS
from gateway.server import AFTER_DRAIN_SECONDS
from gateway.settings import Settings
from tests.fresh.dockerfile import assignments, stages

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FOLDER = ROOT / "deploy"
FILE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
GATEWAYS = ["gateway", "gateway-cpu"]
OURS = [*GATEWAYS, "migrate", "migrate-cpu"]

LAST_STAGE = stages((ROOT / "Dockerfile").read_text())[1][-1]


def test_it_has_the_form_of_the_specification() -> None:
    schema = json.loads((HERE / "schemas" / "compose-spec.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(FILE)] == []
    # The schema does find what is wrong.
    assert list(validator.iter_errors(FILE | {"services": {"gateway": {"imago": "x"}}}))


def test_every_image_has_a_version() -> None:
    for name, service in SERVICES.items():
        version = service["image"].partition(":")[2]
        assert version not in ("", "latest"), name


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_can_do_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "pid", "ipc", "network_mode"} & set(service)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_what_a_service_names_is_there() -> None:
    for name, service in SERVICES.items():
        assert set(service.get("secrets", [])) <= set(FILE["secrets"]), name
        assert set(service["networks"]) <= set(FILE["networks"]), name
        for depended in service.get("depends_on", {}):
            assert set(SERVICES[depended].get("profiles", service.get("profiles", []))) == set(
                service.get("profiles", [])
            ), f"{name} needs {depended}, which another profile has"
        for source, _, _ in volumes(service):
            if not source.startswith(("./", "$")):
                assert source in FILE["volumes"], name
    assert set(FILE["secrets"]) == {secret for one in SERVICES.values() for secret in one.get("secrets", [])}
    assert set(FILE["volumes"]) == {
        source for one in SERVICES.values() for source, _, _ in volumes(one) if source[0] not in "./$"
    }


def test_what_is_mounted_of_the_repository_is_there() -> None:
    mounted = [
        source for one in SERVICES.values() for source, _, _ in volumes(one) if source.startswith("./")
    ]
    assert mounted
    for source in mounted:
        assert (FOLDER / source).exists(), source


def test_a_secret_is_read_from_its_file() -> None:
    for name, service in SERVICES.items():
        variables = service.get("environment", {})
        read = {
            value.removeprefix("/run/secrets/") for value in variables.values() if "/run/secrets/" in value
        }
        assert read == set(service.get("secrets", [])), name
        assert not any(re.search("PASSWORD|SECRET|URL|TOKEN", variable) for variable in variables
                       if not variable.endswith("_FILE")), name  # fmt: skip
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert all(Path(one["file"]).parts[0] == "secrets" for one in FILE["secrets"].values())
    assert "/deploy/secrets/" in ignored


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_a_gateway_are_settings(name: str) -> None:
    known = {f"GATEWAY_{setting.upper()}" for setting in Settings.model_fields}
    plain = {"DATABASE_URL_FILE", "MODEL_PATH"}
    assert set(SERVICES[name]["environment"]) <= known | plain


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_is_given_the_time_that_its_end_takes(name: str) -> None:
    service = SERVICES[name]
    drain = float(service["environment"]["GATEWAY_DRAIN_SECONDS"])
    assert AFTER_DRAIN_SECONDS > SHUTDOWN_SECONDS
    assert float(service["stop_grace_period"].removesuffix("s")) > drain + AFTER_DRAIN_SECONDS


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_gateway_has_what_its_image_expects(name: str) -> None:
    service = SERVICES[name]
    (env,) = (one for one in LAST_STAGE.instructions if one.name == "ENV")
    image = assignments(env.arguments, {})
    targets = {target for _, target, _ in volumes(service)}
    assert image["GATEWAY_DATA_DIR"] in targets
    (port,) = service["ports"]
    assert port.rpartition(":")[2] == image["GATEWAY_PORT"]
    assert next(mode for _, target, mode in volumes(service) if target == "/models") == "ro"


@pytest.mark.parametrize(("profile", "variant"), [("gpu", "cuda"), ("cpu", "cpu")])
def test_a_profile_starts_one_gateway_of_its_variant_after_its_migration(profile: str, variant: str) -> None:
    (gateway,) = (name for name in GATEWAYS if SERVICES[name]["profiles"] == [profile])
    ((migration, wanted),) = SERVICES[gateway]["depends_on"].items()
    assert wanted == {"condition": "service_completed_successfully"}
    assert SERVICES[migration]["command"] == ["chatglm-gateway", "migrate"]
    assert SERVICES[migration]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in (gateway, migration):
        assert SERVICES[name]["image"] == f"chatglm-gateway:{variant}"
    assert SERVICES[gateway]["build"]["args"] == {"VARIANT": variant}
    assert (FOLDER / SERVICES[gateway]["build"]["context"] / "Dockerfile").is_file()
    assert ("deploy" in SERVICES[gateway]) == (profile == "gpu")


def test_each_of_our_images_is_built_once_and_never_pulled() -> None:
    """Two builds of one tag at once: the second ends with "already exists" (containerd's image store)."""
    for tag in {SERVICES[name]["image"] for name in OURS}:
        builders = [name for name in OURS if SERVICES[name]["image"] == tag and "build" in SERVICES[name]]
        assert len(builders) == 1, tag
        for name in OURS:
            if SERVICES[name]["image"] == tag and name not in builders:
                assert SERVICES[name]["pull_policy"] == "never", name


def test_prometheus_and_grafana_find_what_they_read() -> None:
    scraped = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
    (targets,) = (job["static_configs"][0]["targets"] for job in scraped["scrape_configs"])
    assert targets == ["gateway:8000"]
    assert all("gateway" in SERVICES[name]["networks"]["inside"]["aliases"] for name in GATEWAYS)
    for rules in scraped["rule_files"]:
        assert (FOLDER / "prometheus" / rules).is_file()
    provisioned = {target: source for source, target, _ in volumes(SERVICES["grafana"])}
    (dashboards,) = (FOLDER / "grafana" / "provisioning" / "dashboards").glob("*.yml")
    (provider,) = yaml.safe_load(dashboards.read_text())["providers"]
    assert f"{provider['options']['path']}/dashboard.json" in provisioned
    (sources,) = (FOLDER / "grafana" / "provisioning" / "datasources").glob("*.yml")
    assert yaml.safe_load(sources.read_text())["datasources"][0]["url"] == "http://prometheus:9090"


def volumes(service: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Source, target and mode of each; a source with a variable has its name, as ``${MODELS}``."""
    for volume in service.get("volumes", []):
        source, target, *mode = re.sub(r":-[^}]*", "", volume).split(":")
        yield source, target, mode[0] if mode else "rw"
