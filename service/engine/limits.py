"""What one request may ask for, and how it is told that it asked for more.

Every message names what was asked and the limit. Knows requests and counts; nothing of models.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from at2.errors import InputError, PromptTooLongError
from at2.evaluation.support import NUM_PASSES
from at2.methods import METHODS, Attribution
from at2.ranges import CharRange
from at2.tasks import AttributionTask
from service.engine.requests import Question
from service.records import Prompt
from service.settings import USUAL_SECONDS

_COMPANY = 4.0
"""How many times longer than alone a request may take, among others."""

_PIECE = 65_536
"""Characters that are encoded at once to see whether a text is far too long."""

_CUT_TOKENS = 64
"""How many tokens more a text may have for being cut in two: those around the cut."""

MOST_RANKED = 20_000
"""Sources in one reply, counted once for each span: a few megabytes."""

MOST_CHARACTERS = 8_000_000
"""Characters of spans and sources in one reply; each span repeats its own."""


@dataclass(frozen=True)
class Limits:
    """The limits of an engine.

    Attributes:
        context_tokens: tokens of prompt and response.
        new_tokens: tokens of a response that is generated here.
        documents: documents of a prompt.
        spans: spans that one request gives.
        passes: passes over the model for one attribution.
        seconds: what a request may take; None for what is usual, or for what its tokens take at
            the speed of the machine, if that is more.
    """

    context_tokens: int
    new_tokens: int
    documents: int
    spans: int
    passes: int
    seconds: float | None

    def allowed_seconds(self, alone: float = 0.0) -> float:
        """What a request may take.

        Args:
            alone: what it takes with the machine to itself, about.
        """
        if self.seconds is not None:
            return self.seconds
        return max(USUAL_SECONDS, _COMPANY * alone)

    def check_new_tokens(self, count: int | None) -> None:
        """Raises: InputError: more new tokens are asked for than there may be."""
        if count is not None and count > self.new_tokens:
            raise InputError(
                f"max_new_tokens is {count}, the limit here is {self.new_tokens}",
                param="max_new_tokens",
            )

    def check_documents(self, prompt: Prompt) -> None:
        """Raises: InputError: the prompt has too many documents."""
        count = len(prompt.documents)
        if count > self.documents:
            raise InputError(
                f"there are {count} documents, the limit here is {self.documents}",
                param="documents",
            )

    def check_texts(self, tokenizer: Any, texts: Iterable[str]) -> None:
        """Refuse texts that are far too long without encoding all of them, which takes seconds a
        megabyte. What passes may still be too long: see `check_length`.

        Raises:
            PromptTooLongError: the texts alone do not fit.
        """
        given = list(texts)
        if sum(map(len, given)) <= _PIECE:
            return
        count = 0
        for text in given:
            for start in range(0, len(text), _PIECE):
                piece = tokenizer.backend_tokenizer.encode(
                    text[start : start + _PIECE], add_special_tokens=False
                )
                count += max(0, len(piece) - _CUT_TOKENS)
                if count > self.context_tokens:
                    raise PromptTooLongError(
                        f"the texts have more than {count} tokens, "
                        f"but the limit here is {self.context_tokens} in all"
                    )

    def check_length(self, prompt_tokens: int, new_tokens: int) -> None:
        """Raises: PromptTooLongError: prompt and response do not fit."""
        if prompt_tokens + new_tokens > self.context_tokens:
            raise PromptTooLongError(
                f"the prompt has {prompt_tokens} tokens and the response up to {new_tokens}, "
                f"but the limit here is {self.context_tokens} in all"
            )

    def check_spans(self, count: int) -> None:
        """Raises: InputError: there are too many spans."""
        if count > self.spans:
            raise InputError(
                f"there are {count} spans, the limit here is {self.spans}", param="spans"
            )

    def check_reply(
        self, question: Question, task: AttributionTask, spans: Sequence[CharRange]
    ) -> None:
        """Raises: InputError: the reply would have too many sources, or too much of their text."""
        sources = min(question.top_k, task.num_sources)
        if len(spans) * sources > MOST_RANKED:
            raise InputError(
                f"{len(spans)} spans with {sources} sources each are {len(spans) * sources}, "
                f"the limit here is {MOST_RANKED} in one reply: ask for fewer spans, or a smaller "
                "top_k",
                param="top_k",
            )
        longest = heapq.nlargest(
            sources, (source.end - source.start for source in task.source_spans)
        )
        characters = len(spans) * sum(longest) + 2 * sum(end - start for start, end in spans)
        if characters > MOST_CHARACTERS:
            raise InputError(
                f"{len(spans)} spans with the text of {sources} sources each have up to "
                f"{characters} characters, the limit here is {MOST_CHARACTERS} in one reply: ask "
                "for fewer spans, or a smaller top_k",
                param="top_k",
            )

    def check_cited(self, attributions: Sequence[Attribution]) -> None:
        """`check_reply` for a reply that has the cited sources only.

        Raises:
            InputError: they are too many, or their text is too long.
        """
        cited = [
            ranked.source for found in attributions for ranked in found.sources if ranked.cited
        ]
        characters = sum(source.end - source.start for source in cited)
        if len(cited) > MOST_RANKED or characters > MOST_CHARACTERS:
            raise InputError(
                f"{len(attributions)} statements cite {len(cited)} sources of {characters} "
                f"characters, the limit here is {MOST_RANKED} sources and {MOST_CHARACTERS} "
                "characters in one reply: ask for a smaller top_k, or a larger min_share",
                param="top_k",
            )

    def check_cost(self, question: Question, num_sources: int, num_spans: int) -> int:
        """How many passes over the model a question takes at the most.

        Raises:
            InputError: there may not be so many.
        """
        passes = METHODS[question.method].passes(num_sources)
        count = passes.forward + num_spans * (passes.forward_per_span + passes.backward_per_span)
        what, param = question.method, "method"
        if question.verify:
            to_verify = 2 + num_spans * (min(question.top_k, num_sources) + 3)
            if to_verify > count:
                what, param = f"{what} with verify", "verify"
            count += to_verify
        elif question.support:
            if count < NUM_PASSES:
                what, param = f"{what} with support", "support"
            count += NUM_PASSES
        if count > self.passes:
            raise InputError(
                f"{what} takes {count} passes over the model for {num_sources} sources "
                f"and {num_spans} spans, the limit here is {self.passes}",
                param=param,
            )
        return count
