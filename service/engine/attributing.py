"""Attribution: passes over the model in their turn, and scores kept for the spans to come.

Knows the model, tasks and methods; nothing of generation or HTTP.
"""

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from at2.display import attribution_page
from at2.errors import SpanError, is_out_of_memory
from at2.evaluation.verify import Verification, verify_spans
from at2.methods import Attributor, TokenScoreAttributor
from at2.tasks import AttributionTask, DocumentsContextAttributionTask
from at2.text.alignment import CharRange
from service.engine.limits import Limits
from service.engine.loading import Loaded
from service.engine.requests import (
    DEFAULT_SOURCE_TYPE,
    Answer,
    Findings,
    Question,
    Quote,
)
from service.engine.scores import ScoreCache, ScoreKey
from service.engine.threads import claim_threads
from service.engine.worker import Worker
from service.failures import DeadlineError, NoMemoryError
from service.records import Generation, Prompt

logger = logging.getLogger("at2.service")

T = TypeVar("T")

_MOST_WAITING_TO_PREPARE = 64
"""Beyond these, scores are computed when they are asked for."""


class Attributing:
    """Attributes responses to their sources.

    Args:
        loaded: the model and its estimators.
        limits: of one request.
        scores: where scores of recorded generations are kept.
    """

    def __init__(self, loaded: Loaded, limits: Limits, scores: ScoreCache) -> None:
        self._loaded = loaded
        self._limits = limits
        self._scores = scores
        self._worker = Worker("attribution", claim_threads())
        self._preparing: dict[str, threading.Event] = {}
        # Long methods take many passes: each begins by asking whether anybody still waits.
        loaded.model.register_forward_pre_hook(lambda *_: self._worker.checkpoint())

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    def close(self) -> None:
        """Finish the pass that runs, abandon the rest."""
        self._worker.close()

    @property
    def waiting(self) -> int:
        """Attributions that have not begun."""
        return self._worker.waiting

    # -- questions -----------------------------------------------------------------------------

    async def of_generation(self, generation: Generation, question: Question) -> Findings:
        """See `Engine.attribute_generation`."""
        name = self._loaded.estimator_name(question.method, question.estimator)
        level = question.source_type or generation.source_type
        key = ScoreKey(generation.id, level, question.method, name or "")

        def answer_from(attributor: Attributor) -> Findings:
            return self._findings(attributor, question, name, time.perf_counter())

        def work() -> Findings:
            started = time.perf_counter()
            return self._findings(self._ready(generation, key, question), question, name, started)

        attributor = self._scores.get(key)
        if isinstance(attributor, TokenScoreAttributor) and not question.verify:
            return await asyncio.to_thread(answer_from, attributor)  # takes no pass
        return await self._pass(work)

    async def page_of(self, generation: Generation, question: Question) -> str:
        """See `Engine.page_of_generation`."""
        name = self._loaded.estimator_name(question.method, question.estimator)
        level = question.source_type or generation.source_type
        key = ScoreKey(generation.id, level, question.method, name or "")

        def work() -> str:
            attributor = self._ready(generation, key, question)
            return attribution_page(attributor, num_sources_to_show=question.top_k)

        return await self._pass(work)

    async def of_response(self, prompt: Prompt, response: str, question: Question) -> Findings:
        """See `Engine.attribute_response`."""
        name = self._loaded.estimator_name(question.method, question.estimator)
        self._limits.check_documents(prompt)

        def work() -> Findings:
            started = time.perf_counter()
            self._limits.check_texts(self._loaded.tokenizer, (*prompt.texts, response))
            task = self._loaded.task(prompt, question.source_type or DEFAULT_SOURCE_TYPE)
            task.set_generation(response)
            self._limits.check_length(len(task.input_ids), len(task.generation_ids))
            attributor = self._loaded.attributor(task, question.method, name)
            return self._findings(attributor, question, name, started)

        return await self._pass(work)

    def prepare(self, answer: Answer) -> None:
        """Compute the scores that are likely to be asked for next, once nothing else waits."""
        generation = answer.generation
        pointless = not (generation.response and answer.sources)
        if pointless or len(self._preparing) >= _MOST_WAITING_TO_PREPARE:
            return
        method = self._loaded.default_method
        name = self._loaded.estimator_name(method, None)
        key = ScoreKey(generation.id, generation.source_type, method, name or "")

        def work() -> None:
            try:
                if self._scores.get(key) is None:
                    self._prepare(self._loaded.task_of(generation, generation.source_type), key)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("no memory to prepare an attribution")
                _free_memory()
            finally:
                self._preparing.pop(generation.id, None)

        abandoned = self._preparing[generation.id] = threading.Event()
        self._worker.spare(work, abandoned)

    def forget(self, generation_id: str) -> None:
        """Drop what is kept or prepared of a generation."""
        abandoned = self._preparing.pop(generation_id, None)
        if abandoned is not None:
            abandoned.set()
        self._scores.forget(generation_id)

    # -- on the worker's thread ----------------------------------------------------------------

    def _ready(self, generation: Generation, key: ScoreKey, question: Question) -> Attributor:
        """The attributor of a generation with what all spans share, kept under its key.

        Raises:
            InputError: the question is refused; before any pass.
        """
        attributor = self._scores.get(key)
        if attributor is not None:
            self._spans(attributor.task, question)
            return attributor
        task = self._loaded.task_of(generation, key.source_type)
        self._spans(task, question)
        return self._prepare(task, key)

    def _prepare(self, task: DocumentsContextAttributionTask, key: ScoreKey) -> Attributor:
        attributor = self._loaded.attributor(task, key.method, key.estimator or None)
        attributor.prepare_for_attribution()
        self._worker.checkpoint()
        self._scores.put(key, attributor)
        return attributor

    def _findings(
        self, attributor: Attributor, question: Question, estimator: str | None, started: float
    ) -> Findings:
        top_k = question.top_k
        spans = self._spans(attributor.task, question)
        different = list(dict.fromkeys(spans))  # equal ones are answered once
        places = [different.index(span) for span in spans]
        attributions = [attributor.attribute(start, end, top_k) for start, end in different]
        verifications: Sequence[Verification] = ()
        if question.verify and spans and attributor.task.num_sources:
            verifications = verify_spans(attributor, different, top_k=top_k)
            verifications = [verifications[place] for place in places]
        seconds = time.perf_counter() - started
        attributions = [attributions[place] for place in places]
        return Findings(attributions, verifications, estimator, seconds)

    def _spans(self, task: AttributionTask, question: Question) -> list[CharRange]:
        """The spans that are asked for, each of which covers a token, within the limits."""
        spans = question.spans
        if spans is None:
            found = [(0, len(task.target))] if task.target else []
        elif spans == "sentence":
            found = list(task.statements)
        elif isinstance(spans, Quote):
            found = [_find(task, spans)]
        else:
            self._limits.check_spans(len(spans))
            found = list(spans)
        for start, end in found:
            task.target_span(start, end)
        self._limits.check_reply(question, task, found)
        self._limits.check_cost(question, task.num_sources, len(set(found)))
        return found

    async def _pass(self, work: Callable[[], T]) -> T:
        """Run passes over the model in their turn, within the time and the memory there is."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await self._worker.run(work)
        except TimeoutError:
            raise DeadlineError(self._limits.seconds) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.error("out of memory in an attribution: %s", error)
        _free_memory()  # only now: the error held on to what the pass had made
        raise NoMemoryError


def _find(task: AttributionTask, quote: Quote) -> CharRange:
    try:
        return task.find_span(quote.text, quote.occurrence)
    except SpanError as error:
        raise SpanError(str(error), param="quote" if error.param == "text" else error.param) from (
            error
        )


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
