"""Questions about natural texts with known answers, from the passages of the tests and from files
in the layout of SQuAD, such as XQuAD.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from at2.evaluation import overlapping_sources
from at2.tasks import (
    DEFAULT_GENERATE_KWARGS,
    AttributionTask,
    Document,
    DocumentsContextAttributionTask,
)
from tests.helpers.passages import read_passages

MAX_NEW_TOKENS = 40
_BETWEEN_PARAGRAPHS = "\n\n"


@dataclass(frozen=True)
class Asked:
    """A question with its documents and what is known about the answer.

    Attributes:
        documents: what the model reads.
        query: the question.
        answer: the value that a right response contains.
        support: document and characters of what holds the answer.
    """

    documents: tuple[Document, ...]
    query: str
    answer: str
    support: tuple[tuple[int, int, int], ...]

    def task(
        self, model: Any, tokenizer: Any, source_type: str = "sentence"
    ) -> DocumentsContextAttributionTask:
        """The task of answering it greedily."""
        return DocumentsContextAttributionTask(
            self.documents,
            self.query,
            model,
            tokenizer,
            {**DEFAULT_GENERATE_KWARGS, "max_new_tokens": MAX_NEW_TOKENS},
            source_type=source_type,
        )

    def answer_range(self, response: str) -> tuple[int, int] | None:
        """The characters of the answer where it first stands in a response as whole words."""
        match = re.search(rf"(?<!\w){re.escape(self.answer)}(?!\w)", response, re.IGNORECASE)
        return match.span() if match else None

    def supporting(self, task: AttributionTask) -> frozenset[int]:
        """The sources that hold the answer."""
        return frozenset(overlapping_sources(task, list(self.support)))


def from_passages() -> list[Asked]:
    """Every question about the passages of the tests."""
    return [
        Asked(
            passage.documents,
            question.question,
            question.answer,
            tuple(passage.support_ranges(question)),
        )
        for passage in read_passages()
        for question in passage.questions
    ]


def from_squad(
    path: Path, articles: slice, paragraphs: Sequence[int], count: int | None, seed: int = 0
) -> list[Asked]:
    """Questions drawn from articles, each about some paragraphs that follow each other.

    Args:
        path: a file in the layout of SQuAD 1.1.
        articles: which of them.
        paragraphs: the numbers of paragraphs that are drawn from.
        count: questions, or None for all; no question comes twice.
        seed: of the draws.
    """
    data = json.loads(path.read_text("utf-8"))["data"][articles]
    found = list(_squad(data, paragraphs, np.random.default_rng(seed)))
    order = np.random.default_rng(seed + 1).permutation(len(found))
    return [found[i] for i in order[:count]]


def _squad(data: Any, paragraphs: Sequence[int], random: np.random.Generator) -> Iterator[Asked]:
    for article in data:
        texts = [paragraph["context"] for paragraph in article["paragraphs"]]
        for place, paragraph in enumerate(article["paragraphs"]):
            for question in paragraph["qas"]:
                size = min(int(random.choice(paragraphs)), len(texts))
                first = max(0, place - int(random.integers(0, size)))
                first = min(first, len(texts) - size)
                before = sum(len(t) + len(_BETWEEN_PARAGRAPHS) for t in texts[first:place])
                answer = question["answers"][0]
                start = before + answer["answer_start"]
                context = _BETWEEN_PARAGRAPHS.join(texts[first : first + size])
                yield Asked(
                    (Document(context),),
                    question["question"],
                    answer["text"],
                    ((0, start, start + len(answer["text"])),),
                )
