"""The examples of a run: which rows of a data set are taken, and the task of each.

Rows are filtered, shuffled and cut as `datasets` would (`filter`, `shuffle(seed)`, `select`); then
those that cannot be used are named. Which rows are taken does not depend on which are bad.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from at2.errors import InputError, NothingToUseError
from at2.tasks import (
    DEFAULT_GENERATE_KWARGS,
    AttributionTask,
    SimpleContextAttributionTask,
    SimpleThoughtAttributionTask,
)
from at2.tasks.thought import DEFAULT_THOUGHT_GENERATE_KWARGS
from trainer_jobs.mixing import Mixer
from trainer_jobs.rows import BadRow, Row, Table, text_in
from trainer_jobs.settings import JobSettings
from trainer_jobs.tables import open_table

Example = Mapping[str, Any]
"""The texts that a task is made of, and the level of its sources where that differs."""


@dataclass(frozen=True)
class Examples:
    """Examples to train on, and after them those that are held out.

    Attributes:
        examples: all of them; plain data.
        places: the row of each, for people.
        num_held_out: how many of them, at the end, are not trained on.
        num_rows: rows of the data set that passed the filters, as far as they were read.
        bad_rows: rows that were passed over.
    """

    examples: Sequence[Example]
    places: Sequence[str]
    num_held_out: int
    num_rows: int
    bad_rows: Sequence[BadRow] = ()

    @property
    def num_train(self) -> int:
        """How many are trained on."""
        return len(self.examples) - self.num_held_out

    @property
    def held_out(self) -> range:
        """The examples that are not trained on."""
        return range(self.num_train, len(self.examples))

    def with_place(self, message: str) -> str:
        """A message that begins with the number of an example, with its row added."""
        match = re.match(r"example (\d+)(?=\D)", message)
        if match is None or int(match[1]) >= len(self.places):
            return message
        return f"{match[0]} ({self.places[int(match[1])]}){message[match.end() :]}"


def load_examples(settings: JobSettings) -> Examples:
    """The examples that settings ask for.

    Raises:
        InputError: the data set cannot be read or has too few rows, a column is missing, or a row
            cannot be used and is not to be passed over.
    """
    table = open_table(
        settings.dataset,
        subset=settings.subset,
        split=settings.split,
        revision=settings.dataset_revision,
        encoding=settings.encoding,
    )
    _check_columns(settings, table)
    kept, bad = _filtered(settings, table)
    num_rows = len(kept)
    mixer = Mixer(settings, table, kept.tolist())
    if settings.shuffle_seed is not None:
        kept = np.random.default_rng(settings.shuffle_seed).permutation(kept)
    num_train = _num_train(settings, num_rows, bad)
    chosen = kept[: num_train + settings.held_out].tolist()
    examples: list[Example] = []
    places: list[str] = []
    num_held_out = 0
    rows = table.take(chosen, [*settings.texts.values()])
    for position, (index, (place, row)) in enumerate(zip(chosen, rows, strict=True)):
        example = _example(settings, row, place)
        if isinstance(example, BadRow):
            _stop_or_keep(settings, example, bad)
            continue
        examples.append(mixer.mix(example, index))
        places.append(place)
        num_held_out += position >= num_train
    if len(examples) == num_held_out:
        raise NothingToUseError(f"{settings.dataset} has no row that can be used", _reasons(bad))
    return Examples(examples, places, num_held_out, num_rows, bad)


def _num_train(settings: JobSettings, available: int, bad: Sequence[BadRow]) -> int:
    """How many of the rows there are to train on."""
    most = available - settings.held_out
    if most < 1:
        raise NothingToUseError(
            f"held_out={settings.held_out}: {settings.dataset} has {available} rows that pass the "
            "filters, and none would be left to train on",
            _reasons(bad),
            param="held_out",
        )
    return most if settings.limit is None else min(settings.limit, most)


def _reasons(bad: Sequence[BadRow]) -> dict[str, str]:
    return {row.place: row.reason for row in bad}


def _check_columns(settings: JobSettings, table: Table) -> None:
    wanted = {
        **{column: name for name, column in settings.texts.items()},
        **dict.fromkeys(settings.where, "where"),
        **dict.fromkeys(settings.shorter_than, "shorter_than"),
    }
    for column, name in wanted.items():
        if table.columns is not None and column not in table.columns:
            raise InputError(
                f"{settings.dataset} has no column {column!r} (for {name}); there are: "
                + ", ".join(table.columns),
                param="columns",
            )


def _filtered(settings: JobSettings, table: Table) -> tuple[Any, list[BadRow]]:
    """The rows that pass the filters, as an array of their indices, and those that are no rows.

    Rows after the last one that is taken are not read, unless they are shuffled or joined.
    """
    filters = [*settings.where, *settings.shorter_than]
    if not filters and table.num_rows is not None:
        return np.arange(table.num_rows), []
    enough = None
    of_all = settings.shuffle_seed is not None or settings.join_contexts > 1
    if not of_all and settings.limit is not None:
        enough = settings.limit + settings.held_out
    kept: list[int] = []
    bad: list[BadRow] = []
    for index, (place, row) in enumerate(table.rows(filters)):
        passes = row if isinstance(row, BadRow) else _passes(settings, row, place)
        if isinstance(passes, BadRow):
            _stop_or_keep(settings, passes, bad)
        elif passes:
            kept.append(index)
            if len(kept) == enough:
                break
    return np.array(kept, dtype=np.int64), bad


def _passes(settings: JobSettings, row: Mapping[str, Any], place: str) -> bool | BadRow:
    for column, choices in settings.where.items():
        if column not in row:
            return BadRow(place, f"no {column!r}")
        if _as_text(row[column]) not in choices:
            return False
    for column, length in settings.shorter_than.items():
        if not isinstance(row.get(column), str):
            return BadRow(place, f"{column!r} is not a text")
        if len(row[column]) >= length:
            return False
    return True


def _as_text(value: Any) -> str:
    """A value as it is written in a filter: a number or truth value as in JSON."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _stop_or_keep(settings: JobSettings, row: BadRow, bad: list[BadRow]) -> None:
    if settings.bad_rows == "stop":
        raise InputError(f"{settings.dataset}, {row}", param="dataset")
    bad.append(row)


def _example(settings: JobSettings, row: Row, place: str) -> Example | BadRow:
    example = {}
    for name, column in settings.texts.items():
        text = text_in(row, column, place)
        if isinstance(text, BadRow):
            return text
        example[name] = text
    return example


def make_task(
    settings: JobSettings, example: Example, model: Any, tokenizer: Any, source_type: str
) -> AttributionTask:
    """The attribution task of an example, with sources of one level."""
    thought = settings.task == "thought"
    generate = dict(DEFAULT_THOUGHT_GENERATE_KWARGS if thought else DEFAULT_GENERATE_KWARGS)
    if settings.max_new_tokens is not None:
        generate["max_new_tokens"] = settings.max_new_tokens
    if thought:
        return SimpleThoughtAttributionTask(
            example["query"], model, tokenizer, generate, source_type=source_type
        )
    return SimpleContextAttributionTask(
        example["context"], example["query"], model, tokenizer, generate, source_type=source_type
    )
