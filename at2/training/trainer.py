"""Training a score estimator: generate responses, compute features and outputs, fit the weights.

The three stages can be run again at any time, by any number of workers: what is on disk and whole
is kept, what is missing or damaged is made. The recipe is the published one (Cohen-Wang, Chuang,
Madry 2025, arXiv 2504.13752, section 3): random ablations of the sources with keep probability 0.5,
the logit of the probability of each target as the output, and weights whose predictions correlate
with the outputs.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from at2.errors import TrainingError
from at2.estimator.features import AttentionFeatureExtractor
from at2.estimator.linear import LinearScoreEstimator
from at2.files import Place, place_of
from at2.model.loading import default_device
from at2.progress import Progress
from at2.tasks import AttributionTask
from at2.training import make_shards, train
from at2.training.compute import NUM_MASKS, ComputeSettings, ExampleFeatures, compute
from at2.training.fit import FitSettings, Loss, Report, Sampling, pearson_loss
from at2.training.run import Run
from at2.training.settings import ExampleDataset, RunSettings, checked_extractor
from at2.training.shards import SHARD_SIZE
from at2.training.table import FeatureTable
from at2.training.train import CHECKPOINT_EVERY


class AT2Trainer:
    """Trains a `LinearScoreEstimator` for a model from examples.

    What is written depends on the examples and the settings, to the byte; not on how many workers
    there were, nor on how often they were stopped. Another version, device, number of threads or
    size of batches may change last digits: the first worker's are on record, and the log says when
    others differ.

    Args:
        save_path: folder for everything that is computed, or its URL; `estimators/<name>/` in it
            holds results. One folder is for one set of settings: others are refused. Examples may
            be added.
        dataset: examples, by index.
        model, tokenizer: the model to train an estimator for. `train` needs neither.
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
        save_path: str | Place,
        dataset: ExampleDataset,
        model: Any,
        tokenizer: Any,
        task_from_example: Callable[[Any, Any, Any], AttributionTask],
        feature_extractor: AttentionFeatureExtractor | None = None,
        split_target_by: str | None = "sentence",
        num_masks: int = NUM_MASKS,
        generations_save_path: str | Place | None = None,
        *,
        seed: int = 0,
        shard_size: int = SHARD_SIZE,
        token_budget: int | None = None,
        skip: bool = False,
    ) -> None:
        self.save_path = place_of(save_path)
        self.generations_save_path = place_of(
            generations_save_path or self.save_path / "generations"
        )
        self.dataset = dataset
        self.model = model
        self.tokenizer = tokenizer
        self.task_from_example = task_from_example
        self._extractor = checked_extractor(feature_extractor, model)
        self.seed = seed
        self.skip = skip
        self._compute_settings = ComputeSettings(
            num_masks=num_masks, split_target_by=split_target_by, token_budget=token_budget
        )
        settings = RunSettings(model, tokenizer, dataset, shard_size, skip, self._new_task)
        self.run = Run(self.generations_save_path, self.features_and_outputs_save_path, settings)
        self.plan = self.run.plan
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
    def feature_extractor(self) -> AttentionFeatureExtractor:
        """What computes features; without a model that of the features on disk."""
        if self._extractor is None:
            self._extractor = AttentionFeatureExtractor.deserialize(self.made_with()["features"])
        return self._extractor

    def made_with(self) -> dict[str, Any]:
        """The settings of the features on disk, as their manifest has them."""
        return self.run.computed(self._extractor, self._compute_settings)[1]

    @property
    def num_features(self) -> int:
        """Features of one source: see `AttentionFeatureExtractor.num_features`."""
        return self.feature_extractor.num_features

    @property
    def features_and_outputs_save_path(self) -> Place:
        """Folder of the features and outputs."""
        return self.save_path / "features_and_outputs"

    def _new_task(self, index: int) -> AttributionTask:
        return self.task_from_example(self.dataset[index], self.model, self.tokenizer)

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
        shards = self.plan.for_job(job_index, num_jobs)
        with Progress(self.plan.count(shards), "Generating completions") as progress:
            for shard in shards:
                self.generate_shard(shard, progress, batch_size)

    def generate_shard(self, shard: int, progress: Progress, batch_size: int = 4) -> None:
        """`generate` for one shard; its examples are counted."""
        make_shards.generate_shard(self.run, shard, batch_size, progress)

    def get_task(self, index: int) -> AttributionTask:
        """The task of an example, with the response that was generated for it.

        Raises:
            InputError: the example was skipped.
            TrainingError: the response has not been generated yet, or for another prompt.
        """
        return self.run.task(index)

    def skipped(self) -> dict[int, str]:
        """The examples that were passed over, and why; of the shards generated so far."""
        return self.run.skipped()

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
        shards = self.plan.for_job(job_index, num_jobs)
        with Progress(self.plan.count(shards), "Computing features and outputs") as progress:
            for shard in shards:
                self.compute_shard(shard, progress)

    def compute_shard(self, shard: int, progress: Progress) -> None:
        """`compute_features_and_outputs` for one shard; its examples are counted."""
        make_shards.compute_shard(
            self.run, shard, self.feature_extractor, self._compute_settings, progress
        )

    def compute_features_and_outputs_for_example(self, index: int) -> ExampleFeatures:
        """Features of every (target, mask) of one example and the measured outputs."""
        skipped = self.run.response(index).skipped is not None
        tasks = [None if skipped else self.get_task(index)]
        return compute(self.model, tasks, self.feature_extractor, self._compute_settings)[0]

    def load_table(self) -> FeatureTable:
        """Features and outputs of every example, checked, and mapped from disk.

        Raises:
            TrainingError: some shards have not been computed yet, or are damaged.
        """
        return self.run.table(self._extractor, self._compute_settings)

    def get_features_and_outputs(self, index: int) -> ExampleFeatures:
        """What was computed for one example.

        Raises:
            InputError: there is no such example.
            TrainingError: its shard has not been computed yet, or is damaged.
        """
        self.plan.check([index], "index")
        shard, place = divmod(index, self.plan.shard_size)
        table = self.run.table(self._extractor, self._compute_settings, range(shard, shard + 1))
        return ExampleFeatures(*table.example(place))

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
        replace: bool = False,
        memory_limit: int | None = None,
        checkpoint_every: int = CHECKPOINT_EVERY,
        extras: dict[str, Any] | None = None,
        report: Report | None = None,
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
            replace: where the name was used with other settings, train again in its place.
            memory_limit: bytes that features may take in memory; by default half of what is free.
                Where they need more, each step reads its own from disk.
            checkpoint_every: steps between two checkpoints.
            extras: metadata to store with the estimator.
            report: gets the number of steps taken and named figures after each.

        Raises:
            InputError: an index or a setting is out of range, `save_name` is not a name, or
                `score_estimator` is for other features.
            TrainingError: features are missing or damaged, no example has a target, a loss is not
                finite, the name was used with other settings, or the folder cannot be written to.
        """
        return train.train(
            self.run,
            self._extractor,
            self._compute_settings,
            FitSettings(
                num_iterations, learning_rate, batch_size, max_grad_norm, sampling_method, self.seed
            ),
            estimators=self.save_path / "estimators",
            start=score_estimator,
            loss_fn=loss_fn or pearson_loss,
            train_indices=train_indices,
            held_out_indices=held_out_indices,
            device=self._device(device),
            print_every=print_every,
            save_name=save_name,
            replace=replace,
            memory_limit=memory_limit,
            checkpoint_every=checkpoint_every,
            extras=extras or {},
            report=report,
        )

    def _device(self, wanted: str | torch.device | None) -> torch.device:
        """Where to train: by default where the model is, or on a GPU if there is one."""
        if wanted is not None:
            return torch.device(wanted)
        return default_device() if self.model is None else torch.device(self.model.device)
