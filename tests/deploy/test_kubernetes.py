"""deploy/kubernetes: what the cluster's schemas take, and what the gateway, its image and Prometheus know."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from gateway.app import create_app
from gateway.generation import ABORT_SECONDS
from gateway.lifecycle import FLUSH_SECONDS
from gateway.metrics import queue
from gateway.server import CLOSE_SECONDS
from gateway.settings import InvalidSetting, Settings, describe, load
from tests.deploy.kustomize import Resource, build, documents

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("gpu", "cpu")
# From the first that has all that is used to the newest there are schemas of.
VERSIONS = ("1.31", "1.34", kubernetes_validate.latest_version())
# No schema of these comes with Kubernetes.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}
# The engine's own end, which has no bound of its own.
ENGINE_SECONDS = 30


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Resource]:
    return build(MANIFESTS / "overlays" / str(request.param))


@pytest.fixture(scope="module")
def gpu() -> list[Resource]:
    return build(MANIFESTS / "overlays" / "gpu")


def the(kind: str, resources: list[Resource], name: str = "chatglm-gateway") -> Resource:
    """The one of that kind and name; of a ConfigMap, before its hash."""
    (found,) = [
        one
        for one in resources
        if one["kind"] == kind and re.sub(r"-[0-9a-f]{10}$", "", one["metadata"]["name"]) == name
    ]
    return found


def pod_of(resource: Resource) -> dict[str, Any]:
    spec: dict[str, Any] = resource["spec"]["template"]["spec"]
    return spec


def gateway_of(resources: list[Resource]) -> dict[str, Any]:
    (container,) = pod_of(the("Deployment", resources))["containers"]
    return dict(container)


def settings_of(resources: list[Resource], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the gateway would read; the model's folder is not here."""
    for name, value in the("ConfigMap", resources)["data"].items():
        monkeypatch.setenv(name, value)
    return load({"engine": "simulated"})


def everything() -> Iterator[Resource]:
    """All that an operator may apply."""
    for name in OVERLAYS:
        yield from build(MANIFESTS / "overlays" / name)
    yield from build(MANIFESTS / "migrate")
    yield from build(MANIFESTS / "overlays" / "gpu-shared-journal")
    yield from documents(MANIFESTS / "namespace.yaml")
    yield from documents(MANIFESTS / "secret.example.yaml")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schemas_of_kubernetes_take_all_of_it(version: str) -> None:
    for resource in everything():
        if resource["kind"] not in FOREIGN:
            kubernetes_validate.validate(resource, version, strict=True)


def test_a_field_that_is_not_there_is_seen() -> None:
    broken = copy.deepcopy(the("Deployment", build(MANIFESTS / "overlays" / "cpu")))
    pod_of(broken)["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_every_file_is_applied_by_a_kustomization_or_by_hand() -> None:
    listed = {MANIFESTS / "namespace.yaml", MANIFESTS / "secret.example.yaml"}
    listed |= {
        MANIFESTS / "components/autoscaling/prometheus-adapter.yaml",
        MANIFESTS / "prometheusrule.head.yaml",
    }
    for path in MANIFESTS.rglob("kustomization.yaml"):
        (said,) = documents(path)
        entries = [
            *said.get("resources", ()),
            *(patch["path"] for patch in said.get("patches", ()) if "path" in patch),
        ]
        entries += [
            name for generator in said.get("configMapGenerator", ()) for name in generator.get("envs", ())
        ]
        listed |= {path, *((path.parent / entry).resolve() for entry in entries)}
    files = {path for path in MANIFESTS.rglob("*") if path.is_file()}
    assert files <= listed, files - listed


def test_every_setting_is_one_and_has_a_value_that_counts(
    overlay: list[Resource], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(overlay, monkeypatch)
    known = {variable: one.name for one in describe(settings, {}) for variable in one.variables}
    given = the("ConfigMap", overlay)["data"]
    variables = {one["name"] for one in gateway_of(overlay)["env"]}
    assert given.keys() | variables <= known.keys()
    for variable, value in given.items():
        found = getattr(settings, known[variable])
        assert type(found)(value) == found if isinstance(found, int | float) else str(found) == value, (
            variable
        )
    assert settings.authenticates
    # No Service of the cluster says otherwise.
    assert pod_of(the("Deployment", overlay))["enableServiceLinks"] is False


def test_the_secret_is_told_by_file_and_the_example_is_refused_as_it_is(overlay: list[Resource]) -> None:
    (example,) = documents(MANIFESTS / "secret.example.yaml")
    workloads = [the("Deployment", overlay), *build(MANIFESTS / "migrate")]
    for workload in workloads:
        pod = pod_of(workload)
        (container,) = pod["containers"]
        (url_file,) = [one["value"] for one in container["env"] if one["name"] == "DATABASE_URL_FILE"]
        (volume,) = [one["secret"] for one in pod["volumes"] if "secret" in one]
        (mount,) = [one for one in container["volumeMounts"] if one["name"] == "database-url"]
        assert volume["secretName"] == example["metadata"]["name"]
        assert workload["metadata"]["namespace"] == example["metadata"]["namespace"]
        (item,) = volume["items"]
        assert item["key"] in example["stringData"]
        assert url_file == f"{mount['mountPath']}/{item['path']}"
        # It is in no variable, which others could read.
        assert not any("postgres" in str(one.get("value")) for one in container["env"])
    with pytest.raises(InvalidSetting, match="postgresql"):
        load({"engine": "simulated", "database_url": example["stringData"]["database-url"]})


def test_the_probes_ask_routes_that_are_there_and_give_weights_ten_minutes(overlay: list[Resource]) -> None:
    served = {getattr(route, "path", None) for route in create_app(load({"engine": "simulated"})).routes}
    gateway = gateway_of(overlay)
    paths = {}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        paths[name] = gateway[name]["httpGet"]["path"]
        assert gateway[name]["httpGet"]["port"] == gateway["ports"][0]["name"]
    assert set(paths.values()) <= served
    # Neither the engine nor PostgreSQL comes back by a restart of what waits for them.
    assert paths["livenessProbe"] == "/health/live"
    assert paths["startupProbe"] == paths["readinessProbe"] == "/health/ready"
    startup = gateway["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600
    progress = the("Deployment", overlay)["spec"]["progressDeadlineSeconds"]
    assert progress > startup["periodSeconds"] * startup["failureThreshold"]


def test_no_answer_is_cut_by_a_rollout(overlay: list[Resource], monkeypatch: pytest.MonkeyPatch) -> None:
    settings, deployment = settings_of(overlay, monkeypatch), the("Deployment", overlay)
    assert settings.drain_seconds >= settings.request_timeout_seconds
    readiness = gateway_of(overlay)["readinessProbe"]
    # Longer than it takes to be seen as leaving.
    assert settings.drain_notice_seconds >= readiness["periodSeconds"] * readiness["failureThreshold"]
    leaving = settings.drain_notice_seconds + settings.drain_seconds
    ending = ABORT_SECONDS + settings.commit_wait_seconds + FLUSH_SECONDS + CLOSE_SECONDS + ENGINE_SECONDS
    assert pod_of(deployment)["terminationGracePeriodSeconds"] >= leaving + ending
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


def test_selectors_find_the_pods_and_ports_agree(
    overlay: list[Resource], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment, (job,) = the("Deployment", overlay), build(MANIFESTS / "migrate")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    migration = job["spec"]["template"]["metadata"]["labels"]
    port = gateway_of(overlay)["ports"][0]
    assert port["containerPort"] == settings_of(overlay, monkeypatch).port
    one_gateway = [deployment["spec"]["selector"]["matchLabels"]]
    one_gateway += [the("PodDisruptionBudget", overlay)["spec"]["selector"]["matchLabels"]]
    spread = pod_of(deployment)["topologySpreadConstraints"]
    one_gateway += [constraint["labelSelector"]["matchLabels"] for constraint in spread]
    for name in ("chatglm-gateway", "chatglm-gateway-pods"):
        service = the("Service", overlay, name)
        one_gateway.append(service["spec"]["selector"])
        assert [one["targetPort"] for one in service["spec"]["ports"]] == [port["name"]]
    assert the("Service", overlay, "chatglm-gateway-pods")["spec"]["clusterIP"] == "None"
    for selector in one_gateway:
        assert selector.items() <= labels.items()
        assert not selector.items() <= migration.items()
    for name in ("chatglm-gateway-ingress", "chatglm-gateway-egress"):
        selector = the("NetworkPolicy", overlay, name)["spec"]["podSelector"]["matchLabels"]
        assert selector.items() <= labels.items()
        assert selector.items() <= migration.items()
    ingress = the("NetworkPolicy", overlay, "chatglm-gateway-ingress")["spec"]["ingress"]
    assert [one["port"] for rule in ingress for one in rule["ports"]] == [port["name"]]


def test_the_pods_may_do_nothing_but_serve(overlay: list[Resource]) -> None:
    for workload in (the("Deployment", overlay), *build(MANIFESTS / "migrate")):
        pod = pod_of(workload)
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"].items() >= {"runAsNonRoot": True, "runAsUser": 10001}.items()
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"].keys() == {"requests", "limits"}
            mounts = {one["name"]: one for one in container["volumeMounts"]}
            volumes = {one["name"]: one for one in pod["volumes"]}
            assert mounts.keys() == volumes.keys()
            for name, volume in volumes.items():
                # Only what goes with the pod can be written to, and all of it is bounded.
                assert mounts[name].get("readOnly") or volume["emptyDir"]["sizeLimit"]


def test_the_image_is_the_dockerfiles_and_the_same_for_the_migration(gpu: list[Resource]) -> None:
    (job,) = build(MANIFESTS / "migrate")
    assert pod_of(job)["containers"][0]["image"] == gateway_of(gpu)["image"] == "chatglm-gateway:cuda"
    text = (ROOT / "Dockerfile").read_text()
    context = pod_of(the("Deployment", gpu))["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}" in text
    assert f"GATEWAY_DATA_DIR={the('ConfigMap', gpu)['data']['GATEWAY_DATA_DIR']}" in text
    # What it compiles lies where something is mounted for it.
    cache = next(one["mountPath"] for one in gateway_of(gpu)["volumeMounts"] if one["name"] == "cache")
    assert f"XDG_CACHE_HOME={cache}" in text


def test_one_command_names_the_image_for_gateways_and_migration(tmp_path: Path) -> None:
    """That of the page."""
    page = (ROOT / "docs" / "deploy-kubernetes.md").read_text()
    (command,) = re.findall(r"^ *(sed -i (?:.*\\\n)*.*)$", page, re.MULTILINE)
    copied = tmp_path / "deploy" / "kubernetes"
    shutil.copytree(MANIFESTS, copied)
    script = f"image=example.com:5000/ours/gateway tag=1.2.3-cuda\n{command}"
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True)
    (job,) = build(copied / "migrate")
    migration = pod_of(job)["containers"][0]["image"]
    assert migration == gateway_of(build(copied / "overlays" / "gpu"))["image"]
    assert migration == "example.com:5000/ours/gateway:1.2.3-cuda"


def test_names_are_asked_of_the_cluster_and_of_a_cache_on_the_node(overlay: list[Resource]) -> None:
    rules = the("NetworkPolicy", overlay, "chatglm-gateway-egress")["spec"]["egress"]
    (rule,) = [one for one in rules if {"port": 53, "protocol": "UDP"} in one["ports"]]
    assert {"port": 53, "protocol": "TCP"} in rule["ports"]
    cluster, node = rule["to"]
    assert cluster["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}
    # No selector of pods finds what is in the node's network.
    assert node == {"ipBlock": {"cidr": "169.254.20.10/32"}}


def test_it_scales_by_a_metric_that_the_gateway_has(
    gpu: list[Resource], monkeypatch: pytest.MonkeyPatch
) -> None:
    scaler = the("HorizontalPodAutoscaler", gpu)["spec"]
    (metric,) = scaler["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in {family.name for family in queue.QUEUE_DEPTH.collect()}
    (adapter,) = documents(MANIFESTS / "components/autoscaling/prometheus-adapter.yaml")
    (rule,) = adapter["rules"]
    assert rule["name"]["as"] == name
    assert rule["seriesQuery"].startswith(name + "{")
    settings, deployment = settings_of(gpu, monkeypatch), the("Deployment", gpu)
    assert scaler["maxReplicas"] == settings.limits_gateways
    assert scaler["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "chatglm-gateway",
    }
    assert "replicas" not in deployment["spec"]
    # The next one goes when the last one has drained.
    down = scaler["behavior"]["scaleDown"]
    leaving = pod_of(deployment)["terminationGracePeriodSeconds"]
    assert down["stabilizationWindowSeconds"] > leaving
    assert [(one["value"], one["periodSeconds"] > leaving) for one in down["policies"]] == [(1, True)]


def test_prometheus_finds_each_pod_once_where_it_may_read(
    gpu: list[Resource], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fields are those of monitoring.coreos.com_servicemonitors.yaml in
    github.com/prometheus-operator/prometheus-operator."""
    monitor = the("ServiceMonitor", gpu)
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    (rules,) = documents(MANIFESTS / "prometheusrule.head.yaml")
    assert rules["metadata"]["labels"]["release"] == monitor["metadata"]["labels"]["release"]
    assert monitor["spec"].keys() == {"selector", "namespaceSelector", "endpoints"}
    selector = monitor["spec"]["selector"]["matchLabels"].items()
    services = [one for one in gpu if one["kind"] == "Service"]
    (found,) = [one for one in services if selector <= one["metadata"].get("labels", {}).items()]
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": [found["metadata"]["namespace"]]}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint.keys() == {"port", "path", "interval", "scrapeTimeout"}
    assert endpoint["port"] in {one["name"] for one in found["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
    assert settings_of(gpu, monkeypatch).metrics_public
    # What the alerts call it: the Service's name.
    assert found["metadata"]["name"] == "chatglm-gateway"


@pytest.mark.parametrize("name", ["alerts.yml", "rules.yml"])
def test_the_rules_become_a_prometheusrule_below_its_head(name: str) -> None:
    """As docs/deploy-kubernetes.md has it. Its spec is a rule file's content, by
    monitoring.coreos.com_prometheusrules.yaml of the operator."""
    rules = ROOT / "deploy" / "prometheus" / name
    head = (MANIFESTS / "prometheusrule.head.yaml").read_text().replace("NAME", name.removesuffix(".yml"))
    made = yaml.safe_load(head + re.sub("^", "  ", rules.read_text(), flags=re.MULTILINE))
    assert made["spec"] == yaml.safe_load(rules.read_text())
    assert made["kind"] == "PrometheusRule"
    assert re.fullmatch(r"[a-z-]+", made["metadata"]["name"])
    for group in made["spec"]["groups"]:
        assert group.keys() <= {"name", "interval", "rules"}
        for rule in group["rules"]:
            assert rule.keys() <= {
                "alert",
                "record",
                "expr",
                "for",
                "keep_firing_for",
                "labels",
                "annotations",
            }


def test_a_shared_journal_outlives_pods_and_is_what_durability_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, shared = build(MANIFESTS / "overlays/gpu"), build(MANIFESTS / "overlays/gpu-shared-journal")
    assert settings_of(plain, monkeypatch).durability == "strict"
    assert settings_of(shared, monkeypatch).durability == "commit"
    claim = the("PersistentVolumeClaim", shared, "chatglm-gateway-journal")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    volumes = {one["name"]: one for one in pod_of(the("Deployment", shared))["volumes"]}
    assert volumes["data"] == {
        "name": "data",
        "persistentVolumeClaim": {"claimName": claim["metadata"]["name"]},
    }
    # Caches stay with each pod.
    assert "emptyDir" in volumes["cache"]
