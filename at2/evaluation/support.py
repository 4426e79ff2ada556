"""Support: whether the context made the model say what it says.

For a span t of the fixed response, with all sources and with none of them,

    support(t) = (log p(t | context, query) - log p(t | query)) / tokens of t

in nats a token. What a response takes from its context becomes unlikely without it; what the model
would say anyway, from memory or because the words before leave no choice, does not. Two passes
measure all spans of a response. What a number means differs from model to model: `verdicts` tells
from answers of the same model whose origin is known.

Knows tasks; nothing of attributors or scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from at2.evaluation.verdicts import Calibration, Verdict
from at2.evaluation.verify import Verification, all_and_none
from at2.model.ablation import Method, ablated_logit_probs, sequence_log_probs
from at2.ranges import CharRange
from at2.tasks import AttributionTask

NUM_PASSES = 2
"""Over the model, however many spans there are."""


@dataclass(frozen=True)
class Support:
    """What the context is worth to one span of the target.

    Attributes:
        start, end, text, attributed_text: the span, as in `Attribution`.
        num_tokens: of what was measured.
        log_prob: log-probability of the span with all sources, in nats.
        log_prob_without: the same without any source.
        verdict: what `support` says about this model; None where that is not known.
    """

    start: int
    end: int
    text: str
    attributed_text: str
    num_tokens: int
    log_prob: float
    log_prob_without: float
    verdict: Verdict | None

    @property
    def support(self) -> float:
        """What the span gains by the context, in nats a token; negative if it loses."""
        return (self.log_prob - self.log_prob_without) / self.num_tokens


def measure_support(
    task: AttributionTask,
    spans: Sequence[CharRange] | None = None,
    *,
    calibration: Calibration | None = None,
    ablation: Method = "mask",
) -> list[Support]:
    """The support of spans of the target, by one pass with all sources and one with none.

    Args:
        task: what was asked, and the response.
        spans: in characters of the target; by default its statements.
        calibration: of the model, for verdicts.
        ablation: how sources are hidden, see `at2.model.ablation.ablated_logit_probs`.

    Raises:
        SpanError: a span is outside the target or covers no token.
        PromptTooLongError: the model does not take prompt and response.
    """
    wanted = task.statements if spans is None else spans
    if not wanted:
        return []
    texts = [task.target_span(start, end).text for start, end in wanted]
    ranges = [task.target_range_to_token_range(*span, relative=True) for span in wanted]
    low, high = min(first for first, _ in ranges), max(last for _, last in ranges)
    logit_probs = ablated_logit_probs(
        task.model,
        task.marked_tokens.part(low, high),
        all_and_none(task.num_sources),
        method=ablation,
        description="Measuring support",
    )
    supports = []
    for (start, end), (first, last), text in zip(wanted, ranges, texts, strict=True):
        full, none = sequence_log_probs(logit_probs[:, first - low : last - low]).tolist()
        count = last - first
        supports.append(
            Support(
                start=start,
                end=end,
                text=task.target[start:end],
                attributed_text=text,
                num_tokens=count,
                log_prob=full,
                log_prob_without=none,
                verdict=None if calibration is None else calibration.verdict((full - none) / count),
            )
        )
    return supports


def support_of(verification: Verification, calibration: Calibration | None = None) -> Support:
    """The support of a span that was verified, which takes no further pass."""
    support = verification.drop_all / verification.num_tokens
    return Support(
        start=verification.start,
        end=verification.end,
        text=verification.text,
        attributed_text=verification.attributed_text,
        num_tokens=verification.num_tokens,
        log_prob=verification.log_prob,
        log_prob_without=verification.log_prob - verification.drop_all,
        verdict=None if calibration is None else calibration.verdict(support),
    )
