"""The first stage: a response to every example's prompt, as ids.

Which examples share a batch follows from the shard alone, so that its bytes do.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from at2.errors import InputError
from at2.files import Place, read_whole
from at2.fingerprints import fingerprint
from at2.tasks import AttributionTask


@dataclass(frozen=True)
class Response:
    """What the model wrote for an example.

    Attributes:
        prompt: fingerprint of the prompt's ids.
        ids: the response; empty if the example was skipped.
        skipped: why it was, else None.
    """

    prompt: str
    ids: tuple[int, ...]
    skipped: str | None = None


def prompt_fingerprint(task: AttributionTask) -> str:
    """A fingerprint that changes with the prompt."""
    return fingerprint({"ids": task.input_ids})


def respond(tasks: Sequence[AttributionTask]) -> None:
    """Give every task of a batch its response. The one place that runs generation."""
    type(tasks[0]).batch_generate(tasks)


def respond_to_shard(
    make: Mapping[int, Callable[[], AttributionTask]], batch_size: int, *, skip: bool
) -> Iterator[dict[int, Response]]:
    """Responses of a shard, batch by batch; examples with prompts of similar length together.

    Args:
        make: by example, what makes its task.
        batch_size: examples in a batch.
        skip: pass over an example that gives no task or whose prompt is too long, instead of
            stopping there.

    Yields:
        The responses of one batch, ceil(examples / batch_size) times.

    Raises:
        InputError: an example cannot be used; the message starts with its number.
    """
    tasks: dict[int, AttributionTask] = {}
    skipped: dict[int, Response] = {}
    for index, task_of_example in make.items():
        try:
            task = task_of_example()
            task.check_length(1)
        except InputError as error:
            if not skip:
                raise InputError(f"example {index}: {error}", param=error.param) from error
            skipped[index] = Response("", (), str(error))
        else:
            tasks[index] = task
    order = sorted(tasks, key=lambda index: (len(tasks[index].input_ids), index))
    for start in range(0, len(make), batch_size):
        batch = order[start : start + batch_size]
        if batch:
            respond([tasks[index] for index in batch])
        responses = {
            index: Response(prompt_fingerprint(tasks[index]), tuple(tasks[index].generation_ids))
            for index in batch
        }
        yield responses | (skipped if start == 0 else {})


def to_bytes(responses: Mapping[int, Response], seal: str) -> bytes:
    """The contents of a shard's file."""
    entries: dict[str, Any] = {}
    for index in sorted(responses):
        response = responses[index]
        if response.skipped is None:
            entries[str(index)] = {"prompt": response.prompt, "ids": response.ids}
        else:
            entries[str(index)] = {"skipped": response.skipped}
    return json.dumps({"at2": seal, "responses": entries}).encode()


def read(path: Place) -> dict[int, Response]:
    """The responses of a shard's file, whose seal has been checked."""
    entries = json.loads(read_whole(path))["responses"]
    return {
        int(index): Response(
            entry.get("prompt", ""), tuple(entry.get("ids", ())), entry.get("skipped")
        )
        for index, entry in entries.items()
    }
