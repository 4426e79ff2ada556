"""From examples of the world to padded batches of token rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from trainer_jobs.bundled.network import Batch
from trainer_jobs.bundled.tokenizer import ASSISTANT, END, USER
from trainer_jobs.bundled.world import Example, World

IGNORED = -100
_SENTENCE_TOKENS, _QUESTION_TOKENS = 14, 23
"""What a sentence and a question with its answer take on average."""


_NOTHING = (0, 0)
_UNSAID = (0, 1)
"""The evidence for an answer that the context does not hold: its very first token, as a place to
look at when nothing else fits."""


@dataclass(frozen=True)
class Row:
    """One context with its questions; one entry a token in each list.

    Attributes:
        positions: rotary positions.
        segments: 0 for the context, then the number of the question.
        targets: the token to predict, or `IGNORED`.
        evidence: where, among the row's tokens, the sentence starts and ends that the predicted
            token follows from.
    """

    ids: list[int]
    positions: list[int]
    segments: list[int]
    targets: list[int]
    evidence: list[tuple[int, int]]


class Packer:
    """Turns examples into rows. Encodes exactly as the chat template does."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self._encode = tokenizer.backend_tokenizer.encode
        self._user = tokenizer.convert_tokens_to_ids(USER)
        self._assistant = tokenizer.convert_tokens_to_ids(ASSISTANT)
        self._end = tokenizer.convert_tokens_to_ids(END)

    def ids(self, text: str) -> list[int]:
        """The tokens of a piece that starts and ends at a border between pre-tokens."""
        return list(self._encode(text, add_special_tokens=False).ids)

    def row(self, example: Example) -> Row:
        """One example, encoded."""
        ids = [self._user, *self.ids("Context: ")]
        positions = list(range(len(ids)))
        places: list[tuple[int, int]] = []  # of the tokens of each sentence
        offset = len(ids)
        for sentence, separator, kept in zip(
            example.sentences, example.separators, example.kept, strict=True
        ):
            tokens = self.ids(sentence)
            places.append((len(ids), len(ids) + len(tokens)))
            if kept:
                ids += tokens
                positions += range(offset, offset + len(tokens))
            offset += len(tokens)
            tokens = self.ids(separator)
            ids += tokens
            positions += range(offset, offset + len(tokens))
            offset += len(tokens)
        tokens = self.ids("\n\nQuery: ")
        ids += tokens
        positions += range(offset, offset + len(tokens))
        offset += len(tokens)
        segments, targets = [0] * len(ids), [IGNORED] * len(ids)
        evidence = [_NOTHING] * len(ids)
        for number, question in enumerate(example.questions, start=1):
            asked = [*self.ids(question.query), self._end, self._assistant]
            answer: list[int] = []
            found: list[tuple[int, int]] = []
            for index, statement in enumerate(question.statements):
                tokens = self.ids(f" {statement}" if index else statement)
                place = places[question.support[index]] if question.support else _UNSAID
                answer += tokens
                found += [place] * len(tokens)
            answer.append(self._end)
            found.append(found[-1])
            ids += asked + answer[:-1]
            length = len(asked) + len(answer) - 1
            positions += range(offset, offset + length)
            segments += [number] * length
            targets += [IGNORED] * (len(asked) - 1) + answer
            evidence += [_NOTHING] * (len(asked) - 1) + found
        return Row(ids, positions, segments, targets, evidence)

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Rows laid out one after another, with the index tables that attention needs."""
        rows = [self.row(example) for example in examples]
        tables: list[list[list[int]]] = []  # per row: the context's places, then each question's
        start = 0
        for row in rows:
            parts: list[list[int]] = [[] for _ in range(max(row.segments) + 1)]
            for place, segment in enumerate(row.segments, start=start):
                parts[segment].append(place)
            tables.append(parts)
            start += len(row.ids)
        questions = max(len(parts) for parts in tables) - 1
        context = max(len(parts[0]) for parts in tables)
        length = max(len(part) for parts in tables for part in parts[1:])
        padding = start
        context_table = torch.full((len(rows), context), padding)
        segment_table = torch.full((len(rows), questions, length), padding)
        for row_index, parts in enumerate(tables):
            context_table[row_index, : len(parts[0])] = torch.tensor(parts[0])
            for number, part in enumerate(parts[1:]):
                segment_table[row_index, number, : len(part)] = torch.tensor(part)
        return Batch(
            torch.tensor([i for row in rows for i in row.ids]),
            torch.tensor([i for row in rows for i in row.positions]),
            torch.tensor([i for row in rows for i in row.targets]),
            torch.tensor([i for row in rows for i in row.evidence]),
            context_table,
            segment_table,
        )


def sample_batch(
    packer: Packer, world: World, rng: Random, sentences: tuple[int, int], tokens: int
) -> Batch:
    """A batch of about `tokens` tokens whose contexts have `sentences` (from, to) sentences."""
    examples: list[Example] = []
    size = 0
    most = rng.randint(*sentences)
    while size < tokens:
        count = rng.randint(max(sentences[0], most - 3), most)
        questions = 6 + min(count, 8)
        examples.append(world.example(rng, count, questions))
        size += _SENTENCE_TOKENS * count + _QUESTION_TOKENS * questions
    return packer.batch(examples)
