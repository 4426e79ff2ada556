"""Evaluation equals its definitions computed pass by pass; intervals equal plain loops."""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import scipy.stats
import torch

from at2 import AttentionFeatureExtractor, LinearScoreEstimator
from at2.errors import InputError
from at2.evaluation import (
    EvaluationExample,
    EvaluationSettings,
    ExampleResult,
    SentenceResult,
    evaluate,
    evaluate_example,
    markdown,
    overlapping_sources,
    plot,
    save,
    summarise,
)
from at2.methods import METHODS, AttributionMethod, RandomAttributor
from at2.model.ablation import Method, sample_masks
from at2.model.hiding import can_drop
from at2.seeds import EVALUATION_SEEDS
from at2.tasks import SimpleContextAttributionTask
from tests.helpers.attribution import RESPONSE, small_llama, small_task, span_log_prob
from tests.helpers.tokenizers import tiny_tokenizer

NAMES = ["average_attention", "context_cite_8", "lexical_overlap"]
SETTINGS = EvaluationSettings(num_masks=10, top_k=(1, 2, 9))


@pytest.fixture(scope="module")
def model() -> Any:
    return small_llama()


def _methods(*names: str) -> list[AttributionMethod]:
    return [METHODS[name] for name in names]


# -- one example ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", get_args(Method))
def test_metrics_equal_their_definitions_one_pass_at_a_time(model: Any, ablation: Method) -> None:
    task, index, m = small_task(model, "word"), 3, SETTINGS.num_masks
    methods = _methods("average_attention", "leave_one_out", "random")
    result = evaluate_example(EvaluationExample(task), methods, index=index, settings=SETTINGS)
    masks = sample_masks(m, task.num_sources, 0.5, seed=EVALUATION_SEEDS.start + index * m)
    assert len(result.sentences) == len(task.statements) == 2
    for sentence, (start, end) in zip(result.sentences, task.statements, strict=True):
        span = task.target_range_to_token_range(start, end, relative=True)
        assert sentence.num_tokens == span[1] - span[0]
        measured = [span_log_prob(task, span, mask.tolist(), ablation) for mask in masks]
        full, none = (
            span_log_prob(task, span, [kept] * task.num_sources, ablation) for kept in (True, False)
        )
        if ablation == SETTINGS.ablations[0]:
            assert sentence.context_support == pytest.approx(
                (full - none) / sentence.num_tokens, abs=1e-4
            )
        for method in methods:
            scores = method.build(task).get_attribution_scores(start, end)
            values = sentence.values[method.name]
            predicted = [
                sum(s for s, kept in zip(scores, mask, strict=True) if kept) for mask in masks
            ]
            expected = scipy.stats.spearmanr(predicted, measured).statistic
            assert values[f"lds/{ablation}"] == pytest.approx(expected, abs=1e-9)
            for k in SETTINGS.top_k:
                best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
                keep = [i not in best for i in range(len(scores))]
                drop = (full - span_log_prob(task, span, keep, ablation)) / sentence.num_tokens
                assert values[f"drop@{k}/{ablation}"] == pytest.approx(drop, abs=1e-4)


def test_metrics_with_more_sources_than_there_are_do_not_apply(model: Any) -> None:
    task = small_task(model)
    result = evaluate_example(
        EvaluationExample(task, [{0}, {1, 2}]), _methods("random"), settings=SETTINGS
    )
    names = set(result.sentences[0].values["random"])
    assert names == {
        *(f"lds/{a}" for a in ("mask", "remove")),
        *(f"drop@{k}/{a}" for k in (1, 2) for a in ("mask", "remove")),
        *(f"{kind}@{k}" for kind in ("precision", "recall") for k in (1, 2)),
    }


def test_precision_and_recall_are_of_the_known_support_only(model: Any) -> None:
    task = small_task(model)
    settings = EvaluationSettings(num_masks=2, top_k=(1, 2), ablations=())
    position = METHODS["position"]  # ranks 2, 1, 0
    result = evaluate_example(
        EvaluationExample(task, [{0, 1}, None]), [position], settings=settings
    )
    first, second = (sentence.values["position"] for sentence in result.sentences)
    assert first == {"precision@1": 0, "recall@1": 0, "precision@2": 0.5, "recall@2": 0.5}
    assert second == {}
    result = evaluate_example(EvaluationExample(task, [{2}, ()]), [position], settings=settings)
    first, second = (sentence.values["position"] for sentence in result.sentences)
    assert first == {"precision@1": 1, "recall@1": 1, "precision@2": 0.5, "recall@2": 1}
    assert second == {}


def test_support_is_found_by_its_place_in_the_documents(model: Any) -> None:
    task = small_task(model)
    second = task.source_spans[1]
    assert overlapping_sources(task, [(0, second.start, second.end)]) == {1}
    assert overlapping_sources(task, [(0, second.start - 2, second.start + 1)]) == {0, 1}
    assert overlapping_sources(task, [(1, second.start, second.end)]) == frozenset()
    assert overlapping_sources(task, []) == frozenset()


@pytest.mark.parametrize("support", [[{0}], [{0}, {1}, {2}], [{0}, {3}], [{-1}, {0}]])
def test_support_that_does_not_fit_is_refused(model: Any, support: Any) -> None:
    with pytest.raises(InputError) as caught:
        evaluate_example(EvaluationExample(small_task(model), support), _methods("random"))
    assert caught.value.param == "support"


def test_examples_without_sources_or_response_have_no_sentences(model: Any) -> None:
    no_sources = SimpleContextAttributionTask("", "Who?", model, tiny_tokenizer("byte_level"))
    no_sources.set_generation(RESPONSE)
    for task in (no_sources, small_task(model, response="")):
        result = evaluate_example(EvaluationExample(task), _methods("random", "leave_one_out"))
        assert result.sentences == () and set(result.passes.values()) == {(0, 0)}


def test_numbers_that_are_not_finite_are_left_out(model: Any) -> None:
    methods = _methods("average_attention", "leave_one_out")
    good = evaluate_example(EvaluationExample(small_task(model)), methods, settings=SETTINGS)
    spoilt = deepcopy(model)
    task = small_task(spoilt)
    assert can_drop(spoilt, len(task.token_ids))  # found with the weights as they are
    with torch.no_grad():
        spoilt.get_output_embeddings().weight[5] = torch.nan
    bad = evaluate_example(EvaluationExample(task), methods, index=1, settings=SETTINGS)
    assert len(bad.sentences) == 2
    for sentence in bad.sentences:
        assert sentence.context_support is None and not any(sentence.values.values())
    both, alone = summarise([good, bad]), summarise([good])
    for method, metrics in alone.values.items():
        for metric, estimate in metrics.items():
            assert both.values[method][metric].mean == estimate.mean


def test_each_example_draws_its_own_masks_within_the_evaluations_seeds() -> None:
    settings = EvaluationSettings(num_masks=16)
    seen = [settings.masks(index, 40) for index in (0, 1, 2, 70_000, 10**9)]
    for number, masks in enumerate(seen):
        assert masks.shape == (16, 40) and 0.4 < masks.mean() < 0.6
        assert not any(np.array_equal(masks, other) for other in seen[:number])
    np.testing.assert_array_equal(EvaluationSettings(16, seed=2).masks(0, 40), seen[2])


@pytest.mark.parametrize(
    "settings",
    [
        {"num_masks": 0},
        {"num_masks": len(EVALUATION_SEEDS) + 1},
        {"keep_probability": 0.0},
        {"top_k": (0,)},
        {"ablations": ("mask", "blur")},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        EvaluationSettings(**settings)
    assert caught.value.param == next(iter(settings))


def test_two_methods_of_one_name_are_refused(model: Any) -> None:
    with pytest.raises(InputError, match="random, random"):
        evaluate_example(EvaluationExample(small_task(model)), _methods("random", "random"))


# -- many examples -------------------------------------------------------------------------------


def _results(values: list[list[dict[str, float]]]) -> list[ExampleResult]:
    """Examples from `[example][sentence]{method: value}`, one metric."""
    methods = list(next(sentence for example in values for sentence in example))
    return [
        ExampleResult(
            index,
            4,
            {name: (index, 0) for name in methods},
            tuple(
                SentenceResult(i, 3, {name: {"lds/mask": x} for name, x in sentence.items()})
                for i, sentence in enumerate(example)
            ),
        )
        for index, example in enumerate(values)
    ]


def test_sentences_that_the_context_does_not_support_can_be_left_out() -> None:
    results = _results([[{"ours": 0.1}, {"ours": 0.2}, {"ours": 0.4}], [{"ours": 0.7}]])
    supports = [[0.3, 0.0, None], [-0.3]]
    results = [
        replace(
            result,
            sentences=tuple(
                replace(sentence, context_support=support)
                for sentence, support in zip(result.sentences, of_result, strict=True)
            ),
        )
        for result, of_result in zip(results, supports, strict=True)
    ]
    for least, expected in ((None, 0.35), (-1.0, 1 / 3), (0.0, 0.15), (0.3, 0.1)):
        evaluation = summarise(results, min_context_support=least)
        assert evaluation.values["ours"]["lds/mask"].mean == pytest.approx(expected)
    nothing = summarise(results, min_context_support=1.0)
    assert nothing.num_sentences == 0 and not nothing.metrics


def _random_values(num_examples: int, most: int, seed: int) -> list[list[dict[str, float]]]:
    random = np.random.default_rng(seed)
    return [
        [{"ours": float(x), "theirs": float(x - 0.1 - y)} for x, y in random.normal(size=(n, 2))]
        for n in random.integers(1, most + 1, num_examples)
    ]


def test_means_are_over_sentences_and_intervals_over_resampled_examples() -> None:
    values = _random_values(9, 4, seed=0)
    evaluation = summarise(_results(values), resamples=300, seed=5)
    draws = np.random.default_rng(5).multinomial(9, np.full(9, 1 / 9), size=300)
    wanted = {
        (1, 0): evaluation.values["ours"]["lds/mask"],
        (0, 1): evaluation.values["theirs"]["lds/mask"],
        (1, -1): evaluation.differences["theirs"]["lds/mask"],
    }
    for (ours, theirs), estimate in wanted.items():
        picked = [[ours * s["ours"] + theirs * s["theirs"] for s in example] for example in values]
        means = []
        for draw in draws:
            drawn = [x for example, n in zip(picked, draw, strict=True) for x in example * n]
            means.append(sum(drawn) / len(drawn))
        everything = [x for example in picked for x in example]
        assert estimate.mean == pytest.approx(np.mean(everything))
        assert estimate.low == pytest.approx(np.percentile(means, 2.5))
        assert estimate.high == pytest.approx(np.percentile(means, 97.5))
        assert (estimate.sentences, estimate.documents) == (len(everything), 9)
    assert "ours" not in evaluation.differences


def test_intervals_agree_with_scipy_for_one_sentence_each() -> None:
    values = _random_values(60, 1, seed=1)
    estimate = summarise(_results(values)).values["ours"]["lds/mask"]
    data = [s["ours"] for example in values for s in example]
    interval = scipy.stats.bootstrap(
        (data,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert estimate.low is not None and estimate.high is not None
    assert estimate.low == pytest.approx(interval.low, abs=0.05)
    assert estimate.high == pytest.approx(interval.high, abs=0.05)


def test_differences_are_paired() -> None:
    shifted = [
        [{"a": v["ours"], "b": v["ours"] - 0.25} for v in e] for e in _random_values(8, 3, 2)
    ]
    difference = summarise(_results(shifted)).differences["b"]["lds/mask"]
    assert difference.low == pytest.approx(0.25) and difference.high == pytest.approx(0.25)


def test_examples_without_the_metric_do_not_count() -> None:
    values = [*_random_values(3, 2, 0), [], []]
    evaluation = summarise(_results(values))
    estimate = evaluation.values["ours"]["lds/mask"]
    assert evaluation.num_examples == 5 and estimate.documents == 3
    assert evaluation.passes["ours"].forward == 1.0  # of examples 0, 1 and 2
    assert estimate.low is not None and np.isfinite(estimate.low)


def test_one_example_has_no_interval() -> None:
    estimate = summarise(_results(_random_values(1, 3, 0))).values["ours"]["lds/mask"]
    assert estimate.low is None and estimate.high is None


def test_results_that_do_not_fit_together_are_refused() -> None:
    results = _results(_random_values(2, 2, 0))
    with pytest.raises(InputError, match="no examples"):
        summarise([])
    with pytest.raises(InputError, match="example 1 comes twice"):
        summarise([*results, results[1]])
    with pytest.raises(InputError, match="nobody"):
        summarise(results, reference="nobody")
    with pytest.raises(InputError, match="example 2 has methods"):
        summarise([*results, ExampleResult(2, 1, {"other": (0, 0)}, ())])


@pytest.mark.parametrize(
    ("methods", "reference", "param"),
    [(["random"], "at2", "reference"), ([], None, "methods"), (["nobody"], None, "method")],
)
def test_wrong_names_are_found_before_any_example_is_made(
    methods: list[str], reference: str | None, param: str
) -> None:
    def examples() -> Iterator[EvaluationExample]:
        raise AssertionError("an example is made")
        yield

    with pytest.raises(InputError) as caught:
        evaluate(examples(), methods, reference=reference)
    assert caught.value.param == param


def test_parts_put_together_later_give_the_same_bytes(model: Any) -> None:
    tasks = [small_task(model, response=text) for text in (RESPONSE, "Ada. A fox!", "42 😀")]
    examples = [EvaluationExample(task) for task in tasks]
    whole = evaluate(examples, ["average_attention", "position"], settings=SETTINGS)
    parts = [
        evaluate_example(
            example, _methods("average_attention", "position"), index=i, settings=SETTINGS
        )
        for i, example in enumerate(examples)
    ]
    stored = [json.loads(json.dumps(part.to_dict())) for part in reversed(parts)]
    again = summarise([ExampleResult.from_dict(part) for part in stored], settings=SETTINGS)
    assert again.to_json() == whole.to_json()
    assert (
        whole.num_sentences == 5 and json.loads(whole.to_json())["reference"] == "average_attention"
    )


def test_all_methods_are_evaluated_by_default(model: Any) -> None:
    examples = [EvaluationExample(small_task(model, response="Ada wrote it."))]
    settings = EvaluationSettings(num_masks=4, ablations=("mask",))
    without = evaluate(examples, settings=settings)
    assert without.methods == [name for name, each in METHODS.items() if not each.needs_estimator]
    estimator = LinearScoreEstimator(AttentionFeatureExtractor.from_model(model))
    evaluation = evaluate(examples, estimator=estimator, settings=settings)
    assert evaluation.methods == list(METHODS) and evaluation.reference == "at2"
    # An untrained estimator averages attention.
    difference = evaluation.differences["average_attention"]["lds/mask"]
    assert difference.mean == pytest.approx(0, abs=1e-6)
    assert (
        evaluation.passes["leave_one_out"].forward,
        evaluation.passes["gradient_norm"].backward,
    ) == (4, 1)


def test_a_method_of_ones_own_takes_part(model: Any) -> None:
    mine = AttributionMethod(
        "mine", "", lambda task, _: RandomAttributor(task, 7), METHODS["random"].passes
    )
    evaluation = evaluate(
        iter([EvaluationExample(small_task(model))]), [mine, "position"], settings=SETTINGS
    )
    assert evaluation.methods == ["mine", "position"]


# -- for people ----------------------------------------------------------------------------------


def test_tables_show_every_method_metric_and_interval(model: Any) -> None:
    examples = [
        EvaluationExample(small_task(model), [{0}, None]),
        EvaluationExample(small_task(model, response="Ada.")),
    ]
    evaluation = evaluate(examples, NAMES, settings=SETTINGS)
    text = markdown(evaluation)
    for name in NAMES:
        assert text.count(f"| {name} |") == 1 + 4 * (2 if name != NAMES[0] else 1)
    estimate = evaluation.values["context_cite_8"]["lds/mask"]
    assert f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" in text
    assert "| context_cite_8 | 8.0 | 0.0 |" in text
    assert "| method | k = 1, mask | k = 2, mask | k = 1, remove | k = 2, remove |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    tables = [len(row.split("|")) for row in rows]
    assert all(count > 3 for count in tables)


def test_a_figure_has_a_panel_for_every_kind_of_metric(model: Any) -> None:
    examples = [EvaluationExample(small_task(model), [{0}, {1}])]
    figure = plot(evaluate(examples, NAMES, settings=SETTINGS))
    assert len(figure.axes) == 4
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == NAMES


def test_everything_is_saved_together(model: Any, tmp_path: Path) -> None:
    evaluation = evaluate([EvaluationExample(small_task(model))], NAMES, settings=SETTINGS)
    save(evaluation, tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert json.loads((folder / "evaluation.json").read_text()) == json.loads(evaluation.to_json())
    assert (folder / "evaluation.md").read_text() == markdown(evaluation)
    assert (folder / "evaluation.png").read_bytes().startswith(b"\x89PNG")
