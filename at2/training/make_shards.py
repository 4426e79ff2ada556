"""One shard of the first two stages: made here unless it is on disk and whole.

What is made of a shard follows from its examples and the settings, so any worker may make it, and
two that make the same one do no harm.
"""

import logging
from functools import partial

from at2.errors import TrainingError, check_count
from at2.estimator.features import AttentionFeatureExtractor
from at2.model.ablation import default_token_budget
from at2.progress import Progress
from at2.training import compute, responses
from at2.training.compute import ComputeSettings, ExampleFeatures
from at2.training.responses import Response
from at2.training.run import Run

logger = logging.getLogger(__name__)


def generate_shard(run: Run, shard: int, batch_size: int, progress: Progress) -> None:
    """Responses to a shard's examples.

    Args:
        batch_size: examples that are generated for at once.
        progress: counts examples.

    Raises:
        InputError: an example cannot be used; the message starts with its number. Or `batch_size`
            is below 1.
        TrainingError: the folder was made with other settings, or it cannot be written to.
    """
    check_count(batch_size, "batch_size")
    folder = run.claim_responses(batch_size)
    examples = run.plan.examples(shard)
    if folder.is_whole(shard):
        progress.count_existing(len(examples))
        return
    generated: dict[int, Response] = {}
    make = {index: partial(run.settings.new_task, index) for index in examples}
    for batch in responses.respond_to_shard(make, batch_size, skip=run.settings.skip):
        generated |= batch
        progress.update(len(batch))
    folder.write(shard, partial(responses.to_bytes, generated))


def compute_shard(
    run: Run,
    shard: int,
    extractor: AttentionFeatureExtractor,
    settings: ComputeSettings,
    progress: Progress,
) -> None:
    """Features and outputs of a shard's examples, which have responses.

    Args:
        progress: counts examples.

    Raises:
        TrainingError: responses are missing, what is computed of an example is not finite, the
            folder was made with other settings, or it cannot be written to.
    """
    budget = settings.token_budget or default_token_budget(run.settings.model)
    folder = run.claim_features(extractor, settings, budget)
    examples = run.plan.examples(shard)
    if folder.is_whole(shard):
        progress.count_existing(len(examples))
        return
    tasks = [None if run.response(i).skipped is not None else run.task(i) for i in examples]
    computed = compute.compute(run.settings.model, tasks, extractor, settings, progress.update)
    empty = compute.empty_features(settings.num_masks, extractor.num_features)
    computed = [
        _finite(index, each, empty, skip=run.settings.skip)
        for index, each in zip(examples, computed, strict=True)
    ]
    folder.write(shard, partial(compute.to_bytes, computed))


def _finite(
    index: int, computed: ExampleFeatures, empty: ExampleFeatures, *, skip: bool
) -> ExampleFeatures:
    """What was computed of an example, unless it would spoil a whole training."""
    if computed.features.isfinite().all() and computed.outputs.isfinite().all():
        return computed
    problem = f"example {index}: the model gives numbers that are not finite"
    if not skip:
        raise TrainingError(f"{problem}; bfloat16 and float32 overflow less than float16")
    logger.warning("%s: it is passed over", problem)
    return empty
