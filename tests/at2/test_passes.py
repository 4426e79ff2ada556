"""Between the passes of a method something else may run, and the method may be ended there."""

from typing import Any

import numpy as np
import pytest

from at2.methods import METHODS
from at2.model.passes import BACKWARD_COST, between_passes
from tests.helpers.attribution import small_llama, small_task

WITH_PASSES = [name for name, method in METHODS.items() if not method.needs_estimator]


class Ended(Exception):  # noqa: N818 (it is no error)
    pass


def _scores(task: Any, method: str) -> Any:
    return METHODS[method].build(task).get_attribution_scores()


@pytest.mark.parametrize("method", WITH_PASSES)
def test_every_pass_is_announced_with_its_tokens(method: str) -> None:
    task = small_task(small_llama(), "word")
    passes: list[tuple[int, ...]] = []
    announced: list[int] = []
    task.model.register_forward_pre_hook(
        lambda _, __, inputs: passes.append(inputs["input_ids"].shape), with_kwargs=True
    )
    _scores(task, method)  # what is found out once for each model is
    passes.clear()
    with between_passes(announced.append):
        _scores(task, method)
    assert len(announced) == len(passes)
    for tokens, shape in zip(announced, passes, strict=True):
        read = int(np.prod(shape))
        assert tokens in (read, read * (1 + BACKWARD_COST))
    announced.clear()
    _scores(task, method)
    assert not announced


@pytest.mark.parametrize(
    "method", ["leave_one_out", "context_cite", "gradient_norm", "visibility_gradient"]
)
@pytest.mark.parametrize("other", ["average_attention", "leave_one_out", "input_x_gradient"])
def test_another_method_may_run_between_two_passes_of_the_same_model(
    method: str, other: str
) -> None:
    model = small_llama()
    alone, other_alone = (_scores(small_task(model, "word"), name) for name in (method, other))
    found: list[Any] = []

    def run_other(_: int) -> None:
        if len(found) < 3:
            found.append(None)
            with between_passes(lambda _: None):
                found[-1] = _scores(small_task(model, "word"), other)

    with between_passes(run_other):
        np.testing.assert_array_equal(_scores(small_task(model, "word"), method), alone)
    assert found
    for scores in found:
        np.testing.assert_array_equal(scores, other_alone)


@pytest.mark.parametrize(
    "method", ["leave_one_out", "gradient_norm", "visibility_gradient", "average_attention"]
)
def test_a_method_that_is_ended_leaves_the_model_as_it_was(method: str) -> None:
    model = small_llama()
    expected = _scores(small_task(model, "word"), method)

    def end(_: int) -> None:
        raise Ended

    with pytest.raises(Ended), between_passes(end):
        _scores(small_task(model, "word"), method)
    np.testing.assert_array_equal(_scores(small_task(model, "word"), method), expected)
