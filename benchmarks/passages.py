"""How many questions about the natural passages a model answers right, and which.

`python -m benchmarks.passages`: every passage of tests/data/passages.json is given whole, with one
question, and answered greedily by the default model or `--model`; an answer is right if it holds
the value that the text gives. Questions about one passage are answered in one batch. `--output
FILE` keeps the responses, one JSON object a line, and a run with the same file goes on after what
it holds, if model and prompt are the same.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from at2.model import default
from at2.training.responses import prompt_fingerprint, respond
from at2.utils import get_model_and_tokenizer
from tests.helpers.passages import Passage, Question, read_passages

MAX_NEW_TOKENS = 40
_PARTS = ("first fifth", "second", "third", "fourth", "last fifth")


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        model: its name.
        prompt: fingerprint of the prompt's ids.
        passage: the passage's id.
        question: as it was put.
        response: what was written.
        right: whether it holds the answer.
    """

    model: str
    prompt: str
    passage: str
    question: str
    response: str
    right: bool


def answer_passage(
    passage: Passage, model: Any, tokenizer: Any, known: dict[tuple[str, str], Answer]
) -> Iterator[tuple[Question, Answer]]:
    """The questions of a passage with their answers: those known, and those of one batch."""
    name = model.name_or_path
    tasks = [
        passage.task(question, model, tokenizer, max_new_tokens=MAX_NEW_TOKENS)
        for question in passage.questions
    ]
    prompts = [prompt_fingerprint(task) for task in tasks]
    new = [task for task, prompt in zip(tasks, prompts, strict=True) if (name, prompt) not in known]
    if new:
        respond(new)
    for question, task, prompt in zip(passage.questions, tasks, prompts, strict=True):
        old = known.get((name, prompt))
        response = task.generation if old is None else old.response
        right = question.is_answered_by(response)
        yield question, Answer(name, prompt, passage.id, question.question, response, right)


def part_of(passage: Passage, question: Question) -> str:
    """In which fifth of its document's sentences the answer is."""
    sentences = passage.sentences(question.document)
    place = (sentences.index(question.support[0]) + 0.5) / len(sentences)
    return _PARTS[int(len(_PARTS) * place)]


def read_answers(path: Path | None) -> dict[tuple[str, str], Answer]:
    """Answers of an earlier run, by model and prompt."""
    if path is None or not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    answers = [Answer(**json.loads(line)) for line in lines]
    return {(answer.model, answer.prompt): answer for answer in answers}


def main(arguments: Sequence[str] = ()) -> None:
    """Print each answer that is wrong, and the counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passages", description=__doc__)
    parser.add_argument("--model", default=default.NAME, help="a model's name, folder or file")
    parser.add_argument("--output", type=Path, help="a file for the responses, one a line")
    options = parser.parse_args(arguments)
    disable_progress_bar()
    model, tokenizer = get_model_and_tokenizer(options.model)
    known = read_answers(options.output)
    groups: dict[str, list[bool]] = {"all": [], **{part: [] for part in _PARTS}}
    for passage in read_passages():
        with torch.inference_mode():
            answers = list(answer_passage(passage, model, tokenizer, known))
        for question, answer in answers:
            groups["all"].append(answer.right)
            groups[part_of(passage, question)].append(answer.right)
            if options.output and (answer.model, answer.prompt) not in known:
                with options.output.open("a", encoding="utf-8") as file:
                    print(json.dumps(asdict(answer), ensure_ascii=False), file=file)
            if not answer.right:
                said = " ".join(answer.response.split())
                print(f"{passage.id}: {question.question} [{question.answer}] {said}", flush=True)
    print("\n| answer in | right | of |\n|---|---|---|")
    for name, rights in groups.items():
        print(f"| {name} | {sum(rights)} | {len(rights)} |")


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
