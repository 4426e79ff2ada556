"""What an engine is asked and what it answers: plain frozen values."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from at2.errors import SpanError
from at2.evaluation.support import Support
from at2.evaluation.verify import Verification
from at2.methods import DEFAULT_MIN_SHARE, Attribution
from at2.model.weighing import TokenScores
from at2.ranges import CharRange
from at2.tasks import AttributionTask, ContextAttributionTask, SourceSpan
from service.field_types import DEFAULT_TOP_K
from service.records import Generation


@dataclass(frozen=True)
class Quote:
    """A span given by what it says."""

    text: str
    occurrence: int | None = None


Spans = Sequence[CharRange] | Quote | Literal["sentence"] | None
"""Which characters of a response to attribute: these, the quoted ones, every statement, or all."""


@dataclass(frozen=True)
class Question:
    """What to find out about a response.

    Attributes:
        spans: which parts of it.
        method: name of an attribution method.
        estimator: name of an estimator; by default the first.
        source_type: what the context is cut into; by default as when the response was generated.
        top_k: the most sources for each span.
        min_share: the share of all positive scores from which on a source is cited.
        verify: measure what hiding these sources does.
        support: measure what all sources together are worth.
        retrieval_scores: of documents or sources, for the method that fuses them.
        hops: over how many statements scores are carried on to what is behind them.
        only_cited: the reply has the cited sources only, which alone count towards its size.
    """

    spans: Spans
    method: str
    estimator: str | None = None
    source_type: str | None = None
    top_k: int = DEFAULT_TOP_K
    min_share: float = DEFAULT_MIN_SHARE
    verify: bool = False
    support: bool = False
    retrieval_scores: tuple[float, ...] | None = None
    hops: int = 0
    only_cited: bool = False

    def spans_in(self, task: AttributionTask) -> list[CharRange]:
        """The characters of a task's response that are asked for.

        Raises:
            SpanError: the response does not have the quote, or has it several times.
        """
        if self.spans is None:
            return [(0, len(task.target))] if task.target else []
        if self.spans == "sentence":
            return list(task.statements)
        if not isinstance(self.spans, Quote):
            return list(self.spans)
        try:
            return [task.find_span(self.spans.text, self.spans.occurrence)]
        except SpanError as error:
            param = "quote" if error.param == "text" else error.param
            raise SpanError(str(error), param=param) from error

    @property
    def facts(self) -> dict[str, str | bool | None]:
        """What a trace says of it."""
        return {
            "at2.method": self.method,
            "at2.source_type": self.source_type,
            "at2.verify": self.verify,
            "at2.support": self.support,
        }


@dataclass(frozen=True)
class Answer:
    """A generation with what its response can be attributed to, and its sentences.

    Attributes:
        token_scores: the scores taken while it was written, if they were.
        task: the same as a task, if it is at hand.
    """

    generation: Generation
    sources: Sequence[SourceSpan]
    statements: Sequence[tuple[int, int]]
    token_scores: TokenScores | None = field(default=None, compare=False, repr=False)
    task: ContextAttributionTask | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Finding:
    """The sources of one span, and what was measured about it, if that was asked for."""

    attribution: Attribution
    verification: Verification | None = None
    support: Support | None = None


@dataclass(frozen=True)
class Findings:
    """The answer to a question.

    Attributes:
        spans: what is found about each span.
        estimator: name of the estimator that was used, if the method has one.
        seconds: what it took, without waiting for its turn.
    """

    spans: Sequence[Finding]
    estimator: str | None
    seconds: float

    @property
    def attributions(self) -> list[Attribution]:
        """The sources of each span."""
        return [one.attribution for one in self.spans]


@dataclass(frozen=True)
class EngineLoad:
    """What the engine is doing.

    Attributes:
        in_progress: requests let in and not finished.
        generating: generations that are being written.
        generations_waiting: generations that wait for room in the cache.
        cache_used: share of the key-value cache that these may take at most.
        attributions_waiting: attributions that have not begun.
        preparing: generations whose scores nobody asked for yet, and that are still to be computed.
        score_bytes: memory of kept scores.
        scoring_passes: passes over the model that attributions have taken so far.
    """

    in_progress: int
    generating: int
    generations_waiting: int
    cache_used: float
    attributions_waiting: int
    preparing: int
    score_bytes: int
    scoring_passes: int
