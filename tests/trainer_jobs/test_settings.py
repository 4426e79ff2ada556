"""Settings from a file, the environment and flags; which worker this is; what is refused."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2.errors import ModelError
from at2.model import default
from at2.settings import BadSettingsError
from service.settings import Settings
from trainer_jobs.devices import device_of
from trainer_jobs.settings import JobSettings
from trainer_jobs.workers import Worker, worker_of

NEEDED = ["--out", "x", "--dataset", "d"]
"""Settings without a default."""


def read(*flags: str) -> JobSettings:
    return JobSettings.read(flags, "jobs")


def problem(*flags: str) -> str:
    with pytest.raises(BadSettingsError) as error:
        read(*flags)
    return str(error.value)


@pytest.fixture()
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('out = "here"\ndataset = "d"\nnum_masks = 3\nlimit = 7\nseed = 1\n')
    return path


def test_a_flag_wins_over_the_environment_which_wins_over_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AT2_JOBS_NUM_MASKS", "4")
    monkeypatch.setenv("AT2_JOBS_LIMIT", "8")
    monkeypatch.setenv("AT2_JOBS_SEED", "")  # not set, as compose files have it
    found = read("--config", str(file), "--num-masks", "5")
    assert (found.num_masks, found.limit, found.seed, str(found.out)) == (5, 8, 1, "here")


def test_the_file_may_be_named_by_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AT2_JOBS_CONFIG", str(file))
    assert read().num_masks == 3
    assert read("--config=smollm2").limit == 152


def test_tables_and_lists_are_written_alike_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'out = "x"\ndataset = "d"\nmethods = ["at2", "random"]\nevaluate_top_k = [1, 2]\n'
        "columns = { query = 'q', context = 'c' }\nwhere = { a = ['b', 'c'], d = 'e' }\n"
        "shorter_than = { c = 9 }\nevaluate_ablations = ['remove']\nexponents = [1, 0.5]\n"
    )
    texts = {
        "methods": "at2, random",
        "evaluate-top-k": "1,2",
        "columns": "query=q,context=c",
        "where": "a=b|c,d=e",
        "shorter-than": "c=9",
        "evaluate-ablations": "remove",
        "exponents": "1, 0.5",
    }
    from_file = read("--config", str(path)).model_dump(exclude={"config"})
    flags = [word for name, text in texts.items() for word in (f"--{name}", text)]
    assert read(*NEEDED, *flags).model_dump(exclude={"config"}) == from_file
    for name, text in texts.items():
        monkeypatch.setenv(f"AT2_JOBS_{name.replace('-', '_').upper()}", text)
    assert read(*NEEDED).model_dump(exclude={"config"}) == from_file
    assert from_file["where"] == {"a": ("b", "c"), "d": ("e",)}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "out: not set\ndataset: not set"),
        (["--num-masks", "1"], "num_masks='1': Input should be greater than or equal to 2"),
        (["--seed", "-1"], "seed='-1': Input should be greater than or equal to 0"),
        (["--learning-rate", "inf"], "learning_rate='inf': Input should be a finite number"),
        (["--dtype", "int8"], "dtype='int8': Input should be 'auto', 'float32', 'bfloat16' or"),
        (["--columns", "query"], "columns='query': not of the form name=value,name=value"),
        (["--columns", "query=a,query=b"], "columns='query=a,query=b': a name is given twice"),
        (["--columns", "text=a"], "columns='text': a context task reads context and query"),
        (["--task", "thought", "--columns", "context=a"], "columns='context': a thought task"),
        (["--task", "thought", "--contrast"], "contrast: no query stands behind the sources"),
        (["--shorter-than", "a=b"], "shorter_than.a='b': Input should be a valid integer"),
        (["--methods", "at2,at2"], "methods='at2,at2': something is given twice"),
        (["--methods", ","], "methods=(): Tuple should have at least 1 item"),
        (["--evaluate-top-k", "1,0"], "evaluate_top_k.1='0': Input should be greater than"),
        (["--exponents", "1,0"], "exponents.1='0': Input should be greater than 0"),
        (["--exponents", "1,1"], "exponents='1,1': something is given twice"),
        (["--nonsense", "1"], "unrecognized arguments: --nonsense 1"),
        (["--num-mask", "1"], "unrecognized arguments: --num-mask 1"),
        (["--limit"], "argument --limit: expected one argument"),
        (["--config"], "argument --config: expected one argument"),
        (["--config", "nope"], "config='nope': no such file, and none of phi4_mini_dolly, smollm2"),
    ],
)
def test_a_wrong_setting_is_one_line_with_value_and_limit(flags: list[str], message: str) -> None:
    given = [*NEEDED, *flags] if flags else []
    found = problem(*given)
    assert found.startswith(message)
    assert found.count("\n") == message.count("\n")


def test_every_wrong_setting_has_its_line() -> None:
    found = problem("--num-masks", "0", "--limit", "0").splitlines()
    assert [line.partition("=")[0].partition(":")[0] for line in found] == [
        "out",
        "dataset",
        "limit",
        "num_masks",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'out = "x"\ndataset = "d"\nnum_mask = 3\n',
            "num_mask: there is no such setting; did you mean num_masks?",
        ),
        (
            'out = "x"\ndataset = "d"\nmax-new-tokens = 3\n',
            "max-new-tokens: there is no such setting; did you mean max_new_tokens?",
        ),
        ("out = x\n", ": Invalid value (at line 1, column 7)"),
        ('dataset = "d"\nout = 3\n', "out=3: Input should be a valid string"),
        (
            'out = "x"\ndataset = "d"\nlimit = "many"\n',
            "limit='many': Input should be a valid integer",
        ),
    ],
)
def test_a_wrong_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    found = problem("--config", str(path))
    assert message in found and "\n" not in found


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert ": is a folder" in problem("--config", str(tmp_path))
    (tmp_path / "latin.toml").write_bytes(b'out = "\xe9"')
    assert problem("--config", str(tmp_path / "latin.toml")).endswith("not UTF-8 at byte 7")


def test_a_misspelt_variable_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AT2_NUM_MASK", "3")  # of the server
    monkeypatch.setenv("AT2_JOBS_CACHE_SERVICE_HOST", "10.0.0.1")  # of a service in Kubernetes
    assert read(*NEEDED).num_masks == 32
    monkeypatch.setenv("AT2_JOBS_NUM_MASK", "3")
    assert problem(*NEEDED) == (
        "AT2_JOBS_NUM_MASK: there is no such setting; did you mean AT2_JOBS_NUM_MASKS?"
    )


def test_help_lists_every_setting_with_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read("--config", "this is not read", "--help")
    assert ended.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, field in JobSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown
        assert " ".join((field.description or "").split()) in shown
    assert "None" not in shown and "dict[" not in shown


# -- configurations of the package -----------------------------------------------------------------


@pytest.mark.parametrize("name", JobSettings.preset_names())
def test_a_configuration_of_the_package_is_right(name: str) -> None:
    found = read("--config", name)
    assert found.held_out > 0
    assert not Path(found.out).is_absolute()


def test_dolly_is_chosen_as_in_the_walk_through() -> None:
    found = JobSettings.read_file("phi4_mini_dolly")
    assert found["model"] == "microsoft/Phi-4-mini-instruct"
    assert found["dataset"] == "databricks/databricks-dolly-15k"
    assert found["columns"] == {"context": "context", "query": "instruction"}
    assert found["where"] == {"category": ["summarization", "closed_qa", "information_extraction"]}
    assert found["shorter_than"] == {"context": 20_000}
    assert (found["shuffle_seed"], found["limit"]) == (42, 1_000)
    settings = read("--config", "phi4_mini_dolly")
    published: dict[str, Any] = {
        "num_masks": 32,
        "num_iterations": 1_000,
        "learning_rate": 1e-3,
        "batch_size": 512,
        "max_grad_norm": 1.0,
        "generate_batch_size": 4,
        "source_type": ("token",),
        "split_target_by": "sentence",
        "save_name": "default",
        "split": "train",
    }
    assert {name: getattr(settings, name) for name in published} == published


def test_thoughts_are_chosen_as_in_the_published_scripts() -> None:
    found = read("--config", "thought_attribution")
    assert (found.task, found.dataset) == ("thought", "glaiveai/reasoning-v1-20m")
    assert found.texts == {"query": "prompt"}
    assert (found.shuffle_seed, found.limit, found.generate_batch_size) == (42, 4_000, 8)


def test_configurations_are_in_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert project["tool"]["setuptools"]["package-data"]["trainer_jobs"] == [
        "py.typed",
        "configs/*.toml",
    ]


def test_the_default_model_is_the_librarys() -> None:
    assert read(*NEEDED).model == Settings().model == default.NAME


# -- workers ---------------------------------------------------------------------------------------


def slurm(task: int, first: int = 0, step: int = 1, count: int = 4) -> dict[str, str]:
    names = {"ID": task, "MIN": first, "STEP": step, "COUNT": count}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in names.items()}


@pytest.mark.parametrize(
    ("job_index", "num_jobs", "environment", "expected"),
    [
        (None, None, {}, Worker(0, 1)),
        (None, 1, {}, Worker(0, 1)),
        (2, 3, {}, Worker(2, 3)),
        (2, 3, {"JOB_COMPLETION_INDEX": "0", **slurm(1)}, Worker(2, 3)),
        (None, 3, {"JOB_COMPLETION_INDEX": "1"}, Worker(1, 3)),
        (None, None, slurm(3), Worker(3, 4)),
        (None, None, slurm(8, first=2, step=2, count=4), Worker(3, 4)),
        (None, None, slurm(0, count=1), Worker(0, 1)),
        (None, 4, slurm(3, first=1, step=2, count=2), Worker(3, 4)),
        (None, 4, slurm(4, first=1), Worker(3, 4)),
        (None, None, {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}, Worker(1, 2)),
    ],
)
def test_which_worker_this_is(
    job_index: int | None, num_jobs: int | None, environment: dict[str, str], expected: Worker
) -> None:
    assert worker_of(job_index, num_jobs, environment) == expected


@given(count=st.integers(1, 50), first=st.integers(0, 9), step=st.integers(1, 5))
def test_an_array_of_slurm_has_every_worker_once(count: int, first: int, step: int) -> None:
    tasks = range(first, first + count * step, step)
    found = [worker_of(None, None, slurm(task, first, step, count)) for task in tasks]
    assert found == [Worker(index, count) for index in range(count)]


def torchrun(rank: int, size: int, local: int, groups: int = 1) -> dict[str, str]:
    names = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local, "GROUP_WORLD_SIZE": groups}
    return {name: str(value) for name, value in names.items()}


def srun(task: int, size: int, local: int) -> dict[str, str]:
    names = {"PROCID": task, "NTASKS": size, "LOCALID": local}
    return {f"SLURM_{name}": str(value) for name, value in names.items()}


@pytest.mark.parametrize(
    ("environment", "expected", "local"),
    [
        (torchrun(1, 2, 1), Worker(1, 2), 1),
        (torchrun(9, 16, 1, groups=2), Worker(9, 16), 1),
        ({"RANK": "3", "WORLD_SIZE": "4"}, Worker(3, 4), None),
        (srun(5, 8, 1), Worker(5, 8), 1),
        (srun(0, 1, 0), Worker(0, 1), None),
        # each task of srun starts ranks of its own
        ({**srun(1, 2, 0), **torchrun(3, 4, 3)}, Worker(7, 8), None),
        # ranks over all tasks
        ({**srun(1, 2, 0), **torchrun(7, 8, 3, groups=2)}, Worker(7, 8), 3),
        ({**slurm(2, count=3), **srun(1, 4, 1)}, Worker(9, 12), 1),
        ({**slurm(1, count=2), **torchrun(0, 2, 0)}, Worker(2, 4), 0),
        ({**slurm(1, count=2), **torchrun(3, 4, 1, groups=2)}, Worker(7, 8), 1),
        ({"JOB_COMPLETION_INDEX": "1", **torchrun(3, 4, 1, groups=2)}, Worker(3, 4), 1),
    ],
)
def test_launchers_give_the_index_through_all_levels(
    environment: dict[str, str], expected: Worker, local: int | None
) -> None:
    found = worker_of(None, None, environment)
    assert found == expected
    assert found.local_index == local
    assert worker_of(None, expected.count, environment) == expected
    assert worker_of(0, 3, environment) == Worker(0, 3)


def test_pods_with_ranks_of_their_own_need_the_number_of_all_workers() -> None:
    environment = {"JOB_COMPLETION_INDEX": "1", **torchrun(1, 2, 1)}
    assert worker_of(None, 6, environment) == Worker(3, 6)
    for num_jobs, message in ((None, "completions of the job times 2"), (5, "each job starts 2")):
        with pytest.raises(ValueError, match=message):
            worker_of(None, num_jobs, environment)


@pytest.mark.parametrize(
    ("environment", "together"),
    [
        (torchrun(1, 2, 1), True),
        (srun(1, 2, 1), True),
        (slurm(1), False),
        ({**slurm(1, count=2), **torchrun(1, 2, 1)}, False),
        ({**slurm(0, count=1), **torchrun(1, 2, 1)}, True),
        ({}, False),
    ],
)
def test_only_workers_that_are_started_together_can_wait_for_each_other(
    environment: dict[str, str], together: bool
) -> None:
    assert worker_of(None, None, environment).together is together


def launched(worker: dict[str, str]) -> Worker:
    return worker_of(None, None, worker)


@pytest.mark.parametrize(
    ("device", "worker", "num_gpus", "expected"),
    [
        (None, launched({}), 0, None),
        (None, launched({}), 2, "cuda:0"),
        ("cuda", launched({}), 2, "cuda:0"),
        ("cpu", launched(torchrun(1, 2, 1)), 2, "cpu"),
        ("cuda:1", launched(torchrun(0, 2, 0)), 2, "cuda:1"),
        (None, launched(torchrun(1, 2, 1)), 2, "cuda:1"),
        (None, launched(torchrun(9, 16, 1, groups=2)), 8, "cuda:1"),
        (None, launched(srun(5, 8, 1)), 4, "cuda:1"),
        (None, launched(srun(5, 8, 1)), 1, "cuda:0"),  # --gpus-per-task=1
        (None, Worker(5, 8), 4, "cuda:1"),
        (None, Worker(5, 8), 1, "cuda:0"),
    ],
)
def test_each_worker_takes_a_gpu_of_its_own(
    device: str | None, worker: Worker, num_gpus: int, expected: str | None
) -> None:
    assert device_of(device, worker, {}, num_gpus) == expected


@pytest.mark.parametrize(
    ("device", "environment", "named"),
    [
        ("cuda", {}, "device=cuda: a GPU was asked for"),
        (None, {"SLURM_GPUS_ON_NODE": "2"}, "SLURM_GPUS_ON_NODE=2: a GPU was asked for"),
        (None, {"SLURM_JOB_GPUS": "0"}, "SLURM_JOB_GPUS=0"),
        (None, {"CUDA_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES=0,1"),
        (None, {"NVIDIA_VISIBLE_DEVICES": "GPU-4f2b"}, "NVIDIA_VISIBLE_DEVICES=GPU-4f2b"),
    ],
)
def test_where_a_gpu_was_asked_for_and_none_is_found_it_stops(
    device: str | None, environment: dict[str, str], named: str
) -> None:
    with pytest.raises(ModelError) as error:
        device_of(device, Worker(), environment, 0)
    assert str(error.value).startswith(named) and "finds none" in str(error.value)
    assert device_of("cpu", Worker(), environment, 0) == "cpu"


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_GPUS_ON_NODE": "0"},
        {"CUDA_VISIBLE_DEVICES": ""},
        {"CUDA_VISIBLE_DEVICES": "-1"},
        {"NVIDIA_VISIBLE_DEVICES": "all"},
        {"NVIDIA_VISIBLE_DEVICES": "void"},
    ],
)
def test_where_none_was_asked_for_the_processor_does(environment: dict[str, str]) -> None:
    assert device_of(None, Worker(), environment, 0) is None


def test_two_ranks_do_not_share_a_gpu() -> None:
    with pytest.raises(ModelError, match=r"LOCAL_RANK=1: .* there are 1 here"):
        device_of(None, launched(torchrun(1, 2, 1)), {}, 1)


@pytest.mark.parametrize(
    ("job_index", "num_jobs", "environment", "message"),
    [
        (3, 3, {}, "job_index=3: not one of 3 jobs, from 0"),
        (1, None, {}, "job_index=1: num_jobs is not set"),
        (None, 2, {}, "num_jobs=2: job_index is not set"),
        (None, None, {"JOB_COMPLETION_INDEX": "1"}, "JOB_COMPLETION_INDEX=1: num_jobs is not set"),
        (None, 1, {"JOB_COMPLETION_INDEX": "1"}, "job_index=1: not one of 1 jobs"),
        (None, None, {"JOB_COMPLETION_INDEX": "x"}, "JOB_COMPLETION_INDEX='x': not a number"),
        (None, None, slurm(5, first=3, count=2), "SLURM_ARRAY_TASK_ID=5: not one of 2 jobs; set"),
        (None, None, slurm(4, first=1, step=2), "SLURM_ARRAY_TASK_ID=4: not one of 4 jobs"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "0"}, "SLURM_ARRAY_TASK_COUNT='': not a number"),
        (None, None, {"RANK": "1"}, "WORLD_SIZE='': not a number"),
        (None, None, {"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2: not one of 2"),
        (None, 3, {"RANK": "1", "WORLD_SIZE": "2"}, "num_jobs=3, but 2 workers were started"),
    ],
)
def test_a_worker_that_cannot_be_is_refused(
    job_index: int | None, num_jobs: int | None, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError) as error:
        worker_of(job_index, num_jobs, environment)
    assert str(error.value).startswith(message)
