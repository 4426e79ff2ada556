"""What an engine serves: a model with its tokenizer, and estimators that fit."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from at2.errors import EstimatorError, InputError
from at2.estimator.identity import ModelIdentity
from at2.estimator.known import estimators_in
from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.evaluation.verdicts import Calibration, load_calibration
from at2.files import place_of
from at2.fingerprints import weights_fingerprint
from at2.methods import METHODS, Attributor, HopsAttributor
from at2.model import default
from at2.model.attention import attention_shape, check_capture, weighed_scores
from at2.model.capture import input_device
from at2.model.loading import get_model_and_tokenizer
from at2.model.paged import ScoreRecorder
from at2.model.positions import context_length, set_context_length
from at2.model.weighing import TokenScores, Weighings
from at2.tasks import (
    ContextAttributionTask,
    ConversationAttributionTask,
    ConversationThoughtAttributionTask,
    DocumentsContextAttributionTask,
    DocumentsThoughtAttributionTask,
    ThoughtSources,
)
from at2.tasks.generation import end_ids
from at2.text.encoding import codec_of
from service.failures import SHOWN, OtherModelError
from service.records import Generation, Prompt
from service.settings import Settings

logger = logging.getLogger("at2.service")


@dataclass(frozen=True)
class Loaded:
    """A model with its tokenizer and estimators, and what can be made of them.

    Attributes:
        model: for passes of attribution.
        tokenizer: the model's own.
        identity: what makes the model itself, for estimators.
        fingerprint: tells whether a recorded generation is of this model, with these weights.
        estimators: by name; the first is used where a request names none.
        weighings: of all methods and estimators whose scores are weighted attention, by
            `weighing_name`.
        calibration: what support says about this model, if that is known.
    """

    model: Any
    tokenizer: Any
    identity: ModelIdentity
    fingerprint: str
    estimators: Mapping[str, LinearScoreEstimator]
    weighings: Weighings
    calibration: Calibration | None

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end a response."""
        return end_ids(self.model, {})

    @property
    def methods(self) -> list[str]:
        """Attribution methods that can be asked for."""
        return [
            name
            for name, method in METHODS.items()
            if self.estimators or not method.needs_estimator
        ]

    def task(self, prompt: Prompt, source_type: str) -> ContextAttributionTask:
        """A prompt as a task, whose response is still to be set.

        Raises:
            InputError: a message is named as a source that there is not.
        """
        earlier = [{"role": role, "content": text} for role, text in prompt.messages]
        if prompt.documents:
            of_documents = (
                DocumentsThoughtAttributionTask
                if prompt.source_thoughts
                else DocumentsContextAttributionTask
            )
            return of_documents(
                documents=prompt.documents,
                query=prompt.query,
                model=self.model,
                tokenizer=self.tokenizer,
                previous_messages=earlier,
                source_messages=prompt.source_messages,
                source_type=source_type,
            )
        of_turns = (
            ConversationThoughtAttributionTask
            if prompt.source_thoughts
            else ConversationAttributionTask
        )
        return of_turns(
            [*earlier, {"role": prompt.role, "content": prompt.query}],
            self.model,
            self.tokenizer,
            source_messages=prompt.source_messages or (),
            source_type=source_type,
        )

    def check_model(self, generation: Generation) -> None:
        """Make sure that a recorded generation is of this model.

        Raises:
            OtherModelError: its ids are of another model.
        """
        if generation.model != self.fingerprint:
            raise OtherModelError(generation.id, self.identity.model)

    def task_of(self, generation: Generation, source_type: str) -> ContextAttributionTask:
        """A recorded generation as a task.

        Raises:
            OtherModelError: its ids are of another model.
        """
        self.check_model(generation)
        task = self.task(generation.prompt, source_type)
        written = generation.before + generation.response
        if generation.encoded:
            task.set_generation(written)
        else:
            # a stop text may have ended it inside a token
            task.set_generation_ids(generation.response_ids, len(written))
        return task

    def attributor(
        self, task: ContextAttributionTask, method: str, estimator: str | None, hops: int = 0
    ) -> Attributor:
        """A method applied to a task; the estimator as `estimator_name` gives it."""
        attributor = METHODS[method].build(
            task, None if estimator is None else self.estimators[estimator]
        )
        return HopsAttributor(attributor, hops) if hops else attributor

    @property
    def default_method(self) -> Literal["at2", "contrastive_attention"]:
        """What is used where a request names no method: AT2 where there is an estimator."""
        return "at2" if self.estimators else "contrastive_attention"

    def recorder(self, task: ContextAttributionTask) -> ScoreRecorder | None:
        """What takes the scores of a task's response while it is written; None where thoughts are
        sources, which are not there yet."""
        if isinstance(task, ThoughtSources):
            return None
        query = task.query_before(len(task.input_ids))
        return ScoreRecorder(self.weighings, task.documents_token_range, query)

    def token_scores(self, task: ContextAttributionTask) -> TokenScores:
        """The same scores, by a pass over prompt and response."""
        return weighed_scores(
            task.model,
            task.marked_tokens,
            self.weighings,
            columns=task.sources_token_range,
        )

    def estimator_name(self, method: str, estimator: str | None) -> str | None:
        """The estimator that a method will use; None for a method that needs none.

        Raises:
            InputError: there is no such method or estimator here, or the method takes none.
        """
        if method not in METHODS:
            known = ", ".join(self.methods)
            raise InputError(f"no method {method[:SHOWN]!r}; there are: {known}", param="method")
        if not METHODS[method].needs_estimator:
            if estimator is not None:
                raise InputError(f"method {method} takes no estimator", param="estimator")
            return None
        if not self.estimators:
            raise InputError(
                f"method {method} needs an estimator, and this server has none", param="method"
            )
        if estimator is None:
            return next(iter(self.estimators))
        if estimator not in self.estimators:
            known = ", ".join(self.estimators)
            raise InputError(
                f"no estimator {estimator[:SHOWN]!r}; there are: {known}", param="estimator"
            )
        return estimator


def check_takes_hops(method: str, hops: int) -> None:
    """Raises: InputError: hops are asked for with a method that does not weigh attention."""
    if hops and METHODS[method].weighing is None:
        able = ", ".join(name for name, one in METHODS.items() if one.weighing is not None)
        raise InputError(f"method {method} takes no hops: {able} do", param="hops")


def load(settings: Settings) -> Loaded:
    """Load what the settings name, and test it.

    Raises:
        ModelError: there is no such device, or the model cannot be loaded, or its attention cannot
            be captured.
        EstimatorError: an estimator cannot be loaded or was trained for another model; the message
            names it.
    """
    dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
    model, tokenizer = get_model_and_tokenizer(
        settings.model, dtype=dtype, device=settings.device, revision=settings.revision
    )
    codec_of(tokenizer)  # now: making it holds up every thread for a sixth of a second
    if settings.max_context_tokens is not None:
        _set_context(model, settings.max_context_tokens)
    check_capture(model)
    identity = ModelIdentity.of(model, tokenizer)
    fingerprint = f"{identity.config}-{identity.tokenizer}-{weights_fingerprint(model)}"
    places = _estimator_places(settings)
    estimators = _load_estimators(settings, places, identity)
    weighings = weighings_of(model, estimators)
    calibration = _load_calibration(settings, places, identity)
    return Loaded(model, tokenizer, identity, fingerprint, estimators, weighings, calibration)


def weighing_name(method: str, estimator: str | None) -> str:
    """What the weighing of a method with an estimator is called."""
    return f"{method} {estimator}" if estimator else method


def weighings_of(model: Any, estimators: Mapping[str, LinearScoreEstimator]) -> Weighings:
    """How every method and estimator here weighs attention."""
    weighings = {}
    for name, method in METHODS.items():
        if method.weighing is None:
            continue
        for estimator in estimators if method.needs_estimator else [None]:
            weighing = method.weighing(model, None if estimator is None else estimators[estimator])
            weighings[weighing_name(name, estimator)] = weighing
    shape = attention_shape(model)
    return Weighings(weighings, shape.num_layers, shape.num_heads, input_device(model))


def _set_context(model: Any, tokens: int) -> None:
    """Let the model take so many tokens, unless it has no positions for them."""
    named = context_length(model)
    try:
        set_context_length(model, tokens)
    except InputError as error:
        logger.warning("%s", error)
        return
    if named is not None and tokens > named:
        logger.warning(
            "%d tokens are allowed, more than the %d that the model's configuration names",
            tokens,
            named,
        )


def _estimator_places(settings: Settings) -> dict[str, str]:
    """Where the estimators are, by name."""
    places: dict[str, str] = {}
    if settings.estimator is not None:
        places[settings.estimator] = settings.estimator
    elif settings.model == default.NAME:
        places[default.NAME] = str(default.ESTIMATOR_PATH)
    places.update(settings.estimators or {})
    return places


def _load_calibration(
    settings: Settings, places: Mapping[str, str], identity: ModelIdentity
) -> Calibration | None:
    """The calibration of support that lies beside an estimator, the first that there is. The
    default model's belongs to it, whatever estimators are used."""
    folders = list(places.values())
    if settings.model == default.NAME:
        folders.append(str(default.ESTIMATOR_PATH))
    for folder in folders:
        try:
            found = load_calibration(folder)
        except OSError as error:
            raise EstimatorError(f"{folder}: {error}") from error
        if found is not None:
            found.check_fits(identity)
            return found
    return None


def _load_estimators(
    settings: Settings, places: Mapping[str, str], identity: ModelIdentity
) -> Mapping[str, LinearScoreEstimator]:
    estimators = {}
    for name, place in places.items():
        try:
            estimator = load_estimator(place)
            estimator.check_fits(identity)
        except EstimatorError as error:
            raise type(error)(f"estimator {name!r}: {error}") from error
        estimators[name] = estimator
    if settings.estimators_folder is not None:
        for name, estimator in _in_folder(settings.estimators_folder, identity).items():
            estimators.setdefault(name, estimator)
    if not estimators:
        logger.warning("no estimator for %s: method at2 is not available", settings.model)
    return estimators


def _in_folder(folder: str, identity: ModelIdentity) -> dict[str, LinearScoreEstimator]:
    """The estimators in a folder's folders, by name; what cannot be used here is passed over."""
    estimators = {}
    try:
        for name, found in estimators_in(place_of(folder), identity):
            if isinstance(found, EstimatorError):
                logger.warning("estimator %r is not used: %s", name, found)
            else:
                estimators[name] = found
    except (OSError, InputError) as error:
        raise EstimatorError(f"estimators_folder={folder}: {error}") from error
    return estimators
