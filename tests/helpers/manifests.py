"""Kubernetes manifests as kustomizations name them, and what is in their pods."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

KUBERNETES = Path(__file__).parents[2] / "deploy/kubernetes"


def documents(path: Path) -> list[dict[str, Any]]:
    """All documents of a file."""
    return [each for each in yaml.safe_load_all(path.read_text("utf-8")) if each is not None]


def resources(folder: Path) -> Iterator[dict[str, Any]]:
    """What a kustomization applies, those that it names included, before it changes anything."""
    (kustomization,) = documents(folder / "kustomization.yaml")
    for name in kustomization["resources"]:
        path = folder / name
        yield from resources(path) if path.is_dir() else documents(path)


def named(found: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    """The one resource of a kind with a name."""
    (one,) = (r for r in found if r["kind"] == kind and r["metadata"]["name"] == name)
    return one


def pod(resource: dict[str, Any]) -> dict[str, Any] | None:
    """The specification of the pods that a resource makes, if it makes any."""
    spec: dict[str, Any] | None = resource.get("spec", {}).get("template", {}).get("spec")
    return spec


def container(resource: dict[str, Any]) -> dict[str, Any]:
    """The one container of these pods."""
    spec = pod(resource)
    assert spec is not None
    (only,) = spec["containers"]
    found: dict[str, Any] = only
    return found


def variables(resource: dict[str, Any]) -> dict[str, str]:
    """What its container's environment says itself, without what comes from elsewhere."""
    return {v["name"]: v["value"] for v in container(resource).get("env", []) if "value" in v}
