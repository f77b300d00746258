"""As much of kustomize as deploy/kubernetes uses: what ``kubectl apply -k`` would send.

Anything else in a kustomization is an error here. Source: kubectl.docs.kubernetes.io/references/kustomize.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]

# The fields by which strategic merge patches know the items of these lists; other lists are replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "env": "name",
    "volumeMounts": "mountPath",
}
KNOWN = {
    *("apiVersion", "kind", "namespace", "labels", "resources", "components", "images", "patches"),
    "configMapGenerator",
}
WITHOUT_NAMESPACE = {"Namespace", "PriorityClass"}


def build(folder: Path) -> list[Resource]:
    """The resources of a kustomization, ConfigMaps under their hashed names."""
    resources = _gathered(folder, [])
    renamed = {}
    for resource in resources:
        if resource["kind"] == "ConfigMap":
            name, said = resource["metadata"]["name"], repr(sorted(resource["data"].items()))
            renamed[name] = f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:10]}"
            resource["metadata"]["name"] = renamed[name]
    for resource in resources:
        for container in _containers(resource):
            for source in container.get("envFrom", ()):
                reference = source["configMapRef"]
                reference["name"] = renamed[reference["name"]]
    return resources


def documents(path: Path) -> list[Resource]:
    """All there are in a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def _gathered(folder: Path, resources: list[Resource]) -> list[Resource]:
    """``resources`` as a Component changes them, and those that a Kustomization or it adds."""
    (said,) = documents(folder / "kustomization.yaml")
    assert said.keys() <= KNOWN, f"{folder}: {said.keys() - KNOWN}"
    for entry in said.get("resources", ()):
        path = folder / entry
        resources += build_parts(path) if path.is_dir() else documents(path)
    for generator in said.get("configMapGenerator", ()):
        _generate(folder, resources, generator)
    for entry in said.get("components", ()):
        resources = _gathered(folder / entry, resources)
    for patch in said.get("patches", ()):
        resources = _patched(folder, resources, patch)
    for resource in resources:
        _transform(resource, said)
    return resources


def build_parts(folder: Path) -> list[Resource]:
    """Of another Kustomization, names not yet hashed."""
    return _gathered(folder, [])


def _generate(folder: Path, resources: list[Resource], generator: dict[str, Any]) -> None:
    lines = [line for name in generator.get("envs", ()) for line in (folder / name).read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")] + generator.get("literals", [])
    data = dict(line.split("=", 1) for line in lines)
    found = [
        resource
        for resource in resources
        if (resource["kind"], resource["metadata"]["name"]) == ("ConfigMap", generator["name"])
    ]
    if generator.get("behavior") == "merge":
        found[0]["data"] |= data
        return
    assert not found
    metadata = {"name": generator["name"]}
    resources.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def _patched(folder: Path, resources: list[Resource], patch: dict[str, Any]) -> list[Resource]:
    said = yaml.safe_load(patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text())
    wanted = patch.get("target") or {"kind": said["kind"], "name": said["metadata"]["name"]}
    changed, found = [], 0
    for resource in resources:
        if (resource["kind"], resource["metadata"]["name"]) == (wanted["kind"], wanted["name"]):
            found += 1
            resource = _without(resource, said) if isinstance(said, list) else merged(resource, said)
        changed.append(resource)
    assert found == 1, wanted
    return changed


def _without(resource: Resource, operations: list[dict[str, str]]) -> Resource:
    """After a JSON patch (RFC 6902) that only removes."""
    resource = copy.deepcopy(resource)
    for operation in operations:
        assert operation["op"] == "remove"
        *path, last = operation["path"].strip("/").split("/")
        place = resource
        for part in path:
            place = place[part]
        del place[last]
    return resource


def merged(value: Any, patch: Any, key: str = "") -> Any:
    """``value`` after a strategic merge patch."""
    if isinstance(value, dict) and isinstance(patch, dict):
        result = {name: item for name, item in value.items() if patch.get(name, item) is not None}
        for name, item in patch.items():
            if item is not None:
                result[name] = merged(value.get(name), item, name)
        return result
    if isinstance(value, list) and isinstance(patch, list) and key in MERGE_KEYS:
        by = MERGE_KEYS[key]
        items = {item[by]: item for item in value}
        for item in patch:
            items[item[by]] = merged(items.get(item[by]), item)
        return list(items.values())
    return copy.deepcopy(patch)


def _transform(resource: Resource, said: dict[str, Any]) -> None:
    metadata = resource["metadata"]
    if "namespace" in said and resource["kind"] not in WITHOUT_NAMESPACE:
        metadata["namespace"] = said["namespace"]
    for labels in said.get("labels", ()):
        metadata["labels"] = metadata.get("labels", {}) | labels["pairs"]
        if labels.get("includeTemplates") and "template" in resource.get("spec", {}):
            template = resource["spec"]["template"]["metadata"]
            template["labels"] = template.get("labels", {}) | labels["pairs"]
    for image in said.get("images", ()):
        for container in _containers(resource):
            name = container["image"].partition(":")[0]
            if name == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"


def _containers(resource: Resource) -> list[dict[str, Any]]:
    pod = resource.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", ()), *pod.get("containers", ())]
