"""One model in memory, its estimators, and what runs them.

Generation runs in the batcher's thread, passes for attribution one at a time in a worker's, both on
the same weights; text is encoded in a few more. The event loop only waits. A reply does not depend
on what else is running. Knows nothing of HTTP.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from typing import Any, Literal, TypeVar

from at2.errors import ModelError
from at2.estimator.identity import ModelIdentity
from at2.estimator.linear import LinearScoreEstimator
from at2.tasks import DocumentsContextAttributionTask
from at2.text.chat_template import context_length
from service.engine.admission import Admission
from service.engine.attributing import Attributing
from service.engine.batching import Batcher
from service.engine.generating import Generating
from service.engine.limits import Limits
from service.engine.loading import load, same_weights
from service.engine.memory import check_cache
from service.engine.requests import Answer, EngineLoad, Findings, Question
from service.engine.sampling import Sampling
from service.engine.scores import ScoreCache
from service.failures import DeadlineError, EngineDownError
from service.records import Generation, Prompt
from service.settings import Settings

logger = logging.getLogger("at2.service")

T = TypeVar("T")

DEFAULT_MAX_NEW_TOKENS = 256

CACHE_TOKENS = {"cpu": 8192, "cuda": 65_536}
"""Default size of the key-value cache: a few long requests, or many short ones."""

_TEXT_THREADS = 2
_WARM_UP_TOKENS = 4
_SEED_BITS = 63
_MB = 2**20


class Engine:
    """Generates and attributes with one model.

    Args:
        settings: which model and estimators to load, where, and the limits.

    Raises:
        At2Error: the model or an estimator cannot be loaded, do not fit together, or the captured
            attention fails its self-test.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        started = time.monotonic()
        self._loaded = loaded = load(settings)
        device = loaded.model.device.type
        cache_tokens = settings.cache_tokens or CACHE_TOKENS.get(device, CACHE_TOKENS["cuda"])
        check_cache(loaded.model, cache_tokens)
        try:
            self._batcher = Batcher(
                same_weights(loaded.model), sorted(loaded.end_ids), cache_tokens
            )
        except (ValueError, AttributeError, NotImplementedError) as error:
            raise ModelError(f"{settings.model} cannot generate in batches: {error}") from error
        lengths = (context_length(loaded.model), settings.max_context_tokens)
        self.limits = Limits(
            context_tokens=min([self._batcher.capacity, *filter(None, lengths)]),
            new_tokens=settings.max_new_tokens,
            documents=settings.max_documents,
            spans=settings.max_spans,
            passes=settings.max_passes,
            seconds=settings.request_seconds,
        )
        self._scores = ScoreCache(settings.score_cache_mb * _MB)
        self._attributing = Attributing(loaded, self.limits, self._scores)
        self._text = ThreadPoolExecutor(_TEXT_THREADS, thread_name_prefix="text")
        self._admission = Admission(settings.max_requests)
        logger.info("model %s loaded in %.1f s", settings.model, time.monotonic() - started)

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the threads and generate a few tokens, so that the first request finds all warm.

        Raises:
            ServerFailure: nothing can be generated.
        """
        self._attributing.start()
        self._batcher.start()
        prompt = [0] * _WARM_UP_TOKENS
        stream = self._batcher.submit(prompt, _WARM_UP_TOKENS, Sampling(), 0, streaming=False)
        async for _ in stream:
            pass

    def close(self) -> None:
        """Stop everything; what still runs fails. Safe to call more than once."""
        self._batcher.close()
        self._attributing.close()
        self._text.shutdown(wait=True, cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Whether requests can be answered now."""
        return self._batcher.alive

    @property
    def dead(self) -> bool:
        """Whether only a new process can generate again."""
        return self._batcher.dead

    @property
    def load(self) -> EngineLoad:
        """What it is doing now."""
        batch = self._batcher.load
        return EngineLoad(
            in_progress=self._admission.in_progress,
            generating=batch.running,
            cache_used=min(batch.tokens / batch.capacity, 1.0),
            attributions_waiting=self._attributing.waiting,
            score_bytes=self._scores.size,
        )

    # -- what it serves ------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The model, for its facts."""
        return self._loaded.model

    @property
    def identity(self) -> ModelIdentity:
        """What makes the model itself."""
        return self._loaded.identity

    @property
    def estimators(self) -> Mapping[str, LinearScoreEstimator]:
        """Estimators by name; the first is used where a request names none."""
        return self._loaded.estimators

    @property
    def default_method(self) -> Literal["at2", "contrastive_attention"]:
        """What a request that names no method gets."""
        return self._loaded.default_method

    @property
    def methods(self) -> list[str]:
        """Attribution methods that can be asked for."""
        return self._loaded.methods

    # -- generation ----------------------------------------------------------------------------

    async def generate(
        self, prompt: Prompt, source_type: str, sampling: Sampling, *, streaming: bool = False
    ) -> Generating:
        """Begin to write a response; iterate over it for its text, and close it.

        Raises:
            PromptTooLongError: prompt and new tokens do not fit.
            InputError: the request exceeds a limit of the server.
            ServerFailure: see `service.failures`; iterating raises these as well.
        """
        limits, wanted = self.limits, sampling.max_new_tokens
        limits.check_new_tokens(wanted)
        limits.check_documents(prompt)
        deadline = asyncio.get_running_loop().time() + limits.seconds
        place = ExitStack()
        place.enter_context(self._admission.request())
        try:
            if not self._batcher.alive:
                raise EngineDownError
            task = self._loaded.task(prompt, source_type)
            async with self._until(deadline):
                ids = await self._encode(lambda: self._ids(task, prompt, wanted or 1))
            room = min(DEFAULT_MAX_NEW_TOKENS, limits.new_tokens, limits.context_tokens - len(ids))
            seed = secrets.randbits(_SEED_BITS) if sampling.seed is None else sampling.seed
            tokens = self._batcher.submit(ids, wanted or room, sampling, seed, streaming=streaming)
        except BaseException:
            place.close()
            raise
        return Generating(
            task,
            prompt,
            tokens,
            model=self._loaded.fingerprint,
            end_ids=self._loaded.end_ids,
            deadline=deadline,
            late=DeadlineError(limits.seconds),
            place=place,
        )

    def _ids(
        self, task: DocumentsContextAttributionTask, prompt: Prompt, new_tokens: int
    ) -> list[int]:
        """The ids of a prompt that fits."""
        self.limits.check_texts(self._loaded.tokenizer, prompt.texts)
        self.limits.check_length(len(task.input_ids), new_tokens)
        return task.input_ids

    @asynccontextmanager
    async def _until(self, deadline: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise DeadlineError(self.limits.seconds) from None

    async def answer(self, generation: Generation) -> Answer:
        """The answer of a recorded generation, as it was given at first.

        Raises:
            OtherModelError: it is of another model.
        """

        def work() -> Answer:
            task = self._loaded.task_of(generation, generation.source_type)
            return Answer(generation, task.source_spans, task.statements)

        return await self._encode(work)

    def prepare(self, answer: Answer) -> None:
        """Compute the scores of a generation that was recorded, before anybody asks for them."""
        if self.settings.prepare:
            self._attributing.prepare(answer)

    async def _encode(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._text, work)

    # -- attribution ---------------------------------------------------------------------------

    async def attribute_generation(self, generation: Generation, question: Question) -> Findings:
        """Ranked sources of spans of a recorded response; scores are kept for later spans.

        Raises:
            SpanError: a span is outside the response or covers no token.
            InputError: the method or estimator is not available here, or a limit is exceeded.
            ServerFailure: see `service.failures`.
        """
        with self._admission.request():
            return await self._attributing.of_generation(generation, question)

    async def attribute_response(
        self, prompt: Prompt, response: str, question: Question
    ) -> Findings:
        """Ranked sources of spans of a response written elsewhere; nothing is kept.

        Raises:
            PromptTooLongError: prompt and response do not fit.
            SpanError: a span is outside the response or covers no token.
            InputError: the method or estimator is not available here, or a limit is exceeded.
            ServerFailure: see `service.failures`.
        """
        with self._admission.request():
            return await self._attributing.of_response(prompt, response, question)

    async def page_of_generation(self, generation: Generation, question: Question) -> str:
        """The attribution of every statement of a recorded response as a page that stands alone.

        Raises:
            InputError: the method or estimator is not available here, or a limit is exceeded.
            ServerFailure: see `service.failures`.
        """
        with self._admission.request():
            return await self._attributing.page_of(generation, question)

    def forget(self, generation_id: str) -> None:
        """Drop what is kept or prepared of a generation."""
        self._attributing.forget(generation_id)
