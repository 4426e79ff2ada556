"""Which rows become examples, and the task of each."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from at2.errors import InputError
from at2.tasks import SimpleContextAttributionTask, SimpleThoughtAttributionTask
from tests.helpers.tiny import tiny_pair
from trainer_jobs.examples import load_examples, make_task
from trainer_jobs.settings import JobSettings

CATEGORIES = ["summarization", "closed_qa", "information_extraction", "open_qa"]


def settings(**values: Any) -> JobSettings:
    return JobSettings(**({"out": "unused", "dataset": "unused"} | values))


def jsonl(folder: Path, *rows: object) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def dolly_like(count: int) -> list[dict[str, str]]:
    return [
        {
            "instruction": f"Question {i}?",
            "context": f"Fact {i}. " * (1 + 7 * i % 5),
            "category": CATEGORIES[i * i % 4],
        }
        for i in range(count)
    ]


@limits(max_examples=25)  # `datasets` writes a file for each
@given(
    count=st.integers(8, 60),
    seed=st.integers(0, 2**32),
    limit=st.integers(1, 12),
    held_out=st.integers(0, 3),
)
def test_rows_are_those_that_datasets_would_select(
    count: int, seed: int, limit: int, held_out: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = dolly_like(count)
    path = jsonl(tmp_path_factory.mktemp("rows"), *rows)
    found = load_examples(
        settings(
            dataset=path,
            columns={"query": "instruction"},
            where={"category": CATEGORIES[:3]},
            shorter_than={"context": 30},
            shuffle_seed=seed,
            limit=limit,
            held_out=held_out,
        )
    )
    # As the walk-through of the library does it.
    whole = datasets.Dataset.from_list(rows).filter(
        lambda row: row["category"] in CATEGORIES[:3] and len(row["context"]) < 30
    )
    expected = whole.shuffle(seed=seed)
    num_train = min(limit, len(expected) - held_out)
    assert found.examples == [
        {"context": row["context"], "query": row["instruction"]}
        for row in expected.select(range(num_train + held_out))
    ]
    assert found.held_out == range(num_train, num_train + held_out)
    assert found.num_rows == len(whole)


def test_a_data_set_of_the_hub_and_a_file_give_the_same(tmp_path: Path) -> None:
    rows = dolly_like(20)
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    chosen: dict[str, Any] = {
        "columns": {"query": "instruction"},
        "where": {"category": "closed_qa"},
        "shuffle_seed": 3,
    }
    from_file = load_examples(settings(dataset=jsonl(tmp_path, *rows), **chosen))
    from_hub = load_examples(settings(dataset=str(tmp_path / "saved"), **chosen))
    assert from_file.examples == from_hub.examples
    assert len(from_hub.examples) > 1
    assert [place.split()[1] for place in from_file.places] == [
        place.split()[1] for place in from_hub.places
    ]


GOOD = {"context": "A fact.", "query": "What?"}
BAD_ROWS = [
    ({"context": "A fact."}, "no 'query'"),
    ({"context": None, "query": "What?"}, "no 'context'"),
    ({"context": 7, "query": "What?"}, "'context' must be a string, not int"),
    ({"context": " \n", "query": "What?"}, "'context' is empty"),
    ({"context": "\ud800", "query": "What?"}, "'context' holds a lone surrogate at character 0"),
    ([1], "not an object, but list"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS)
def test_a_bad_row_stops_or_is_passed_over(row: object, reason: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path, GOOD, row, {**GOOD, "query": "Why?"})
    with pytest.raises(InputError) as error:
        load_examples(settings(dataset=path))
    assert str(error.value) == f"{path}, line 2: {reason}"
    found = load_examples(settings(dataset=path, bad_rows="skip"))
    assert [example["query"] for example in found.examples] == ["What?", "Why?"]
    assert [str(bad) for bad in found.bad_rows] == [f"line 2: {reason}"]
    assert found.places == ["line 1", "line 3"]


def test_bad_rows_do_not_change_which_others_are_taken(tmp_path: Path) -> None:
    rows = [{"context": f"Fact {i}.", "query": "What?"} for i in range(12)]
    chosen: dict[str, Any] = {"shuffle_seed": 1, "limit": 5, "held_out": 3, "bad_rows": "skip"}
    whole = load_examples(settings(dataset=jsonl(tmp_path, *rows), **chosen))
    for index in range(12):
        changed = [{**row, "query": ""} if i == index else row for i, row in enumerate(rows)]
        found = load_examples(settings(dataset=jsonl(tmp_path, *changed), **chosen))
        without = [e for e in whole.examples if e["context"] != f"Fact {index}."]
        assert found.examples == without
        assert len(found.bad_rows) == len(whole.examples) - len(without)
        held_out = [whole.examples[i] for i in whole.held_out]
        assert [found.examples[i] for i in found.held_out] == [e for e in held_out if e in without]


def test_filters_name_rows_that_they_cannot_judge(tmp_path: Path) -> None:
    path = jsonl(tmp_path, GOOD, {**GOOD, "n": 1}, {**GOOD, "n": True})
    with pytest.raises(InputError, match="line 1: no 'n'"):
        load_examples(settings(dataset=path, where={"n": "1"}))
    for value, place in (("1", "line 2"), ("true", "line 3")):
        found = load_examples(settings(dataset=path, where={"n": value}, bad_rows="skip"))
        assert found.places == [place]
    with pytest.raises(InputError, match="line 1: 'n' is not a text"):
        load_examples(settings(dataset=path, shorter_than={"n": 5}))


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("context,question\na,b\n")
    with pytest.raises(InputError) as error:
        load_examples(settings(dataset=str(path)))
    assert str(error.value) == (
        f"{path} has no column 'query' (for query); there are: context, question"
    )
    with pytest.raises(InputError, match=r"'lang' \(for where\)"):
        load_examples(
            settings(dataset=str(path), columns={"query": "question"}, where={"lang": "en"})
        )


def test_too_few_rows_are_an_error(tmp_path: Path) -> None:
    path = jsonl(tmp_path, GOOD, GOOD)
    with pytest.raises(InputError, match=r"^held_out=2: .* has 2 rows that pass") as error:
        load_examples(settings(dataset=path, held_out=2))
    assert error.value.param == "held_out"
    path = jsonl(tmp_path, {**GOOD, "query": ""})
    with pytest.raises(InputError, match="no row that can be used; 1 × 'query' is empty"):
        load_examples(settings(dataset=path, bad_rows="skip"))


def test_messages_about_examples_name_their_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"context": "", "query": "x"}, GOOD)
    found = load_examples(settings(dataset=path, bad_rows="skip"))
    assert found.with_place("example 0: too long") == "example 0 (line 2): too long"
    for message in ("example 1: no", "an example 0: no", "no responses yet"):
        assert found.with_place(message) == message


def test_contexts_of_neighbours_are_joined(tmp_path: Path) -> None:
    contexts = [f"Fact {i // 2}." for i in range(40)]  # two questions about each
    rows = [{"context": text, "query": f"What {i}?"} for i, text in enumerate(contexts)]
    path = jsonl(tmp_path, *rows)
    found = load_examples(settings(dataset=path, join_contexts=3, shuffle_seed=1))
    joined = "\n\n".join(dict.fromkeys(contexts))
    counts = set()
    for example in found.examples:
        own = contexts[int(example["query"][5:-1])]
        parts = example["context"].split("\n\n")
        assert own in parts and example["context"] in joined
        counts.add(len(parts))
    assert counts == {1, 2, 3}
    again = load_examples(settings(dataset=path, join_contexts=3, shuffle_seed=1))
    assert again.examples == found.examples
    fewer = load_examples(settings(dataset=path, join_contexts=3, shuffle_seed=1, limit=5))
    assert fewer.examples == found.examples[:5]


@pytest.mark.parametrize("context", ["half a \ud800", "  ", 7])
def test_contexts_that_cannot_be_used_are_not_joined_to_others(
    tmp_path: Path, context: Any
) -> None:
    facts = [f"Fact {number}." for number in range(6)]
    contexts = [*facts[:3], context, *facts[3:]]
    path = jsonl(tmp_path, *({"context": each, "query": "What?"} for each in contexts))
    found = load_examples(settings(dataset=path, join_contexts=6, bad_rows="skip"))
    joined = [part for each in found.examples for part in each["context"].split("\n\n")]
    assert set(joined) == set(facts) and len(joined) > len(facts)


def test_some_examples_get_other_queries_and_levels(tmp_path: Path) -> None:
    path = jsonl(tmp_path, *({"context": "A fact.", "query": f"What {i}?"} for i in range(200)))
    found = load_examples(
        settings(
            dataset=path,
            other_queries=("Summarize it.", "Shorten it."),
            other_queries_share=0.25,
            source_type="token,sentence",
        )
    )
    queries = [example["query"] for example in found.examples]
    others = [query for query in queries if not query.startswith("What")]
    assert 30 <= len(others) <= 70 and set(others) == {"Summarize it.", "Shorten it."}
    levels = [example["source_type"] for example in found.examples]
    assert 70 <= levels.count("token") <= 130 and set(levels) == {"token", "sentence"}


def test_tasks_are_the_librarys_own() -> None:
    model, tokenizer = tiny_pair()
    context = make_task(settings(), GOOD, model, tokenizer, "sentence")
    assert isinstance(context, SimpleContextAttributionTask)
    assert (context.context, context.query) == (GOOD["context"], GOOD["query"])
    assert context.source_type == "sentence" and context.generate_kwargs["max_new_tokens"] == 512
    thought = make_task(
        settings(task="thought", max_new_tokens=9), {"query": "Hm?"}, model, tokenizer, "word"
    )
    assert isinstance(thought, SimpleThoughtAttributionTask)
    assert thought.query == "Hm?" and thought.generate_kwargs["max_new_tokens"] == 9
    longer = make_task(settings(task="thought"), {"query": "Hm?"}, model, tokenizer, "word")
    assert longer.generate_kwargs["max_new_tokens"] == 4096


def test_contexts_are_joined_with_their_neighbours_whatever_the_limit(tmp_path: Path) -> None:
    rows = [{"context": f"Fact {i}.", "query": "What?"} for i in range(30)]
    path = jsonl(tmp_path, *rows)
    chosen: dict[str, Any] = {"dataset": path, "join_contexts": 3, "other_queries": ("Why?",)}
    few, many = (load_examples(settings(limit=limit, **chosen)) for limit in (10, 20))
    assert many.examples[:10] == few.examples
    parts = [example["context"].split("\n\n") for example in many.examples]
    assert {len(part) for part in parts} == {1, 2, 3}
    facts = [row["context"] for row in rows]
    for index, part in enumerate(parts):
        start = facts.index(part[0])
        assert part == facts[start : start + len(part)] and facts[index] in part
    assert 0 < sum(example["query"] == "Why?" for example in many.examples) < 15
