"""Reads the natural passages of tests/data/passages.json, and what they answer where.

A passage is one text or a few documents. A question has the value that a right response contains,
as the text writes it, and the sentences that hold it. Whether a response is right is computed from
its words; nothing is marked by hand.
"""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from at2.ranges import CharRange
from at2.tasks import DEFAULT_GENERATE_KWARGS, Document, DocumentsContextAttributionTask
from at2.text.sentences import split_sentences

PATH = Path(__file__).parents[1] / "data" / "passages.json"


@dataclass(frozen=True)
class Question:
    """A question about a passage.

    Attributes:
        question: as it is put to a model.
        answer: the value asked for, as the text writes it.
        document: the place of the document that answers it.
        support: the sentences of that document that hold the answer.
    """

    question: str
    answer: str
    document: int
    support: tuple[str, ...]

    def is_answered_by(self, response: str) -> bool:
        """Whether the response holds the answer as whole words, in capitals or not."""
        return self.answer_range(response) is not None

    def answer_range(self, response: str) -> CharRange | None:
        """The characters of the answer where it first stands in the response."""
        match = re.search(rf"(?<!\w){re.escape(self.answer)}(?!\w)", response, re.IGNORECASE)
        return match.span() if match else None


@dataclass(frozen=True)
class Passage:
    """A short text of a kind that people ask about.

    Attributes:
        id: a name of its own.
        kind: what it is: a news report, a recipe.
        documents: one, or several that a model reads together.
        questions: what it answers.
    """

    id: str
    kind: str
    documents: tuple[Document, ...]
    questions: tuple[Question, ...]

    def sentences(self, document: int) -> list[str]:
        """The sentences of a document, which are the sources of level "sentence"."""
        text = self.documents[document].text
        return [text[start:end] for start, end in split_sentences(text)]

    def support_ranges(self, question: Question) -> list[tuple[int, int, int]]:
        """Document and characters of each supporting sentence, as `overlapping_sources` takes."""
        text = self.documents[question.document].text
        starts = [text.index(sentence) for sentence in question.support]
        return [
            (question.document, start, start + len(sentence))
            for start, sentence in zip(starts, question.support, strict=True)
        ]

    def task(
        self,
        question: Question,
        model: Any,
        tokenizer: Any,
        *,
        source_type: str = "sentence",
        max_new_tokens: int = 40,
    ) -> DocumentsContextAttributionTask:
        """The task of answering a question from all documents, greedily."""
        return DocumentsContextAttributionTask(
            self.documents,
            question.question,
            model,
            tokenizer,
            {**DEFAULT_GENERATE_KWARGS, "max_new_tokens": max_new_tokens},
            source_type=source_type,
        )


@cache
def read_passages(path: Path = PATH) -> tuple[Passage, ...]:
    """All passages, in the order of the file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return tuple(
        Passage(
            id=passage["id"],
            kind=passage["kind"],
            documents=tuple(Document(**document) for document in passage["documents"]),
            questions=tuple(
                Question(**{**question, "support": tuple(question["support"])})
                for question in passage["questions"]
            ),
        )
        for passage in data["passages"]
    )


def write_rows(path: Path) -> Path:
    """Every question with its text as a row of a JSONL file, as training jobs read them."""
    rows = [
        {"context": "\n\n".join(d.text for d in passage.documents), "query": question.question}
        for passage in read_passages()
        for question in passage.questions
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
