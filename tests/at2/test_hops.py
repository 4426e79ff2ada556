"""Scores that are carried on over thoughts and statements."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import at2
from at2.errors import InputError
from at2.methods import (
    MAX_HOPS,
    AT2Attributor,
    AverageAttentionAttributor,
    ContrastiveAttentionAttributor,
    HopsAttributor,
    LeaveOneOutAttributor,
)
from at2.model.attention import token_scores
from at2.model.tokens import MarkedTokens
from at2.tasks import Document, DocumentsContextAttributionTask, DocumentsThoughtAttributionTask
from tests.helpers.attribution import tiny_pair
from tests.helpers.thoughts import read_thoughts

DOCUMENTS = [Document("Ada wrote it. The fox did not.", id="a"), Document("Ben read it.")]
THOUGHTS = "I look. It was Ada. Ben only read."
RESPONSE = "Ada wrote it. So she knew."


def task_of(thinks: bool = True) -> Any:
    model = tiny_pair("byte_level")
    if not thinks:
        task = DocumentsContextAttributionTask(DOCUMENTS, "Who?", *model)
        task.set_generation(RESPONSE)
        return task
    thinking = DocumentsThoughtAttributionTask(DOCUMENTS, "Who?", *model)
    thinking.set_thoughts_and_response(THOUGHTS, RESPONSE)
    return thinking


def by_paths(attributor: Any, quote: str, hops: int) -> NDArray[np.float64]:
    """The same scores as a sum over all paths from the span to each source, one at a time."""
    task = attributor.task
    first, last = task.generation_token_start, task.generation_token_end
    marked = MarkedTokens(task.token_ids, (first, last), query_range=task.query_token_range)
    matrix = token_scores(task.model, marked, attributor.weighing).numpy().astype(np.float64)
    statements = task.get_sub_token_ranges((first, last), "sentence")
    in_prompt = [s for s in task.source_token_ranges if s[1] <= first]

    def score(of: Any, piece: Any) -> float:
        if piece[1] > of[0]:
            return 0.0
        return float(matrix[of[0] - first : of[1] - first, piece[0] : piece[1]].sum(1).mean())

    def share(of: Any, piece: Any) -> float:
        total = sum(max(score(of, one), 0.0) for one in [*in_prompt, *statements])
        return max(score(of, piece), 0.0) / total if total else 0.0

    def arrived(piece: Any, steps: int) -> float:
        """What comes to a piece over exactly so many statements."""
        if not steps:
            return max(score(span, piece), 0.0)
        return sum(arrived(one, steps - 1) * share(one, piece) for one in statements)

    found = task.target_span(*task.find_span(quote))
    span = found.token_start, found.token_end
    return np.array(
        [
            score(span, source) + sum(arrived(source, n) for n in range(1, hops + 1))
            if source in in_prompt
            else arrived(source, hops)
            for source in task.source_token_ranges
        ]
    )


@pytest.mark.parametrize("method", [AverageAttentionAttributor, ContrastiveAttentionAttributor])
@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize("thinks", [True, False])
@pytest.mark.parametrize("quote", ["Ada wrote it.", "So she knew."])
def test_scores_are_sums_over_all_paths(method: Any, hops: int, thinks: bool, quote: str) -> None:
    attributor = method(task_of(thinks))
    found = HopsAttributor(attributor, hops).get_attribution_scores(quote)
    assert found == pytest.approx(by_paths(attributor, quote, hops), abs=1e-6)
    carried = found - attributor.get_attribution_scores(quote)
    assert (carried[:3] >= 0).all()
    if method is AverageAttentionAttributor:  # whose scores are all positive
        behind = thinks or quote != "Ada wrote it."  # there is a statement before it
        assert carried[:3].any() == behind


@pytest.mark.parametrize("method", [AverageAttentionAttributor, ContrastiveAttentionAttributor])
@pytest.mark.parametrize("thinks", [True, False])
def test_without_hops_scores_are_those_of_the_method(method: Any, thinks: bool) -> None:
    task = task_of(thinks)
    plain, none = method(task), HopsAttributor(method(task), 0)
    for start, end in task.statements:
        assert none.get_attribution_scores(start, end) == pytest.approx(
            plain.get_attribution_scores(start, end), abs=1e-7
        )


def test_what_is_owed_to_thoughts_goes_to_the_documents_in_the_end() -> None:
    task = task_of()
    direct = AverageAttentionAttributor(task).get_attribution_scores("So she knew.")
    carried = HopsAttributor(AverageAttentionAttributor(task), MAX_HOPS)
    scores = carried.get_attribution_scores("So she knew.")
    assert direct[3:].sum() > 0 and scores[3:] == pytest.approx(0, abs=1e-9)
    assert scores[:3].sum() > direct.sum() - 1e-7  # and what it owes to the statement before it


def test_a_new_response_gets_new_scores() -> None:
    task = task_of()
    attributor = HopsAttributor(AverageAttentionAttributor(task)).with_hops(2)
    first = attributor.get_attribution_scores()
    task.set_thoughts_and_response("The fox did not.", RESPONSE)
    fresh = HopsAttributor(AverageAttentionAttributor(task), 2)
    assert attributor.get_attribution_scores() == pytest.approx(fresh.get_attribution_scores())
    assert len(first) == 6 and len(attributor.get_attribution_scores()) == 4


@pytest.mark.parametrize("hops", [-1, MAX_HOPS + 1])
def test_hops_have_a_limit(hops: int) -> None:
    with pytest.raises(InputError, match=f"hops is {hops}, not between 0 and {MAX_HOPS}") as caught:
        HopsAttributor(AverageAttentionAttributor(task_of()), hops)
    assert caught.value.param == "hops"


def test_a_method_that_weighs_no_attention_takes_no_hops() -> None:
    with pytest.raises(InputError, match="weighs attention") as caught:
        HopsAttributor(LeaveOneOutAttributor(task_of()))
    assert caught.value.param == "hops"
    with pytest.raises(InputError, match="weighs attention"):
        at2.attribute(
            "Ada wrote it.",
            "Who?",
            "Ada.",
            model=tiny_pair("byte_level"),
            method="leave_one_out",
            hops=1,
        )


@pytest.mark.default_model
def test_the_sentence_behind_a_thought_is_found(default_pair: tuple[Any, Any]) -> None:
    known = read_thoughts()
    # that the path is what it is said to be, ablation confirms: without the sentence, thoughts and
    # response together lose most
    confirmed = 0
    for one in known[:2]:
        whole = one.whole(*default_pair)
        lost = LeaveOneOutAttributor(whole).get_attribution_scores()
        confirmed += whole.sources[int(lost.argmax())] == one.origin
    assert confirmed == 2
    found = {0: 0, 2: 0}
    for one in known:
        task = one.task(*default_pair)
        count = sum(span.document < len(one.documents) for span in task.source_spans)
        attributor = HopsAttributor(AT2Attributor(task))
        for hops in found:
            scores = attributor.with_hops(hops).get_attribution_scores(one.value)[:count]
            found[hops] += task.sources[int(scores.argmax())] == one.origin
    assert found[2] >= 11 and found[2] >= found[0] + 3
