"""Scores equal a direct computation from eager attention, and spans are means of tokens."""

import re
import weakref
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from at2 import (
    AT2Attributor,
    AttentionFeatureExtractor,
    AverageAttentionAttributor,
    LinearScoreEstimator,
)
from at2.errors import EstimatorMismatchError, InputError, SpanError
from at2.evaluation.verify import verify_spans
from at2.methods import Attributor
from at2.tasks import SimpleContextAttributionTask
from tests.helpers.attribution import RESPONSE, small_llama, small_task
from tests.helpers.tokenizers import tiny_tokenizer


@pytest.fixture(scope="module")
def model() -> Any:
    return small_llama()


def _estimator(model: Any, bias: bool = False) -> LinearScoreEstimator:
    estimator = LinearScoreEstimator(AttentionFeatureExtractor.from_model(model), bias=bias)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in estimator.parameters():
            parameter.normal_(generator=generator)
    return estimator


def _eager_scores(task: Any, estimator: LinearScoreEstimator) -> np.ndarray[Any, Any]:
    """[targets, sources] by the definition: loops over everything, in float64."""
    model = LlamaForCausalLM(deepcopy(task.model.config))
    model.load_state_dict(task.model.state_dict())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model.eval()(torch.tensor([task.token_ids]), output_attentions=True)
    weights = estimator.linear.weight.detach()[0].double().numpy()
    bias = 0.0 if estimator.linear.bias is None else estimator.linear.bias.item()
    first, last = task.target_token_range
    scores = np.zeros((last - first, task.num_sources))
    for target in range(first, last):
        for source, (start, end) in enumerate(task.source_token_ranges):
            for token in range(start, end):
                scores[target - first, source] += bias
                for layer, attention in enumerate(output.attentions):
                    for head in range(attention.shape[1]):
                        weight = weights[layer * attention.shape[1] + head]
                        value = float(attention[0, head, target - 1, token])
                        scores[target - first, source] += weight * value
    return scores


@pytest.mark.parametrize("bias", [False, True])
def test_scores_are_weighted_sums_of_eager_attention(model: Any, bias: bool) -> None:
    task, estimator = small_task(model), _estimator(model, bias)
    ours = AT2Attributor(task, estimator).scores
    assert np.abs(ours - _eager_scores(task, estimator)).max() <= 1e-5


def test_an_untrained_estimator_scores_as_average_attention(model: Any) -> None:
    task = small_task(model)
    estimator = LinearScoreEstimator(AttentionFeatureExtractor.from_model(model))
    np.testing.assert_allclose(
        AT2Attributor(task, estimator).scores,
        AverageAttentionAttributor(task).scores,
        atol=1e-6,
    )


def test_scores_are_put_into_the_cache_and_taken_from_it(model: Any) -> None:
    task, estimator, cache = small_task(model), _estimator(model), {}
    ours = AT2Attributor(task, estimator, cache).scores
    sources, targets = task.num_sources, len(task.target_ids)
    assert cache["scores"].shape == (sources, targets)  # as the published package keeps them
    np.testing.assert_array_equal(cache["scores"].numpy().T, ours)

    kept = {"scores": torch.arange(sources * targets).reshape(sources, targets).bfloat16()}
    given = AT2Attributor(task, estimator, kept).get_attribution_scores(token_start=1, token_end=2)
    np.testing.assert_array_equal(given, kept["scores"][:, 1].float().numpy())

    other = {"scores": torch.zeros(targets, sources)}
    with pytest.raises(InputError, match=f"{sources} sources × {targets} target tokens"):
        AT2Attributor(task, estimator, other).prepare_for_attribution()


def test_the_estimator_applied_to_features_gives_the_same_scores(model: Any) -> None:
    task, estimator = small_task(model), _estimator(model)
    first, last = task.target_token_range
    features = estimator.feature_extractor(task, [(i, i + 1) for i in range(first, last)])
    with torch.no_grad():
        from_features = estimator(features)[..., 0].numpy()
    np.testing.assert_allclose(AT2Attributor(task, estimator).scores, from_features, atol=1e-5)


def test_scores_of_words_add_up_to_those_of_their_sentence(model: Any) -> None:
    estimator = _estimator(model)
    sentences, words = (small_task(model, kind) for kind in ("sentence", "word"))
    by_sentence = AT2Attributor(sentences, estimator).get_attribution_scores()
    by_word = AT2Attributor(words, estimator).get_attribution_scores()
    for sentence, score in zip(sentences.source_spans, by_sentence, strict=True):
        inside = [
            by_word[w.index]
            for w in words.source_spans
            if sentence.start <= w.start and w.end <= sentence.end
        ]
        assert sum(inside) == pytest.approx(score, abs=1e-6)


def test_a_span_is_the_mean_of_its_tokens(model: Any) -> None:
    attributor = AT2Attributor(small_task(model), _estimator(model))
    start, end = RESPONSE.index("The"), RESPONSE.index(" was")
    first, last = attributor.task.target_range_to_token_range(start, end, relative=True)
    by_characters = attributor.get_attribution_scores(start, end)
    np.testing.assert_allclose(by_characters, attributor.scores[first:last].mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(
        by_characters, attributor.get_attribution_scores(token_start=first, token_end=last)
    )


def test_ranking_is_best_first_and_reports_what_was_attributed(model: Any) -> None:
    attributor = AT2Attributor(small_task(model), _estimator(model))
    middle = RESPONSE.index("😀")
    attribution = attributor.attribute(middle, middle + 1, top_k=2)
    scores = attributor.get_attribution_scores(middle, middle + 1)
    assert [s.rank for s in attribution.sources] == [1, 2]
    assert attribution.sources[0].score == scores.max()
    assert attribution.text == "😀" and "😀" in attribution.attributed_text


@pytest.mark.parametrize("span", [(0, 0), (5, 3), (-1, 3), (0, len(RESPONSE) + 1)])
def test_a_span_outside_the_target_is_refused(model: Any, span: tuple[int, int]) -> None:
    attributor = AT2Attributor(small_task(model), _estimator(model))
    with pytest.raises(SpanError, match=str(span[1])):
        attributor.get_attribution_scores(*span)


@pytest.mark.parametrize("span", [(0, 0), (5, 3), (-1, 3), (0, 10_000)])
def test_a_token_span_outside_the_target_is_refused(model: Any, span: tuple[int, int]) -> None:
    attributor = AT2Attributor(small_task(model), _estimator(model))
    with pytest.raises(SpanError, match=str(span[1])):
        attributor.get_attribution_scores(token_start=span[0], token_end=span[1])


def test_characters_and_tokens_together_are_refused(model: Any) -> None:
    with pytest.raises(InputError):
        AT2Attributor(small_task(model), _estimator(model)).get_attribution_scores(0, token_end=3)


def test_a_span_may_be_quoted_or_given_in_tokens(model: Any) -> None:
    attributor = AT2Attributor(small_task(model), _estimator(model))
    start, end = attributor.task.find_span("wrote")
    quoted = attributor.attribute("wrote")
    assert quoted == attributor.attribute(start, end) and quoted.text == "wrote"
    first, last = attributor.task.target_range_to_token_range(start, end, relative=True)
    by_token = attributor.attribute(token_start=first, token_end=last)
    assert by_token.sources == quoted.sources
    assert by_token.text == by_token.attributed_text == quoted.attributed_text
    assert attributor.task.target[by_token.start : by_token.end] == by_token.text
    np.testing.assert_array_equal(
        attributor.get_attribution_scores("wrote"), attributor.get_attribution_scores(start, end)
    )
    with pytest.raises(SpanError, match="does not say 'Lisbon'"):
        attributor.attribute("Lisbon")
    with pytest.raises(InputError, match="text or start and end"):
        attributor.attribute("wrote", 5)
    with pytest.raises(InputError, match="not both"):
        attributor.attribute("wrote", token_start=1)


def test_an_estimator_of_another_shape_is_refused(model: Any) -> None:
    estimator = LinearScoreEstimator(AttentionFeatureExtractor(5, 4))
    with pytest.raises(EstimatorMismatchError):
        AT2Attributor(small_task(model), estimator)


def test_the_table_shows_the_best_sources_first(model: Any) -> None:
    attributor = AT2Attributor(small_task(model), _estimator(model))
    styler: Any = attributor.show_attribution(0, 5, num_sources_to_show=3)
    frame = styler.data
    scores = attributor.get_attribution_scores(0, 5)
    assert list(frame.columns) == ["Score", "Source"]
    assert list(frame["Source"]) == [attributor.task.sources[i] for i in np.argsort(-scores)[:3]]
    assert "background-color" in attributor.show_attribution(0, 5).to_html()


def test_verbose_prints_the_attributed_text(model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    AT2Attributor(small_task(model), _estimator(model)).get_attribution_scores(0, 5, verbose=True)
    assert capsys.readouterr().out == "Computing attribution scores for:\n Ada wrote\n"


def test_highlighting_changes_colours_only(model: Any) -> None:
    attributor = AT2Attributor(small_task(model), _estimator(model))
    shown = attributor.highlight_attribution(0, 5)
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == attributor.task.text
    assert "2;255;255;0m" in shown  # the span is yellow


def test_a_context_without_sources_has_no_scores(model: Any) -> None:
    task = SimpleContextAttributionTask("", "Who?", model, tiny_tokenizer("byte_level"))
    task.set_generation(RESPONSE)
    assert AT2Attributor(task, _estimator(model)).get_attribution_scores(0, 5).shape == (0,)


class _SpanLengths(Attributor):
    """Written as for the published package: scores of a span that are no mean of its tokens."""

    def __init__(self, task: Any) -> None:
        super().__init__(task)
        self.asked: list[tuple[int, int]] = []

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> np.ndarray[Any, Any]:
        self.asked.append((token_start, token_end))
        return np.arange(self.task.num_sources) ** (token_end - token_start)


def test_a_method_may_score_spans_as_a_whole(model: Any) -> None:
    attributor = _SpanLengths(small_task(model))
    attributor.prepare_for_attribution()
    np.testing.assert_array_equal(
        attributor.get_attribution_scores(token_start=2, token_end=5), [0, 1, 8]
    )
    assert [s.score for s in attributor.attribute(top_k=1).sources] == [
        2 ** len(attributor.task.target_ids)
    ]


def test_only_recent_spans_are_kept(model: Any) -> None:
    attributor = _SpanLengths(small_task(model, response=RESPONSE * 4))
    spans = [(0, end) for end in range(1, 80)]
    for start, end in [*spans, spans[-1], spans[0]]:
        attributor.get_attribution_scores(token_start=start, token_end=end)
    assert attributor.asked == [*spans, spans[0]]


def test_scores_are_a_copy(model: Any) -> None:
    cache: dict[str, Any] = {}
    attributor = AT2Attributor(small_task(model), _estimator(model), cache=cache)
    before = attributor.get_attribution_scores(0, 5)
    attributor.scores[:] = 0
    cache["scores"][:] = 0
    np.testing.assert_array_equal(attributor.get_attribution_scores(0, 5), before)
    assert attributor.scores.any()


def test_scores_of_tokens_that_are_known_take_the_place_of_a_pass(model: Any) -> None:
    task = small_task(model)
    computed = AT2Attributor(task, _estimator(model))
    scores = computed.score_estimator.get_scores(task, *task.target_token_range).numpy().copy()
    given = AT2Attributor(task, _estimator(model))
    with pytest.raises(InputError):
        given.use_token_scores(scores[1:])
    with pytest.raises(InputError):
        given.use_token_scores(scores[:, : task.source_token_ranges[-1][1] - 1])
    given.use_token_scores(scores)
    hook = model.register_forward_pre_hook(lambda *_: pytest.fail("a pass"))
    try:
        found = given.scores
    finally:
        hook.remove()
    np.testing.assert_array_equal(found, computed.scores)
    held = weakref.ref(scores)
    del scores
    assert held() is None  # those of the sources have taken their place
    # another response is another matter
    task.set_generation_ids(task.target_ids[::-1])
    np.testing.assert_array_equal(given.scores, computed.scores)
    assert not np.array_equal(given.scores, found)


@pytest.mark.parametrize("given", [False, True])
def test_another_response_has_scores_of_its_own(model: Any, given: bool) -> None:
    task, estimator, cache = small_task(model), _estimator(model), {}
    if given:
        cache["scores"] = torch.zeros(task.num_sources, len(task.target_ids))
    attributor = AT2Attributor(task, estimator, cache)
    _ = attributor.scores
    task.set_generation_ids(task.target_ids[::-1])  # as many tokens as before
    expected = AT2Attributor(task, estimator).scores
    np.testing.assert_array_equal(attributor.scores, expected)
    np.testing.assert_array_equal(cache["scores"].numpy().T, expected)


def test_threads_may_ask_about_a_prepared_task_at_once(model: Any) -> None:
    task = small_task(model)
    attributor = AT2Attributor(task, _estimator(model))
    spans = [(start, end) for start in range(0, 30, 3) for end in range(start + 1, start + 9)]
    expected = [attributor.attribute(*span) for span in spans]
    verified = verify_spans(attributor, spans[:2])
    attributor = AT2Attributor(task, attributor.score_estimator)
    attributor.prepare_for_attribution()
    with ThreadPoolExecutor(8) as pool:
        many = pool.map(lambda _: [attributor.attribute(*span) for span in spans], range(16))
        checks = [pool.submit(verify_spans, attributor, spans[:2]) for _ in range(4)]
    assert all(found == expected for found in many)
    assert all(check.result() == verified for check in checks)


@pytest.mark.parametrize("top_k", [0, -1])
def test_a_ranking_of_no_sources_is_refused(model: Any, top_k: int) -> None:
    attributor = AT2Attributor(small_task(model), _estimator(model))
    with pytest.raises(InputError, match=f"^top_k is {top_k}, not at least 1$"):
        attributor.attribute(top_k=top_k)
    with pytest.raises(InputError, match=f"^num_sources_to_show is {top_k}, not at least 1$"):
        attributor.show_attribution(num_sources_to_show=top_k)
