"""Training a score estimator: generate responses, compute features and outputs, fit the weights.

The three stages can be run again at any time, by any number of workers: what is on disk and whole
is kept, what is missing or damaged is made. The recipe is the published one (Cohen-Wang, Chuang,
Madry 2025, arXiv 2504.13752, section 3): random ablations of the sources with keep probability 0.5,
the logit of the probability of each target as the output, and weights whose predictions correlate
with the outputs.
"""

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from at2.errors import DamagedFileError, InputError, TrainingError
from at2.estimator.features import AttentionFeatureExtractor
from at2.estimator.identity import ModelIdentity
from at2.estimator.linear import LinearScoreEstimator
from at2.files import remove_leftovers
from at2.model.attention import attention_shape
from at2.progress import Progress
from at2.tasks import AttributionTask
from at2.training import compute, record, responses
from at2.training.compute import NUM_MASKS, ComputeSettings, ExampleFeatures
from at2.training.fit import (
    Checkpoint,
    FitSettings,
    Loss,
    Sampling,
    fit,
    pearson_loss,
    rank_loss,
)
from at2.training.manifest import claim, fingerprint
from at2.training.record import RECORD_FILE
from at2.training.responses import Response
from at2.training.settings import ExampleDataset, RunSettings, environment, estimator_fingerprint
from at2.training.shards import ShardFolder, ShardPlan, check_seal
from at2.training.table import FeatureTable

__all__ = [
    "CHECKPOINT_EVERY",
    "NUM_MASKS",
    "RECORD_FILE",
    "SHARD_SIZE",
    "AT2Trainer",
    "ExampleDataset",
    "pearson_loss",
    "rank_loss",
]

logger = logging.getLogger(__name__)

SHARD_SIZE = 16
"""Examples a shard: small enough to lose little when killed, large enough to keep files few."""

CHECKPOINT_EVERY = 100
"""Steps of training between two checkpoints."""


class AT2Trainer:
    """Trains a `LinearScoreEstimator` for a model from examples.

    What is written depends on the examples and the settings, to the byte; not on how many workers
    there were, nor on how often they were stopped. Another version, device or number of threads may
    change last digits: the first worker's are on record, and the log says when others differ.

    Args:
        save_path: folder for everything that is computed; `estimators/<name>/` in it holds results.
            One folder is for one set of settings: others are refused.
        dataset: examples, by index.
        model, tokenizer: the model to train an estimator for.
        task_from_example: makes a task of an example, the model and the tokenizer.
        feature_extractor: by default attention of all captured layers and heads.
        split_target_by: the unit whose probability is predicted: "sentence", "paragraph", "word",
            "token", or None for the whole response.
        num_masks: ablations per example, at least 2.
        generations_save_path: folder of the responses, to share them between trainers; by default
            one inside `save_path`.
        seed: of the batches that training draws.
        shard_size: examples a shard.
        token_budget: tokens in one forward pass of ablations; by default what suits the device.
        skip: pass over examples that give no task or whose prompt is too long for the model,
            instead of stopping there; see `skipped`. Those for which the model gives numbers that
            are not finite then have no targets.

    Raises:
        InputError: a setting is out of range, or the feature extractor is for another model.
        TrainingError: the dataset is empty.
    """

    def __init__(
        self,
        save_path: str | Path,
        dataset: ExampleDataset,
        model: Any,
        tokenizer: Any,
        task_from_example: Callable[[Any, Any, Any], AttributionTask],
        feature_extractor: AttentionFeatureExtractor | None = None,
        split_target_by: str | None = "sentence",
        num_masks: int = NUM_MASKS,
        generations_save_path: str | Path | None = None,
        *,
        seed: int = 0,
        shard_size: int = SHARD_SIZE,
        token_budget: int | None = None,
        skip: bool = False,
    ) -> None:
        self.save_path = Path(save_path)
        self.generations_save_path = Path(generations_save_path or self.save_path / "generations")
        self.dataset = dataset
        self.model = model
        self.tokenizer = tokenizer
        self.task_from_example = task_from_example
        self.feature_extractor = _fitting(feature_extractor, model)
        self.seed = seed
        self.skip = skip
        self.plan = ShardPlan(len(dataset), shard_size)
        self._compute_settings = ComputeSettings(
            num_masks=num_masks, split_target_by=split_target_by, token_budget=token_budget
        )
        self._responses: tuple[int, dict[int, Response]] | None = None
        if len(dataset) == 0:
            raise TrainingError("the dataset has no examples")

    @property
    def num_masks(self) -> int:
        """Ablations per example."""
        return self._compute_settings.num_masks

    @property
    def split_target_by(self) -> str | None:
        """The unit whose probability is predicted."""
        return self._compute_settings.split_target_by

    @property
    def num_features(self) -> int:
        """Features of one source: see `AttentionFeatureExtractor.num_features`."""
        return self.feature_extractor.num_features

    @property
    def features_and_outputs_save_path(self) -> Path:
        """Folder of the features and outputs."""
        return self.save_path / "features_and_outputs"

    # -- what results depend on ----------------------------------------------------------------

    @cached_property
    def _settings(self) -> RunSettings:
        return RunSettings(
            self.model,
            self.tokenizer,
            self.dataset,
            self.plan.shard_size,
            self.skip,
            self._new_task,
        )

    def _claim(self, folder: Path, settings: dict[str, Any]) -> str:
        return claim(folder, settings, environment(self.model))

    def _claim_features(self) -> ShardFolder:
        """The second stage's folder, for the current settings only.

        Raises:
            TrainingError: it, or that of the responses, was made with others.
        """
        folder = self.features_and_outputs_save_path
        settings = self._settings.of_features(
            self.feature_extractor, self._compute_settings, self._claim_responses()
        )
        return ShardFolder(folder, ".safetensors", self._claim(folder, settings))

    def _claim_responses(self) -> str:
        """The fingerprint of the settings that the responses on disk were made with.

        Raises:
            TrainingError: there are none yet, or they were made with other settings.
        """
        recorded = self.generations_save_path / "manifest.json"
        if not recorded.exists():
            raise TrainingError("no responses yet: run generate() first")
        try:
            check_seal(recorded, None)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}: run generate() again") from error
        batch_size = json.loads(recorded.read_text("utf-8"))["settings"].get("batch_size")
        return self._claim(self.generations_save_path, self._settings.of_responses(batch_size))

    # -- stage 1: responses --------------------------------------------------------------------

    def generate(self, job_index: int = 0, num_jobs: int = 1, batch_size: int = 4) -> None:
        """Generate a response for every example of this job's shards that has none yet.

        Args:
            job_index, num_jobs: which worker this is, from 0, of how many.
            batch_size: examples that are generated for at once.

        Raises:
            InputError: an example cannot be used; the message starts with its number. Or
                `batch_size` is below 1.
            TrainingError: there is no such worker, the folder was made with other settings, or it
                cannot be written to.
        """
        self.generate_shards(self.plan.for_job(job_index, num_jobs), batch_size)

    def generate_shards(self, shards: Sequence[int], batch_size: int = 4) -> None:
        """`generate` for some shards."""
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}, below 1", param="batch_size")
        digest = self._claim(self.generations_save_path, self._settings.of_responses(batch_size))
        folder = ShardFolder(self.generations_save_path, ".json", digest)
        remove_leftovers(folder.path)
        batches = [-(-len(self.plan.examples(shard)) // batch_size) for shard in shards]
        with Progress(sum(batches), "Generating completions") as progress:
            for shard, count in zip(shards, batches, strict=True):
                if self._is_whole(folder, shard):
                    progress.found(count)
                    continue
                found: dict[int, Response] = {}
                make = {i: partial(self._new_task, i) for i in self.plan.examples(shard)}
                for batch in responses.respond_to_shard(make, batch_size, skip=self.skip):
                    found |= batch
                    progress.update()
                folder.write(shard, partial(responses.to_bytes, found))

    def _is_whole(self, folder: ShardFolder, shard: int) -> bool:
        """Whether a shard is there and undamaged; says so if it has to be made again."""
        if not folder.exists(shard):
            return False
        try:
            folder.check(shard)
        except DamagedFileError as error:
            logger.warning("%s: making it again", error)
            return False
        return True

    def _new_task(self, index: int) -> AttributionTask:
        return self.task_from_example(self.dataset[index], self.model, self.tokenizer)

    def _response(self, index: int) -> Response:
        """The response to an example; the shard read last is kept.

        Raises:
            TrainingError: it has not been generated yet, or its file is damaged.
        """
        shard = index // self.plan.shard_size
        if self._responses is None or self._responses[0] != shard:
            folder = ShardFolder(self.generations_save_path, ".json", "")
            if not folder.exists(shard):
                raise TrainingError(f"no response for example {index} yet: run generate() first")
            try:
                check_seal(folder.file(shard), self._digest_of_responses)
            except DamagedFileError as error:
                raise DamagedFileError(f"{error}: run generate() again") from error
            self._responses = shard, responses.read(folder.file(shard))
        return self._responses[1][index]

    @cached_property
    def _digest_of_responses(self) -> str:
        return self._claim_responses()

    def get_task(self, index: int) -> AttributionTask:
        """The task of an example, with the response that was generated for it.

        Raises:
            InputError: the example was skipped.
            TrainingError: the response has not been generated yet, or for another prompt.
        """
        response = self._response(index)
        if response.skipped is not None:
            raise InputError(f"example {index} was skipped: {response.skipped}")
        task = self._new_task(index)
        if responses.prompt_fingerprint(task) != response.prompt:
            raise TrainingError(f"example {index} has another prompt than when it was generated")
        task.set_generation_ids(response.ids)
        return task

    def skipped(self) -> dict[int, str]:
        """The examples that were passed over, and why; of the shards generated so far."""
        found = {}
        for shard in range(self.plan.num_shards):
            if (self.generations_save_path / f"{shard:05d}.json").exists():
                for index in self.plan.examples(shard):
                    reason = self._response(index).skipped
                    if reason is not None:
                        found[index] = reason
        return found

    # -- stage 2: features and outputs ---------------------------------------------------------

    def compute_features_and_outputs(
        self, job_index: int = 0, num_jobs: int = 1, batch_size: int | None = None
    ) -> None:
        """Compute attention features and ablated outputs of this job's shards.

        Args:
            job_index, num_jobs: which worker this is, from 0, of how many.
            batch_size: accepted for the published signature; batches follow a token budget.

        Raises:
            TrainingError: responses are missing, what is computed of an example is not finite, the
                folder was made with other settings, or it cannot be written to.
        """
        self.compute_shards(self.plan.for_job(job_index, num_jobs))

    def compute_shards(self, shards: Sequence[int]) -> None:
        """`compute_features_and_outputs` for some shards."""
        folder = self._claim_features()
        remove_leftovers(folder.path)
        total = sum(len(self.plan.examples(shard)) for shard in shards)
        with Progress(total, "Computing features and outputs") as progress:
            for shard in shards:
                examples = self.plan.examples(shard)
                if self._is_whole(folder, shard):
                    progress.found(len(examples))
                    continue
                computed = compute.compute(
                    self.model,
                    [self._task_unless_skipped(i) for i in examples],
                    self.feature_extractor,
                    self._compute_settings,
                    progress.update,
                )
                computed = [self._finite(*each) for each in zip(examples, computed, strict=True)]
                folder.write(shard, partial(compute.to_bytes, computed))

    def _finite(self, index: int, computed: ExampleFeatures) -> ExampleFeatures:
        """What was computed of an example, unless it would spoil a whole training."""
        if computed.features.isfinite().all() and computed.outputs.isfinite().all():
            return computed
        problem = f"example {index}: the model gives numbers that are not finite"
        if not self.skip:
            raise TrainingError(f"{problem}; bfloat16 and float32 overflow less than float16")
        logger.warning("%s: it is passed over", problem)
        return compute.nothing(self.num_masks, self.num_features)

    def _task_unless_skipped(self, index: int) -> AttributionTask | None:
        return self.get_task(index) if self._response(index).skipped is None else None

    def compute_features_and_outputs_for_example(self, index: int) -> ExampleFeatures:
        """Features of every (target, mask) of one example and the measured outputs."""
        return compute.compute(
            self.model,
            [self._task_unless_skipped(index)],
            self.feature_extractor,
            self._compute_settings,
        )[0]

    def load_table(self) -> FeatureTable:
        """Features and outputs of every example, checked, and mapped from disk.

        Raises:
            TrainingError: some shards have not been computed yet, or are damaged.
        """
        return self._table(self._computed_features(), range(self.plan.num_shards))

    def get_features_and_outputs(self, index: int) -> ExampleFeatures:
        """What was computed for one example.

        Raises:
            InputError: there is no such example.
            TrainingError: its shard has not been computed yet, or is damaged.
        """
        self._checked([index], "index")
        shard, place = divmod(index, self.plan.shard_size)
        return ExampleFeatures(*self._table(self._computed_features(), [shard]).example(place))

    def _computed_features(self) -> ShardFolder:
        if not self.features_and_outputs_save_path.exists():
            raise TrainingError(
                "no shards are computed yet: run compute_features_and_outputs() first"
            )
        return self._claim_features()

    def _table(self, folder: ShardFolder, shards: Sequence[int]) -> FeatureTable:
        missing = [shard for shard in shards if not folder.exists(shard)]
        if missing:
            raise TrainingError(
                f"{len(missing)} of {len(shards)} shards are not computed yet: "
                "run compute_features_and_outputs() first"
            )
        for shard in shards:
            try:
                folder.check(shard)
            except DamagedFileError as error:
                raise DamagedFileError(
                    f"{error}: run compute_features_and_outputs() again"
                ) from error
        return FeatureTable.from_files([folder.file(shard) for shard in shards])

    # -- stage 3: the estimator ----------------------------------------------------------------

    def train(
        self,
        score_estimator: LinearScoreEstimator | None = None,
        num_iterations: int = 1_000,
        learning_rate: float = 1e-3,
        batch_size: int = 512,
        loss_fn: Loss | None = None,
        max_grad_norm: float = 1.0,
        sampling_method: Sampling = "examples",
        train_indices: Iterable[int] | None = None,
        device: str | torch.device | None = None,
        print_every: int = 100,
        save_name: str | None = None,
        *,
        held_out_indices: Iterable[int] = (),
        memory_limit: int | None = None,
        checkpoint_every: int = CHECKPOINT_EVERY,
        extras: dict[str, Any] | None = None,
    ) -> LinearScoreEstimator:
        """Fit an estimator to the features and outputs; one worker does it all.

        Every step draws `batch_size` different examples (or all of them, if there are fewer) and
        one target of each; Adam with cosine decay minimises the negative Pearson correlation.

        Args:
            score_estimator: where to start, by default weights of 1/n; it stays as it is, and what
                it says of its own training does not pass on.
            loss_fn: of predictions and outputs [instances, masks]; by default `pearson_loss`, as
                published. `rank_loss` is another.
            max_grad_norm: longer gradients are cut to this length.
            sampling_method: "examples", or "instances" to draw targets of all examples alike.
            train_indices: examples to train on; by default all that have a target and are not held
                out.
            device: by default the model's.
            print_every: steps between two lines.
            save_name: save to `estimators/<save_name>/` under the trainer's folder, and keep
                checkpoints there. Once there is one, a name is for one set of settings; what is
                finished is read and returned.
            held_out_indices: examples to report on, which are not trained on.
            memory_limit: bytes that features may take in memory; by default half of what is free.
                Where they need more, each step reads its own from disk.
            checkpoint_every: steps between two checkpoints.
            extras: metadata to store with the estimator.

        Raises:
            InputError: an index or a setting is out of range, or `save_name` is not a name.
            TrainingError: features are missing or damaged, no example has a target, a loss is not
                finite, the name was used with other settings, or the folder cannot be written to.
        """
        if print_every < 1:
            raise InputError(f"print_every is {print_every}, below 1", param="print_every")
        if save_name is not None:
            record.check_name(save_name)
        apart = self._checked(held_out_indices, "held_out_indices")
        indices = self._checked(
            range(len(self.dataset)) if train_indices is None else train_indices, "train_indices"
        )
        features = self._computed_features()
        table = self._table(features, range(self.plan.num_shards))
        device = self.model.device if device is None else torch.device(device)
        left_out = set(apart)
        held_out = [i for i in apart if table.counts[i] > 0]
        usable = [i for i in indices if table.counts[i] > 0 and i not in left_out]
        print(f"Training on {len(usable)} examples of {len(self.dataset)}")
        if not usable:
            raise TrainingError("no example has a target to train on")
        settings = FitSettings(
            num_iterations, learning_rate, batch_size, max_grad_norm, sampling_method, self.seed
        )
        estimator = deepcopy(score_estimator) or LinearScoreEstimator(self.feature_extractor)
        estimator = estimator.to(device, torch.float32)
        for of_the_start in ("metrics", "date", "library_version"):
            estimator.extras.pop(of_the_start, None)
        described = {
            **settings.to_dict(),
            "loss": getattr(loss_fn or pearson_loss, "__name__", type(loss_fn).__name__),
            "features": features.settings,
            "train_indices": fingerprint({"indices": usable}),
            "held_out_indices": fingerprint({"indices": held_out}),
            "start": estimator_fingerprint(estimator),
            "print_every": print_every,
            "extras": fingerprint(extras or {}),
        }
        checkpoint = None
        if save_name is not None:
            folder = self.save_path / "estimators" / save_name
            checkpoint = Checkpoint(
                folder / record.CHECKPOINT_FILE, fingerprint(described), checkpoint_every
            )
            claim(
                folder,
                described,
                environment(self.model),
                f"estimator {save_name!r}",
                anew=not record.is_begun(folder),
            )
            remove_leftovers(folder)
            finished = self._finished(checkpoint)
            if finished is not None:
                print(f"Found estimator in {folder}")
                return finished.to(device)
        state = fit(
            estimator,
            table.gathered(device, memory_limit),
            usable,
            settings,
            device=device,
            loss_fn=loss_fn or pearson_loss,
            held_out=held_out,
            print_every=print_every,
            checkpoint=checkpoint,
        )
        estimator.extras |= {
            "identity": ModelIdentity.of(self.model, self.tokenizer).to_dict(),
            "dataset": self._settings.dataset_fingerprint,
            "training": {
                "examples": len(usable),
                "num_masks": self.num_masks,
                "split_target_by": self.split_target_by,
                "loss": described["loss"],
                **settings.to_dict(),
            },
            **record.metrics(state),
            **(extras or {}),
        }
        if checkpoint is not None:
            record.save(estimator, state, checkpoint, described)
            print(f"Saved estimator to {checkpoint.path.parent}")
        return estimator

    def _finished(self, checkpoint: Checkpoint) -> LinearScoreEstimator | None:
        """The estimator that a fit left where its checkpoint was, if it is there and whole."""
        folder = checkpoint.path.parent
        if not (folder / RECORD_FILE).exists():
            return None
        try:
            record.read(folder, checkpoint.settings)
        except TrainingError as error:
            logger.warning("%s: training it again", error)
            return None
        return LinearScoreEstimator.load(folder)

    def _checked(self, indices: Iterable[int], param: str) -> list[int]:
        indices = list(indices)
        for index in indices:
            if not 0 <= index < len(self.dataset):
                raise InputError(
                    f"example {index} is not one of {len(self.dataset)}, counted from 0",
                    param=param,
                )
        return [int(index) for index in indices]


def _fitting(extractor: AttentionFeatureExtractor | None, model: Any) -> AttentionFeatureExtractor:
    """The feature extractor, by default one for the model.

    Raises:
        InputError: it is for a model of another shape.
    """
    if extractor is None:
        return AttentionFeatureExtractor.from_model(model)
    shape = attention_shape(model)
    if (extractor.num_layers, extractor.num_heads) != (shape.num_layers, shape.num_heads):
        raise InputError(
            f"the feature extractor is for {extractor.num_layers} layers × {extractor.num_heads} "
            f"heads, but {type(model).__name__} has {shape.num_layers} layers × "
            f"{shape.num_heads} heads",
            param="feature_extractor",
        )
    return extractor
