"""The parts of training one by one: shards, seals, manifests, tables, progress, files."""

import logging
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy.stats import pearsonr, spearmanr

from at2 import files
from at2 import progress as progress_module
from at2.errors import DamagedFileError, TrainingError
from at2.files import remove_leftovers, write_whole
from at2.progress import SECONDS_BETWEEN_LINES, Progress, silent
from at2.training.heldout import measure
from at2.training.manifest import claim, differences, fingerprint
from at2.training.shards import ShardFolder, ShardPlan, check_seal, sealed
from at2.training.table import FeatureTable, free_memory

# -- how examples are dealt ------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 9))
def test_every_example_is_in_one_shard_and_every_shard_with_one_worker(
    examples: int, size: int, jobs: int
) -> None:
    plan = ShardPlan(examples, size)
    dealt = [shard for job in range(jobs) for shard in plan.for_job(job, jobs)]
    assert sorted(dealt) == list(range(plan.num_shards))
    covered = [i for shard in range(plan.num_shards) for i in plan.examples(shard)]
    assert covered == list(range(examples))
    assert all(1 <= len(plan.examples(shard)) <= size for shard in range(plan.num_shards))


# -- files that are whole or absent ----------------------------------------------------------------


def text_shard(text: str) -> Any:
    return lambda seal: f'{{"at2": "{seal}", "text": "{text}"}}'.encode()


@given(st.text("abc0", max_size=200), st.integers(0, 2**32))
def test_a_sealed_file_passes_and_any_changed_or_missing_byte_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, text: str, seed: int
) -> None:
    path = tmp_path_factory.mktemp("sealed") / "00000.json"
    content = sealed("0123456789abcdef", text_shard(text))
    path.write_bytes(content)
    check_seal(path, "0123456789abcdef")
    check_seal(path, None)
    rng = random.Random(seed)
    changed = bytearray(content)
    changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    for damaged in (changed, content[: rng.randrange(len(content))], content + b" "):
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match=r"00000.json is damaged"):
            check_seal(path, "0123456789abcdef")


def test_a_large_file_is_checked_to_its_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "00000.json"
    content = bytearray(sealed("ab", text_shard("x" * 3_000_000)))
    path.write_bytes(content)
    check_seal(path, "ab")
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="checksum does not match"):
        check_seal(path, "ab")


def test_a_file_of_other_settings_is_refused_and_an_absent_one_is_damage(tmp_path: Path) -> None:
    folder = ShardFolder(tmp_path / "run", ".json", "aa")
    folder.write(3, text_shard("hello"))
    folder.check(3)
    with pytest.raises(TrainingError, match=r"run/00003.json was made with other settings"):
        ShardFolder(tmp_path / "run", ".json", "bb").check(3)
    with pytest.raises(DamagedFileError, match=r"00002.json cannot be read: No such file"):
        folder.check(2)
    assert [folder.exists(shard) for shard in range(5)] == [False, False, False, True, False]


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    assert write_whole(path, b"one", replace=False)
    assert not write_whole(path, b"two", replace=False)
    assert path.read_bytes() == b"one"
    assert write_whole(path, b"three")
    assert path.read_bytes() == b"three"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_readers_see_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    versions = [bytes([number]) * 50_000 for number in range(2)]
    write_whole(path, versions[0])
    script = (
        "import runpy, sys; from pathlib import Path\n"
        "write_whole = runpy.run_path(sys.argv[1])['write_whole']\n"
        "for i in range(10**6): write_whole(Path(sys.argv[2]), bytes([i % 2]) * 50_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", script, files.__file__, str(path)])
    try:
        seen: set[bytes] = set()
        until = time.monotonic() + 600  # it imports torch first
        while len(seen) < 2 and time.monotonic() < until:
            content = path.read_bytes()
            assert content in versions
            seen.add(content)
        assert len(seen) == 2
        for _ in range(200):
            assert path.read_bytes() in versions
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert path.read_bytes() in versions
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_living_process_keeps_its_temporary_file(tmp_path: Path) -> None:
    temporary = tmp_path / ".00001.json.0123.tmp"
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'wb'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(temporary)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == b"locked\n"
    remove_leftovers(tmp_path)
    assert temporary.exists()
    process.kill()
    process.communicate()
    remove_leftovers(tmp_path)
    assert not temporary.exists()


# -- manifests -------------------------------------------------------------------------------------


def test_differences_name_every_setting_and_both_sides() -> None:
    before = {"a": 1, "b": {"c": [1], "d": "x"}, "gone": None, "old": 1}
    now = {"a": 1, "b": {"c": [2], "d": "y"}, "new": 2}
    assert differences(before, now) == (
        "b.c is [2], but was [1]; b.d is 'y', but was 'x'; gone is not set, but was None; "
        "new is 2, but was not set; old is not set, but was 1"
    )
    assert differences(before, before) == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
SETTINGS = st.dictionaries(st.text(max_size=3), JSON, max_size=4)


@given(SETTINGS, SETTINGS)
def test_a_folder_is_for_one_set_of_settings(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, Any], second: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("claimed")
    digest = claim(folder, first, {})
    assert claim(folder, first, {}) == digest == fingerprint(first)
    if fingerprint(second) == digest:
        assert claim(folder, second, {}) == digest
    else:
        with pytest.raises(TrainingError, match="was made with other settings"):
            claim(folder, second, {})


def test_another_environment_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    claim(tmp_path / "run", {"a": 1}, {"torch": "2.13", "threads": "2"})
    with caplog.at_level(logging.WARNING):
        claim(tmp_path / "run", {"a": 1}, {"torch": "2.14", "threads": "2"})
    assert [record.getMessage() for record in caplog.records] == [
        "run was begun in another environment: torch is '2.14', but was '2.13'"
    ]


# -- rows of features ------------------------------------------------------------------------------

COUNTS = [2, 0, 3, 1, 0, 4, 1]
MASKS, FEATURES = 5, 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three shards of three examples, of which the last has one."""
    folder = tmp_path_factory.mktemp("table")
    generator = torch.Generator().manual_seed(0)
    found = []
    for shard in range(3):
        counts = COUNTS[3 * shard : 3 * shard + 3]
        tensors = {
            "features": torch.randn(sum(counts), MASKS, FEATURES, generator=generator).half(),
            "outputs": torch.randn(sum(counts), MASKS, generator=generator),
            "targets": torch.tensor(counts),
        }
        found.append(folder / f"{shard:05d}.safetensors")
        save_file(tensors, found[-1])
    return found


def test_rows_are_the_same_in_memory_and_on_disk(shards: list[Path]) -> None:
    on_disk = FeatureTable.from_files(shards)
    in_memory = on_disk.gathered(torch.device("cpu"), limit=on_disk.num_bytes)
    assert on_disk.gathered(torch.device("cpu"), limit=on_disk.num_bytes - 1) is on_disk
    assert on_disk.counts == in_memory.counts == tuple(COUNTS)
    rows = np.array([10, 0, 4, 4, 5, 9, 1], dtype=np.int64)
    for one, other in zip(on_disk.batch(rows), in_memory.batch(rows), strict=True):
        assert torch.equal(one, other)
    for index, count in enumerate(COUNTS):
        for table in (on_disk, in_memory):
            features, outputs = table.example(index)
            assert features.shape == (count, MASKS, FEATURES)
            owned = np.array(table.rows_of(index), dtype=np.int64)
            if count:
                assert torch.equal(outputs, in_memory.batch(owned)[1])


def test_rows_that_stay_on_disk_are_not_read_into_memory(tmp_path: Path) -> None:
    mib = 64
    features = torch.zeros(mib * 2**19 // (MASKS * 8), MASKS, 8, dtype=torch.float16)
    outputs = torch.zeros(len(features), MASKS)
    counts = torch.tensor([len(features)])
    path = tmp_path / "00000.safetensors"
    save_file({"features": features, "outputs": outputs, "targets": counts}, path)
    del features, outputs
    before = anonymous_mib()
    table = FeatureTable.from_files([path])
    table.batch(np.arange(0, counts.item(), 5000, dtype=np.int64))
    assert table.num_bytes > (mib - 1) * 2**20
    assert anonymous_mib() - before < mib / 4


def test_the_containers_free_memory_counts_what_the_kernel_gives_back(tmp_path: Path) -> None:
    mib = 2**20
    (tmp_path / "memory.max").write_text(f"{64 * mib}\n")
    (tmp_path / "memory.current").write_text(f"{40 * mib}\n")
    stat = f"anon {10 * mib}\nfile {30 * mib}\nkernel 0\nshmem {20 * mib}\nfile_mapped 7\n"
    (tmp_path / "memory.stat").write_text(stat)
    assert free_memory(torch.device("cpu"), tmp_path) == (64 - 40 + 30 - 20) * mib

    whole = free_memory(torch.device("cpu"), tmp_path / "no container")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(torch.device("cpu"), tmp_path) == pytest.approx(whole, rel=0.1)
    assert whole > 64 * mib


def anonymous_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    pytest.skip("this system does not tell memory apart")


def test_held_out_targets_that_do_not_vary_do_not_count(shards: list[Path]) -> None:
    table = FeatureTable.from_files(shards).gathered(torch.device("cpu"))
    estimator = torch.nn.Linear(FEATURES, 1, bias=False)
    features, outputs = table.example(5)
    outputs[1] = 3.0
    found = measure(estimator, table, [1, 5], torch.device("cpu"))
    assert (found.examples, found.targets) == (1, 3)
    predicted = estimator(features.float())[:, :, 0].detach().numpy()
    rows = [0, 2, 3]
    assert found.correlation == pytest.approx(
        np.mean([pearsonr(predicted[r], outputs[r]).statistic for r in rows]), abs=1e-6
    )
    assert found.lds == pytest.approx(
        np.mean([spearmanr(predicted[r], outputs[r]).statistic for r in rows]), abs=1e-6
    )
    nothing = measure(estimator, table, [1, 4], torch.device("cpu"))
    assert nothing.correlation is None and nothing.lds is None
    assert str(nothing) == "no target varies"


# -- progress --------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_rare_lines_with_rate_and_time_left(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    with (
        caplog.at_level(logging.INFO, "at2.progress"),
        Progress(1000, "Computing", bar=False, clock=clock) as progress,
    ):
        progress.count_existing(400)
        for _ in range(8):
            clock.now += SECONDS_BETWEEN_LINES / 4
            progress.update(10)
    assert [record.getMessage() for record in caplog.records] == [
        "Computing: 440/1000, 1.33/s, 7:00 left",
        "Computing: 480/1000, 1.33/s, 6:30 left",
        "Computing: 480/1000, 1.33/s, 6:30 left",
    ]


def test_lines_are_printed_where_nobody_logs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    clock = Clock()
    with Progress(20, "Computing", bar=False, clock=clock) as progress:
        for _ in range(2):
            clock.now += SECONDS_BETWEEN_LINES
            progress.update(5)
    assert capsys.readouterr().out.splitlines() == [
        "Computing: 5/20, 0.167/s, 1:30 left",
        "Computing: 10/20, 0.167/s, 1:00 left",
        "Computing: 10/20, 0.167/s, 1:00 left",
    ]


def test_a_bar_is_drawn_where_somebody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(10, "Computing", bar=True) as progress:
        progress.update(10)
        progress.print("Step 0: loss=-0.1")
    captured = capsys.readouterr()
    assert "Computing: 100%" in captured.err and "10/10" in captured.err
    assert captured.out == "Step 0: loss=-0.1\n"


def test_a_line_is_on_time_while_one_step_takes_long(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_module, "_SECONDS_BETWEEN_LOOKS", 0.01)
    clock, said = Clock(), threading.Event()
    monkeypatch.setattr(progress_module.logger, "info", lambda *_: said.set())
    with Progress(4, "Slow", bar=False, clock=clock):
        assert not said.wait(0.1)
        clock.now += SECONDS_BETWEEN_LINES
        assert said.wait(60)


def test_progress_within_progress_says_nothing(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.INFO, "at2.progress"):
        with Progress(1, "Outer", bar=False), Progress(9, "Inner", bar=True) as inner:
            inner.update(9)
        with silent(), Progress(9, "Silent", bar=False):
            pass
        with Progress(9, "Brief", bar=False, brief=True) as brief:
            brief.update(9)
        with Progress(2, "After", bar=False):
            pass
    assert [record.getMessage() for record in caplog.records] == ["Outer: 0/1", "After: 0/2"]
    assert capsys.readouterr().err == ""
