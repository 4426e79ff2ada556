"""Attribution: passes over the model in their turn, and scores kept for the spans to come.

Knows the model, tasks and methods; nothing of generation or HTTP.
"""

import gc
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch

from at2.display import attribution_page
from at2.errors import SpanError, is_out_of_memory
from at2.evaluation.support import Support, measure_support, support_of
from at2.evaluation.verify import Verification, verify_spans
from at2.methods import (
    METHODS,
    Attributor,
    FusionAttributor,
    TokenScoreAttributor,
    WeightedAttentionAttributor,
)
from at2.methods.fusion import check_retrieval_scores
from at2.model.attention import probe_ids, weighed_scores
from at2.model.passes import between_passes
from at2.model.tokens import MarkedTokens
from at2.model.weighing import TokenScores
from at2.progress import silent
from at2.ranges import CharRange
from at2.tasks import (
    DEFAULT_SOURCE_TYPE,
    AttributionTask,
    ContextAttributionTask,
    ThoughtSources,
)
from service import tracing
from service.caller import Caller, Departure
from service.engine.accounts import Accounts
from service.engine.admission import Admission
from service.engine.limits import Limits
from service.engine.loading import Loaded, check_takes_hops, weighing_name
from service.engine.requests import (
    Answer,
    Findings,
    Question,
    Quote,
)
from service.engine.scores import ScoreCache, ScoreKey
from service.engine.shared_scores import SharedScores
from service.engine.speed import Speed
from service.engine.threads import claim_threads
from service.engine.worker import AbandonedError, Done, Job, Worker
from service.failures import NoMemoryError
from service.records import Generation, Prompt, ScoreStore

logger = logging.getLogger("at2.service")

T = TypeVar("T")

_MOST_WAITING_TO_PREPARE = 64
"""Beyond these, scores are computed when they are asked for."""


class Encode(Protocol):
    """Runs what takes no pass over the model, but time, in another thread."""

    def __call__(self, work: Callable[[], T], caller: str, characters: int) -> Awaitable[T]: ...


_MEASURED_TOKENS = 64
"""Of a pass by which the speed is measured."""


@dataclass(frozen=True)
class _Plan:
    """What a question comes to: known before it gets its turn.

    Attributes:
        attributor: of the response, which may have no scores yet.
        spans: which characters are asked for.
        passes: over the model, at the most.
        takes_passes: whether there is anything to do on the model's thread.
        ready: whether the attributor has what all spans share.
    """

    attributor: Attributor
    spans: Sequence[CharRange]
    passes: int
    takes_passes: bool = True
    ready: bool = False


class Attributing:
    """Attributes responses to their sources.

    Args:
        loaded: the model and its estimators.
        limits: of one request.
        scores: where scores of recorded generations are kept.
        admission: of attributions that take many passes.
        speed: of passes, which says what an attribution may take.
        encode: for what takes no pass.
        busy: whether responses are being written, for which what is only prepared makes way.
        accounts: where it is written down what each caller was given.
    """

    def __init__(
        self,
        loaded: Loaded,
        limits: Limits,
        scores: ScoreCache,
        admission: Admission,
        speed: Speed,
        *,
        encode: Encode,
        busy: Callable[[], bool],
        accounts: Accounts,
    ) -> None:
        self._loaded = loaded
        self._limits = limits
        self._scores = scores
        self._admission = admission
        self._speed = speed
        self._encode = encode
        self._worker = Worker("attribution", claim_threads(), busy, accounts)
        self._preparing: dict[str, Job] = {}
        self._shared: SharedScores | None = None
        self.passes = 0  # over the model, so far
        loaded.model.register_forward_pre_hook(lambda *_: self._count())

    def start(self) -> None:
        """Begin."""
        self._worker.start()

    async def measure(self) -> None:
        """Learn what a pass takes, while nothing else runs."""
        length = min(_MEASURED_TOKENS, self._limits.context_tokens)
        ids, half = probe_ids(self._loaded.model, length).tolist(), length // 2
        tokens = MarkedTokens(ids, (half, length), query_range=(half - 2, half - 1))
        work = self._listened(
            lambda: weighed_scores(
                self._loaded.model, tokens, self._loaded.weighings, columns=(0, half - 2)
            )
        )
        await self._worker.run(work)  # the first one takes longer
        done = await self._worker.run(work)
        self._speed.measure_passes(done.tokens, done.seconds)

    def share(self, scores: ScoreStore) -> None:
        """Share scores with other replicas; call it on the event loop."""
        self._shared = SharedScores(self._loaded.weighings, scores)

    def close(self) -> None:
        """Finish the pass that runs, abandon the rest."""
        self._worker.close()
        if self._shared is not None:
            self._shared.close()

    @property
    def waiting(self) -> int:
        """Attributions that have not begun."""
        return self._worker.waiting

    def nudge(self) -> None:
        """No response is being written any more."""
        self._worker.nudge()

    def _count(self) -> None:
        self.passes += 1

    # -- questions -----------------------------------------------------------------------------

    async def of_generation(
        self, generation: Generation, question: Question, caller: Caller
    ) -> Findings:
        """See `Engine.attribute_generation`."""
        key = self._key(question, generation.id, generation.source_type)
        shared = await self._look_up(key)

        def read() -> _Plan | Findings:
            plan = self._plan(generation, question, key, shared)
            if plan.takes_passes:
                return plan
            return self._findings(plan, plan.attributor, question, key)

        plan = await self._encode(read, caller.name, generation.prompt.characters)
        if isinstance(plan, Findings):
            return plan

        def work() -> Findings:
            return self._findings(plan, self._ready(plan, key), question, key)

        done = await self._turn(work, plan, caller)
        return replace(done.result, seconds=done.seconds)

    async def page_of(self, generation: Generation, question: Question, caller: Caller) -> str:
        """See `Engine.page_of_generation`."""
        key = self._key(question, generation.id, generation.source_type)
        shared = await self._look_up(key)
        plan = await self._encode(
            lambda: self._plan(generation, question, key, shared),
            caller.name,
            generation.prompt.characters,
        )

        def work() -> str:
            attributor = _asked(self._ready(plan, key), question)
            return attribution_page(attributor, num_sources_to_show=question.top_k)

        return (await self._turn(work, plan, caller)).result

    async def of_response(
        self,
        prompt: Prompt,
        response: str,
        thoughts: str | None,
        question: Question,
        caller: Caller,
    ) -> Findings:
        """See `Engine.attribute_response`."""
        key = self._key(question, "", DEFAULT_SOURCE_TYPE)
        self._limits.check_documents(prompt)

        def read() -> _Plan:
            with tracing.span("encode"):
                texts = (*prompt.texts, thoughts or "", response)
                self._limits.check_texts(self._loaded.tokenizer, texts)
                task = self._loaded.task(prompt, key.source_type)
                if isinstance(task, ThoughtSources) and thoughts is not None:
                    task.set_thoughts_and_response(thoughts, response)
                else:
                    task.set_generation(response)
                self._limits.check_length(len(task.input_ids), len(task.generation_ids))
                spans, passes = self._spans(task, question)
            return _Plan(self._built(task, key), spans, passes)

        size = prompt.characters + len(thoughts or "") + len(response)
        plan = await self._encode(read, caller.name, size)
        done = await self._turn(
            lambda: self._findings(plan, plan.attributor, question, key), plan, caller
        )
        return replace(done.result, seconds=done.seconds)

    def of_written(self, answer: Answer, question: Question) -> Findings | None:
        """The same, from the scores that came with an answer; None if it has not what it takes.
        Nothing is kept, and there is no pass."""
        key = self._key(question, answer.generation.id, answer.generation.source_type)
        name, scores = weighing_name(key.method, key.estimator), answer.token_scores
        if answer.task is None or scores is None or not scores.holds(name):
            return None
        spans, passes = self._spans(answer.task, question)
        attributor = self._built(answer.task, key)
        if not isinstance(attributor, WeightedAttentionAttributor):
            return None
        attributor.use_token_scores(scores.of(name, answer.task.target_token_range))
        attributor.prepare_for_attribution()
        return self._findings(_Plan(attributor, spans, passes), attributor, question, key)

    def prepare(self, answer: Answer) -> None:
        """Keep the scores that were taken while the response was written; or else compute those
        that are likely to be asked for next, once nothing else waits."""
        generation = answer.generation
        if answer.token_scores is not None:
            self._scores.put_token_scores(generation.id, answer.token_scores)
            if answer.task is not None:
                self._scores.put_task(generation.id, answer.task)
            if self._shared is not None:
                self._shared.offer(generation.id, answer.token_scores)
            return
        pointless = not (generation.response and answer.sources)
        if pointless or len(self._preparing) >= _MOST_WAITING_TO_PREPARE:
            return
        method = self._loaded.default_method
        name = self._loaded.estimator_name(method, None)
        key = ScoreKey(generation.id, generation.source_type, method, name or "")

        def work() -> None:
            try:
                if self._scores.get(key) is None:
                    task = self._loaded.task_of(generation, generation.source_type)
                    self._prepared(self._built(task, key), key)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("no memory to prepare an attribution")
                _free_memory()
            finally:
                self._preparing.pop(generation.id, None)

        job = self._preparing[generation.id] = Job(self._listened(work))
        self._worker.spare(job)

    def forget(self, generation_id: str) -> None:
        """Drop what is kept or prepared of a generation."""
        self._scores.forget(generation_id)
        preparing = self._preparing.pop(generation_id, None)
        if preparing is not None:
            self._worker.abandon(preparing)

    def _key(self, question: Question, generation_id: str, source_type: str) -> ScoreKey:
        """What the scores of a question depend on.

        Raises:
            InputError: there is no such method or estimator here, or the method takes no hops.
        """
        name = self._loaded.estimator_name(question.method, question.estimator)
        check_takes_hops(question.method, question.hops)
        level = question.source_type or source_type
        method = _scored_by(question.method)
        return ScoreKey(generation_id, level, method, name or "", question.hops)

    def _built(self, task: ContextAttributionTask, key: ScoreKey) -> Attributor:
        """The attributor that a key stands for, without scores."""
        return self._loaded.attributor(task, key.method, key.estimator or None, key.hops)

    async def _look_up(self, key: ScoreKey) -> TokenScores | None:
        """The scores that a replica has shared, if they would be of use. They may be too large to
        be kept here."""
        if self._shared is None or key.hops or METHODS[key.method].weighing is None:
            return None
        generation_id = key.generation_id
        if self._scores.get(key) is not None or self._scores.token_scores(generation_id):
            return None
        scores = await self._shared.find(generation_id)
        if scores is not None:
            self._scores.put_token_scores(generation_id, scores)
        return scores

    # -- in any thread -------------------------------------------------------------------------

    def _plan(
        self,
        generation: Generation,
        question: Question,
        key: ScoreKey,
        shared: TokenScores | None,
    ) -> _Plan:
        """What a question about a recorded generation comes to.

        Args:
            generation: the generation.
            question: about it.
            key: of the scores it takes.
            shared: scores of its tokens, if they have just been looked up.

        Raises:
            InputError: the question is refused.
        """
        attributor = self._scores.get(key)
        if attributor is None:
            task = self._scores.task(generation.id, key.source_type)
            with tracing.span("encode"):
                if task is None:
                    task = self._loaded.task_of(generation, key.source_type)
                spans, passes = self._spans(task, question)
            attributor = self._built(task, key)
            if not self._use_kept_scores(attributor, key, shared):
                return _Plan(attributor, spans, passes)
        else:
            spans, passes = self._spans(attributor.task, question)
        passes -= METHODS[key.method].passes(attributor.task.num_sources).forward
        measures = question.verify or question.support
        only_reads = isinstance(attributor, TokenScoreAttributor) and not measures
        return _Plan(attributor, spans, passes, takes_passes=not only_reads, ready=True)

    def _use_kept_scores(
        self, attributor: Attributor, key: ScoreKey, shared: TokenScores | None
    ) -> bool:
        """Let an attributor do with the scores of tokens that are kept; whether it can."""
        scores = self._scores.token_scores(key.generation_id) or shared
        name = weighing_name(key.method, key.estimator)
        known = scores is not None and scores.holds(name)
        if not isinstance(attributor, WeightedAttentionAttributor) or scores is None or not known:
            return False
        attributor.use_token_scores(scores.of(name, attributor.task.target_token_range))
        attributor.prepare_for_attribution()
        self._scores.put(key, attributor)
        return True

    def _spans(self, task: AttributionTask, question: Question) -> tuple[list[CharRange], int]:
        """The spans that are asked for, each of which covers a token, within the limits; and how
        many passes they take."""
        spans = question.spans
        if spans is None:
            ranges = [(0, len(task.target))] if task.target else []
        elif spans == "sentence":
            ranges = list(task.statements)
        elif isinstance(spans, Quote):
            ranges = [_find(task, spans)]
        else:
            self._limits.check_spans(len(spans))
            ranges = list(spans)
        for start, end in ranges:
            task.target_span(start, end)
        if question.retrieval_scores is not None:
            check_retrieval_scores(
                question.retrieval_scores, len(task.source_documents), task.num_sources
            )
        if not question.only_cited:
            self._limits.check_reply(question, task, ranges)
        return ranges, self._limits.check_cost(question, task.num_sources, len(set(ranges)))

    # -- on the worker's thread ----------------------------------------------------------------

    def _ready(self, plan: _Plan, key: ScoreKey) -> Attributor:
        """The attributor of a plan with what all spans share."""
        if plan.ready:
            return plan.attributor
        return self._scores.get(key) or self._prepared(plan.attributor, key)

    def _prepared(self, attributor: Attributor, key: ScoreKey) -> Attributor:
        task = attributor.task
        if (
            isinstance(attributor, WeightedAttentionAttributor)
            and isinstance(task, ContextAttributionTask)
            and task.num_sources
        ):
            # One pass for all methods, estimators and kinds of sources there are.
            scores = self._loaded.token_scores(task)
            self._scores.put_token_scores(key.generation_id, scores)
            if self._shared is not None:
                self._shared.offer(key.generation_id, scores)
            name = weighing_name(key.method, key.estimator)
            attributor.use_token_scores(scores.of(name, task.target_token_range))
        attributor.prepare_for_attribution()
        self._scores.put(key, attributor)
        return attributor

    def _findings(
        self, plan: _Plan, attributor: Attributor, question: Question, key: ScoreKey
    ) -> Findings:
        started = time.perf_counter()
        attributor = _asked(attributor, question)
        top_k, different = question.top_k, list(dict.fromkeys(plan.spans))
        places = {span: place for place, span in enumerate(different)}  # equal ones answered once
        attributions = [
            attributor.attribute(start, end, top_k, question.min_share) for start, end in different
        ]
        if question.only_cited:
            self._limits.check_cited(attributions)
        verifications: Sequence[Verification] = ()
        if question.verify and different and attributor.task.num_sources:
            verifications = verify_spans(
                attributor, different, top_k=top_k, min_share=question.min_share
            )
        supports: Sequence[Support] = ()
        if question.support and verifications:
            supports = [support_of(each, self._loaded.calibration) for each in verifications]
        elif question.support:
            supports = measure_support(
                attributor.task, different, calibration=self._loaded.calibration
            )

        def in_order(found: Sequence[T]) -> list[T]:
            return [found[places[span]] for span in plan.spans] if found else []

        return Findings(
            in_order(attributions),
            in_order(verifications),
            in_order(supports),
            key.estimator or None,
            time.perf_counter() - started,
        )

    def _listened(self, work: Callable[[], T]) -> Callable[[], T]:
        """The same work, which others may go before between its passes."""

        def listened() -> T:
            checkpoint = self._worker.checkpoint
            with tracing.span("score"), between_passes(checkpoint), silent():
                return work()

        return listened

    async def _turn(self, work: Callable[[], T], plan: _Plan, caller: Caller) -> Done[T]:
        """Run passes over the model in their turn, within the memory and the time there is."""
        size = plan.passes * len(plan.attributor.task.token_ids)
        caller.allow(self._limits.allowed_seconds(self._speed.pass_seconds(size)))
        try:
            with self._admission.attribution(plan.passes, caller.name):
                work = self._listened(work)
                done = await self._worker.run(work, caller=caller.name, size=size)
            tracing.note({"at2.scored_tokens": done.tokens, "at2.scoring_seconds": done.seconds})
            self._speed.observe_passes(done.tokens, done.seconds)
            return done
        except AbandonedError:
            raise caller.error(Departure.STOPPING) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.error("out of memory in an attribution: %s", error)
        _free_memory()  # only now: the error held on to what the pass had made
        raise NoMemoryError


def _scored_by(method: str) -> str:
    """The method whose scores another needs: fusion adds to those of AT2, which are kept."""
    return "at2" if method == "fusion" else method


def _asked(attributor: Attributor, question: Question) -> Attributor:
    """The method that is asked for, made from the one that scores."""
    if question.method != "fusion":
        return attributor
    return FusionAttributor(attributor, question.retrieval_scores)


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
