"""Responses whose path is known: a sentence of documents, a thought, and what follows from it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from at2.tasks import Document, DocumentsContextAttributionTask, DocumentsThoughtAttributionTask

_FILE = Path(__file__).parents[1] / "data" / "thoughts.jsonl"


@dataclass(frozen=True)
class Thought:
    """A response that follows a thought.

    Attributes:
        documents: what was read.
        query: what was asked.
        thoughts: what rests on one sentence of the documents.
        response: what rests on the thoughts.
        value: what it says, letter by letter: the span to attribute.
        origin: the sentence.
    """

    documents: tuple[str, ...]
    query: str
    thoughts: str
    response: str
    value: str
    origin: str

    def task(self, model: Any, tokenizer: Any) -> DocumentsThoughtAttributionTask:
        """The response alone as the target, documents and thoughts as sources."""
        documents = [Document(text) for text in self.documents]
        task = DocumentsThoughtAttributionTask(documents, self.query, model, tokenizer)
        task.set_thoughts_and_response(self.thoughts, self.response)
        return task

    def whole(self, model: Any, tokenizer: Any) -> DocumentsContextAttributionTask:
        """Thoughts and response as the target, documents as sources."""
        task = DocumentsContextAttributionTask(self.documents, self.query, model, tokenizer)
        task.set_generation_ids(self.task(model, tokenizer).generation_ids)
        return task


def read_thoughts() -> list[Thought]:
    """All of them."""
    lines = _FILE.read_text("utf-8").splitlines()
    return [
        Thought(**values | {"documents": tuple(values["documents"])})
        for values in map(json.loads, lines)
    ]
