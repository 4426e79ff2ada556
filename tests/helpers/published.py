"""Runs the published `at2` package in a process of its own, on a model and text given by a folder.

Run as a script: reads `job.json` in the folder named on the command line and writes `scores.npy`
and `ids.json` beside it. The package imports spaCy and datasets and downloads NLTK data at import,
none of which attribution scores need: stand-ins for these three take their place.
"""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

PEERS = Path(__file__).parents[2] / ".peers" / "at2"


def published_scores(folder: Path) -> None:
    """Run this file on a folder, with the published package first on the path."""
    environment = os.environ | {"PYTHONPATH": str(PEERS), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-P", __file__, str(folder)], env=environment, check=True)


def _stand_in(name: str, **members: object) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


def _main(folder: Path) -> None:
    import nltk

    _stand_in("spacy")
    _stand_in("spacy.lang")
    _stand_in("spacy.lang.en", English=object)
    _stand_in("datasets", Dataset=object)
    nltk.download = lambda *_: True

    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from at2 import AT2Attributor
    from at2.tasks import SimpleContextAttributionTask

    job = json.loads((folder / "job.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model.name_or_path = job["name"]
    task = SimpleContextAttributionTask(
        context=job["context"],
        query=job["query"],
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(folder / "model"),
        source_type="token",
    )
    task.set_generation(job["generation"])
    attributor = AT2Attributor.from_path(task, folder / "score_estimator.pt")
    np.save(folder / "scores.npy", attributor.scores.numpy())
    (folder / "ids.json").write_text(
        json.dumps(
            {
                "ids": task.get_tokens()["input_ids"],
                "sources": task.source_token_ranges,
                "target": task.target_token_range,
            }
        )
    )


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
