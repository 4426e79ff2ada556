"""Training runs that are killed, starved of disk or damaged end with the bytes of an easy one."""

import logging
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from at2.errors import DamagedFileError, TrainingError
from tests.helpers.training import (
    EXAMPLES,
    SHARD_SIZE,
    Workers,
    WorkerTask,
    folder_contents,
)
from tests.helpers.training import make_trainer as trainer_of

STAGES = ("generate", "compute", "train")
KILLS = 6
SHARDS = -(-len(EXAMPLES) // SHARD_SIZE)


@pytest.fixture(scope="module")
def workers() -> Workers:
    return Workers()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, workers: Workers) -> Path:
    """A whole run by one worker a stage."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    for stage in STAGES:
        assert workers.run(WorkerTask(folder, stage))[0].refused is None
    return folder


def before(stage: str, undisturbed: Path, folder: Path) -> Path:
    """A run of which only the stages before this one have been done."""
    folder.mkdir()
    names = ("generations", "features_and_outputs", "estimators")
    for name in names[: STAGES.index(stage)]:
        shutil.copytree(undisturbed / name, folder / name)
    return folder


@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_any_moment_and_restarted_with_other_workers(
    stage: str, tmp_path: Path, undisturbed: Path, workers: Workers
) -> None:
    rng = random.Random(stage)
    run = before(stage, undisturbed, tmp_path / "run")
    lines = workers.run(WorkerTask(before(stage, undisturbed, tmp_path / "count"), stage))[0].lines
    killed = 0
    while killed < KILLS:
        count = 1 if stage == "train" else rng.choice([1, 2, 3])
        # Lines left to run get fewer as shards get done: aim low enough to hit.
        moments = [rng.randrange(1, max(2, lines // (count * (1 + killed // 3)))) for _ in "123"]
        ended = workers.run(
            *(
                WorkerTask(run, stage, index, count, die_at_line=moments[index])
                for index in range(count)
            )
        )
        assert not any(each.refused for each in ended)
        killed += sum(each.killed for each in ended)
        if not any(each.killed for each in ended):
            shutil.rmtree(run)
            run = before(stage, undisturbed, run)
    count = 1 if stage == "train" else 2
    for last in workers.run(*(WorkerTask(run, stage, index, count) for index in range(count))):
        assert not last.killed and last.refused is None
    names = {name.split("/")[0] for name in folder_contents(run)}
    expected = {k: v for k, v in folder_contents(undisturbed).items() if k.split("/")[0] in names}
    assert folder_contents(run) == expected


def test_a_kill_between_any_two_lines_of_writing_a_shard_leaves_it_whole_or_absent(
    tmp_path: Path, undisturbed: Path, workers: Workers
) -> None:
    whole = (undisturbed / "generations" / "00003.json").read_bytes()
    lines = workers.run(WorkerTask(tmp_path / "count", "generate", 3, 4))[0].lines
    written = []
    for moment in range(lines - 45, lines, 3):
        run = tmp_path / str(moment)
        (ended,) = workers.run(WorkerTask(run, "generate", 3, 4, die_at_line=moment))
        shard = run / "generations" / "00003.json"
        assert ended.killed
        assert not shard.exists() or shard.read_bytes() == whole
        written.append(shard.exists())
    assert written == sorted(written) and {True, False} == set(written)


@pytest.mark.parametrize("stage", STAGES[:2])
def test_workers_given_the_same_shards_do_no_harm(
    stage: str, tmp_path: Path, undisturbed: Path, workers: Workers
) -> None:
    run = before(stage, undisturbed, tmp_path / "run")
    ended = workers.run(*(WorkerTask(run, stage) for _ in range(3)))
    assert not any(each.killed or each.refused for each in ended)
    found = folder_contents(run)
    assert found == {k: v for k, v in folder_contents(undisturbed).items() if k in found}
    assert len(found) == (SHARDS + 1) * (1 + STAGES.index(stage))


def test_of_workers_with_different_settings_one_gets_the_folder(
    tmp_path: Path, undisturbed: Path, workers: Workers
) -> None:
    run = before("compute", undisturbed, tmp_path / "run")
    ended = workers.run(
        *(WorkerTask(run, "compute", settings={"num_masks": masks}) for masks in (5, 6, 7))
    )
    refused = [each.refused for each in ended if each.refused]
    assert len(refused) == 2
    for message in refused:
        assert "features_and_outputs was made with other settings: num_masks is" in message
        assert "\n" not in message


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk_stops_with_one_line_and_costs_nothing_that_was_whole(
    stage: str, tmp_path: Path, undisturbed: Path, workers: Workers
) -> None:
    run = before(stage, undisturbed, tmp_path / "run")
    if stage != "train":
        assert workers.run(WorkerTask(run, stage, 0, SHARDS))[0].refused is None
    whole = folder_contents(run)

    (ended,) = workers.run(WorkerTask(run, stage, max_file_bytes=150))

    assert ended.refused is not None and "\n" not in ended.refused
    assert ended.refused.startswith("cannot write ") and "File too large" in ended.refused
    assert folder_contents(run) == whole  # no rest of a file, either
    assert workers.run(WorkerTask(run, stage))[0].refused is None
    found = folder_contents(run)
    assert found == {k: v for k, v in folder_contents(undisturbed).items() if k in found}
    assert len(found) > len(whole)


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_folder_is_refused_with_one_line(
    stage: str, tmp_path: Path, undisturbed: Path, workers: Workers
) -> None:
    run = before(stage, undisturbed, tmp_path / "run")
    whole = folder_contents(run)
    tmp_path.chmod(0o755)
    run.chmod(0o555)

    (ended,) = workers.run(WorkerTask(run, stage, unprivileged=True))

    run.chmod(0o755)
    assert ended.refused is not None and "\n" not in ended.refused
    assert ended.refused.startswith("cannot write ") and "Permission denied" in ended.refused
    assert folder_contents(run) == whole


@pytest.mark.parametrize("stage", STAGES[:2])
def test_a_file_in_the_place_of_the_folder_is_refused_with_one_line(
    stage: str, tmp_path: Path, undisturbed: Path, model: Any
) -> None:
    run = before(stage, undisturbed, tmp_path / "run")
    folder = run / ("generations" if stage == "generate" else "features_and_outputs")
    folder.write_text("not a folder")
    trainer = trainer_of(run, model)
    with pytest.raises(
        TrainingError, match=r"cannot write \w+/manifest.json: (Not|File)"
    ) as caught:
        trainer.generate() if stage == "generate" else trainer.compute_features_and_outputs()
    assert "\n" not in str(caught.value)


def damage(path: Path, how: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    if how == "truncated":
        path.write_bytes(content[:place])
    else:
        content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
@pytest.mark.parametrize("name", ["00001", "00003", "manifest"])
def test_damaged_files_are_named_in_one_line_and_made_again(
    how: str, name: str, tmp_path: Path, undisturbed: Path, model: Any, caplog: Any
) -> None:
    rng = random.Random(how + name)
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    folders = {"generations": ".json", "features_and_outputs": ".safetensors"}
    for folder, suffix in folders.items():
        file = f"{folder}/{name}{'.json' if name == 'manifest' else suffix}"
        damage(run / file, how, rng)
        trainer = trainer_of(run, model)

        # 1. What needs the file says which stage makes it again.
        if folder == "generations":
            with pytest.raises(DamagedFileError, match=rf"{file} .*: run generate\(\) again"):
                trainer.get_task(0 if name == "manifest" else int(name) * SHARD_SIZE)
        elif name != "manifest":
            with pytest.raises(DamagedFileError, match=f"{file} .*: run compute_features_and_out"):
                trainer.train(num_iterations=1)

        # 2. That stage does, and nothing else has changed.
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            trainer = trainer_of(run, model)
            if folder == "generations":
                trainer.generate(batch_size=2)
            else:
                trainer.compute_features_and_outputs()
        said = [record.getMessage() for record in caplog.records if file in record.getMessage()]
        assert len(said) == 1 and "\n" not in said[0]
        assert "is damaged" in said[0]
    manifests = {f"{folder}/manifest.json" for folder in folders}
    same = folder_contents(run).keys() - manifests  # which record the threads of whoever wrote them
    assert same == folder_contents(undisturbed).keys() - manifests
    assert all((run / file).read_bytes() == (undisturbed / file).read_bytes() for file in same)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_damaged_checkpoint_costs_time_only(
    how: str, tmp_path: Path, undisturbed: Path, workers: Workers
) -> None:
    run = before("train", undisturbed, tmp_path / "run")
    lines = workers.run(WorkerTask(before("train", undisturbed, tmp_path / "x"), "train"))[0].lines
    assert workers.run(WorkerTask(run, "train", die_at_line=lines // 2))[0].killed
    damage(run / "estimators" / "default" / "checkpoint.safetensors", how, random.Random(how))
    assert workers.run(WorkerTask(run, "train"))[0].refused is None
    assert folder_contents(run) == folder_contents(undisturbed)


@pytest.mark.parametrize("how", ["truncated", "flipped"])
@pytest.mark.parametrize(
    "name", ["score_estimator.pt", "score_estimator.safetensors", "training.json", "manifest.json"]
)
def test_a_damaged_estimator_is_noticed_and_made_again(
    how: str, name: str, tmp_path: Path, undisturbed: Path, workers: Workers
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    damage(run / "estimators" / "default" / name, how, random.Random(how + name))
    assert workers.run(WorkerTask(run, "train"))[0].refused is None
    assert folder_contents(run) == folder_contents(undisturbed)


def test_a_damaged_manifest_does_not_open_the_folder_to_other_settings(
    tmp_path: Path, undisturbed: Path, workers: Workers
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    manifest = run / "features_and_outputs" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    for _ in range(2):
        (ended,) = workers.run(WorkerTask(run, "compute", settings={"num_masks": 5}))
        assert ended.refused == (
            "features_and_outputs was made with other settings, and its manifest.json is missing "
            "or damaged: use another folder"
        )
        manifest.unlink(missing_ok=True)
    assert workers.run(WorkerTask(run, "compute"))[0].refused is None
    assert folder_contents(run) == folder_contents(undisturbed)


def test_an_estimator_that_cannot_be_written_is_not_trained_again(
    tmp_path: Path, undisturbed: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = before("train", undisturbed, tmp_path / "run")
    settings: dict[str, Any] = {"num_iterations": 4, "checkpoint_every": 2, "save_name": "one"}
    in_the_way = run / "estimators" / "one" / "score_estimator.pt"
    in_the_way.mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"^cannot write estimators/one: Is a directory$"):
        trainer_of(run, model).train(**settings)
    in_the_way.rmdir()
    capsys.readouterr()
    trainer_of(run, model).train(**settings)
    assert capsys.readouterr().out.splitlines()[1] == "Resuming after step 3"
    trainer_of(run, model).train(**settings | {"save_name": "two"})
    assert folder_contents(run / "estimators" / "one") == folder_contents(
        run / "estimators" / "two"
    )


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, undisturbed: Path, model: Any
) -> None:
    run = before("compute", undisturbed, tmp_path / "run")
    dead = run / "generations" / ".00000.json.0123.tmp"
    dead.write_text("half a sha")
    trainer_of(run, model).generate(batch_size=2)
    assert not dead.exists()
