"""What is on disk of a run, and what it was made of: the record that its stages share.

A folder's manifest holds the settings that all of its shards depend on; a shard adds the
fingerprint of its own examples, and features that of the responses they were computed for. So more
examples go on from what is there, and only what depends on a change is made again.
"""

from contextlib import suppress
from functools import cached_property
from typing import Any

from at2.errors import DamagedFileError, InputError, TrainingError
from at2.estimator.features import AttentionFeatureExtractor
from at2.files import Place, exists, read_whole, remove_leftovers
from at2.fingerprints import DIGITS, checksum, dataset_fingerprint, fingerprint
from at2.model.capture import input_device
from at2.tasks import AttributionTask
from at2.training import manifest, responses
from at2.training.compute import ComputeSettings
from at2.training.manifest import claim, differences
from at2.training.responses import Response
from at2.training.settings import RunSettings, environment, json_values, of_targets
from at2.training.shards import ShardFolder, ShardPlan
from at2.training.table import FeatureTable


class Run:
    """The folders of a run.

    Args:
        generations, features: where the shards of the first two stages are, or will be.
        settings: what they depend on.
    """

    def __init__(self, generations: Place, features: Place, settings: RunSettings) -> None:
        self.generations = generations
        self.features = features
        self.settings = settings
        self.plan = ShardPlan(len(settings.dataset), settings.shard_size)
        self._claimed: dict[str, ShardFolder] = {}
        self._read: tuple[int, dict[int, Response]] | None = None
        self._examples: dict[int, str] = {}

    def examples_of(self, shard: int) -> str:
        """The fingerprint of a shard's examples."""
        if shard not in self._examples:
            dataset = self.settings.dataset
            self._examples[shard] = dataset_fingerprint(
                dataset[index] for index in self.plan.examples(shard)
            )
        return self._examples[shard]

    @cached_property
    def dataset(self) -> str:
        """See `at2.fingerprints.dataset_fingerprint`."""
        dataset = self.settings.dataset
        return dataset_fingerprint(dataset[index] for index in range(len(dataset)))

    # -- responses -----------------------------------------------------------------------------

    def claim_responses(self, batch_size: int) -> ShardFolder:
        """The first stage's folder, to write to.

        Raises:
            InputError: no example can be used, or one cannot and is not to be skipped.
            TrainingError: it was made with other settings.
        """
        known = f"responses in batches of {batch_size}"
        if known not in self._claimed:
            settings = self.settings.of_responses()
            device = input_device(self.settings.model)
            digest = claim(self.generations, settings, environment(device, batch_size=batch_size))
            remove_leftovers(self.generations)
            self._claimed[known] = self._responses(digest)
        return self._claimed[known]

    def _responses(self, digest: str) -> ShardFolder:
        return ShardFolder(self.generations, ".json", digest, self.examples_of)

    @cached_property
    def responses(self) -> ShardFolder:
        """The first stage's folder, to read from.

        Raises:
            TrainingError: there are none yet, or they were made with other settings.
        """
        try:
            recorded = manifest.recorded(self.generations)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}: run generate() again") from error
        if recorded is None:
            raise TrainingError("no responses yet: run generate() first")
        if self.settings.model is not None:
            claim(self.generations, self.settings.of_responses(), None)
        return self._responses(fingerprint(recorded))

    def response(self, index: int) -> Response:
        """The response to an example; the shard read last is kept.

        Raises:
            InputError: it was skipped, and that is no longer asked for.
            TrainingError: it has not been generated yet, or its file is damaged.
        """
        shard = index // self.plan.shard_size
        if self._read is None or self._read[0] != shard:
            folder = self.responses
            if not folder.exists(shard):
                raise TrainingError(f"no response for example {index} yet: run generate() first")
            try:
                folder.check(shard)
            except DamagedFileError as error:
                raise DamagedFileError(f"{error}: run generate() again") from error
            self._read = shard, responses.read(folder.file(shard))
        response = self._read[1][index]
        if response.skipped is not None and not self.settings.skip:
            raise InputError(f"example {index}: {response.skipped}")
        return response

    def responses_of(self, shard: int) -> str:
        """The fingerprint of a shard's responses."""
        for index in self.plan.examples(shard):
            self.response(index)
        return checksum(read_whole(self.responses.file(shard)))[:DIGITS]

    def task(self, index: int) -> AttributionTask:
        """The task of an example, with the response that was generated for it.

        Raises:
            InputError: the example was skipped.
            TrainingError: the response has not been generated yet, or for another prompt.
        """
        response = self.response(index)
        if response.skipped is not None:
            raise InputError(f"example {index} was skipped: {response.skipped}")
        task = self.settings.new_task(index)
        if responses.prompt_fingerprint(task) != response.prompt:
            raise TrainingError(f"example {index} has another prompt than when it was generated")
        task.set_generation_ids(response.ids)
        return task

    def has_responses(self, shard: int) -> bool:
        """Whether a shard's responses are on disk; a look at the beginning of its file."""
        try:
            return self.responses.has(shard)
        except TrainingError:
            return False

    def has_features(self, shard: int) -> bool:
        """Whether a shard's features are on disk; a look at the beginning of its file."""
        try:
            recorded = manifest.recorded(self.features)
        except DamagedFileError:
            return False
        if recorded is None:
            return False
        digest = fingerprint(recorded)
        return ShardFolder(self.features, ".safetensors", digest, self.examples_of).has(shard)

    def skipped(self) -> dict[int, str]:
        """The examples that were passed over, and why; of the shards generated so far.

        A shard that is damaged or of other examples will be made again, perhaps by another worker.
        """
        reasons = {}
        for shard in range(self.plan.num_shards):
            if exists(self.generations / f"{shard:05d}.json"):
                with suppress(DamagedFileError):
                    for index in self.plan.examples(shard):
                        reason = self.response(index).skipped
                        if reason is not None:
                            reasons[index] = reason
        return reasons

    # -- features ------------------------------------------------------------------------------

    def claim_features(
        self, extractor: AttentionFeatureExtractor, settings: ComputeSettings, token_budget: int
    ) -> ShardFolder:
        """The second stage's folder, to write to.

        Raises:
            TrainingError: it, or that of the responses, was made with other settings.
        """
        known = f"features in passes of {token_budget}"
        if known not in self._claimed:
            wanted = self.settings.of_features(extractor, settings, self.responses.settings)
            device = input_device(self.settings.model)
            digest = claim(self.features, wanted, environment(device, token_budget=token_budget))
            remove_leftovers(self.features)
            self._claimed[known] = ShardFolder(
                self.features, ".safetensors", digest, self._examples_and_responses_of
            )
        return self._claimed[known]

    def _examples_and_responses_of(self, shard: int) -> str:
        return self.examples_of(shard) + self.responses_of(shard)

    def table(
        self,
        extractor: AttentionFeatureExtractor | None,
        settings: ComputeSettings,
        shards: range | None = None,
    ) -> FeatureTable:
        """Features and outputs of all shards or some, checked, and mapped from disk.

        Raises:
            TrainingError: some have not been computed yet, or are damaged.
        """
        folder, _ = self.computed(extractor, settings)
        shards = range(self.plan.num_shards) if shards is None else shards
        with folder.checked_files(shards, again="compute_features_and_outputs") as files:
            return FeatureTable.from_files(files)

    def computed(
        self, extractor: AttentionFeatureExtractor | None, settings: ComputeSettings
    ) -> tuple[ShardFolder, dict[str, Any]]:
        """The second stage's folder, to read from, and the settings that it was made with.

        Without a model, what it was made with is compared as far as it is known.

        Raises:
            TrainingError: there is nothing in it, or it was made with other settings.
        """
        name = self.features.name
        if not exists(self.features):
            raise TrainingError(
                "no shards are computed yet: run compute_features_and_outputs() first"
            )
        if self.settings.model is not None:
            assert extractor is not None
            wanted = self.settings.of_features(extractor, settings, self.responses.settings)
            digest = claim(self.features, wanted, None)
            return ShardFolder(self.features, ".safetensors", digest, self.examples_of), wanted
        try:
            recorded = manifest.recorded(self.features)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}: run compute_features_and_outputs() again") from error
        if recorded is None:
            raise TrainingError(
                f"{name} has no {manifest.FILE}: run compute_features_and_outputs() first"
            )
        known = {"shard_size": self.plan.shard_size, **of_targets(settings)}
        if extractor is not None:
            known["features"] = json_values(extractor.serialize())
        different = differences({key: recorded.get(key) for key in known}, known)
        if different:
            raise TrainingError(f"{name} was made with other settings: {different}")
        digest = fingerprint(recorded)
        return ShardFolder(self.features, ".safetensors", digest, self.examples_of), recorded
