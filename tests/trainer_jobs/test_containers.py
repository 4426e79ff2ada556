"""The image and the compose files: what they say, and that the commands in them really run."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from check_jsonschema import main as check_jsonschema

from tests.helpers.dockerfile import Instruction, environment, stages
from tests.helpers.tiny import tiny_dataset, tiny_folder, tiny_server
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


def health_check() -> list[str]:
    """The command of the health check."""
    return Instruction("CMD", only("HEALTHCHECK").value.partition(" CMD ")[2]).words


def test_the_image_serves_and_its_health_check_tells() -> None:
    assert only("CMD").words == ["python", "-m", "service"]
    assert environment(image())["AT2_HOST"] == "0.0.0.0"
    with tiny_server(AT2_HOST="0.0.0.0", AT2_ALLOW_NO_KEY="true") as (_, address):
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
        word.replace("${AT2_JOBS_CONFIG:-smollm2}", config)
        for word in services(COMPOSE)[name]["command"]
    ]
    assert words[:3] == ["python", "-m", "trainer_jobs"]
    return words[3:]


@pytest.mark.parametrize("name", JOBS)
def test_the_jobs_of_compose_have_settings_that_are_right(name: str) -> None:
    command, *flags = job_command(name, "smollm2")
    assert command == name and command in COMMANDS
    settings = read_settings(flags, {})
    assert not Path(settings.out).is_absolute()  # it is in the volume, where the image works


def test_the_jobs_of_compose_make_an_estimator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(
        f"out = {str(tmp_path / 'out')!r}\nmodel = {str(tiny_folder())!r}\n"
        f"dataset = {str(tiny_dataset())!r}\nlimit = 3\nmax_new_tokens = 24\nnum_masks = 4\n"
        "num_iterations = 4\n"
    )
    monkeypatch.chdir(tmp_path)
    for name in JOBS:
        assert cli.main(job_command(name, str(config))) == 0
    assert (tmp_path / "out/estimators/default/score_estimator.safetensors").exists()
