"""`at2 calibrate`: an estimator from a file of one's own prompts.

Unlike the other commands it runs the model itself, so what loads it is imported when it is called.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

_DTYPES = ("auto", "float32", "bfloat16", "float16")


def add_command(commands: Any) -> None:
    """Add the command to a parser's subcommands."""
    parser = commands.add_parser(
        "calibrate",
        help="train an estimator for a model on a dozen prompts of your own",
        description="Train a score estimator for a model on a dozen or more prompts of your own, "
        "in minutes. A run that was stopped goes on where it was.",
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "prompts",
        type=Path,
        metavar="PROMPTS",
        help='JSON Lines: {"context": "…", "query": "…"} on each',
    )
    parser.add_argument("--model", help="hub name, folder or GGUF file (default: the server's)")
    parser.add_argument("--revision", help="branch, tag or commit of a model on the hub")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="folder of the results"
    )
    parser.add_argument("--masks", type=int, metavar="N", help="ablations per prompt (default: 24)")
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="the most tokens to write (default: 64)",
    )
    parser.add_argument("--device", help="cpu, cuda:0, …; by default a GPU if there is one")
    parser.add_argument("--dtype", choices=_DTYPES, default="auto", help="of the weights")


def run(options: argparse.Namespace) -> int:
    """Calibrate, and say how good the result is and how to serve it."""
    try:
        prompts = read_prompts(options.prompts)
    except ValueError as error:
        return _failed(error)
    from at2.errors import At2Error

    try:
        return _calibrate(options, prompts)
    except At2Error as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    print(f"at2: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


def read_prompts(path: Path) -> list[dict[str, str]]:
    """The prompts in a file of JSON Lines.

    Raises:
        ValueError: it cannot be read, or a line is no prompt; the message names the line.
    """
    try:
        lines = path.read_text("utf-8").split("\n")
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text") from error
    prompts = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON") from error
        for name in ("context", "query"):
            if not isinstance(row, dict) or not isinstance(row.get(name), str) or not row[name]:
                raise ValueError(f"{path}, line {number}: no text in {name!r}")
        prompts.append({"context": row["context"], "query": row["query"]})
    return prompts


def _calibrate(options: argparse.Namespace, prompts: list[dict[str, str]]) -> int:
    from at2.model.default import NAME
    from at2.model.loading import get_model_and_tokenizer
    from at2.training import calibrate as library

    library.check_prompts(prompts)
    model_name = options.model or NAME
    model, tokenizer = get_model_and_tokenizer(
        model_name,
        dtype=None if options.dtype == "auto" else options.dtype,
        device=options.device,
        revision=options.revision,
    )
    calibration = library.calibrate(
        model,
        tokenizer,
        prompts,
        options.out,
        num_masks=options.masks or library.NUM_MASKS,
        max_new_tokens=options.max_new_tokens or library.MAX_NEW_TOKENS,
    )
    print(f"Prompts held out: {calibration.held_out}")
    print(f"Average attention on them: {calibration.average_attention}")
    print(f"Serve it: AT2_MODEL={model_name} AT2_ESTIMATOR={calibration.folder} at2 serve")
    return 0
