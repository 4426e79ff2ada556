"""Every method against a slow and plain computation of what it says it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from at2 import AttentionFeatureExtractor, LinearScoreEstimator
from at2.errors import EstimatorMismatchError, InputError, ModelError, PromptTooLongError
from at2.methods import (
    METHODS,
    Attributor,
    ContextCiteAttributor,
    GradientNormAttributor,
    HopsAttributor,
    InputTimesGradientAttributor,
    LeaveOneOutAttributor,
    LexicalOverlapAttributor,
    PositionAttributor,
    RandomAttributor,
    WeightedAttentionAttributor,
    at2_method,
    context_cite_method,
    method_named,
)
from at2.model.ablation import Method
from at2.seeds import EVALUATION_SEEDS, FITTING_SEEDS, TRAINING_SEEDS
from at2.tasks import SimpleContextAttributionTask, SimpleThoughtAttributionTask
from tests.helpers.attribution import (
    RESPONSE,
    small_gpt2,
    small_llama,
    small_task,
    token_log_probs,
)
from tests.helpers.models import tiny_model
from tests.helpers.tokenizers import tiny_tokenizer

ABLATIONS = get_args(Method)


@pytest.fixture(scope="module")
def model() -> Any:
    return small_llama()


@pytest.fixture(scope="module")
def exact_model() -> Any:
    return small_gpt2()


def _estimator(model: Any) -> LinearScoreEstimator:
    return LinearScoreEstimator(AttentionFeatureExtractor.from_model(model))


# -- leave-one-out -------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_leave_one_out_is_the_drop_of_every_token_without_each_source(
    model: Any, ablation: Method
) -> None:
    task = small_task(model)
    everything = [True] * task.num_sources
    full = token_log_probs(task, everything, ablation)
    expected = np.zeros((len(task.target_ids), task.num_sources))
    for source in range(task.num_sources):
        keep = [index != source for index in range(task.num_sources)]
        expected[:, source] = full - token_log_probs(task, keep, ablation)
    ours = LeaveOneOutAttributor(task, ablation).scores
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_a_leave_one_out_span_times_its_tokens_is_the_drop_of_the_span(model: Any) -> None:
    task = small_task(model)
    score = LeaveOneOutAttributor(task).get_attribution_scores(token_start=3, token_end=9)[1]
    keep = [index != 1 for index in range(task.num_sources)]
    full, without = (token_log_probs(task, k)[3:9].sum() for k in ([True] * len(keep), keep))
    assert 6 * score == pytest.approx(full - without, abs=1e-4)


# -- ContextCite ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_context_cite_is_the_published_lasso_on_the_logit_of_the_span(
    model: Any, ablation: Method
) -> None:
    task = small_task(model, "word")
    num_ablations, span = 24, (2, 12)
    masks, outputs = [], []
    for index in range(num_ablations):
        random = np.random.RandomState(FITTING_SEEDS.start + index)
        keep = random.choice([False, True], size=task.num_sources, p=[0.5, 0.5])
        log_prob = token_log_probs(task, keep.tolist(), ablation)[span[0] : span[1]].sum()
        masks.append(keep)
        outputs.append(log_prob - np.log1p(-np.exp(log_prob)))
    num_tokens = span[1] - span[0]
    scaler = StandardScaler()
    lasso = Lasso(alpha=0.01, random_state=0, fit_intercept=True, max_iter=100_000)
    make_pipeline(scaler, lasso).fit(np.array(masks, float), np.array(outputs) / num_tokens)
    expected = lasso.coef_ / scaler.scale_ * num_tokens

    attributor = ContextCiteAttributor(task, num_ablations, ablation=ablation)
    ours = attributor.get_attribution_scores(token_start=span[0], token_end=span[1])
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(ours, expected, atol=2e-3 * np.abs(expected).max())


def test_context_cite_finds_the_weights_of_a_linear_response() -> None:
    from at2.methods.context_cite import lasso_weights

    random = np.random.default_rng(0)
    masks = random.random((200, 5)) < 0.5
    masks[:, 4] = True  # never hidden: nothing can be said about it
    truth = np.array([3.0, 0.0, -2.0, 1.0, 9.0])
    weights = lasso_weights(masks, masks @ truth + 5, num_tokens=1, alpha=1e-4)
    np.testing.assert_allclose(weights, [3, 0, -2, 1, 0], atol=5e-3)


def test_context_cite_fits_each_span_on_one_set_of_passes(model: Any) -> None:
    attributor = ContextCiteAttributor(small_task(model), num_ablations=8)
    attributor.prepare_for_attribution()
    with _counted(model) as counts:
        first, second = _span_scores(attributor)
    assert counts == [] and not np.array_equal(first, second)


def test_context_cite_measures_the_first_span_alone(model: Any) -> None:
    task = small_task(model)
    alone, prepared = (ContextCiteAttributor(task, num_ablations=8) for _ in range(2))
    prepared.prepare_for_attribution()
    sizes: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    first, second = _span_scores(alone)
    of_first = len(task.token_ids) - len(task.target_ids) + 3
    hook.remove()
    assert sizes[0] < of_first < max(sizes)
    expected = _span_scores(prepared)
    np.testing.assert_allclose([first, second], expected, atol=1e-3 * np.abs(expected).max())


def test_masks_of_training_fitting_and_evaluation_share_no_seed() -> None:
    ranges = [TRAINING_SEEDS, FITTING_SEEDS, EVALUATION_SEEDS]
    for index, one in enumerate(ranges):
        for other in ranges[index + 1 :]:
            assert one.stop <= other.start or other.stop <= one.start


@pytest.mark.parametrize(
    "settings",
    [
        {"num_ablations": 0},
        {"num_ablations": len(FITTING_SEEDS) + 1},
        {"seed": 0},
        {"keep_probability": 1.0},
        {"alpha": 0.0},
    ],
)
def test_context_cite_refuses_settings_out_of_range(model: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=str(next(iter(settings.values())))):
        ContextCiteAttributor(small_task(model), **settings)


def test_context_cite_says_that_a_model_overflows() -> None:
    model = small_llama()
    (token,) = tiny_tokenizer("byte_level")("Z", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    task = small_task(model, context="Ada wrote it. Z.")
    with pytest.raises(ModelError, match="logits are not finite") as caught:
        ContextCiteAttributor(task).attribute()
    assert "\n" not in str(caught.value)


# -- gradients -----------------------------------------------------------------------------------


def _mean_log_prob(task: Any, span: tuple[int, int], embeddings: torch.Tensor) -> torch.Tensor:
    """Mean log-probability of the span's tokens for each of [batch, tokens, width] embeddings."""
    with torch.no_grad():
        log_probs = task.model(inputs_embeds=embeddings, use_cache=False).logits.log_softmax(-1)
    first = task.target_token_range[0]
    positions = torch.arange(first + span[0], first + span[1])
    ids = torch.tensor(task.token_ids)[positions]
    means: torch.Tensor = log_probs[:, positions - 1, ids].mean(-1)
    return means


def test_input_times_gradient_is_the_slope_when_a_source_is_scaled(exact_model: Any) -> None:
    task, span, step = small_task(exact_model), (2, 9), 1e-5
    embeddings = exact_model.get_input_embeddings()(torch.tensor(task.token_ids)).detach()
    scores = InputTimesGradientAttributor(task).get_attribution_scores(
        token_start=span[0], token_end=span[1]
    )
    for (start, end), score in zip(task.source_token_ranges, scores, strict=True):
        scaled = torch.stack([embeddings, embeddings])
        scaled[0, start:end] *= 1 + step
        scaled[1, start:end] *= 1 - step
        above, below = _mean_log_prob(task, span, scaled)
        assert score == pytest.approx((above - below).item() / (2 * step), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("order", [1, 2])
def test_gradient_norm_is_the_norm_of_all_slopes_of_each_token(
    exact_model: Any, order: Any
) -> None:
    task, span, step = small_task(exact_model, "word"), (2, 9), 1e-5
    embeddings = exact_model.get_input_embeddings()(torch.tensor(task.token_ids)).detach()
    width = embeddings.shape[1]
    scores = GradientNormAttributor(task, order).get_attribution_scores(
        token_start=span[0], token_end=span[1]
    )
    for source in (0, 3):
        expected = 0.0
        for token in range(*task.source_token_ranges[source]):
            moved = embeddings.repeat(2 * width, 1, 1)
            moved[:width, token] += step * torch.eye(width, dtype=torch.float64)
            moved[width:, token] -= step * torch.eye(width, dtype=torch.float64)
            values = _mean_log_prob(task, span, moved)
            slopes = (values[:width] - values[width:]) / (2 * step)
            expected += torch.linalg.vector_norm(slopes, ord=order).item()
        assert scores[source] == pytest.approx(expected, rel=1e-4)


def test_gradient_methods_share_the_passes_of_a_span(model: Any) -> None:
    task = small_task(model)
    with _counted(model) as counts:
        norms = [
            GradientNormAttributor(task, order).get_attribution_scores(token_start=2, token_end=5)
            for order in (1, 2)
        ]
        products = InputTimesGradientAttributor(task)
        of_span = products.get_attribution_scores(token_start=2, token_end=5)
        assert len(counts) == 1
        products.get_attribution_scores(token_start=3, token_end=5)
        assert len(counts) == 2
    assert not np.allclose(*norms) and not np.allclose(of_span, norms[0])
    task.set_generation_ids(task.target_ids[::-1])
    changed = products.get_attribution_scores(token_start=2, token_end=5)
    assert not np.allclose(changed, of_span)


def test_input_times_gradient_of_a_span_is_the_mean_of_its_tokens(model: Any) -> None:
    attributor = InputTimesGradientAttributor(small_task(model))
    tokens = [attributor.get_attribution_scores(token_start=t, token_end=t + 1) for t in (4, 5, 6)]
    together = attributor.get_attribution_scores(token_start=4, token_end=7)
    np.testing.assert_allclose(together, np.mean(tokens, axis=0), atol=1e-5)


def test_gradient_norm_refuses_another_order(model: Any) -> None:
    order: Any = 3
    with pytest.raises(InputError, match="3"):
        GradientNormAttributor(small_task(model), order)


# -- controls ------------------------------------------------------------------------------------


def test_random_scores_repeat_and_differ_by_seed_span_and_text(model: Any) -> None:
    task = small_task(model, "word")
    scores = RandomAttributor(task).get_attribution_scores(0, 5)
    np.testing.assert_array_equal(scores, RandomAttributor(task).get_attribution_scores(0, 5))
    assert scores.min() >= 0 and scores.max() < 1 and np.ptp(scores) > 0.3
    others = [
        RandomAttributor(task, seed=1).get_attribution_scores(0, 5),
        RandomAttributor(task).get_attribution_scores(0, 20),
        RandomAttributor(
            small_task(model, "word", response=RESPONSE + " Yes.")
        ).get_attribution_scores(0, 5),
    ]
    for other in others:
        assert not np.array_equal(scores, other)


def test_random_scores_rank_every_source_first_equally_often(model: Any) -> None:
    task = small_task(model)
    firsts = [RandomAttributor(task, seed).attribute(0, 5, top_k=1).sources for seed in range(300)]
    counts = np.bincount([source.source.index for (source,) in firsts], minlength=task.num_sources)
    # 100 of each expected, give or take five standard deviations
    assert task.num_sources == 3 and np.abs(counts - 100).max() < 41


def test_position_prefers_one_end(model: Any) -> None:
    task = small_task(model)
    np.testing.assert_allclose(
        PositionAttributor(task).get_attribution_scores(0, 5), [1 / 3, 2 / 3, 1], rtol=1e-6
    )
    np.testing.assert_allclose(
        PositionAttributor(task, "first").get_attribution_scores(0, 5), [1, 2 / 3, 1 / 3], rtol=1e-6
    )
    prefer: Any = "middle"
    with pytest.raises(InputError, match="middle"):
        PositionAttributor(task, prefer)


def test_lexical_overlap_is_the_weighted_share_of_the_words(model: Any) -> None:
    context = "The fox ran. The dog ran! A cat slept."
    task = small_task(model, context=context, response="The FOX, the fox slept - today.")
    scores = LexicalOverlapAttributor(task).get_attribution_scores()
    # Of three sources: "the" is in two, "fox" and "slept" in one, "today" in none.
    the, fox, today = (1 + np.log(4 / (1 + n)) for n in (2, 1, 0))
    total = the + fox + fox + today
    np.testing.assert_allclose(scores, [(the + fox) / total, the / total, fox / total], rtol=1e-6)


def test_lexical_overlap_with_a_span_without_words_is_zero(model: Any) -> None:
    task = small_task(model, response="Yes !!")
    assert not LexicalOverlapAttributor(task).get_attribution_scores(4, 6).any()


# -- the registry --------------------------------------------------------------------------------


@contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """How many sequences each pass over the model reads."""
    counts: list[int] = []

    def count(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        counts.append(len(kwargs["input_ids"]))

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counts
    finally:
        hook.remove()


def test_an_attributor_has_the_name_of_its_method(model: Any) -> None:
    task, estimator = small_task(model), _estimator(model)
    for method in (*METHODS.values(), context_cite_method(5)):
        attributor = method.build(task, estimator)
        assert attributor.name == method.name
        if isinstance(attributor, WeightedAttentionAttributor):
            assert HopsAttributor(attributor).name == method.name


def _span_scores(attributor: Attributor) -> list[np.ndarray[Any, Any]]:
    return [attributor.get_attribution_scores(token_start=s, token_end=s + 3) for s in (0, 5)]


def test_methods_have_the_names_of_the_api() -> None:
    assert list(METHODS) == [
        "at2",
        "average_attention",
        "contrastive_attention",
        "fusion",
        "leave_one_out",
        "context_cite",
        "visibility_gradient",
        "gradient_norm",
        "input_x_gradient",
        "random",
        "position",
        "lexical_overlap",
    ]
    assert all(name == method.name and method.description for name, method in METHODS.items())
    assert [name for name, method in METHODS.items() if method.needs_estimator] == [
        "at2",
        "fusion",
    ]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_every_source_in_the_passes_that_it_states(
    model: Any, name: str
) -> None:
    task = small_task(model, "word")
    _span_scores(METHODS[name].build(small_task(model), _estimator(model)))
    # What is found out once for each model, by passes of its own, is.
    with _counted(model) as counts:
        attributor = METHODS[name].build(task, _estimator(model))
        attributor.prepare_for_attribution()
        scores = _span_scores(attributor)
    passes = METHODS[name].passes(task.num_sources)
    assert sum(counts) == passes.forward + 2 * passes.forward_per_span
    for of_span in scores:
        assert of_span.shape == (task.num_sources,) and of_span.dtype == np.float32
        assert np.isfinite(of_span).all()


@pytest.mark.parametrize("name", METHODS)
def test_asking_for_a_span_again_needs_no_pass_and_gives_a_fresh_array(
    model: Any, name: str
) -> None:
    attributor = METHODS[name].build(small_task(model), _estimator(model))
    before = _span_scores(attributor)
    kept = [of_span.copy() for of_span in before]
    for of_span in before:
        of_span[:] = -1
    with _counted(model) as counts:
        np.testing.assert_array_equal(_span_scores(attributor), kept)
    assert counts == []


@pytest.mark.parametrize("name", METHODS)
def test_another_response_is_scored_anew(model: Any, name: str) -> None:
    task = small_task(model)
    attributor = METHODS[name].build(task, _estimator(model))
    _span_scores(attributor)
    task.set_generation_ids(task.target_ids[::-1])
    expected = _span_scores(METHODS[name].build(task, _estimator(model)))
    np.testing.assert_array_equal(_span_scores(attributor), expected)


def test_thoughts_of_another_response_are_compared_with_their_own_words(model: Any) -> None:
    task = SimpleThoughtAttributionTask("Who?", model, tiny_tokenizer("byte_level"))
    attributor = METHODS["lexical_overlap"].build(task, None)
    for thought in ("the fox", "Ada wrote"):
        task.set_generation(f"<think>{thought}</think>Ada wrote.")
        scores = attributor.get_attribution_scores()
        assert scores.any() == (thought == "Ada wrote")


@pytest.mark.parametrize("name", sorted({*METHODS} - {"position", "lexical_overlap"}))
def test_a_response_that_does_not_fit_the_model_is_refused(name: str) -> None:
    size = len(tiny_tokenizer("byte_level"))
    model = tiny_model("gpt2", vocab_size=size, max_position_embeddings=128)
    task = small_task(model)
    attributor = METHODS[name].build(task, _estimator(model))
    task.set_generation_ids([5] * 128)
    with pytest.raises(PromptTooLongError, match="128 in all"):
        attributor.attribute()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_a_context_without_sources(model: Any, name: str) -> None:
    task = SimpleContextAttributionTask("", "Who?", model, tiny_tokenizer("byte_level"))
    task.set_generation(RESPONSE)
    attributor = METHODS[name].build(task, _estimator(model))
    attributor.prepare_for_attribution()
    assert attributor.get_attribution_scores(0, 5).shape == (0,)


def test_methods_leave_the_model_as_it_was(model: Any) -> None:
    model.lm_head.weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    for method in METHODS.values():
        method.build(small_task(model), _estimator(model)).get_attribution_scores(0, 5)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    model.lm_head.weight.requires_grad_(True)


def test_a_method_that_needs_an_estimator_says_so(model: Any) -> None:
    with pytest.raises(InputError, match="estimator") as caught:
        METHODS["at2"].build(small_task(model))
    assert caught.value.param == "estimator"
    with pytest.raises(EstimatorMismatchError):
        METHODS["at2"].build(
            small_task(model), LinearScoreEstimator(AttentionFeatureExtractor(5, 4))
        )


def test_methods_are_found_by_name() -> None:
    assert method_named("random") is METHODS["random"]
    method = method_named("context_cite_16")
    assert method.name == "context_cite_16" and method.passes(1000).forward == 16
    assert context_cite_method(7, "few").name == "few"


@pytest.mark.parametrize("name", ["", "context_cite_0", "context_cite_x", "AT2", "at2 "])
def test_an_unknown_method_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="lexical_overlap") as caught:
        method_named(name)
    assert caught.value.param == "method"


def test_several_estimators_stand_side_by_side(model: Any) -> None:
    task, plain, other = small_task(model), _estimator(model), _estimator(model)
    with torch.no_grad():
        other.linear.weight[0, 0] += 1
    builds = [METHODS["at2"].build(task, other), at2_method(other, "mine").build(task, plain)]
    first, second = (attributor.get_attribution_scores(0, 5) for attributor in builds)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, METHODS["at2"].build(task, plain).get_attribution_scores(0, 5))
