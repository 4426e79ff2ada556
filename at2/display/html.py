"""One attribution as one file of HTML, to keep or to send: nothing in it is loaded from elsewhere.

The response with selectable statements, the documents with their sources shaded by score, and the
ranking beside them. All text is put there by a template that escapes it; the script, the same for
every page, moves nothing but numbers. Its hash and that of the style sheet are the only ones that
the page's content security policy allows, so not even a mistake could make text run.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import isfinite
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from at2.ranges import CharRange

if TYPE_CHECKING:
    from at2.methods import Attributor
    from at2.tasks import SourceSpan

_NUM_RANKED = 8
_DIGITS = 6


@dataclass(frozen=True)
class Segment:
    """A stretch of text: inside number `index` of something, or between two of them (None)."""

    text: str
    index: int | None


def attribution_page(
    attributor: "Attributor",
    *,
    title: str = "Attribution",
    spans: Sequence[CharRange] | None = None,
    num_sources_to_show: int = _NUM_RANKED,
) -> str:
    """A page that stands alone, in light and dark, for mouse and keyboard.

    Args:
        attributor: of a task whose response is there or can be generated.
        title: the page's heading.
        spans: disjoint spans of the target to choose from, in characters; by default its sentences.
        num_sources_to_show: length of the ranking.

    Returns:
        A whole HTML document. Its size grows with the text and with spans × sources.

    Raises:
        SpanError: a span is reversed, outside the target, or covers no token.
    """
    task = attributor.task
    target = task.target
    statements = sorted(task.statements if spans is None else spans)
    choices = [(start, end) for start, end in statements]
    if target.strip() and choices != [(0, len(target))]:
        choices = [(0, len(target)), *choices]
    first = len(choices) - len(statements)  # the whole target is choice 0 where it is one more
    scores = [
        [_shown(float(score)) for score in attributor.get_attribution_scores(start, end)]
        for start, end in choices
    ]
    sources = task.source_spans
    documents = [
        {
            "heading": document.title or document.id or f"Document {number + 1}",
            "id": document.id if document.title else None,
            "segments": segments(document.text, _ranges_in(number, sources)),
        }
        for number, document in enumerate(task.source_documents)
        if document.text
    ]
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    page: str = template("page.html").render(
        title=title,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        method=attributor.name,
        model=PurePath(str(getattr(task.model, "name_or_path", "") or "")).name,
        query=getattr(task, "query", None),
        response=segments(target, [(s, e, first + i) for i, (s, e) in enumerate(statements)]),
        has_whole=first == 1,
        documents=documents,
        num_sources=len(sources),
        data=_json({"scores": scores, "ranked": num_sources_to_show}),
    )
    return page


def _shown(score: float) -> float | None:
    """A score as it is shown; None for NaN and infinity, which JSON has not."""
    return float(f"{score:.{_DIGITS}g}") if isfinite(score) else None


def _ranges_in(document: int, sources: Iterable["SourceSpan"]) -> list[tuple[int, int, int]]:
    return sorted((s.start, s.end, s.index) for s in sources if s.document == document)


def segments(text: str, ranges: list[tuple[int, int, int]]) -> list[Segment]:
    """Cut a text at disjoint ranges `(start, end, index)`, in order."""
    found, position = [], 0
    for start, end, index in ranges:
        if start > position:
            found.append(Segment(text[position:start], None))
        found.append(Segment(text[max(start, position) : end], index))
        position = max(position, end)
    return [*found, Segment(text[position:], None)]


def _json(data: Any) -> Markup:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _digest(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _asset(name: str) -> str:
    return files("at2.display").joinpath(name).read_text(encoding="utf-8")


@cache
def template(name: str) -> Any:
    """A template beside this module, which escapes what is put into it."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset(name))
