"""What all stages of a run need: its settings, examples, model and trainer, made when asked for."""

import os
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from at2 import AT2Trainer, AttentionFeatureExtractor
from at2.errors import DamagedFileError, InputError, TrainingError
from at2.estimator.identity import public_name
from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.files import Place, exists, place_of
from at2.model.loading import get_model_and_tokenizer
from at2.tasks import AttributionTask
from at2.training import record
from at2.training.manifest import differences
from trainer_jobs.devices import device_of
from trainer_jobs.examples import Example, Examples, load_examples, make_task
from trainer_jobs.settings import JobSettings
from trainer_jobs.workers import Worker


@dataclass(frozen=True)
class Job:
    """One worker's part of a run.

    Attributes:
        settings: all of them.
        worker: which part of the shared work is done here.
        with_model: whether the language model is at hand; without it there are only the stages
            that need what is on disk.
        begun: when this process began, in seconds since 1970.
    """

    settings: JobSettings
    worker: Worker
    with_model: bool = True
    begun: float = field(default_factory=time.time)

    @cached_property
    def folder(self) -> Place:
        """Where all results are, or will be."""
        return place_of(self.settings.out)

    @property
    def estimator_folder(self) -> Place:
        """Where the estimator is, or will be."""
        return self.folder / "estimators" / self.settings.save_name

    @cached_property
    def examples(self) -> Examples:
        """What is trained on and held out."""
        return load_examples(self.settings)

    @cached_property
    def model_and_tokenizer(self) -> tuple[Any, Any]:
        """The model to train an estimator for."""
        settings, device = self.settings, self.settings.device
        if settings.device_map is None:
            device = device_of(device, self.worker, os.environ)
        return get_model_and_tokenizer(
            settings.model,
            dtype=None if settings.dtype == "auto" else settings.dtype,
            device=device,
            attn_implementation=settings.attn_implementation,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            device_map=settings.device_map,
            quantization=settings.quantization,
        )

    def task(
        self, example: Example, model: Any, tokenizer: Any, source_type: str | None = None
    ) -> AttributionTask:
        """The task of an example; by default with the sources that are trained on."""
        source_type = source_type or example.get("source_type", self.settings.source_type[0])
        return make_task(self.settings, example, model, tokenizer, source_type)

    @cached_property
    def trainer(self) -> AT2Trainer:
        """The library's trainer, which does the work."""
        settings = self.settings
        model = tokenizer = extractor = None
        if self.with_model:
            model, tokenizer = self.model_and_tokenizer
            extractor = AttentionFeatureExtractor.from_model(
                model, settings.exponents, settings.contrast
            )
        split = settings.split_target_by
        return AT2Trainer(
            self.folder,
            self.examples.examples,
            model,
            tokenizer,
            self.task,
            extractor,
            split_target_by=None if split == "response" else split,
            num_masks=settings.num_masks,
            seed=settings.seed,
            shard_size=settings.shard_size,
            token_budget=settings.token_budget,
            skip=settings.bad_rows == "skip",
        )

    @cached_property
    def estimator(self) -> LinearScoreEstimator:
        """The estimator that was trained.

        Raises:
            InputError: none was.
            DamagedFileError: it is not as it was written.
        """
        if not exists(self.estimator_folder / record.RECORD_FILE):
            raise InputError(f"no estimator {self.settings.save_name!r} yet: run train first")
        try:
            record.read(self.estimator_folder)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}: run train again") from error
        return load_estimator(self.estimator_folder)

    def check_features(self) -> None:
        """Make sure, without the model, that the features on disk are those of these settings.

        Raises:
            TrainingError: there are none, or they are of others.
        """
        made_with, features = self.trainer.made_with(), self.trainer.feature_extractor
        settings = self.settings
        recorded = {
            "model": made_with["model"]["model"],
            "source_type": made_with["source_type"],
            "exponents": list(features.exponents),
            "contrast": features.contrast,
        }
        among = made_with["source_type"] in settings.source_type
        wanted = {
            "model": public_name(settings.model),
            "source_type": made_with["source_type"] if among else list(settings.source_type),
            "exponents": list(settings.exponents),
            "contrast": settings.contrast,
        }
        different = differences(recorded, wanted)
        if different:
            raise TrainingError(f"features_and_outputs was made with other settings: {different}")
