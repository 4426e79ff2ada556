"""`at2 calibrate`: an estimator from a file of one's own prompts.

Unlike the other commands it runs the model itself, so what loads it is imported when it is called.
"""

import json
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from at2.command_line import CommandError

_Count = Annotated[int | None, Parameter(validator=Number(gte=1))]


def calibrate(
    prompts: Path,
    /,
    *,
    model: str | None = None,
    revision: str | None = None,
    out: Path,
    masks: _Count = None,
    max_new_tokens: _Count = None,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
) -> None:
    """Train a score estimator for a model on a dozen or more prompts of your own, in minutes.

    A run that was stopped goes on where it was.

    Args:
        prompts: JSON Lines: {"context": "…", "query": "…"} on each
        model: hub name, folder or GGUF file (default: the server's)
        revision: branch, tag or commit of a model on the hub
        out: folder of the results
        masks: ablations per prompt (default: 24)
        max_new_tokens: the most tokens to write (default: 64)
        device: cpu, cuda:0, …; by default a GPU if there is one
        dtype: of the weights
    """
    try:
        given = read_prompts(prompts)
    except ValueError as error:
        raise CommandError(str(error)) from error
    from at2.errors import At2Error
    from at2.model.default import NAME
    from at2.model.loading import get_model_and_tokenizer
    from at2.training import calibrate as library

    model_name = model or NAME
    try:
        library.check_prompts(given)
        loaded, tokenizer = get_model_and_tokenizer(
            model_name,
            dtype=None if dtype == "auto" else dtype,
            device=device,
            revision=revision,
        )
        calibration = library.calibrate(
            loaded,
            tokenizer,
            given,
            out,
            num_masks=masks or library.NUM_MASKS,
            max_new_tokens=max_new_tokens or library.MAX_NEW_TOKENS,
        )
    except At2Error as error:
        raise CommandError(" ".join(str(error).split())) from error
    print(f"Prompts held out: {calibration.held_out}")
    print(f"Average attention on them: {calibration.average_attention}")
    print(f"Serve it: AT2_MODEL={model_name} AT2_ESTIMATOR={calibration.folder} at2 serve")


def read_prompts(path: Path) -> list[dict[str, str]]:
    """The prompts in a file of JSON Lines.

    Raises:
        ValueError: it cannot be read, or a line is no prompt; the message names the line.
    """
    try:
        lines = path.read_text("utf-8-sig").split("\n")
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
