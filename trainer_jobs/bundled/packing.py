"""From examples of the world to padded batches of token rows."""

from collections.abc import Sequence
from itertools import chain
from random import Random

import torch
from transformers import PreTrainedTokenizerFast

from trainer_jobs.bundled.network import Batch
from trainer_jobs.bundled.tokenizer import ASSISTANT, END, USER
from trainer_jobs.bundled.world import Example, World

IGNORED = -100
_SENTENCE_TOKENS, _QUESTION_TOKENS = 14, 23
"""What a sentence and a question with its answer take on average."""


class Packer:
    """Turns examples into rows. Encodes exactly as the chat template does."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._encode = tokenizer.backend_tokenizer.encode
        self._user = tokenizer.convert_tokens_to_ids(USER)
        self._assistant = tokenizer.convert_tokens_to_ids(ASSISTANT)
        self._end = tokenizer.convert_tokens_to_ids(END)

    def ids(self, text: str) -> list[int]:
        """The tokens of a piece that starts and ends at a border between pre-tokens."""
        return list(self._encode(text, add_special_tokens=False).ids)

    def row(self, example: Example) -> tuple[list[int], list[int], list[int], list[int]]:
        """Token ids, positions, segments and targets of one example."""
        ids, positions = [self._user, *self.ids("Context: ")], []
        positions = list(range(len(ids)))
        offset = len(ids)
        for sentence, separator, kept in zip(
            example.sentences, example.separators, example.kept, strict=True
        ):
            tokens = self.ids(sentence)
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
        for number, question in enumerate(example.questions, start=1):
            asked = [*self.ids(question.query), self._end, self._assistant]
            answer = [*self.ids(question.answer), self._end]
            ids += asked + answer[:-1]
            length = len(asked) + len(answer) - 1
            positions += range(offset, offset + length)
            segments += [number] * length
            targets += [IGNORED] * (len(asked) - 1) + answer
        return ids, positions, segments, targets

    def batch(self, examples: Sequence[Example]) -> Batch:
        """Rows laid out one after another, with the index tables that attention needs."""
        rows = [self.row(example) for example in examples]
        ids, positions, _, targets = (list(chain(*column)) for column in zip(*rows, strict=True))
        places: list[list[list[int]]] = []  # per row: the context's places, then each question's
        start = 0
        for row in rows:
            parts: list[list[int]] = [[] for _ in range(max(row[2]) + 1)]
            for place, segment in enumerate(row[2], start=start):
                parts[segment].append(place)
            places.append(parts)
            start += len(row[0])
        questions = max(len(parts) for parts in places) - 1
        context = max(len(parts[0]) for parts in places)
        length = max(len(part) for parts in places for part in parts[1:])
        padding = len(ids)
        context_table = torch.full((len(rows), context), padding)
        segment_table = torch.full((len(rows), questions, length), padding)
        for row_index, parts in enumerate(places):
            context_table[row_index, : len(parts[0])] = torch.tensor(parts[0])
            for number, part in enumerate(parts[1:]):
                segment_table[row_index, number, : len(part)] = torch.tensor(part)
        return Batch(
            torch.tensor(ids),
            torch.tensor(positions),
            torch.tensor(targets),
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
