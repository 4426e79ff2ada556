"""An answer and its sources on a terminal: statements with numbered citations, then the sources.

Users' text is only ever text: it is never read as markup, and what could steer a terminal is
replaced. Knows nothing of sockets or of arguments.
"""

from collections.abc import Sequence
from operator import attrgetter

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from at2.printable import printable
from service.reply_schemas import GenerateReply, ScoredSource, SpanAttribution

_COLOURS = ("cyan", "green", "magenta", "yellow", "blue", "red")

_QUIET = "dim"

_CUT_OFF = {"length": "new tokens", "deadline": "time"}
"""What cut off a response, by its `finish_reason`."""


def plain(text: str) -> Text:
    """Text that does nothing to a terminal: no escape sequences, no reversal of direction."""
    return Text(printable(text.replace("\r\n", "\n")))


def print_answer(
    console: Console,
    generation: GenerateReply,
    attributions: Sequence[SpanAttribution],
    names: Sequence[str],
) -> None:
    """Print a response with a citation after each statement, and the cited sources below.

    Args:
        console: where to.
        generation: the answer.
        attributions: of its statements, in their order.
        names: of the documents.
    """
    numbers: dict[int, int] = {}  # source index → citation
    sources: list[ScoredSource] = []
    answer = Text()
    position = 0
    for attribution in attributions:
        answer.append_text(plain(generation.response[position : attribution.end]))
        position = attribution.end
        for source in filter(attrgetter("cited"), attribution.sources):
            if source.index not in numbers:
                numbers[source.index] = len(numbers) + 1
                sources.append(source)
            answer.append(" ").append_text(_marker(numbers[source.index]))
        if attribution.support is not None:
            answer.append(f" ({_support(attribution.support, attribution.verdict)})", style=_QUIET)
    answer.append_text(plain(generation.response[position:]))
    _print(console, answer)
    if generation.finish_reason in _CUT_OFF:
        limit = _CUT_OFF[generation.finish_reason]
        _print(console, Text(f"(cut off: the limit of {limit} was reached)", style=_QUIET))
    if sources:
        _print(console, Text())
    for number, source in enumerate(sources, 1):
        head = Text.assemble(_marker(number), " ", (_place(source, names), _QUIET))
        _print(console, head)
        _print(console, plain(source.text), indent=4)


def print_attributions(
    console: Console, attributions: Sequence[SpanAttribution], names: Sequence[str]
) -> None:
    """Print spans of a response, each with its ranked sources and their scores."""
    for place, attribution in enumerate(attributions):
        if place:
            _print(console, Text())
        head = plain(attribution.text)
        head.stylize("bold")
        head.append(f"  {attribution.start}:{attribution.end}", style=_QUIET)
        if attribution.support is not None:
            head.append(f"  {_support(attribution.support, attribution.verdict)}", style=_QUIET)
        _print(console, head)
        drops = {}
        if attribution.verification is not None:
            drops = {source.index: source.drop for source in attribution.verification.sources}
        for source in attribution.sources:
            line = Text.assemble(_marker(source.rank), f" {source.score:+.4f} ")
            if source.index in drops:
                line.append(f"measured {drops[source.index]:+.3f} nats ")
            if not source.cited:
                line.append("not cited ", style=_QUIET)
            line.append(_place(source, names), style=_QUIET)
            _print(console, line, indent=2)
            _print(console, plain(source.text), indent=6)


def _marker(number: int) -> Text:
    return Text(f"[{number}]", style=f"bold {_COLOURS[(number - 1) % len(_COLOURS)]}")


def _support(support: float, verdict: str | None) -> str:
    """What the context is worth to a statement, in words where they are known."""
    return verdict or f"support {support:+.2f} nats a token"


def _place(source: ScoredSource, names: Sequence[str]) -> str:
    return f"{printable(names[source.document])}:{source.start}:{source.end}"


def _print(console: Console, text: Text, indent: int = 0) -> None:
    if console.is_terminal:
        console.print(Padding(text, (0, 0, 0, indent)))
    else:  # one line stays one line for whatever reads it
        lines = text.split("\n", allow_blank=True)
        for line in lines:
            console.print(Text(" " * indent).append_text(line), soft_wrap=True)
