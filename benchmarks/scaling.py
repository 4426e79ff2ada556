"""How attribution grows with context, response, layers and sources, beside the published package.

`python -m benchmarks.scaling`: a random Llama, one thing varied at a time, each package in a
process of its own. Attribution is of a response that is given, from text to scores of all its
sources; beside it a bare prefill of the same ids. Memory is above the loaded model, at its peak.
Needs the published package in `.peers` (`make bench` puts it there).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from at2 import AT2Attributor, LinearScoreEstimator
from at2.estimator.features import AttentionFeatureExtractor
from at2.tasks import SimpleContextAttributionTask
from at2.utils import get_model_and_tokenizer
from tests.helpers.published import median_measured, published_attribution

_REPEATS = 3
_FACT_TOKENS = 12  # about, of one sentence below
_QUERY = "Where does Priya Nair live?"


@dataclass(frozen=True)
class Case:
    """One attribution: sizes in tokens (about), layers, and sentences in the context."""

    context: int = 1024
    response: int = 64
    layers: int = 8
    sources: int = 64


VARIED = {
    "context": (256, 1024, 4096),
    "response": (16, 64, 256),
    "layers": (4, 8, 16),
    "sources": (4, 16, 64),
}


def cases() -> list[Case]:
    """The middle case, and those that differ from it in one size."""
    found = [Case()]
    for name, values in VARIED.items():
        for value in values:
            case = Case(**{name: value})
            if name == "context":  # sentences as long as in the middle case
                case = Case(context=value, sources=value // 16)
            if case not in found:
                found.append(case)
    return found


def text_of(tokens: int, sentences: int) -> str:
    """Plain facts: about so many tokens in so many sentences."""
    clauses = max(1, round(tokens / _FACT_TOKENS / sentences))
    return " ".join(
        " and ".join(f"Mina Okafor lives in Lisbon {n}" for _ in range(clauses)) + "."
        for n in range(sentences)
    )


def write_job(folder: Path, case: Case) -> None:
    """What both packages read."""
    disable_progress_bar()
    torch.manual_seed(0)
    _, tokenizer = get_model_and_tokenizer(device="cpu")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=512,
            intermediate_size=1536,
            num_hidden_layers=case.layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=8192,
        )
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    estimator = LinearScoreEstimator(AttentionFeatureExtractor.from_model(model))
    estimator.save(folder / "score_estimator.pt")
    job = {
        "name": "llama",
        "context": text_of(case.context, case.sources),
        "query": _QUERY,
        "generation": text_of(case.response, max(1, case.response // 16)),
        "repeats": _REPEATS,
    }
    (folder / "job.json").write_text(json.dumps(job))


def measure(folder: Path) -> dict[str, float]:
    """Our attribution in this process, and a prefill of its ids."""
    job = json.loads((folder / "job.json").read_text())
    disable_progress_bar()
    model, tokenizer = get_model_and_tokenizer(str(folder / "model"), device="cpu")
    estimator = LinearScoreEstimator.load(folder / "score_estimator.pt")

    def a_task() -> SimpleContextAttributionTask:
        task = SimpleContextAttributionTask(
            job["context"], job["query"], model, tokenizer, source_type="sentence"
        )
        task.set_generation(job["generation"])
        return task

    ids = torch.tensor([a_task().token_ids])
    with torch.no_grad():
        model(ids[:, :16])  # weights are read from the file when they are first used

    def prefill() -> None:
        with torch.no_grad():
            model(ids, use_cache=True, logits_to_keep=1)

    found = median_measured(
        lambda: AT2Attributor(a_task(), estimator).get_attribution_scores(), job["repeats"]
    )
    return found | {
        "tokens": ids.shape[1],
        "prefill": median_measured(prefill, job["repeats"])["seconds"],
    }


def main() -> None:
    """Measure every case and print."""
    print(
        f"Width 512, 8 heads, vocabulary 2,048; {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}\n"
    )
    names = [field.name for field in fields(Case)]
    print(
        f"| {' | '.join(names)} | prompt and response | prefill | ours | beside prefill "
        "| published | **ratio** | ours above | published above | **ratio** |"
    )
    print("|---:" * (len(names) + 9) + "|")
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            write_job(Path(folder), case)
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.scaling", "--folder", folder],
                capture_output=True,
                text=True,
                check=True,
            )
            ours = json.loads(done.stdout.splitlines()[-1])
            theirs = published_attribution(Path(folder))
        sizes = " | ".join(f"{getattr(case, name):,}" for name in names)
        print(
            f"| {sizes} | {ours['tokens']:,} | {1000 * ours['prefill']:.0f} ms "
            f"| {1000 * ours['seconds']:.0f} ms | {ours['seconds'] / ours['prefill']:.2f} "
            f"| {1000 * theirs['seconds']:.0f} ms | {theirs['seconds'] / ours['seconds']:.1f} × "
            f"| {ours['mib']:.0f} MiB | {theirs['mib']:.0f} MiB "
            f"| 1/{theirs['mib'] / max(ours['mib'], 0.1):.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        print(json.dumps(measure(given.folder)))
    else:
        main()
