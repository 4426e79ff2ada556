"""The image and the compose files: what they say, and that the commands in them really run."""

import os
import shlex
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema

from tests.helpers.dockerfile import Instruction, environment, stages
from tests.service.conftest import running_server
from trainer_jobs import cli
from trainer_jobs.cli import COMMANDS
from trainer_jobs.configuration import read_settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
COMPOSE_GPU = ROOT / "docker-compose.gpu.yml"
JOBS = ("generate", "compute", "train")


def image() -> list[Instruction]:
    """The instructions of the stage that becomes the image."""
    return stages(DOCKERFILE)[-1]


def only(name: str) -> Instruction:
    """The one instruction of the image with this name."""
    (found,) = (i for i in image() if i.name == name)
    return found


def services(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))["services"]
    return found


def run_as_in_the_image(words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the image with the Python of these tests."""
    assert words[0] == "python"
    return subprocess.run(
        [sys.executable, *words[1:]],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )


# -- the image -----------------------------------------------------------------------------------


def test_the_image_runs_as_somebody_with_a_home_of_their_own() -> None:
    names = [i.name for i in image()]
    uid, gid = only("USER").value.split(":")
    assert int(uid) > 0 and int(gid) > 0  # by number, so that Kubernetes can see it is not root
    assert names.index("USER") < names.index("CMD")
    made = " ".join(i.value for i in image() if i.name == "RUN")
    assert f"useradd --uid {uid} --create-home at2" in made
    assert environment(image())["HOME"] == "/home/at2"
    assert "install -d -o at2 -g at2 /data" in made
    assert only("WORKDIR").value == only("VOLUME").value == "/data"
    assert not any(i.name == "RUN" for i in image()[names.index("USER") :])


def test_the_image_is_built_in_stages_and_takes_over_the_environment_alone() -> None:
    first, last = stages(DOCKERFILE)
    assert first[0].value.endswith(" AS build")
    assert [i.value for i in last if i.name == "COPY"] == ["--from=build /opt/at2 /opt/at2"]


def test_what_is_copied_exists_and_is_all_that_is_sent() -> None:
    lines = [
        line
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        word for i in stages(DOCKERFILE)[0] if i.name == "COPY" for word in i.value.split()[:-1]
    }
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)


@pytest.mark.parametrize(
    ("extra", "packages"),
    [
        ("jobs", ("datasets", "matplotlib", "pyarrow")),
        ("large", ("accelerate", "bitsandbytes")),
    ],
)
def test_the_extras_that_are_installed_have_what_is_imported_lazily(
    extra: str, packages: tuple[str, ...]
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = " ".join(project["optional-dependencies"][extra])
    assert all(package in wanted for package in packages)


@pytest.mark.parametrize(
    ("variant", "torch", "extras"),
    [
        ("cpu", "--extra-index-url INDEX torch=={}+cpu", ".[jobs]"),
        ("cuda", "torch=={}", ".[jobs,large]"),
    ],
)
def test_a_variant_installs_its_torch_and_extras(
    variant: str, torch: str, extras: str, tmp_path: Path
) -> None:
    run = _run_of_the_variant(variant, tmp_path)
    (pinned,) = (
        line.removeprefix("torch==").strip()
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if line.startswith("torch==")
    )
    assert run.returncode == 0
    assert run.stdout.splitlines() == [
        f"pip install -c constraints.txt {wanted}" for wanted in (torch.format(pinned), extras)
    ]


def test_another_variant_is_refused(tmp_path: Path) -> None:
    run = _run_of_the_variant("rocm", tmp_path)
    assert run.returncode == 1
    assert run.stderr.strip() == "VARIANT=rocm: not one of cpu, cuda"


def _run_of_the_variant(variant: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The real commands of the build, with a pip that says how it was called."""
    commands = [i.value for i in stages(DOCKERFILE)[0] if i.name == "RUN" and "VARIANT" in i.value]
    pip = folder / "pip"
    pip.write_text('#!/bin/sh\necho pip "$@"\n')
    pip.chmod(0o755)
    return subprocess.run(
        ["sh", "-ec", "\n".join(commands)],
        cwd=ROOT,
        env={
            "PATH": f"{folder}:{os.environ['PATH']}",
            "VARIANT": variant,
            "TORCH_CPU_INDEX": "INDEX",
        },
        capture_output=True,
        text=True,
    )


def health_check() -> list[str]:
    """The command of the health check."""
    return Instruction("CMD", only("HEALTHCHECK").value.partition(" CMD ")[2]).words


def test_the_image_serves_and_its_health_check_tells() -> None:
    assert only("CMD").words == ["python", "-m", "service"]
    assert environment(image())["AT2_HOST"] == "0.0.0.0"
    with running_server(AT2_HOST="0.0.0.0", AT2_ALLOW_NO_KEY="true") as (_, address):
        port = address.rpartition(":")[2]
        assert run_as_in_the_image(health_check(), AT2_PORT=port).returncode == 0
    assert run_as_in_the_image(health_check(), AT2_PORT=port).returncode != 0


def test_without_a_key_the_image_does_not_serve_the_world() -> None:
    variables = {k: v for k, v in environment(image()).items() if k.startswith("AT2_")}
    ended = run_as_in_the_image(only("CMD").words, **variables)
    assert ended.returncode != 0
    assert "AT2_API_KEYS" in ended.stderr and ended.stderr.count("\n") == 1


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
    started = {name: s for name, s in services(COMPOSE).items() if "profiles" not in s}
    assert list(started) == ["server"]
    server = started["server"]
    assert "command" not in server and "entrypoint" not in server  # the image's own
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert server["environment"]["AT2_ALLOW_NO_KEY"] == "true"
    assert server["ports"][0].endswith(f":{server['environment']['AT2_PORT']}")


def test_the_train_profile_runs_stage_after_stage() -> None:
    trained = {name: s for name, s in services(COMPOSE).items() if s.get("profiles") == ["train"]}
    assert tuple(trained) == JOBS
    for before, name in pairwise(JOBS):
        assert trained[name]["depends_on"] == {
            before: {"condition": "service_completed_successfully"}
        }
    for service in trained.values():
        assert service["restart"] == "no"
        assert service["healthcheck"] == {"disable": True}
        assert "data:/data" in service["volumes"]
        assert "deploy" not in service  # no GPU unless the other file is given


def test_the_other_file_gives_every_service_a_gpu() -> None:
    assert set(services(COMPOSE_GPU)) == set(services(COMPOSE))
    for service in services(COMPOSE_GPU).values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["driver"] == "nvidia" and device["capabilities"] == ["gpu"]
        assert service["build"]["args"]["VARIANT"] == "cuda"


def job_command(name: str, config: str) -> list[str]:
    """The arguments of `python -m trainer_jobs` that compose runs for a service."""
    words = [
        word.replace("${AT2_JOBS_CONFIG:-bundled}", config)
        for word in services(COMPOSE)[name]["command"]
    ]
    assert words[:3] == ["python", "-m", "trainer_jobs"]
    return words[3:]


@pytest.mark.parametrize("name", JOBS)
def test_the_jobs_of_compose_have_settings_that_are_right(name: str) -> None:
    command, *flags = job_command(name, "bundled")
    assert command == name and command in COMMANDS
    settings = read_settings(flags, {})
    assert not settings.out.is_absolute()  # it is in the volume, where the image works


def test_the_jobs_of_compose_make_an_estimator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(
        f"out = {str(tmp_path / 'out')!r}\nlimit = 3\nmax_new_tokens = 24\nnum_masks = 4\n"
        "num_iterations = 4\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in JOBS:
        assert cli.main(job_command(name, str(config))) == 0
    assert (tmp_path / "out/estimators/default/score_estimator.safetensors").exists()


def test_commands_in_comments_are_the_ones_there_are() -> None:
    lines = DOCKERFILE.read_text("utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith("#") and "trainer_jobs" in line)
    words = shlex.split(line.partition("-m trainer_jobs ")[2])
    assert words[0] in COMMANDS
    assert read_settings(words[1:], {}).config == "bundled"
