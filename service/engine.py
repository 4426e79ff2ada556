"""One model in memory, its estimators, and the thread that runs them.

Every pass over the model runs on one worker thread, in the order of arrival, so two requests never
see each other's capture, sampling state or cache. The event loop only waits. Knows nothing of HTTP.
"""

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch

from at2 import bundled
from at2.attention import check_capture
from at2.attributors import AT2Attributor, Attribution, Attributor, AverageAttentionAttributor
from at2.errors import InputError
from at2.estimators import LinearScoreEstimator, load_estimator
from at2.identity import ModelIdentity
from at2.tasks import DocumentsContextAttributionTask, SourceSpan
from at2.utils import get_model_and_tokenizer
from service.records import Generation, Prompt
from service.settings import Settings

logger = logging.getLogger("at2.service")

T = TypeVar("T")

DEFAULT_MAX_NEW_TOKENS = 256

_CACHED_ATTRIBUTORS = 256
"""Attributors of finished generations kept in memory; each holds [target tokens, sources] of
float32 on the CPU, so that later spans need no pass over the model."""

Spans = Sequence[tuple[int, int]] | Literal["sentence"] | None
"""Which characters of a response to attribute: these, every statement, or all of it."""


@dataclass(frozen=True)
class Answer:
    """A generation with what its response can be attributed to, and its sentences."""

    generation: Generation
    sources: Sequence[SourceSpan]
    statements: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Sampling:
    """How to decode. Temperature 0 is greedy; without `max_new_tokens`, what fits."""

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def generate_kwargs(self) -> dict[str, Any]:
        """The arguments of transformers' `generate`."""
        max_new_tokens = self.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
        if self.temperature == 0:
            return {
                "max_new_tokens": max_new_tokens,
                "do_sample": False,
                "temperature": None,
                "top_p": None,
                "top_k": None,
            }
        return {
            "max_new_tokens": max_new_tokens,
            "do_sample": True,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0,
        }


class Engine:
    """Generates and attributes with one model.

    Args:
        settings: which model and estimator to load, and where.

    Raises:
        At2Error: the model or estimator cannot be loaded, do not fit together, or the captured
            attention fails its self-test.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        started = time.monotonic()
        dtype = None if settings.dtype == "auto" else getattr(torch, settings.dtype)
        self.model, self.tokenizer = get_model_and_tokenizer(
            settings.model, dtype=dtype, device=settings.device, revision=settings.revision
        )
        check_capture(self.model)
        self.identity = ModelIdentity.of(self.model, self.tokenizer)
        self.estimators: dict[str, LinearScoreEstimator] = {}
        self._load_estimator(settings)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._attributors: OrderedDict[tuple[str, ...], Attributor] = OrderedDict()
        logger.info("model %s ready in %.1f s", settings.model, time.monotonic() - started)

    def _load_estimator(self, settings: Settings) -> None:
        if settings.estimator is not None:
            name: str = settings.estimator
            estimator = load_estimator(name)
        elif settings.model == bundled.NAME:
            name, estimator = bundled.NAME, load_estimator(bundled.ESTIMATOR_PATH)
        else:
            logger.warning("no estimator for %s: method at2 is not available", settings.model)
            return
        estimator.check_fits(self.identity)
        self.estimators[name] = estimator

    @property
    def methods(self) -> list[str]:
        """Attribution methods that can be asked for."""
        return (["at2"] if self.estimators else []) + ["average_attention"]

    def close(self) -> None:
        """Finish what runs and stop the worker."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    # -- generation ----------------------------------------------------------------------------

    async def generate(self, prompt: Prompt, source_type: str, sampling: Sampling) -> Answer:
        """Write a response.

        Raises:
            PromptTooLongError: prompt and new tokens do not fit the model.
            InputError: the request exceeds a limit of the server.
        """
        limit = self.settings.max_new_tokens
        if sampling.max_new_tokens is not None and sampling.max_new_tokens > limit:
            raise InputError(
                f"max_new_tokens is {sampling.max_new_tokens}, the limit here is {limit}",
                param="max_new_tokens",
            )
        return await self._run(lambda: self._generate(prompt, source_type, sampling))

    async def answer(self, generation: Generation) -> Answer:
        """The answer of a recorded generation, as it was given at first."""
        return await self._run(
            lambda: _answer(generation, self._task_of(generation, generation.source_type))
        )

    def _generate(self, prompt: Prompt, source_type: str, sampling: Sampling) -> Answer:
        task = self._task(prompt, source_type)
        task.generate_kwargs = sampling.generate_kwargs()
        task.check_length(sampling.max_new_tokens or 1)
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            if sampling.seed is None:
                torch.seed()
            else:
                torch.manual_seed(sampling.seed)
            response = task.generation
        stopped = task.generation_token_end < len(task.token_ids)
        generation = Generation(
            id=f"gen-{uuid.uuid4().hex}",
            created=int(time.time()),
            prompt=prompt,
            source_type=source_type,
            prompt_tokens=task.generation_token_start,
            response_ids=tuple(task.generation_ids),
            response=response,
            finish_reason="stop" if stopped else "length",
        )
        return _answer(generation, task)

    def _task(self, prompt: Prompt, source_type: str) -> DocumentsContextAttributionTask:
        return DocumentsContextAttributionTask(
            documents=prompt.documents,
            query=prompt.query,
            model=self.model,
            tokenizer=self.tokenizer,
            previous_messages=[{"role": role, "content": text} for role, text in prompt.messages],
            source_type=source_type,
        )

    def _task_of(self, generation: Generation, source_type: str) -> DocumentsContextAttributionTask:
        task = self._task(generation.prompt, source_type)
        task.set_generation_ids(generation.response_ids)
        return task

    # -- attribution ---------------------------------------------------------------------------

    async def attribute_generation(
        self,
        generation: Generation,
        spans: Spans,
        *,
        method: str,
        estimator: str | None,
        source_type: str | None,
        top_k: int,
    ) -> list[Attribution]:
        """Ranked sources of spans of a recorded response; its scores are kept for later spans.

        Raises:
            SpanError: a span is outside the response or covers no token.
            InputError: the method or estimator is not available here.
        """
        name = self.estimator_name(method, estimator)
        level = source_type or generation.source_type
        key = (generation.id, level, method, name or "")

        def work() -> list[Attribution]:
            attributor = self._attributors.get(key)
            if attributor is None:
                attributor = self._attributor(self._task_of(generation, level), name)
            attributions = _attribute(attributor, spans, top_k)
            self._attributors[key] = attributor
            self._attributors.move_to_end(key)
            while len(self._attributors) > _CACHED_ATTRIBUTORS:
                self._attributors.popitem(last=False)
            return attributions

        return await self._run(work)

    async def attribute_response(
        self,
        prompt: Prompt,
        response: str,
        spans: Spans,
        *,
        method: str,
        estimator: str | None,
        source_type: str,
        top_k: int,
    ) -> list[Attribution]:
        """Ranked sources of spans of a response written elsewhere; nothing is kept.

        Raises:
            PromptTooLongError: prompt and response do not fit the model.
            SpanError: a span is outside the response or covers no token.
            InputError: the method or estimator is not available here.
        """
        name = self.estimator_name(method, estimator)

        def work() -> list[Attribution]:
            task = self._task(prompt, source_type)
            task.set_generation(response)
            task.check_length()
            return _attribute(self._attributor(task, name), spans, top_k)

        return await self._run(work)

    def _attributor(
        self, task: DocumentsContextAttributionTask, estimator: str | None
    ) -> Attributor:
        if estimator is None:
            return AverageAttentionAttributor(task)
        return AT2Attributor(task, self.estimators[estimator])

    def estimator_name(self, method: str, estimator: str | None) -> str | None:
        """The estimator that a method will use; None for a method that needs none.

        Raises:
            InputError: there is no such estimator here.
        """
        if method != "at2":
            return None
        if not self.estimators:
            raise InputError(
                "method at2 needs an estimator, and this server has none", param="method"
            )
        if estimator is None:
            return next(iter(self.estimators))
        if estimator not in self.estimators:
            known = ", ".join(self.estimators)
            raise InputError(
                f"no estimator {estimator[:64]!r}; there are: {known}", param="estimator"
            )
        return estimator

    async def forget(self, generation_id: str) -> None:
        """Drop what is kept of a generation."""

        def work() -> None:
            for key in [key for key in self._attributors if key[0] == generation_id]:
                del self._attributors[key]

        await self._run(work)


def _answer(generation: Generation, task: DocumentsContextAttributionTask) -> Answer:
    return Answer(generation, task.source_spans, task.statements)


def _attribute(attributor: Attributor, spans: Spans, top_k: int) -> list[Attribution]:
    task = attributor.task
    if spans is None:
        spans = [(0, len(task.target))] if task.target else []
    elif spans == "sentence":
        spans = task.statements
    for start, end in spans:  # a wrong span is refused before any work for the others
        task.target_span(start, end)
    return [attributor.attribute(start, end, top_k) for start, end in spans]
