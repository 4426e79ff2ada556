"""One model in memory, its estimators, and what runs them.

Generation runs in the batcher's thread, passes for attribution one at a time in a worker's, both on
the same weights; text is encoded in a few more. The event loop only waits. A reply does not depend
on what else is running. Knows nothing of HTTP.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from at2.errors import ModelError
from at2.estimator.identity import ModelIdentity
from at2.estimator.linear import LinearScoreEstimator
from at2.evaluation.verdicts import Calibration
from at2.model.paged import ScoreRecorder
from at2.model.positions import context_length
from at2.model.twin import same_weights
from at2.tasks import ContextAttributionTask
from service import tracing
from service.caller import Caller
from service.engine.accounts import Account, Accounts
from service.engine.admission import Admission
from service.engine.attributing import Attributing
from service.engine.batch_check import GenerationWay, choose_way
from service.engine.batching import Batcher, TokenStream
from service.engine.generating import Generating
from service.engine.limits import Limits
from service.engine.loading import Loaded, load
from service.engine.memory import check_cache
from service.engine.one_by_one import OneByOne
from service.engine.remote import Remote, RemoteStream
from service.engine.remote_api import RemoteApi, Wanted
from service.engine.requests import Answer, EngineLoad, Findings, Question
from service.engine.room import Room
from service.engine.sampling import Sampling
from service.engine.scores import ScoreCache
from service.engine.scoring import Scoring, check_scores_as_written
from service.engine.speed import Speed
from service.engine.text import TextThreads
from service.failures import EngineDownError
from service.records import Generation, Prompt, ScoreStore
from service.settings import Settings

logger = logging.getLogger("at2.service")

DEFAULT_MAX_NEW_TOKENS = 256

CACHE_TOKENS = {"cpu": 8192, "cuda": 65_536}
"""Default size of the key-value cache: a few long requests, or many short ones."""

_TEXT_THREADS = 2
_WARM_UP_TOKENS = 4
_MEASURED_PROMPT = 64
_MEASURED_TOKENS = 8
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
        self._batcher: Batcher | OneByOne | Remote
        if settings.generator is None:
            self._batcher = _batcher(loaded, cache_tokens)
            room = self._batcher.capacity
        else:
            self._batcher = _remote(loaded, settings, cache_tokens)
            room = self._batcher.capacity * settings.max_requests  # the server has its own turns
        lengths = (self._batcher.capacity, context_length(loaded.model))
        self.limits = Limits(
            context_tokens=min(filter(None, lengths)),
            new_tokens=settings.max_new_tokens,
            documents=settings.max_documents,
            spans=settings.max_spans,
            passes=settings.max_passes,
            seconds=settings.request_seconds,
        )
        self.generation_way = GenerationWay(batched=True)
        self._scores = ScoreCache(settings.score_cache_mb * _MB)
        self.scoring = Scoring(as_written=False, reason="not tested yet")
        self._generations = 0
        self._text = TextThreads(_TEXT_THREADS)
        self.accounts = Accounts()
        limit = settings.max_requests
        self.admission = Admission(
            limit,
            of_one_caller=settings.max_requests_per_key or -(-3 * limit // 4),
            of_many_passes=settings.max_long_attributions or -(-limit // 4),
            accounts=self.accounts,
        )
        self._room = Room(room, self.accounts)
        self._speed = Speed()
        self._attributing = Attributing(
            loaded,
            self.limits,
            self._scores,
            self.admission,
            self._speed,
            encode=self._text.run,
            busy=lambda: self._generations > 0 and self.generator is None,
            accounts=self.accounts,
        )
        logger.info("model %s loaded in %.1f s", settings.model, time.monotonic() - started)

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the threads and generate a few tokens, so that the first request finds all warm.
        Where batches do not give what the model gives, responses are generated one at a time.

        Raises:
            ServerFailure: nothing can be generated.
        """
        self._attributing.start()
        self._batcher.start()
        if isinstance(self._batcher, Remote):
            self.scoring = Scoring(False, "scores take a pass: another server writes the responses")
            logger.info("responses are written by %s", self.generator)
            await self._attributing.measure()
            return
        if isinstance(self._batcher, Batcher):
            model, longest = self._loaded.model, self.limits.context_tokens
            self._batcher, self.generation_way = await choose_way(
                model, self._batcher, sorted(self._loaded.end_ids), longest
            )
        await self._write(_WARM_UP_TOKENS, _WARM_UP_TOKENS)
        if isinstance(self._batcher, Batcher):
            self.scoring = await check_scores_as_written(
                self._loaded, self._batcher, self._text.run
            )
        else:
            self.scoring = Scoring(False, "scores take a pass: responses are written one by one")
        logger.info("%s", self.scoring.reason)
        prompt_tokens = min(_MEASURED_PROMPT, self._batcher.capacity - _MEASURED_TOKENS)
        self._speed.measure(*await self._write(prompt_tokens, _MEASURED_TOKENS))

    async def _write(self, prompt_tokens: int, new_tokens: int) -> tuple[int, float, int, float]:
        """Write so many tokens, and how long it took; see `Speed.measure`."""
        assert not isinstance(self._batcher, Remote)
        moments = [time.perf_counter()]
        prompt = [0] * prompt_tokens
        async for ids in self._batcher.submit(prompt, new_tokens, Sampling(), 0, streaming=True):
            moments += [time.perf_counter()] * len(ids)
        began, first, last = moments[0], moments[1], moments[-1]
        return prompt_tokens, first - began, len(moments) - 1, last - first

    def close(self) -> None:
        """Stop everything; what still runs fails. Safe to call more than once."""
        self._batcher.close()
        self._attributing.close()
        self._text.close()

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
            in_progress=self.admission.in_progress,
            generating=batch.running,
            generations_waiting=self._room.waiting,
            cache_used=min(batch.tokens / batch.capacity, 1.0),
            attributions_waiting=self._attributing.waiting,
            score_bytes=self._scores.size,
            scoring_passes=self._attributing.passes,
        )

    @property
    def generator(self) -> str | None:
        """The address of the server that writes the responses, if they are not written here."""
        return self._batcher.api.url if isinstance(self._batcher, Remote) else None

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
    def calibration(self) -> Calibration | None:
        """What support says about this model, if that is known."""
        return self._loaded.calibration

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

    def check_method(self, method: str, estimator: str | None) -> None:
        """Raises: InputError: there is no such method here, or no such estimator for it."""
        self._loaded.estimator_name(method, estimator)

    # -- generation ----------------------------------------------------------------------------

    async def generate(
        self,
        prompt: Prompt,
        source_type: str,
        sampling: Sampling,
        caller: Caller | None = None,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> Generating:
        """Begin to write a response; iterate over it for its text, and close it.

        Args:
            prompt: what to answer.
            source_type: what the context is cut into.
            sampling: how to choose tokens.
            caller: who waits for it.
            on_tokens: called with the number of new tokens whenever some have come.

        Raises:
            PromptTooLongError: prompt and new tokens do not fit.
            InputError: the request exceeds a limit of the server.
            ServerFailure: see `service.failures`; iterating raises these as well.
        """
        caller = caller or Caller()
        limits, wanted = self.limits, sampling.max_new_tokens
        limits.check_new_tokens(wanted)
        limits.check_documents(prompt)
        with ExitStack() as place:
            place.enter_context(self.admission.request(caller.name))
            if not self._batcher.alive:
                raise EngineDownError
            task = self._loaded.task(prompt, source_type)
            work = place.enter_context(ExitStack())
            work.enter_context(caller.within(limits.allowed_seconds(0.0)))
            ids, recorder = await caller.stay(
                self._text.run(
                    lambda: self._read(task, prompt, wanted or 1), caller.name, prompt.characters
                )
            )
            most = min(DEFAULT_MAX_NEW_TOKENS, limits.new_tokens, limits.context_tokens - len(ids))
            count = wanted or most
            caller.allow(limits.allowed_seconds(self._speed.seconds(len(ids), count)))
            room = work.enter_context(self._room.reserve(caller.name, len(ids), count))
            seed = secrets.randbits(_SEED_BITS) if sampling.seed is None else sampling.seed
            timed = _Timed(on_tokens, self._speed, self.accounts.of(caller.name), len(ids))
            work.callback(timed.done)
            kept = place.pop_all()

        def begin() -> TokenStream | RemoteStream:
            work.enter_context(self._generation())
            tokens: TokenStream | RemoteStream
            if isinstance(self._batcher, Remote):
                tokens = self._batcher.submit(Wanted(ids, task.messages, count, sampling))
            else:
                # Every id as it is made: the first is timed, and at a deadline all so far are kept.
                tokens = self._batcher.submit(
                    ids,
                    count,
                    sampling,
                    seed,
                    streaming=True,
                    recorder=recorder,
                    owner=caller.name if self.settings.share_prefixes else None,
                )
            work.callback(tokens.close)
            return tokens

        return Generating(
            task,
            prompt,
            room,
            tracing.bound(begin),
            model=self._loaded.fingerprint,
            end_ids=self._loaded.end_ids,
            caller=caller,
            place=kept,
            work=work,
            on_tokens=timed,
            stop=sampling.stop,
        )

    @contextmanager
    def _generation(self) -> Iterator[None]:
        """Count a generation; nothing is prepared meanwhile, or it would be slower."""
        self._generations += 1
        try:
            yield
        finally:
            self._generations -= 1
            if not self._generations:
                self._attributing.nudge()

    def _read(
        self, task: ContextAttributionTask, prompt: Prompt, new_tokens: int
    ) -> tuple[list[int], ScoreRecorder | None]:
        """The ids of a prompt that fits, and what takes the scores of its response."""
        with tracing.span("encode") as span:
            self.limits.check_texts(self._loaded.tokenizer, prompt.texts)
            span.set({"at2.prompt_tokens": len(task.input_ids)})
            self.limits.check_length(len(task.input_ids), new_tokens)
            return task.input_ids, self._loaded.recorder(task) if self.scoring.as_written else None

    async def answer(self, generation: Generation, caller: Caller | None = None) -> Answer:
        """The answer of a recorded generation, as it was given at first.

        Raises:
            OtherModelError: it is of another model.
        """

        def work() -> Answer:
            self._loaded.check_model(generation)
            task = self._scores.task(generation.id, generation.source_type)
            if task is None:
                task = self._loaded.task_of(generation, generation.source_type)
            return Answer(generation, task.source_spans, task.statements)

        caller = caller or Caller()
        return await caller.stay(self._text.run(work, caller.name, generation.prompt.characters))

    async def attribute_so_far(self, generating: Generating, question: Question) -> Findings | None:
        """Ranked sources of statements of a response that is being written, between two pieces of
        it; None where scores are not taken on the way. It takes no pass.

        Raises:
            InputError: the method or estimator is not available here.
        """
        if not self.scoring.as_written:
            return None
        with tracing.span("attribute", question.facts | {"at2.so_far": True}):
            return await self._text.run(
                lambda: self._attributing.of_written(generating.so_far(), question),
                generating.caller.name,
                generating.prompt.characters,
            )

    def share_scores(self, scores: ScoreStore) -> None:
        """Share scores of recorded generations with other replicas; call it on the event loop."""
        self._attributing.share(scores)

    def prepare(self, answer: Answer) -> None:
        """Keep or compute scores of a generation that was recorded, before anybody asks."""
        if self.settings.prepare or answer.token_scores is not None:
            self._attributing.prepare(answer)

    # -- attribution ---------------------------------------------------------------------------

    async def attribute_generation(
        self, generation: Generation, question: Question, caller: Caller | None = None
    ) -> Findings:
        """Ranked sources of spans of a recorded response; scores are kept for later spans.

        Raises:
            SpanError: a span is outside the response or covers no token.
            InputError: the method or estimator is not available here, or a limit is exceeded.
            ServerFailure: see `service.failures`.
        """
        with self._attribution(caller, question) as caller:
            return await caller.stay(self._attributing.of_generation(generation, question, caller))

    async def attribute_written(self, generating: Generating, question: Question) -> Findings:
        """The same of a response that has just been written, in the place that it still has among
        the requests; its time begins anew.

        Raises:
            InputError: the method or estimator is not available here, or a limit is exceeded.
            ServerFailure: see `service.failures`.
        """
        caller = Caller(generating.caller.name)
        with (
            tracing.span("attribute", question.facts),
            caller.within(self.limits.allowed_seconds()),
        ):
            generation = generating.answer.generation
            return await caller.stay(self._attributing.of_generation(generation, question, caller))

    async def attribute_response(
        self,
        prompt: Prompt,
        response: str,
        question: Question,
        caller: Caller | None = None,
        *,
        thoughts: str | None = None,
    ) -> Findings:
        """Ranked sources of spans of a response written elsewhere; nothing is kept.

        Args:
            prompt: what was asked.
            response: what was answered.
            question: what to find out.
            caller: who waits for it.
            thoughts: what was thought before, where thoughts are sources.

        Raises:
            PromptTooLongError: prompt and response do not fit.
            SpanError: a span is outside the response or covers no token.
            InputError: the method or estimator is not available here, or a limit is exceeded.
            ServerFailure: see `service.failures`.
        """
        with self._attribution(caller, question) as caller:
            work = self._attributing.of_response(prompt, response, thoughts, question, caller)
            return await caller.stay(work)

    async def page_of_generation(
        self, generation: Generation, question: Question, caller: Caller | None = None
    ) -> str:
        """The attribution of every statement of a recorded response as a page that stands alone.

        Raises:
            InputError: the method or estimator is not available here, or a limit is exceeded.
            ServerFailure: see `service.failures`.
        """
        with self._attribution(caller, question) as caller:
            return await caller.stay(self._attributing.page_of(generation, question, caller))

    @contextmanager
    def _attribution(self, caller: Caller | None, question: Question) -> Iterator[Caller]:
        """A place for an attribution, and the time that one of few passes may take."""
        caller = caller or Caller()
        with (
            tracing.span("attribute", question.facts),
            self.admission.request(caller.name),
            caller.within(self.limits.allowed_seconds()),
        ):
            yield caller

    def forget(self, generation_id: str) -> None:
        """Drop what is kept or prepared of a generation."""
        self._attributing.forget(generation_id)


def _batcher(loaded: Loaded, cache_tokens: int) -> Batcher:
    """What generates here.

    Raises:
        ModelError: the cache does not fit the memory, or the model cannot be batched.
    """
    check_cache(loaded.model, cache_tokens)
    try:
        return Batcher(same_weights(loaded.model), sorted(loaded.end_ids), cache_tokens)
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise ModelError(f"{loaded.identity.model} cannot generate in batches: {error}") from error


def _remote(loaded: Loaded, settings: Settings, longest: int) -> Remote:
    """What lets another server generate, sequences up to the model's length, or else `longest`."""
    key = settings.generator_key
    api = RemoteApi(
        settings.generator or "",
        None if key is None else key.get_secret_value(),
        settings.generator_model or settings.model,
        loaded.tokenizer,
    )
    return Remote(api, context_length(loaded.model) or longest)


class _Timed:
    """Passes on how many tokens have come, writes them down, and in the end tells how fast."""

    def __init__(
        self,
        on_tokens: Callable[[int], None],
        speed: Speed,
        account: Account,
        prompt_tokens: int,
    ) -> None:
        self._on_tokens = on_tokens
        self._speed = speed
        self._account = account
        self._prompt_tokens = prompt_tokens
        self._count = 0
        self._first = self._last = 0.0

    def __call__(self, new: int) -> None:
        self._last = time.perf_counter()
        if not self._count:
            self._first = self._last
            self._account.prompt_tokens += self._prompt_tokens
        self._count += new
        self._account.new_tokens += new
        self._on_tokens(new)

    def done(self) -> None:
        self._speed.observe(self._count, self._last - self._first)
