"""The part of a response that is attributed: its characters, its tokens, and the way between them.

Knows a response's text, ids and offsets; nothing of models, prompts or sources.
"""

from dataclasses import dataclass

from at2.errors import SpanError
from at2.ranges import CharRange, TokenRange
from at2.tasks.spans import TargetSpan
from at2.text.alignment import TokenizedText
from at2.text.markup import without_break_tags
from at2.text.sentences import split_sentences

_QUOTE_SHOWN = 60
"""Characters of a quotation that an error message repeats."""


@dataclass(frozen=True)
class Target:
    """A target within a response.

    Attributes:
        generation: the response: text, ids, characters per token.
        position: of the response's first token, behind the prompt.
        tokens: the target's tokens, as positions in prompt and response.
    """

    generation: TokenizedText
    position: int
    tokens: TokenRange

    @property
    def char_range(self) -> CharRange:
        """The target in characters of the response."""
        start, end = (token - self.position for token in self.tokens)
        if (start, end) == (0, len(self.generation.ids)):
            return 0, len(self.generation.text)
        return self.generation.text_range(start, end)

    @property
    def text(self) -> str:
        """The target as text."""
        start, end = self.char_range
        return self.generation.text[start:end]

    @property
    def statements(self) -> list[CharRange]:
        """The sentences of the target, in its characters; one for all of a target without letter or
        figure, such as `👍`. A tag around thoughts (`<think>`) is none."""
        text = self.text
        sentences = list(split_sentences(text))
        if sentences or not without_break_tags(text).strip():
            return sentences
        return [(len(text) - len(text.lstrip()), len(text.rstrip()))]

    def span(self, start: int | None, end: int | None) -> TargetSpan:
        """See `AttributionTask.target_span`."""
        offset, length = self.char_range[0], len(self.text)
        first = 0 if start is None else start
        last = length if end is None else end
        if not 0 <= first < last <= length:
            what = "is empty or reversed" if 0 <= last <= first <= length else "lies outside"
            raise SpanError(
                f"span ({first}, {last}) {what}: the response has {length} characters",
                param="end" if 0 <= first <= length else "start",
            )
        touched = self.generation.tokens_overlapping(first + offset, last + offset)
        token_start = max(touched[0] + self.position, self.tokens[0])
        token_end = min(touched[1] + self.position, self.tokens[1])
        if token_start >= token_end:
            raise SpanError(f"span ({first}, {last}) covers no token", param="start")
        return self._covering(token_start, token_end)

    def token_span(self, token_start: int, token_end: int) -> TargetSpan:
        """See `AttributionTask.token_span`."""
        length = self.tokens[1] - self.tokens[0]
        if not 0 <= token_start < token_end <= length:
            raise SpanError(
                f"token span ({token_start}, {token_end}) is not inside the target's "
                f"{length} tokens",
                param="token_start",
            )
        first, last = self.tokens[0] + token_start, self.tokens[0] + token_end
        return self._covering(first, last)

    def _covering(self, first: int, last: int) -> TargetSpan:
        """What some tokens of the target cover, given as positions in prompt and response."""
        text, (offset, _) = self.text, self.char_range
        start, end = self.generation.text_range(first - self.position, last - self.position)
        start, end = max(start - offset, 0), min(end - offset, len(text))
        return TargetSpan(start, end, text[start:end], first, last)

    def find(self, quote: str, occurrence: int | None) -> CharRange:
        """See `AttributionTask.find_span`."""
        shown = repr(quote if len(quote) <= _QUOTE_SHOWN else quote[: _QUOTE_SHOWN - 1] + "…")
        if not quote:
            raise SpanError("the quoted text is empty", param="text")
        text, starts = self.text, []
        position = text.find(quote)
        while position >= 0:
            starts.append(position)
            position = text.find(quote, position + 1)
        if not starts:
            raise SpanError(f"the response does not say {shown}", param="text")
        if occurrence is None and len(starts) > 1:
            raise SpanError(
                f"the response says {shown} {len(starts)} times, first at {starts[0]} and "
                f"{starts[1]}: say which occurrence, from 0 to {len(starts) - 1}",
                param="occurrence",
            )
        number = occurrence or 0
        if not 0 <= number < len(starts):
            raise SpanError(
                f"occurrence {number} of {shown}: the response says it {len(starts)} times, "
                "counted from 0",
                param="occurrence",
            )
        return starts[number], starts[number] + len(quote)

    def token_text(self, token_start: int, token_end: int) -> str:
        """The text of a range of the target's tokens, counted from its first."""
        offset = self.tokens[0] - self.position
        start, end = self.generation.text_range(offset + token_start, offset + token_end)
        return self.generation.text[start:end]
