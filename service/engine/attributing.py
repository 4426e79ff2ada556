"""Attribution: what a question about a response takes, and what is found.

Knows tasks and methods; nothing of generation or HTTP.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from at2.display import attribution_page
from at2.evaluation.support import Support, measure_support, support_of
from at2.evaluation.verify import Verification, verify_spans
from at2.methods import METHODS, Attributor, FusionAttributor, TokenScoreAttributor
from at2.methods.fusion import check_retrieval_scores
from at2.model.weighing import TokenScores
from at2.ranges import CharRange
from at2.tasks import DEFAULT_SOURCE_TYPE, AttributionTask, ThoughtSources
from service import tracing
from service.caller import Caller
from service.engine.kept_scores import KeptScores, use_scores
from service.engine.limits import Limits
from service.engine.loading import Loaded
from service.engine.model_thread import ModelThread
from service.engine.requests import Answer, Finding, Findings, Question
from service.engine.scores import ScoreKey
from service.engine.text import TextThreads
from service.records import Generation, Prompt

T = TypeVar("T")


@dataclass(frozen=True)
class _Plan:
    """How a question will be answered, and what that takes; known before its turn comes.

    Attributes:
        question: what is asked.
        key: of the scores that it takes.
        attributor: of the response.
        spans: which characters are asked for.
        passes: over the model, at the most.
        scored: whether the attributor has what all spans share.
    """

    question: Question
    key: ScoreKey
    attributor: Attributor
    spans: Sequence[CharRange]
    passes: int
    scored: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of one pass, at the most."""
        return len(self.attributor.task.token_ids)

    @property
    def only_reads(self) -> bool:
        """Whether scores at hand answer it: no pass is taken, and nothing changes that others
        read."""
        measures = self.question.verify or self.question.support
        return self.scored and isinstance(self.attributor, TokenScoreAttributor) and not measures


class Attributing:
    """Attributes responses to their sources.

    Args:
        loaded: the model and its estimators.
        limits: of one request.
        kept: scores of recorded generations.
        thread: for what takes passes over the model.
        text: for what takes none.
    """

    def __init__(
        self,
        loaded: Loaded,
        limits: Limits,
        kept: KeptScores,
        thread: ModelThread,
        text: TextThreads,
    ) -> None:
        self._loaded = loaded
        self._limits = limits
        self._kept = kept
        self._thread = thread
        self._text = text

    # -- questions -----------------------------------------------------------------------------

    async def of_generation(
        self,
        generation: Generation,
        question: Question,
        caller: Caller,
        scores: TokenScores | None = None,
    ) -> Findings:
        """See `Engine.attribute_generation`.

        Args:
            scores: those that were taken while the response was written, if they are at hand.
        """
        key = self._kept.key(question, generation.id, generation.source_type)
        shared = await self._kept.look_up(key) if scores is None else scores

        def read() -> _Plan | Findings:
            plan = self._plan(generation, question, key, shared)
            return self._findings(plan) if plan.only_reads else plan

        plan = await self._text.run(read, caller.name, generation.prompt.characters)
        return plan if isinstance(plan, Findings) else await self._in_turn(plan, caller)

    async def page_of(self, generation: Generation, question: Question, caller: Caller) -> str:
        """See `Engine.page_of_generation`."""
        key = self._kept.key(question, generation.id, generation.source_type)
        shared = await self._kept.look_up(key)
        plan = await self._text.run(
            lambda: self._plan(generation, question, key, shared),
            caller.name,
            generation.prompt.characters,
        )

        def work() -> str:
            attributor = self._attributor(plan)
            return attribution_page(attributor, num_sources_to_show=question.top_k)

        return (await self._thread.in_turn(work, plan.passes, plan.tokens, caller)).result

    async def of_response(
        self,
        prompt: Prompt,
        response: str,
        thoughts: str | None,
        question: Question,
        caller: Caller,
    ) -> Findings:
        """See `Engine.attribute_response`."""
        key = self._kept.key(question, "", DEFAULT_SOURCE_TYPE)
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
            return _Plan(question, key, self._kept.attributor(task, key), spans, passes)

        size = prompt.characters + len(thoughts or "") + len(response)
        return await self._in_turn(await self._text.run(read, caller.name, size), caller)

    def of_written(self, answer: Answer, question: Question) -> Findings | None:
        """Answer a question from the scores that came with an answer; None if they do not suffice.
        There is no pass, and nothing is kept."""
        generation = answer.generation
        key = self._kept.key(question, generation.id, generation.source_type)
        if answer.task is None or answer.token_scores is None:
            return None
        attributor = self._kept.attributor(answer.task, key)
        if not use_scores(attributor, key, answer.token_scores):
            return None
        spans, passes = self._spans(attributor.task, question)
        return self._findings(_Plan(question, key, attributor, spans, passes, scored=True))

    def prepare(self, answer: Answer) -> None:
        """Keep the scores that were taken while the response was written; or else compute those
        that are likely to be asked for next, once nothing else waits."""
        generation = answer.generation
        if answer.token_scores is not None:
            self._kept.keep_written(answer, answer.token_scores)
            return
        if not (generation.response and answer.sources):
            return
        question = Question(None, self._loaded.default_method)
        key = self._kept.key(question, generation.id, generation.source_type)

        def work() -> None:
            if self._kept.find(key) is None:
                task = self._kept.task(generation, key.source_type)
                self._kept.compute(self._kept.attributor(task, key), key)

        self._thread.prepare(generation.id, work)

    def forget(self, generation_id: str) -> None:
        """Drop what is kept or prepared of a generation."""
        self._kept.forget(generation_id)
        self._thread.forget(generation_id)

    async def _in_turn(self, plan: _Plan, caller: Caller) -> Findings:
        """What is found when it is the caller's turn, and what it took."""
        done = await self._thread.in_turn(
            lambda: self._findings(plan), plan.passes, plan.tokens, caller
        )
        return replace(done.result, seconds=done.seconds)

    # -- in any thread -------------------------------------------------------------------------

    def _plan(
        self,
        generation: Generation,
        question: Question,
        key: ScoreKey,
        shared: TokenScores | None,
    ) -> _Plan:
        """How a question about a recorded generation will be answered.

        Args:
            generation: the generation.
            question: about it.
            key: of the scores it takes.
            shared: scores of its tokens, if they have just been looked up.

        Raises:
            InputError: the question is refused.
        """
        attributor = self._kept.find(key)
        scored = attributor is not None
        if attributor is None:
            with tracing.span("encode"):
                task = self._kept.task(generation, key.source_type)
                spans, passes = self._spans(task, question)
            attributor = self._kept.attributor(task, key)
            scored = self._kept.fill(attributor, key, shared)
        else:
            spans, passes = self._spans(attributor.task, question)
        if scored:
            passes -= METHODS[key.method].passes(attributor.task.num_sources).forward
        return _Plan(question, key, attributor, spans, passes, scored)

    def _spans(self, task: AttributionTask, question: Question) -> tuple[list[CharRange], int]:
        """The spans that are asked for, and how many passes they take at the most.

        Raises:
            SpanError: one of them covers no token.
            InputError: a limit is exceeded, or retrieval scores do not fit the task.
        """
        spans = question.spans_in(task)
        if question.spans != "sentence":
            self._limits.check_spans(len(spans))
        for start, end in spans:
            task.target_span(start, end)
        if question.retrieval_scores is not None:
            check_retrieval_scores(
                question.retrieval_scores, len(task.source_documents), task.num_sources
            )
        if not question.only_cited:
            self._limits.check_reply(question, task, spans)
        return spans, self._limits.check_cost(question, task.num_sources, len(set(spans)))

    # -- on the model's thread, unless a plan only reads ---------------------------------------

    def _attributor(self, plan: _Plan) -> Attributor:
        """The attributor of the method that is asked for, with what all spans share."""
        attributor, question = plan.attributor, plan.question
        if not plan.scored and plan.key.generation_id:
            attributor = self._kept.compute(attributor, plan.key)
        if question.method == "fusion":
            return FusionAttributor(attributor, question.retrieval_scores)
        return attributor

    def _findings(self, plan: _Plan) -> Findings:
        started = time.perf_counter()
        attributor, question = self._attributor(plan), plan.question
        top_k, spans = question.top_k, list(dict.fromkeys(plan.spans))  # equal ones answered once
        attributions = [
            attributor.attribute(start, end, top_k, question.min_share) for start, end in spans
        ]
        if question.only_cited:
            self._limits.check_cited(attributions)
        verifications: Sequence[Verification | None] = [None] * len(spans)
        supports: Sequence[Support | None] = [None] * len(spans)
        calibration = self._loaded.calibration
        verified: list[Verification] = []
        if question.verify and attributor.task.num_sources:
            verified = verify_spans(attributor, spans, top_k=top_k, min_share=question.min_share)
            verifications = verified
        if question.support and verified:
            supports = [support_of(each, calibration) for each in verified]
        elif question.support:
            supports = measure_support(attributor.task, spans, calibration=calibration)
        found = dict(zip(spans, map(Finding, attributions, verifications, supports), strict=True))
        seconds = time.perf_counter() - started
        return Findings([found[span] for span in plan.spans], plan.key.estimator or None, seconds)
