"""One model in memory, its estimators, and what runs them.

Generation runs in the batcher's thread, passes for attribution one at a time in a worker's, both on
the same weights; text is encoded in a few more. The event loop only waits. A reply does not depend
on what else is running. Knows nothing of HTTP.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from at2.model.paged import ScoreRecorder
from at2.model.positions import context_length
from at2.tasks import ContextAttributionTask
from service import tracing
from service.caller import Caller
from service.engine.accounts import Accounts
from service.engine.admission import Admission
from service.engine.attributing import Attributing
from service.engine.batch_check import GenerationWay, choose_way
from service.engine.batching import Batcher
from service.engine.generating import Generating
from service.engine.kept_scores import KeptScores
from service.engine.limits import Limits
from service.engine.loading import load
from service.engine.model_thread import ModelThread
from service.engine.remote import Remote, RemoteStream
from service.engine.remote_api import Wanted
from service.engine.requests import Answer, EngineLoad, Findings, Question
from service.engine.room import Room
from service.engine.sampling import Sampling
from service.engine.scoring import Scoring
from service.engine.speed import Speed, TokenMeter
from service.engine.text import TextThreads
from service.engine.token_stream import TokenStream
from service.engine.writers import Writer, warm_up, writer_of
from service.failures import EngineDownError
from service.records import Generation, Prompt, ScoreStore
from service.settings import Settings

logger = logging.getLogger("at2.service")

DEFAULT_MAX_NEW_TOKENS = 256

_TEXT_THREADS = 2
_SEED_BITS = 63
_MB = 2**20


class Engine:
    """Generates and attributes with one model.

    Args:
        settings: which model and estimators to load, where, and the limits.

    Attributes:
        loaded: the model, its estimators, and the methods there are.
        limits: of one request.
        admission: of requests.
        accounts: of callers.
        generation_way: how responses are generated.
        scoring: how they get their scores.

    Raises:
        At2Error: the model or an estimator cannot be loaded, do not fit together, or the captured
            attention fails its self-test.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        started = time.monotonic()
        self.loaded = loaded = load(settings)
        self._writer: Writer = writer_of(loaded, settings)
        capacity = self._writer.capacity
        self.limits = Limits(
            context_tokens=min(filter(None, (capacity, context_length(loaded.model)))),
            new_tokens=settings.max_new_tokens,
            documents=settings.max_documents,
            spans=settings.max_spans,
            passes=settings.max_passes,
            seconds=settings.request_seconds,
        )
        self.generation_way = GenerationWay(batched=True)
        self.scoring = Scoring(as_written=False, reason="not tested yet")
        self._generations = 0
        self._text = TextThreads(_TEXT_THREADS)
        self.accounts = Accounts()
        self.admission = Admission(
            settings.max_requests,
            settings.max_requests_per_key,
            settings.max_long_attributions,
            self.accounts,
        )
        elsewhere = settings.generator is not None  # that server has turns of its own
        room = capacity * settings.max_requests if elsewhere else capacity
        self._room = Room(room, self.accounts)
        self._speed = Speed()
        self._kept = KeptScores(loaded, settings.score_cache_mb * _MB)
        self._thread = ModelThread(
            loaded,
            self.limits,
            self.admission,
            self._speed,
            self.accounts,
            busy=lambda: self._generations > 0 and not elsewhere,
        )
        self._attributing = Attributing(loaded, self.limits, self._kept, self._thread, self._text)
        logger.info("model %s loaded in %.1f s", settings.model, time.monotonic() - started)

    # -- life ----------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the threads and generate a few tokens, so that the first request finds all warm.
        Where batches do not give what the model gives, responses are generated one at a time.

        Raises:
            ServerFailure: nothing can be generated.
        """
        self._thread.start()
        self._writer.start()
        if isinstance(self._writer, Remote):
            self.scoring = Scoring(False, "scores take a pass: another server writes the responses")
            logger.info("responses are written by %s", self.generator)
            await self._thread.measure()
            return
        if isinstance(self._writer, Batcher):
            self._writer, self.generation_way = await choose_way(
                self.loaded.model,
                self._writer,
                sorted(self.loaded.end_ids),
                self.limits.context_tokens,
            )
        self.scoring = await warm_up(self.loaded, self._writer, self._speed, self._text)
        logger.info("%s", self.scoring.reason)

    def close(self) -> None:
        """Stop everything; what still runs fails. Safe to call more than once."""
        self._writer.close()
        self._thread.close()
        self._kept.close()
        self._text.close()

    @property
    def ready(self) -> bool:
        """Whether requests can be answered now."""
        return self._writer.alive

    @property
    def dead(self) -> bool:
        """Whether only a new process can generate again."""
        return self._writer.dead

    @property
    def load(self) -> EngineLoad:
        """What it is doing now."""
        batch = self._writer.load
        return EngineLoad(
            in_progress=self.admission.in_progress,
            generating=batch.running,
            generations_waiting=self._room.waiting,
            cache_used=min(batch.tokens / batch.capacity, 1.0),
            attributions_waiting=self._thread.waiting,
            preparing=self._thread.preparing,
            score_bytes=self._kept.size,
            scoring_passes=self._thread.passes,
        )

    @property
    def generator(self) -> str | None:
        """The address of the server that writes the responses, if they are not written here."""
        return self._writer.api.url if isinstance(self._writer, Remote) else None

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
            if not self._writer.alive:
                raise EngineDownError
            task = self.loaded.task(prompt, source_type)
            work = place.enter_context(ExitStack())
            work.enter_context(caller.within(limits.allowed_seconds(0.0)))
            ids, recorder = await caller.result_of(
                self._text.run(
                    lambda: self._read(task, prompt, wanted or 1), caller.name, prompt.characters
                )
            )
            most = min(DEFAULT_MAX_NEW_TOKENS, limits.new_tokens, limits.context_tokens - len(ids))
            count = wanted or most
            caller.allow(limits.allowed_seconds(self._speed.seconds(len(ids), count)))
            room = work.enter_context(self._room.reserve(caller.name, len(ids), count))
            seed = secrets.randbits(_SEED_BITS) if sampling.seed is None else sampling.seed
            meter = TokenMeter(on_tokens, self._speed, self.accounts.of(caller.name), len(ids))
            work.callback(meter.done)
            kept = place.pop_all()

        def begin() -> TokenStream | RemoteStream:
            work.enter_context(self._generation())
            tokens: TokenStream | RemoteStream
            if isinstance(self._writer, Remote):
                tokens = self._writer.submit(Wanted(ids, task.messages, count, sampling))
            else:
                # Every id as it is made: the first is timed, and at a deadline all so far are kept.
                tokens = self._writer.submit(
                    ids,
                    count,
                    sampling,
                    seed,
                    streaming=True,
                    recorder=recorder,
                    caller=caller.name,
                    share=self.settings.share_prefixes,
                )
            work.callback(tokens.close)
            return tokens

        return Generating(
            task,
            prompt,
            room,
            tracing.bound(begin),
            model=self.loaded.fingerprint,
            end_ids=self.loaded.end_ids,
            caller=caller,
            place=kept,
            work=work,
            on_tokens=meter,
            stop=sampling.stop,
        )

    @contextmanager
    def _generation(self) -> Iterator[None]:
        """Count a generation; while there is one, nothing is prepared, which would slow it down."""
        self._generations += 1
        try:
            yield
        finally:
            self._generations -= 1
            if not self._generations:
                self._thread.nudge()

    def _read(
        self, task: ContextAttributionTask, prompt: Prompt, new_tokens: int
    ) -> tuple[list[int], ScoreRecorder | None]:
        """The ids of a prompt that fits, and what takes the scores of its response."""
        with tracing.span("encode") as span:
            self.limits.check_texts(self.loaded.tokenizer, prompt.texts)
            span.set({"at2.prompt_tokens": len(task.input_ids)})
            self.limits.check_length(len(task.input_ids), new_tokens)
            return task.input_ids, self.loaded.recorder(task) if self.scoring.as_written else None

    async def answer(self, generation: Generation, caller: Caller | None = None) -> Answer:
        """The answer of a recorded generation, as it was given at first.

        Raises:
            OtherModelError: it is of another model.
        """

        def work() -> Answer:
            task = self._kept.task(generation, generation.source_type)
            return Answer(generation, task.source_spans, task.statements)

        caller = caller or Caller()
        return await caller.result_of(
            self._text.run(work, caller.name, generation.prompt.characters)
        )

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
        self._kept.share(scores)

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
            return await caller.result_of(
                self._attributing.of_generation(generation, question, caller)
            )

    async def attribute_written(self, generating: Generating, question: Question) -> Findings:
        """The same of a response that has just been written, in the place that it still has among
        the requests; its time begins anew.

        Raises:
            InputError, ServerFailure: see `attribute_generation`.
        """
        caller = Caller(generating.caller.name)
        with (
            tracing.span("attribute", question.facts),
            caller.within(self.limits.allowed_seconds()),
        ):
            answer = generating.answer
            return await caller.result_of(
                self._attributing.of_generation(
                    answer.generation, question, caller, answer.token_scores
                )
            )

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
            SpanError, InputError, ServerFailure: see `attribute_generation`.
        """
        with self._attribution(caller, question) as caller:
            work = self._attributing.of_response(prompt, response, thoughts, question, caller)
            return await caller.result_of(work)

    async def page_of_generation(
        self, generation: Generation, question: Question, caller: Caller | None = None
    ) -> str:
        """The attribution of every statement of a recorded response as a page that stands alone.

        Raises:
            InputError, ServerFailure: see `attribute_generation`.
        """
        with self._attribution(caller, question) as caller:
            return await caller.result_of(self._attributing.page_of(generation, question, caller))

    @contextmanager
    def _attribution(self, caller: Caller | None, question: Question) -> Iterator[Caller]:
        """Let an attribution in, for the time that a short one may take."""
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
