"""Training a score estimator: generate responses, compute features and outputs, fit the weights.

The three stages can be run again at any time: what is on disk is kept, what is missing is made.
The recipe is the published one (Cohen-Wang, Chuang, Madry 2025, arXiv 2504.13752, section 3):
random ablations of the sources with keep probability 0.5, the logit of the probability of each
target as the output, and weights whose predictions correlate with the outputs.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor
from tqdm.auto import tqdm

from at2.ablation import ablated_logit_probs, aggregate_logit_probs, sample_masks
from at2.errors import TrainingError
from at2.estimators import PUBLISHED_FILE, SAFETENSORS_FILE, LinearScoreEstimator
from at2.features import AttentionFeatureExtractor
from at2.identity import ModelIdentity
from at2.shards import ShardPlan, write_whole
from at2.tasks import AttributionTask

KEEP_PROBABILITY = 0.5
"""The chance that an ablation keeps a source."""

NUM_MASKS = 32
"""Ablations per example."""

SHARD_SIZE = 16
"""Examples a shard: small enough to lose little when killed, large enough to keep files few."""

_CORRELATION_EPSILON = 1e-8


class ExampleDataset(Protocol):
    """Anything with a length and examples by index: a list, or a `datasets.Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True)
class ExampleFeatures:
    """What training needs of one example.

    Attributes:
        features: float16 [targets, masks, features], Σ over sources of ±1 × source features, with
            +1 for a source that the mask keeps and -1 for one it removes.
        outputs: float32 [targets, masks], logit of the probability of each target.
    """

    features: Tensor
    outputs: Tensor


def pearson_loss(predictions: Tensor, outputs: Tensor) -> Tensor:
    """Negative Pearson correlation over masks, averaged over instances.

    Args:
        predictions, outputs: [instances, masks].
    """
    predictions = predictions - predictions.mean(dim=1, keepdim=True)
    outputs = outputs - outputs.mean(dim=1, keepdim=True)
    covariance = (predictions * outputs).mean(dim=1)
    spread = predictions.square().mean(dim=1).sqrt() * outputs.square().mean(dim=1).sqrt()
    return -(covariance / (spread + _CORRELATION_EPSILON)).mean()


class AT2Trainer:
    """Trains a `LinearScoreEstimator` for a model from examples.

    Args:
        save_path: folder for everything that is computed; `estimators/<name>/` in it holds results.
        dataset: examples, by index.
        model, tokenizer: the model to train an estimator for.
        task_from_example: makes a task of an example, the model and the tokenizer.
        feature_extractor: by default attention of all captured layers and heads.
        split_target_by: the unit whose probability is predicted: "sentence", "word", "token", or
            None for the whole response.
        num_masks: ablations per example.
        seed: of the batches that training draws.
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
        seed: int = 0,
    ) -> None:
        self.save_path = Path(save_path)
        self.dataset = dataset
        self.model = model
        self.tokenizer = tokenizer
        self.task_from_example = task_from_example
        self.feature_extractor = feature_extractor or AttentionFeatureExtractor.from_model(model)
        self.split_target_by = split_target_by
        self.num_masks = num_masks
        self.seed = seed
        self._plan = ShardPlan(len(dataset), SHARD_SIZE)
        if len(dataset) == 0:
            raise TrainingError("the dataset has no examples")

    @property
    def num_features(self) -> int:
        """Features of one source: layers times heads."""
        return self.feature_extractor.num_features

    # -- stage 1: responses --------------------------------------------------------------------

    def generate(self, job_index: int = 0, num_jobs: int = 1, batch_size: int = 4) -> None:
        """Generate a response for every example of this job's shards that has none yet."""
        shards = list(self._plan.for_job(job_index, num_jobs))
        batches = [self._batches(shard, batch_size) for shard in shards]
        total = sum(map(len, batches))
        with tqdm(total=total, desc="Generating completions") as bar:
            for shard, shard_batches in zip(shards, batches, strict=True):
                path = self._generations_path(shard)
                if path.exists():
                    bar.update(len(shard_batches))
                    continue
                ids: dict[str, list[int]] = {}
                for indices in shard_batches:
                    tasks = [self._new_task(i) for i in indices]
                    type(tasks[0]).batch_generate(tasks)
                    ids.update(
                        {str(i): t.generation_ids for i, t in zip(indices, tasks, strict=True)}
                    )
                    bar.update()
                write_whole(path, json.dumps(ids).encode())

    def _batches(self, shard: int, batch_size: int) -> list[list[int]]:
        indices = list(self._plan.examples(shard))
        return [indices[i : i + batch_size] for i in range(0, len(indices), batch_size)]

    def _generations_path(self, shard: int) -> Path:
        return self.save_path / "generations" / f"{shard:05d}.json"

    def _new_task(self, index: int) -> AttributionTask:
        return self.task_from_example(self.dataset[index], self.model, self.tokenizer)

    def get_task(self, index: int) -> AttributionTask:
        """The task of an example, with the response that was generated for it.

        Raises:
            TrainingError: the response has not been generated yet.
        """
        path = self._generations_path(index // SHARD_SIZE)
        if not path.exists():
            raise TrainingError(f"no response for example {index} yet: run generate() first")
        task = self._new_task(index)
        task.set_generation_ids(json.loads(path.read_text())[str(index)])
        return task

    # -- stage 2: features and outputs ---------------------------------------------------------

    def compute_features_and_outputs(
        self, job_index: int = 0, num_jobs: int = 1, batch_size: int | None = None
    ) -> None:
        """Compute attention features and ablated outputs of this job's shards.

        Args:
            batch_size: accepted for the published signature; batches follow a token budget.
        """
        shards = list(self._plan.for_job(job_index, num_jobs))
        total = sum(len(self._plan.examples(shard)) for shard in shards)
        with tqdm(total=total, desc="Computing features and outputs") as bar:
            for shard in shards:
                path = self._features_path(shard)
                if path.exists():
                    bar.update(len(self._plan.examples(shard)))
                    continue
                tensors: dict[str, Tensor] = {}
                for index in self._plan.examples(shard):
                    computed = self.compute_features_and_outputs_for_example(index)
                    tensors[f"{index}.features"] = computed.features
                    tensors[f"{index}.outputs"] = computed.outputs
                    bar.update()
                write_whole(path, safetensors_bytes(tensors))

    def _features_path(self, shard: int) -> Path:
        return self.save_path / "features_and_outputs" / f"{shard:05d}.safetensors"

    def compute_features_and_outputs_for_example(self, index: int) -> ExampleFeatures:
        """Features of every (target, mask) of one example and the measured outputs."""
        task = self.get_task(index)
        targets = task.get_sub_target_token_ranges(split_by=self.split_target_by)
        if not targets or task.num_sources == 0:
            return ExampleFeatures(
                torch.zeros(0, self.num_masks, self.num_features, dtype=torch.float16),
                torch.zeros(0, self.num_masks),
            )
        masks = sample_masks(self.num_masks, task.num_sources, KEEP_PROBABILITY, seed=0)
        logit_probs = np.asarray(
            ablated_logit_probs(
                task.model, task.token_ids, task.source_token_ranges, task.target_token_range, masks
            )
        )  # [masks, target tokens]
        by_source = self.feature_extractor(task, targets)  # [targets, sources, features]
        signs = torch.from_numpy(masks).to(by_source) * 2 - 1  # [masks, sources]
        features = signs @ by_source  # [targets, masks, features]
        first = task.target_token_range[0]
        outputs = np.stack(
            [aggregate_logit_probs(logit_probs[:, s - first : e - first]) for s, e in targets]
        )  # [targets, masks]
        return ExampleFeatures(
            features.to("cpu", torch.float16).contiguous(),
            torch.from_numpy(outputs.astype(np.float32)),
        )

    def load_features_and_outputs(self) -> list[ExampleFeatures]:
        """Features and outputs of every example, in order.

        Raises:
            TrainingError: some shards have not been computed yet.
        """
        missing = [s for s in range(self._plan.num_shards) if not self._features_path(s).exists()]
        if missing:
            raise TrainingError(
                f"{len(missing)} of {self._plan.num_shards} shards are not computed yet: "
                "run compute_features_and_outputs() first"
            )
        examples = []
        for shard in range(self._plan.num_shards):
            tensors = load_file(self._features_path(shard))
            examples += [
                ExampleFeatures(tensors[f"{i}.features"], tensors[f"{i}.outputs"])
                for i in self._plan.examples(shard)
            ]
        return examples

    # -- stage 3: the estimator ----------------------------------------------------------------

    def train(
        self,
        score_estimator: LinearScoreEstimator | None = None,
        num_iterations: int = 1_000,
        learning_rate: float = 1e-3,
        batch_size: int = 512,
        max_grad_norm: float = 1.0,
        train_indices: Sequence[int] | None = None,
        device: str | torch.device | None = None,
        print_every: int = 100,
        save_name: str | None = None,
        extras: dict[str, Any] | None = None,
    ) -> LinearScoreEstimator:
        """Fit an estimator to the features and outputs.

        Every step draws `batch_size` different examples (or all of them, if there are fewer) and
        one target of each; Adam with cosine decay minimises the negative Pearson correlation.

        Args:
            score_estimator: where to start; by default weights of 1/n.
            train_indices: examples to train on; by default all that have a target.
            device: by default the model's.
            save_name: save to `estimators/<save_name>/` under the trainer's folder.
            extras: metadata to store with the estimator.

        Raises:
            TrainingError: features are missing, or no example has a target.
        """
        examples = self.load_features_and_outputs()
        indices = range(len(examples)) if train_indices is None else train_indices
        usable = [i for i in indices if len(examples[i].outputs) > 0]
        print(f"Training on {len(usable)} examples of {len(examples)}")
        if not usable:
            raise TrainingError("no example has a target to train on")
        device = self.model.device if device is None else torch.device(device)
        estimator = score_estimator or LinearScoreEstimator(self.feature_extractor)
        estimator = estimator.to(device, torch.float32)
        optimizer = torch.optim.Adam(estimator.parameters(), lr=learning_rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_iterations)
        random = np.random.RandomState(self.seed)
        losses: list[float] = []
        for step in tqdm(range(num_iterations), desc="Training score estimator"):
            features, outputs = _sample_batch(examples, usable, batch_size, random)
            optimizer.zero_grad()
            predictions = estimator(features.to(device, torch.float32))[:, :, 0]
            loss = pearson_loss(predictions, outputs.to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(estimator.parameters(), max_norm=max_grad_norm)
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
            if step == 0 or (step + 1) % print_every == 0:
                print(f"Step {step}: loss={np.mean(losses):.4g}")
                losses = []
            estimator.project_parameters()
        estimator.finalize_parameters()
        estimator.extras |= {
            "identity": ModelIdentity.of(self.model, self.tokenizer).to_dict(),
            "training": {
                "examples": len(usable),
                "num_masks": self.num_masks,
                "split_target_by": self.split_target_by,
                "num_iterations": num_iterations,
                "learning_rate": learning_rate,
                "batch_size": batch_size,
                "max_grad_norm": max_grad_norm,
                "seed": self.seed,
            },
            **(extras or {}),
        }
        if save_name is not None:
            folder = self.save_path / "estimators" / save_name
            estimator.save(folder / PUBLISHED_FILE)
            estimator.save(folder / SAFETENSORS_FILE)
            print(f"Saved estimator to {folder}")
        return estimator


def _sample_batch(
    examples: list[ExampleFeatures],
    usable: list[int],
    batch_size: int,
    random: np.random.RandomState,
) -> tuple[Tensor, Tensor]:
    """One target each of up to `batch_size` different examples, in the published order of draws.

    Returns:
        features [batch, masks, features] and outputs [batch, masks].
    """
    chosen: NDArray[np.int64] = random.choice(usable, min(batch_size, len(usable)), replace=False)
    picks = [(i, random.randint(len(examples[i].outputs))) for i in chosen]
    return (
        torch.stack([examples[i].features[target] for i, target in picks]),
        torch.stack([examples[i].outputs[target] for i, target in picks]),
    )
