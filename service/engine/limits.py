"""What one request may ask for, and how it is told that it asked for more.

Every message names what was asked and the limit. Knows requests and counts; nothing of models.
"""

from dataclasses import dataclass

from at2.attributors import METHODS
from at2.errors import InputError, PromptTooLongError
from service.engine.requests import Question
from service.records import Prompt


@dataclass(frozen=True)
class Limits:
    """The limits of an engine.

    Attributes:
        context_tokens: tokens of prompt and response.
        new_tokens: tokens of a response that is generated here.
        documents: documents of a prompt.
        spans: spans that one request gives.
        passes: passes over the model for one attribution.
        seconds: what a request may take.
    """

    context_tokens: int
    new_tokens: int
    documents: int
    spans: int
    passes: int
    seconds: float

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

    def check_cost(self, question: Question, num_sources: int, num_spans: int) -> None:
        """Raises: InputError: the question takes too many passes over the model."""
        passes = METHODS[question.method].passes(num_sources)
        count = passes.forward + num_spans * (passes.forward_per_span + passes.backward_per_span)
        if question.verify:
            count += 2 + num_spans * (min(question.top_k, num_sources) + 1)
        if count > self.passes:
            raise InputError(
                f"{question.method} takes {count} passes over the model for {num_sources} sources "
                f"and {num_spans} spans, the limit here is {self.passes}",
                param="method",
            )
