"""The manifests: valid by Kubernetes' own schemas, and true of the server and the jobs.

What a schema cannot see is compared with the code: probes with a server's routes, variables with
settings, the autoscaler's metric with `/metrics`, commands with the jobs' command line.
"""

import copy
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import httpx
import kubernetes_validate
import pytest
import yaml

from service.settings import Settings
from tests.helpers.dockerfile import environment, stages
from tests.helpers.manifests import (
    KUBERNETES,
    container,
    documents,
    named,
    pod,
    resources,
    variables,
)
from tests.helpers.tiny import tiny_server
from trainer_jobs import cli
from trainer_jobs.settings import JobSettings

SERVING = list(resources(KUBERNETES))
TRAINING = list(resources(KUBERNETES / "training"))
EVERYTHING = SERVING + TRAINING
STAGES = ("generate", "compute", "train", "evaluate")
OLDEST = "1.30"
"""The first version with all that is used: the README says so."""

IMAGE = environment(stages(Path(__file__).parents[1] / "Dockerfile")[-1])
CLOSING_SECONDS = 12
"""What a server takes at most after AT2_SHUTDOWN_SECONDS, as docs/operations.md says."""

MADE_BY_HAND = {"at2-keys", "at2-redis", "at2-hub"}
"""Secrets, which no file here holds."""


def name_of(resource: dict[str, Any]) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def pods() -> list[dict[str, Any]]:
    return [resource for resource in EVERYTHING if pod(resource) is not None]


def server() -> dict[str, Any]:
    return named(SERVING, "Deployment", "at2")


def job(stage: str) -> dict[str, Any]:
    return named(TRAINING, "Job", f"at2-{stage}")


def server_settings() -> dict[str, str]:
    """The variables of the server's container that are its settings."""
    config = named(SERVING, "ConfigMap", "at2-server")["data"]
    assert container(server())["envFrom"] == [{"configMapRef": {"name": "at2-server"}}]
    found = config | variables(server())
    return {name: value for name, value in found.items() if name.startswith("AT2_")}


# -- what schemas see ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("resource", EVERYTHING, ids=name_of)
def test_manifests_are_valid(resource: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(resource, version, strict=True)


def test_a_mistake_is_found() -> None:
    wrong = copy.deepcopy(server())
    container(wrong)["redinessProbe"] = container(wrong).pop("readinessProbe")
    with pytest.raises(kubernetes_validate.ValidationError, match="redinessProbe"):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


# -- what kustomize makes of them ------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds kustomizations")
@pytest.mark.parametrize("named_in", ["the file itself", "an overlay"])
@pytest.mark.parametrize("base", [KUBERNETES, KUBERNETES / "training"], ids=lambda base: base.name)
def test_components_give_a_gpu_and_serve_what_was_trained(
    base: Path, named_in: str, tmp_path: Path
) -> None:
    names = ["gpu"] if base.name == "training" else ["gpu", "trained"]
    copied = tmp_path / KUBERNETES.name
    shutil.copytree(KUBERNETES, copied)
    folder = copied / base.relative_to(KUBERNETES)
    (own,) = documents(folder / "kustomization.yaml")
    own["images"][0]["newName"] = "registry.example.org:5000/at2-service"
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    above = {"resources": [os.path.relpath(folder, overlay)]}
    at, written = (folder, own) if named_in == "the file itself" else (overlay, above)
    written["components"] = [os.path.relpath(copied / name, at) for name in names]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(above))
    built = subprocess.run(
        ["kubectl", "kustomize", str(at)], capture_output=True, text=True, check=True
    )
    found = list(yaml.safe_load_all(built.stdout))
    ours = [r for r in found if pod(r) is not None and r["metadata"]["name"] != "at2-redis"]
    assert len(ours) == (4 if base.name == "training" else 1)
    for resource in found:
        kubernetes_validate.validate(resource, OLDEST, strict=True)
    for resource in ours:
        assert container(resource)["image"] == "registry.example.org:5000/at2-service:cuda"
        assert container(resource)["resources"]["limits"]["nvidia.com/gpu"] == 1
    if base.name != "training":
        served = variables(ours[0])["AT2_ESTIMATORS_FOLDER"]
        (mount,) = (m for m in container(ours[0])["volumeMounts"] if m["name"] == "trained")
        out = Path(training_settings()["out"]).relative_to("/data")
        assert Path(served) == Path(mount["mountPath"]) / out / "estimators"


# -- every pod -------------------------------------------------------------------------------------


@pytest.mark.parametrize("resource", pods(), ids=name_of)
def test_no_pod_may_do_more_than_it_needs(resource: dict[str, Any]) -> None:
    spec = pod(resource)
    assert spec is not None
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0 and spec["securityContext"]["fsGroup"] > 0
    assert spec["automountServiceAccountToken"] is False
    context = container(resource)["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    limits = container(resource)["resources"]
    assert limits["limits"]["memory"] == limits["requests"]["memory"]


@pytest.mark.parametrize("resource", pods(), ids=name_of)
def test_every_volume_is_there_and_what_is_written_to_is_writable(resource: dict[str, Any]) -> None:
    spec = pod(resource)
    assert spec is not None
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    claimed = {c["metadata"]["name"] for c in resource["spec"].get("volumeClaimTemplates", [])}
    mounts = container(resource)["volumeMounts"]
    assert {mount["name"] for mount in mounts} == set(volumes) | claimed
    writable = {m["mountPath"] for m in mounts if not m.get("readOnly")}
    if container(resource)["image"] == "at2-service":
        assert {"/data", "/tmp", "/dev/shm", IMAGE["HOME"]} <= writable
        assert any(IMAGE["HF_HOME"].startswith(f"{path}/") for path in writable)
        assert next(v for v in volumes.values() if v["name"] == "shm")["emptyDir"]["medium"] == (
            "Memory"
        )
    for volume in volumes.values():
        if "configMap" in volume:
            named(EVERYTHING, "ConfigMap", volume["configMap"]["name"])
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            found = named(EVERYTHING, "PersistentVolumeClaim", claim)
            assert found["spec"]["accessModes"] == ["ReadWriteMany"]
        if "secret" in volume:
            assert volume["secret"]["secretName"] in MADE_BY_HAND


@pytest.mark.parametrize("resource", pods(), ids=name_of)
def test_secrets_come_before_what_is_made_of_them(resource: dict[str, Any]) -> None:
    defined: set[str] = set()
    for variable in container(resource).get("env", []):
        used = set(re.findall(r"\$\((\w+)\)", variable.get("value", "")))
        assert used <= defined
        defined.add(variable["name"])
        secret = variable.get("valueFrom", {}).get("secretKeyRef")
        assert secret is None or secret["name"] in MADE_BY_HAND
    words = " ".join(container(resource).get("command", []))
    assert set(re.findall(r"\$\((\w+)\)", words)) <= defined


def test_what_selects_pods_selects_those_of_its_kind() -> None:
    def selected(labels: dict[str, str]) -> list[str]:
        return [
            name_of(resource)
            for resource in pods()
            if labels.items() <= resource["spec"]["template"]["metadata"]["labels"].items()
        ]

    for resource in SERVING:
        spec, kind = resource.get("spec", {}), resource["kind"]
        own = (
            "StatefulSet/at2-redis" if "redis" in resource["metadata"]["name"] else "Deployment/at2"
        )
        if kind == "Service":
            assert selected(spec["selector"]) == [own]
            (port,) = spec["ports"]
            owner = next(p for p in pods() if name_of(p) == own)
            assert port["targetPort"] in {p["name"] for p in container(owner)["ports"]}
        elif kind in ("Deployment", "StatefulSet", "PodDisruptionBudget"):
            assert selected(spec["selector"]["matchLabels"]) == [own]
        elif kind == "NetworkPolicy":
            assert selected(spec["podSelector"]["matchLabels"]) == [own]
            for rule in spec["ingress"]:
                for caller in rule.get("from", []):
                    assert selected(caller["podSelector"]["matchLabels"]) == ["Deployment/at2"]


# -- the server ------------------------------------------------------------------------------------


def test_the_servers_variables_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    given = server_settings()
    assert Settings.foreign_variables(given) == {}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.store == given["AT2_STORE"] and settings.store.startswith("redis://")
    assert settings.host == "127.0.0.1"  # the image says which, and takes no key for granted
    assert settings.api_keys_file is not None and not settings.allow_no_key


def test_a_server_with_these_settings_answers_the_probes_and_has_the_metric(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef-of-a-test\n")
    elsewhere = {"AT2_API_KEYS_FILE": str(keys), "AT2_STORE": "memory", "AT2_HOST": "0.0.0.0"}
    given = server_settings()
    (mount,) = (m for m in container(server())["volumeMounts"] if m["name"] == "keys")
    assert Path(given["AT2_API_KEYS_FILE"]).parent == Path(mount["mountPath"])
    del given["AT2_MODEL"]
    probes = {
        kind: container(server())[f"{kind}Probe"]["httpGet"]
        for kind in ("startup", "readiness", "liveness")
    }
    metric = autoscaled_metric()
    annotations = server()["spec"]["template"]["metadata"]["annotations"]
    with (
        tiny_server(**given | elsewhere) as (_, address),
        httpx.Client(base_url=address, timeout=120) as client,
    ):
        for probe in probes.values():
            assert client.get(probe["path"]).status_code == 200
        found = client.get(annotations["prometheus.io/path"])
        assert found.status_code == 200
        assert re.search(rf"^{metric} 0\.0$", found.text, flags=re.MULTILINE)
        assert client.get("/info").status_code == 401
    assert probes["startup"]["path"] == probes["liveness"]["path"] == "/health"
    assert probes["readiness"]["path"] == "/ready"
    (port,) = container(server())["ports"]
    assert {probe["port"] for probe in probes.values()} == {port["name"]}
    assert str(port["containerPort"]) == IMAGE["AT2_PORT"] == annotations["prometheus.io/port"]


def test_the_pod_is_given_the_time_that_a_stop_takes() -> None:
    spec = pod(server())
    assert spec is not None
    waits = container(server())["lifecycle"]["preStop"]["sleep"]["seconds"]
    stops = float(server_settings()["AT2_SHUTDOWN_SECONDS"])
    assert spec["terminationGracePeriodSeconds"] >= waits + stops + CLOSING_SECONDS


def autoscaled_metric() -> str:
    """The metric that the autoscaler looks at."""
    autoscaler = named(SERVING, "HorizontalPodAutoscaler", "at2")["spec"]
    target = autoscaler["scaleTargetRef"]
    assert f"{target['kind']}/{target['name']}" == name_of(server())
    assert "replicas" not in server()["spec"]  # or each `apply` would undo the autoscaler's work
    (metric,) = autoscaler["metrics"]
    found: str = metric["pods"]["metric"]["name"]
    return found


def test_the_adapter_gives_the_autoscaler_its_metric() -> None:
    (values,) = documents(KUBERNETES / "prometheus-adapter.yaml")
    (rule,) = values["rules"]["custom"]
    metric = autoscaled_metric()
    assert rule["seriesQuery"].partition("{")[0] == metric
    assert re.match(rule["name"]["matches"], metric) and rule["name"]["as"] == metric


# -- training --------------------------------------------------------------------------------------


def training_settings() -> dict[str, Any]:
    """The configuration that the jobs read."""
    return tomllib.loads(named(TRAINING, "ConfigMap", "at2-training")["data"]["training.toml"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_has_as_many_workers_as_it_says(stage: str) -> None:
    spec = job(stage)["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # as backoffLimitPerIndex needs
    assert spec["parallelism"] <= spec["completions"]
    assert variables(job(stage))["AT2_JOBS_NUM_JOBS"] == str(spec["completions"])
    if stage == "train":
        assert spec["completions"] == 1
    (codes,) = (r["onExitCodes"] for r in spec["podFailurePolicy"]["rules"] if "onExitCodes" in r)
    assert codes["values"] == [cli.main(["no-such-command"])]  # what wrong settings end with
    assert codes["containerName"] == container(job(stage))["name"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_runs_its_stage_with_settings_that_are_right(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = variables(job(stage))
    config = Path(given["AT2_JOBS_CONFIG"])
    (mount,) = (m for m in container(job(stage))["volumeMounts"] if m["name"] == "config")
    assert config.parent == Path(mount["mountPath"])
    text = named(TRAINING, "ConfigMap", "at2-training")["data"][config.name]
    (tmp_path / config.name).write_text(text)
    for name, value in (given | {"AT2_JOBS_CONFIG": str(tmp_path / config.name)}).items():
        monkeypatch.setenv(name, value)
    python, dash_m, package, command, *flags = container(job(stage))["command"]
    assert (python, dash_m, package, command) == ("python", "-m", "trainer_jobs", stage)
    settings = JobSettings.read(flags, stage)
    assert settings.num_jobs == job(stage)["spec"]["completions"]
    assert Path(settings.out).is_relative_to("/data") and settings.held_out > 0


def test_cores_are_as_many_as_threads() -> None:
    for stage in STAGES:
        threads = variables(job(stage))["OMP_NUM_THREADS"]
        assert container(job(stage))["resources"]["requests"]["cpu"] == threads


# -- the README ------------------------------------------------------------------------------------

README = (KUBERNETES.parent / "README.md").read_text("utf-8")


def test_files_that_the_readme_names_are_there() -> None:
    root = KUBERNETES.parents[1]
    paths = set(re.findall(r"\b(?:deploy|requirements)/[\w./-]*\w", README))
    assert len(paths) > 8
    assert [path for path in paths if not (root / path).exists()] == []
    rows = re.findall(r"^\| (`.+?) \| ", README, flags=re.MULTILINE)
    files = [name for row in rows for name in re.findall(r"`([\w./-]+)`", row)]
    assert len(files) > 5
    assert [name for name in files if not (KUBERNETES / name).exists()] == []


def test_the_secrets_of_the_readme_are_those_that_pods_read() -> None:
    made = set(re.findall(r"create secret generic (\S+) --from-(?:file|literal)=(\w+)=", README))
    read = {("at2-keys", Path(server_settings()["AT2_API_KEYS_FILE"]).name)}
    for resource in pods():
        for variable in container(resource).get("env", []):
            secret = variable.get("valueFrom", {}).get("secretKeyRef")
            if secret is not None:
                read.add((secret["name"], secret["key"]))
    assert made == read
    assert {name for name, _ in made} == MADE_BY_HAND


def test_the_readme_names_the_oldest_version_that_manifests_are_checked_with() -> None:
    assert f"Kubernetes {OLDEST} or later" in README
