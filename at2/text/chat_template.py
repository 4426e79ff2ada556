"""Chat messages to prompt: the template's markers are control tokens, what users wrote is text.

Knows chat templates; nothing of models, documents, sources or attribution.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

from jinja2 import TemplateError

from at2.errors import PromptError
from at2.ranges import CharRange
from at2.text.alignment import TokenizedText
from at2.text.encoding import check_text, encode_text

Message = Mapping[str, str]

_THOUGHT_END = "</think>"
_PLACE = re.compile("xplace([0-9]++)(?=x)")
"""The number in a placeholder's name; the last letter may be the first of another name."""


@dataclass(frozen=True)
class Placement:
    """Where a message's content is in the prompt: `prompt.text[start:end]` is
    `content[offset : offset + end - start]`, all of it unless the template trims."""

    start: int
    end: int
    offset: int


@dataclass(frozen=True)
class Prompt:
    """A rendered and encoded prompt.

    Attributes:
        encoded: text, ids and the characters of each token.
        contents: per message its placement; None where the template shows nothing of it.
        user_spans: every character range that shows a message's content.
    """

    encoded: TokenizedText
    contents: tuple[Placement | None, ...] = ()
    user_spans: tuple[CharRange, ...] = ()


def build_prompt(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    chat_template: str | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Prompt:
    """Render messages with the chat template, with the opening of the reply, and encode them.

    Args:
        tokenizer: a fast transformers tokenizer.
        messages: dictionaries with `role` and `content`.
        chat_template: used instead of the tokenizer's own.
        template_kwargs: further variables of the template, such as `enable_thinking`.

    Raises:
        PromptError: there is no chat template, it refuses the messages or changes their contents
            beyond trimming, or a content is not valid text.
        UnsupportedModelError: the tokenizer has no offsets.
    """
    for index, message in enumerate(messages):
        for key in ("role", "content"):
            if key not in message:
                raise PromptError(f"message {index} has no {key}", param="messages")
            check_text(message[key], f"{key} of message {index}")
    contents = [message["content"] for message in messages]

    def render(shown: list[str]) -> str:
        filled = [{**m, "content": c} for m, c in zip(messages, shown, strict=True)]
        return _render(tokenizer, filled, chat_template, template_kwargs)

    # 1. the prompt itself  2. the same with a placeholder for each content  3. compare the two
    text = render(contents)
    name = _unused_name(contents)
    skeleton = render([f"{name}{i}z" if c else "" for i, c in enumerate(contents)])
    located = _locate(text, re.split(f"{name}(\\d+)z", skeleton), contents)
    if located is None:
        raise PromptError("the chat template changes what the messages say beyond trimming it")
    spans = tuple((place.start, place.end) for _, place in located)
    placements: dict[int, Placement] = {}
    for index, place in located:
        placements.setdefault(index, place)
    encoded = encode_text(tokenizer, text, spans)
    if not encoded.ids:
        raise PromptError("the chat template makes an empty prompt")
    return Prompt(encoded, tuple(placements.get(i) for i in range(len(messages))), spans)


def _render(
    tokenizer: Any,
    messages: list[dict[str, str]],
    chat_template: str | None,
    template_kwargs: Mapping[str, Any] | None,
) -> str:
    if chat_template is None and not getattr(tokenizer, "chat_template", None):
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise PromptError(f"tokenizer {name!r} has no chat template: pass chat_template")
    try:
        rendered = tokenizer.apply_chat_template(
            messages,
            chat_template=chat_template,
            tokenize=False,
            add_generation_prompt=True,
            **(template_kwargs or {}),
        )
    except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise PromptError(f"the chat template refuses the messages: {reason}") from error
    return str(rendered)


def _unused_name(contents: list[str]) -> str:
    """A word that occurs in no content, so that placeholders cannot be mistaken."""
    taken = {number for content in contents for number in _PLACE.findall(content)}
    number = next(number for number in count() if str(number) not in taken)
    return f"xplace{number}x"


class _Fit(NamedTuple):
    """A content with its placement, and those before it."""

    content: int
    place: Placement
    before: "_Fit | None"


def _locate(
    text: str, pieces: list[str], contents: list[str]
) -> list[tuple[int, Placement]] | None:
    """Fit the skeleton to the text, each content whole or trimmed.

    Args:
        pieces: literal, index of a content, literal, index, …, literal.

    Returns:
        Contents with their placements in order of appearance; None if the skeleton does not fit.
    """
    if not text.startswith(pieces[0]):
        return None
    fits: dict[int, _Fit | None] = {len(pieces[0]): None}  # by how far the text is explained
    for number, literal in zip(pieces[1::2], pieces[2::2], strict=True):
        index, longer = int(number), dict[int, _Fit | None]()
        for start, fit in fits.items():
            for variant, offset in _variants(contents[index]):
                end = start + len(variant)
                if text.startswith(variant, start) and text.startswith(literal, end):
                    place = Placement(start, end, offset)
                    longer.setdefault(end + len(literal), _Fit(index, place, fit))
        fits = longer
    if len(text) not in fits:
        return None
    located, last = [], fits[len(text)]
    while last is not None:
        located.append((last.content, last.place))
        last = last.before
    return located[::-1]


def _variants(content: str) -> Iterator[tuple[str, int]]:
    """What templates make of a content, with how much they cut off in front. Templates of thinking
    models leave the thoughts out of earlier replies."""
    answer = content.rfind(_THOUGHT_END) + len(_THOUGHT_END) if _THOUGHT_END in content else 0
    for begin in dict.fromkeys((0, answer)):
        kept = content[begin:]
        left, newlines = len(kept) - len(kept.lstrip()), len(kept) - len(kept.lstrip("\n"))
        for cut in dict.fromkeys((0, left, newlines)):
            yield kept[cut:], begin + cut
            yield kept[cut:].rstrip(), begin + cut
