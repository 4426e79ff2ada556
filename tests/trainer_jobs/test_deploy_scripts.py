"""The scripts of `deploy/` that start training: what they start makes the bytes of one worker.

A scheduler's command is a few lines in its place, which note what they were asked for or start the
tasks as it would. The workers are real.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.helpers.jobs import ROOT, results, write_config
from tests.helpers.manifests import KUBERNETES, container, documents, named, resources, variables
from trainer_jobs import cli
from trainer_jobs.settings import JobSettings

pytestmark = pytest.mark.usefixtures("one_thread")

SLURM = ROOT / "deploy/slurm"
RAY = ROOT / "deploy/ray"
STAGES = ("generate", "compute", "train", "evaluate")
SCRIPTS = sorted(
    path
    for path in (ROOT / "deploy").rglob("*")
    if path.is_file() and path.read_bytes().startswith(b"#!")
)

_NOTES = """#!{python}
import json, os, sys
with open({notes!r}, "a") as notes:
    print(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]), file=notes)
"""
"""A command that notes its words."""

_SRUN = """#!{python}
import os, subprocess, sys
words = [word for word in sys.argv[1:] if not word.startswith("--kill")]
assert words[0] == "python"
started = [
    subprocess.Popen(
        [sys.executable, *words[1:]],
        env=os.environ | {{"SLURM_PROCID": str(i), "SLURM_NTASKS": "2", "SLURM_LOCALID": str(i)}},
    )
    for i in range(2)
]
sys.exit(max(process.wait() for process in started))
"""
"""Two tasks on one node."""


class Shell:
    """Runs scripts with some commands in the place of the system's.

    Args:
        folder: where they run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes = folder / "notes"

    def run(
        self, script: Path, *arguments: str, commands: dict[str, str], **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a script with bash; the texts of commands may use `{python}` and `{notes}`."""
        commands_folder = self._folder / "bin"
        commands_folder.mkdir(exist_ok=True)
        for name, text in commands.items():
            command = commands_folder / name
            command.write_text(text.format(python=sys.executable, notes=str(self._notes)))
            command.chmod(0o755)
        clean = {n: v for n, v in os.environ.items() if not n.startswith(("AT2_", "SLURM_"))}
        own = {"PATH": f"{commands_folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            ["bash", str(script), *arguments],
            env=clean | own | {"HF_HUB_OFFLINE": "1"} | variables,
            cwd=self._folder,
            capture_output=True,
            text=True,
        )

    def notes(self) -> list[list[str]]:
        """The words of every command that was noted, in their order."""
        return [json.loads(line) for line in self._notes.read_text().splitlines()]


@pytest.fixture()
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def run_job(arguments: Sequence[str], variables: Mapping[str, str]) -> None:
    """A command of the jobs in this process, with variables that a launcher sets."""
    with pytest.MonkeyPatch.context() as launched:
        for name, value in variables.items():
            launched.setenv(name, value)
        assert cli.main(list(arguments)) == 0


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(path: Path) -> None:
    assert os.access(path, os.X_OK) or path.suffix == ".sbatch"
    shellcheck = Path(sys.executable).parent / "shellcheck"
    checked = subprocess.run([shellcheck, path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


# -- SLURM -----------------------------------------------------------------------------------------


def test_tasks_of_an_allocation_share_a_run(tmp_path: Path, finished: Path, shell: Shell) -> None:
    config = write_config(tmp_path / "small.toml", tmp_path / "out")
    ended = shell.run(
        SLURM / "train.sbatch",
        "--config",
        config,
        commands={"srun": _SRUN},
        SLURM_CPUS_PER_TASK="1",
    )
    assert ended.returncode == 0, ended.stderr
    assert results(tmp_path / "out") == results(finished)
    made = [
        json.loads(path.read_text())["items"]
        for path in sorted((tmp_path / "out/status").glob("generate-*-of-2.json"))
    ]
    assert made == [[0, 2], [1, 3]]


def test_arrays_make_each_stage_after_the_one_before_it(
    tmp_path: Path, finished: Path, shell: Shell
) -> None:
    config = write_config(tmp_path / "small.toml", tmp_path / "out")
    number = _NOTES + "print(sum(1 for line in open({notes!r})), end=';cluster\\n')\n"
    submitted = shell.run(
        SLURM / "array.sh", "2", "--config", config, commands={"sbatch": number, "python": _NOTES}
    )
    assert submitted.returncode == 0, submitted.stderr
    assert submitted.stdout.splitlines() == [
        f"{stage}: job {job}" for job, stage in enumerate(STAGES, start=1)
    ]
    jobs = shell.notes()
    for place, (stage, (_, *words)) in enumerate(zip(STAGES, jobs, strict=True)):
        options = dict(word.partition("=")[::2] for word in words if word.startswith("--"))
        assert options.get("--dependency") == (f"afterok:{place}" if place else None)
        first, _, last = options["--array"].partition("-")
        at = next(index for index, word in enumerate(words) if word.endswith(".sbatch"))
        for task in range(int(first), int(last) + 1):
            array = {"ID": task, "MIN": first, "COUNT": int(last) + 1}
            told = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()}
            ran = shell.run(Path(words[at]), *words[at + 1 :], commands={}, **told)
            assert ran.returncode == 0, ran.stderr
            python, dash_m, package, *arguments = shell.notes()[-1]
            assert (python, dash_m, package) == ("python", "-m", "trainer_jobs")
            assert arguments[0] == stage
            run_job(arguments, told)
    assert results(tmp_path / "out") == results(finished)


@pytest.mark.parametrize("arguments", [(), ("0",), ("--config", "x")])
def test_arrays_without_a_number_of_workers_are_refused(
    shell: Shell, arguments: tuple[str, ...]
) -> None:
    ended = shell.run(SLURM / "array.sh", *arguments, commands={"sbatch": _NOTES})
    assert ended.returncode == 2 and ended.stderr.startswith("usage: ")


# -- Kubernetes ------------------------------------------------------------------------------------


def test_jobs_of_kubernetes_run_stage_after_stage(
    tmp_path: Path, finished: Path, shell: Shell
) -> None:
    ended = shell.run(KUBERNETES / "train.sh", commands={"kubectl": _NOTES})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [f"{stage}: complete" for stage in STAGES]
    applied = [words[-1] for words in shell.notes() if words[1] == "apply"]
    assert all(
        words[3] == str(KUBERNETES / "training") for words in shell.notes() if words[1] == "apply"
    )
    assert applied == ["!at2-stage", *(f"at2-stage={stage}" for stage in STAGES)]
    waited = [words[-1] for words in shell.notes() if words[1] == "wait"]
    assert waited == [f"job/at2-{stage}" for stage in STAGES]

    found = list(resources(KUBERNETES / "training"))
    config = write_config(tmp_path / "small.toml", tmp_path / "out")
    for selector in applied[1:]:
        stage = selector.partition("=")[2]
        (job,) = (r for r in found if r["metadata"]["labels"].get("at2-stage") == stage)
        assert job is named(found, "Job", f"at2-{stage}")
        for index in range(job["spec"]["completions"]):
            pod = {"AT2_JOBS_CONFIG": config, "JOB_COMPLETION_INDEX": str(index)}
            run_job(container(job)["command"][3:], variables(job) | pod)
    assert results(tmp_path / "out") == results(finished)


def test_a_job_of_kubernetes_that_fails_ends_the_training_with_its_reason(shell: Shell) -> None:
    fails = '#!/bin/sh\ncase $1 in wait) exit 1 ;; get) echo "index 3 failed too often" ;; esac\n'
    ended = shell.run(KUBERNETES / "train.sh", commands={"kubectl": fails})
    assert ended.returncode == 1
    assert ended.stderr == "job/at2-generate failed: index 3 failed too often\n"


# -- Ray -------------------------------------------------------------------------------------------


def on_ray(words: list[str]) -> str:
    """The number of threads is right, and the words are a run on Ray; its folder of results."""
    python, dash_m, package, command, *flags = words
    assert (python, dash_m, package, command) == ("python", "-m", "trainer_jobs", "run")
    settings = JobSettings.read(flags, "")
    assert settings.engine == "ray"
    return settings.out


def test_the_job_of_ray_is_a_run_on_ray(shell: Shell) -> None:
    given = ("--config", "smollm2", "--out", "s3://bucket/run")
    ended = shell.run(RAY / "submit.sh", *given, commands={"ray": _NOTES}, OMP_NUM_THREADS="3")
    assert ended.returncode == 0, ended.stderr
    (words,) = shell.notes()
    before, at = words[: words.index("--")], words.index("--")
    assert before[:3] == ["ray", "job", "submit"]
    environment = json.loads(before[before.index("--runtime-env-json") + 1])
    assert environment == {"env_vars": {"OMP_NUM_THREADS": "3"}}
    assert on_ray(words[at + 1 :]) == "s3://bucket/run"


def test_the_rayjob_runs_on_what_the_other_manifests_make(tmp_path: Path) -> None:
    (found,) = documents(RAY / "rayjob.yaml")
    training = list(resources(KUBERNETES / "training"))
    config = tmp_path / "training.toml"
    config.write_text(named(training, "ConfigMap", "at2-training")["data"][config.name])
    words = shlex.split(found["spec"]["entrypoint"].replace("/etc/at2/training.toml", str(config)))
    assert str(config) in words and on_ray(words).startswith("/data/")
    # KubeRay submits by a Job of the RayJob's name, and takes one that is there for its own.
    assert found["metadata"]["name"] not in {
        r["metadata"]["name"] for r in training if r["kind"] == "Job"
    }
    cluster = found["spec"]["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    for group in (cluster["headGroupSpec"], workers):
        spec = group["template"]["spec"]
        (one,) = spec["containers"]
        assert {m["name"] for m in one["volumeMounts"]} == {v["name"] for v in spec["volumes"]}
        mounts = {m["mountPath"]: m["name"] for m in one["volumeMounts"]}
        volumes = {v["name"]: v for v in spec["volumes"]}
        assert "persistentVolumeClaim" in volumes[mounts["/data"]]
        named(training, "ConfigMap", volumes[mounts["/etc/at2"]]["configMap"]["name"])
        assert spec["securityContext"]["runAsNonRoot"] is True
    assert one["resources"]["limits"]["nvidia.com/gpu"] == 1
