"""The compute stage of training beside the published package's, and two workers beside one.

`python -m benchmarks.compute`: features and ablated outputs of the same examples, one process each:
time, memory above the loaded model, and how far the results lie apart. Needs the published package
in `.peers` (`make bench` puts it there). On a busy machine, read the ratio of CPU time.

How much faster depends on the model. Multiplying every token by the layers' weights is what remains
of the work: half of it where all tokens are sources and half of those are dropped. What the
published package does besides, the output layer for tokens that are no target and attention over
what is hidden, is saved almost whole. So the gain grows with the vocabulary and the context, and is
about two to three where the layers are most of the model.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from at2 import AT2Trainer
from at2.tasks import SimpleContextAttributionTask
from at2.training import responses
from at2.training.shards import SHARD_SIZE
from at2.utils import get_model_and_tokenizer
from tests.helpers.published import measured, published_training

NUM_MASKS = 32
ROUNDS = 3
SPEED_BAR = 5.0
MEMORY_BAR = 1 / 5
_DEEP: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
_FLAT: dict[str, Any] = _DEEP | {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
}
_PEOPLE = ("Priya Nair", "Colin Webb", "Helen Marsh", "Mina Okafor", "Jonas Lind")
_FACTS = ("lives in Lisbon", "plays the cello", "works for the county", "was born in 1987")


def examples(count: int, sentences: int) -> list[dict[str, str]]:
    """Contexts of plain facts, a question, and a response of three sentences."""
    return [
        {
            "context": " ".join(
                f"{_PEOPLE[(i + n) % 5]} {_FACTS[(i + n // 5) % 4]}." for n in range(sentences)
            ),
            "query": f"Where does {_PEOPLE[i % 5]} live?",
            "generation": " ".join(f"{_PEOPLE[(i + n) % 5]} {_FACTS[n]}." for n in range(3)),
        }
        for i in range(count)
    ]


def random_llama(settings: dict[str, Any]) -> Any:
    """An untrained model of a size."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**settings)).eval()


def task_from_example(
    example: dict[str, str], model: Any, tokenizer: Any
) -> SimpleContextAttributionTask:
    """A task that has its response already."""
    task = SimpleContextAttributionTask(
        example["context"], example["query"], model, tokenizer, source_type="token"
    )
    task.set_generation(example["generation"])
    return task


def ours(folder: Path) -> tuple[AT2Trainer, Path]:
    """The trainer of a folder's job, its responses in place."""
    disable_progress_bar()
    job = json.loads((folder / "job.json").read_text())
    model, tokenizer = get_model_and_tokenizer(str(folder / "model"), device="cpu")
    run = folder / "ours"
    trainer = AT2Trainer(
        run, job["examples"], model, tokenizer, task_from_example, num_masks=job["num_masks"]
    )
    responses.respond = lambda tasks: None  # they are given
    trainer.generate()
    return trainer, run


def measure(folder: Path) -> dict[str, float]:
    """Our compute stage in this process; see `measured`."""
    trainer, _ = ours(folder)
    trainer.compute_features_and_outputs_for_example(0)  # warm: libraries, thread pools
    return measured(trainer.compute_features_and_outputs)


def work(folder: Path, job_index: int, num_jobs: int) -> None:
    """One worker's part, once a line arrives that says go."""
    trainer, _ = ours(folder)
    trainer.compute_features_and_outputs_for_example(0)
    print("ready", flush=True)
    sys.stdin.readline()
    trainer.compute_features_and_outputs(job_index, num_jobs)


def in_a_process(*arguments: str, threads: int | None = None) -> "subprocess.Popen[str]":
    """This module again."""
    environment = dict(os.environ)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.compute", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def write_job(folder: Path, model: Any, tokenizer: Any, cases: list[dict[str, str]]) -> None:
    """What both packages read."""
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    job = {
        "name": "llama",
        "examples": cases,
        "split_target_by": "sentence",
        "num_masks": NUM_MASKS,
        "warm": True,
    }
    (folder / "job.json").write_text(json.dumps(job))


def compare(folder: Path) -> str:
    """Run both packages on a folder's job; a row of the table."""
    theirs = published_training(folder)
    process = in_a_process("--folder", str(folder))
    mine = json.loads(process.communicate()[0].splitlines()[-1])

    trainer, _ = ours(folder)
    table = trainer.load_table()
    features = np.load(theirs["features"])
    outputs = [np.load(folder / f"outputs_{i}.npy") for i in range(table.num_examples)]
    ours_features = np.concatenate([table.example(i)[0] for i in range(table.num_examples)])
    ours_outputs = np.concatenate([table.example(i)[1] for i in range(table.num_examples)])
    apart = np.abs(ours_features.astype(np.float32) - features.astype(np.float32))
    exact = np.concatenate(outputs)
    relative = np.abs(ours_outputs - exact) / np.maximum(1, np.abs(exact))
    faster = theirs["seconds"] / mine["seconds"]
    above = max(mine["mib"], 1.0)  # less is within what the allocator gives back
    return (
        f"| {theirs['seconds']:.1f} s | {mine['seconds']:.1f} s "
        f"| **{faster:.1f} ×**{'' if faster >= SPEED_BAR else ' (below the bar)'} "
        f"| {theirs['cpu_seconds'] / mine['cpu_seconds']:.1f} × "
        f"| {theirs['mib']:.0f} MiB "
        f"| {'≤ ' if mine['mib'] < above else ''}{above:.0f} MiB "
        f"| **1/{theirs['mib'] / above:.1f}** "
        f"| {apart.max():.0e} | {relative.max():.0e} |"
    )


def shared_by(folder: Path, workers: int, threads: int) -> tuple[float, dict[str, bytes]]:
    """Seconds until all workers are done, and the shards' bytes."""
    processes = [
        in_a_process("--folder", str(folder), "--worker", str(index), str(workers), threads=threads)
        for index in range(workers)
    ]
    for process in processes:
        assert process.stdout is not None
        while "ready" not in process.stdout.readline():
            pass
    started = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
    seconds = time.perf_counter() - started
    shards = sorted((folder / "ours" / "features_and_outputs").glob("*.safetensors"))
    return seconds, {path.name: path.read_bytes() for path in shards}


def job_shared_by(workers: int, threads: int) -> tuple[float, dict[str, bytes]]:
    """One job of the default model, made anew; see `shared_by`."""
    default, tokenizer = get_model_and_tokenizer(device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        # two shards for each of two workers
        write_job(Path(folder), default, tokenizer, examples(4 * SHARD_SIZE, 12))
        return shared_by(Path(folder), workers, threads)


def main() -> None:
    """Measure and print."""
    disable_progress_bar()
    print(
        f"Bars: {SPEED_BAR:.0f} × as fast, {MEMORY_BAR:.0%} of the memory above the loaded model, "
        f"features to float16, outputs to 1e-3; {NUM_MASKS} masks, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print(
        "| model | published | ours | ratio | of CPU time | published above | ours above | ratio | "
        "features apart | outputs apart |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    default, tokenizer = get_model_and_tokenizer(device="cpu")
    for name, model, cases in (
        ("default", default, examples(2, 12)),
        ("12 layers × 512, vocabulary 32k", random_llama(_DEEP), examples(3, 40)),
        ("4 layers × 256, vocabulary 32k", random_llama(_FLAT), examples(2, 85)),
        (
            "4 layers × 256, vocabulary 64k",
            random_llama(_FLAT | {"vocab_size": 64_000}),
            examples(2, 85),
        ),
    ):
        with tempfile.TemporaryDirectory() as folder:
            write_job(Path(folder), model, tokenizer, cases)
            print(f"| {name} {compare(Path(folder))}", flush=True)

    compare_workers()


def compare_workers() -> None:
    """The same job by one worker and by two."""
    cores = len(os.sched_getaffinity(0))
    print(
        f"\nThe same job by one worker and by two, {cores} cores, default model, "
        f"{ROUNDS} rounds by turns:\n"
    )
    half = max(1, cores // 2)
    settings = ((1, cores), (1, half), (2, half))
    rounds = [
        [job_shared_by(workers, threads) for workers, threads in settings] for _ in range(ROUNDS)
    ]
    same = all(found[1] == rounds[0][0][1] for turn in rounds for found in turn)
    for position, (workers, threads) in enumerate(settings):
        seconds = [turn[position][0] for turn in rounds]
        beside = [turn[position][0] / turn[0][0] for turn in rounds]
        print(
            f"{workers} × {threads} thread{'s' if threads > 1 else ''}: "
            f"{statistics.median(seconds):.1f} s, {statistics.median(beside):.2f} of the first "
            f"({min(beside):.2f} to {max(beside):.2f})"
        )
    print(f"{'The same' if same else 'OTHER'} bytes each time.", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--worker", type=int, nargs=2, metavar=("INDEX", "COUNT"))
    given = parser.parse_args()
    if given.worker:
        work(given.folder, *given.worker)
    elif given.folder:
        print(json.dumps(measure(given.folder)))
    else:
        main()
