"""The image and the compose files: what they say, and that the commands in them really run."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from check_jsonschema import main as check_jsonschema
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.dockerfile import Instruction, environment, stages
from tests.helpers.tiny import tiny_dataset, tiny_folder, tiny_server
from trainer_jobs import cli
from trainer_jobs.cli import COMMANDS
from trainer_jobs.settings import JobSettings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
WORKDIR = Path("/data")
COMPOSE = ROOT / "docker-compose.yml"
COMPOSE_GPU = ROOT / "docker-compose.gpu.yml"
JOBS = ("generate", "compute", "train", "evaluate")


def image() -> list[Instruction]:
    """The instructions of the stage that becomes the image."""
    return stages(DOCKERFILE)[-1]


def only(name: str) -> Instruction:
    """The one instruction of the image with this name."""
    (found,) = (i for i in image() if i.name == name)
    return found


def compose_services(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))["services"]
    return found


def run_as_in_the_image(words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the image, with the Python of these tests if it is Python's."""
    command = {"python": sys.executable}.get(words[0], words[0])
    return subprocess.run(
        [command, *words[1:]],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


# -- the image -----------------------------------------------------------------------------------


def health_check() -> list[str]:
    """The command of the health check."""
    return Instruction("CMD", only("HEALTHCHECK").value.partition(" CMD ")[2]).words


def test_the_image_serves_and_its_health_check_tells() -> None:
    assert only("CMD").words == ["python", "-m", "service"]
    assert environment(image())["AT2_HOST"] == "0.0.0.0"
    with tiny_server(AT2_HOST="0.0.0.0", AT2_ALLOW_NO_KEY="true") as (_, address):
        port = address.rpartition(":")[2]
        assert run_as_in_the_image(health_check(), AT2_PORT=port).returncode == 0
        assert "python" not in health_check()[0]  # every ten seconds, it would cost too much
    assert run_as_in_the_image(health_check(), AT2_PORT=port).returncode != 0


def test_without_a_key_the_image_does_not_serve_the_world() -> None:
    variables = {k: v for k, v in environment(image()).items() if k.startswith("AT2_")}
    ended = run_as_in_the_image(only("CMD").words, **variables)
    assert ended.returncode != 0
    assert "AT2_API_KEYS" in ended.stderr and ended.stderr.count("\n") == 1


def lock(name: str) -> dict[str, tuple[str, list[str]]]:
    """The version of each package in a lock file, and the hashes of its files."""
    text = (ROOT / "requirements" / name).read_text("utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        package, *hashes = line.split()
        requirement = Requirement(package)
        version = str(requirement.specifier).removeprefix("==")
        found[canonicalize_name(requirement.name)] = version, hashes
    return found


LOCKS = ("image-cpu.txt", "image-cuda.txt", "model.txt")


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_of_the_image_has_a_version_and_hashes(name: str) -> None:
    for package, (version, hashes) in lock(name).items():
        assert re.fullmatch(r"\d[\w.+!]*", version), package
        assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h) for h in hashes)


@pytest.mark.parametrize("name", LOCKS)
def test_the_image_holds_the_versions_that_are_tested(name: str) -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    tested = {
        canonicalize_name(package): version
        for package, _, version in (line.partition("==") for line in lines if "==" in line)
        if not package.startswith("#")
    }
    for package, (version, _) in lock(name).items():
        assert version.partition("+")[0] == tested.get(package, version), package


@pytest.mark.parametrize("variant", ["cpu", "cuda"])
def test_the_image_holds_all_that_the_package_needs_and_what_that_needs(variant: str) -> None:
    """`pip` is told to look for no more: what a lock file lacks would be missing."""
    locked = lock(f"image-{variant}.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {"jobs", "ray", "redis", "s3", "tensorboard"} | (
        {"large"} if variant == "cuda" else set()
    )
    wanted = [Requirement(text) for text in project["dependencies"]]
    for extra in extras:
        wanted += [Requirement(text) for text in project["optional-dependencies"][extra]]
    seen = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        key = name, frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        assert name in locked, name
        assert locked[name][0] in requirement.specifier, requirement
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # CUDA's, which this machine need not have
        for text in needs:
            found = Requirement(text)
            if all(
                found.marker is None or found.marker.evaluate({"extra": extra})
                for extra in requirement.extras or {""}
            ):
                wanted.append(found)


# -- compose -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [COMPOSE, COMPOSE_GPU], ids=lambda path: path.name)
def test_compose_files_keep_to_the_specification(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        check_jsonschema(["--builtin-schema", "vendor.compose-spec", str(path)])
    assert ended.value.code == 0, capsys.readouterr().out


def test_a_mistake_in_a_compose_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "docker-compose.yml"
    path.write_text(COMPOSE.read_text("utf-8").replace("depends_on", "depend_on"))
    with pytest.raises(SystemExit) as ended:
        check_jsonschema(["--builtin-schema", "vendor.compose-spec", str(path)])
    assert ended.value.code == 1


def test_up_serves_this_machine_only() -> None:
    started = {name: s for name, s in compose_services(COMPOSE).items() if "profiles" not in s}
    assert list(started) == ["server"]
    server = started["server"]
    assert "command" not in server and "entrypoint" not in server  # the image's own
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert server["environment"]["AT2_ALLOW_NO_KEY"] == "true"
    assert server["ports"][0].endswith(f":{server['environment']['AT2_PORT']}")


def test_the_train_profile_runs_stage_after_stage() -> None:
    trained = {
        name: s for name, s in compose_services(COMPOSE).items() if s.get("profiles") == ["train"]
    }
    assert tuple(trained) == JOBS
    for before, name in pairwise(JOBS):
        assert trained[name]["depends_on"] == {
            before: {"condition": "service_completed_successfully"}
        }
    for service in trained.values():
        assert service["restart"] == "no"
        assert service["healthcheck"] == {"disable": True}
        assert "data:/data" in service["volumes"]


def test_one_service_says_how_the_image_of_all_is_built() -> None:
    ours = {name: s for name, s in compose_services(COMPOSE).items() if name != "redis"}
    assert len({service["image"] for service in ours.values()}) == 1
    assert [name for name, service in ours.items() if "build" in service] == ["server"]
    for name in JOBS:
        assert ours[name]["pull_policy"] == "never"  # it is on no registry


def test_every_service_has_limits_and_no_more_rights_than_it_needs() -> None:
    for service in compose_services(COMPOSE).values():
        resources = service["deploy"]["resources"]
        assert set(resources["limits"]) == {"memory", "pids"}
        assert "reservations" not in resources  # no GPU unless the other file is given
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    variables = environment(image())
    server = compose_services(COMPOSE)["server"]
    assert {variables["HOME"], "/tmp"} == set(server["tmpfs"])
    assert variables["HF_HOME"].startswith("/data/")


def test_the_server_finds_what_the_jobs_of_compose_train() -> None:
    found = default_of(compose_services(COMPOSE)["server"]["environment"]["AT2_ESTIMATORS_FOLDER"])
    settings = JobSettings.read(job_command("train", "smollm2")[1:], "")
    assert Path(found) == WORKDIR / settings.out / "estimators"
    assert "data:/data" in compose_services(COMPOSE)["server"]["volumes"]


def test_redis_is_there_only_if_asked_for_and_nobody_else_reaches_it() -> None:
    redis = compose_services(COMPOSE)["redis"]
    assert redis["profiles"] == ["redis"] and "ports" not in redis
    address = re.search(r"AT2_STORE=(redis://\S+)", COMPOSE.read_text("utf-8"))
    assert address is not None and urlsplit(address[1]).hostname == "redis"


def default_of(value: str) -> str:
    """What compose makes of `${NAME:-default}` where there is no such variable."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def test_the_other_file_gives_every_service_a_gpu() -> None:
    assert set(compose_services(COMPOSE_GPU)) == set(compose_services(COMPOSE)) - {"redis"}
    for service in compose_services(COMPOSE_GPU).values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
        assert service["image"] == "at2-service:cuda"
    assert compose_services(COMPOSE_GPU)["server"]["build"]["args"]["VARIANT"] == "cuda"


def job_command(name: str, config: str) -> list[str]:
    """The arguments of `python -m trainer_jobs` that compose runs for a service."""
    words = [
        word.replace("${AT2_JOBS_CONFIG:-smollm2}", config)
        for word in compose_services(COMPOSE)[name]["command"]
    ]
    assert words[:3] == ["python", "-m", "trainer_jobs"]
    return words[3:]


@pytest.mark.parametrize("name", JOBS)
def test_the_jobs_of_compose_have_settings_that_are_right(name: str) -> None:
    command, *flags = job_command(name, "smollm2")
    assert command == name and command in COMMANDS
    settings = JobSettings.read(flags, "")
    assert not Path(settings.out).is_absolute()  # it is in the volume, where the image works


def test_the_jobs_of_compose_make_an_estimator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(
        f"out = {str(tmp_path / 'out')!r}\nmodel = {str(tiny_folder())!r}\n"
        f"dataset = {str(tiny_dataset())!r}\nlimit = 3\nmax_new_tokens = 24\nnum_masks = 4\n"
        "held_out = 1\nevaluate_masks = 4\n"
        "num_iterations = 4\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in JOBS:
        assert cli.main(job_command(name, str(config))) == 0
    assert (tmp_path / "out/estimators/default/score_estimator.safetensors").exists()
    assert (tmp_path / "out/evaluation/default/evaluation.json").exists()
