"""Attributions as a piece of HTML inside another page, such as a notebook's.

It has no script and no style sheet, and takes the colours of the page around it: it reads in light
and dark, and in black and white, since bars are drawn and cited sources are bold. All text is put
there by a template that escapes it, and notebooks look for no formulas in it.
"""

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from at2.display.html import segments, template
from at2.display.shorten import shortened

if TYPE_CHECKING:
    from at2.methods import Attribution
    from at2.tasks import Document

_NUM_RANKED = 5
_SOURCE_SHOWN, _SPAN_SHOWN, _NAME_SHOWN = 300, 120, 40
_DIGITS = 3


def attributions_fragment(
    response: str,
    attributions: Sequence["Attribution"],
    documents: Sequence["Document"],
    *,
    query: str | None = None,
    model: str = "",
    method: str = "",
    estimator: str | None = None,
    num_sources_to_show: int = _NUM_RANKED,
) -> str:
    """The response with its spans numbered, and for each a table of its best sources.

    Args:
        response: the text that was attributed.
        attributions: of spans of it; where they overlap, only the first is underlined.
        documents: that the sources lie in.
        query: what was asked.
        model, method, estimator: named below the tables.
        num_sources_to_show: rows of each table at most.

    Returns:
        One HTML element.
    """
    spans = sorted((one.start, one.end, number) for number, one in enumerate(attributions))
    disjoint: list[tuple[int, int, int]] = []
    for span in spans:
        if not disjoint or span[0] >= disjoint[-1][1]:
            disjoint.append(span)
    tables = [
        {
            "text": shortened(one.text, _SPAN_SHOWN),
            "rows": _rows(one, documents, num_sources_to_show),
        }
        for one in attributions
    ]
    num_sources = max((len(one.sources) for one in attributions), default=0)
    fragment: str = template("fragment.html").render(
        query=query,
        response=segments(response, disjoint),
        spans=tables,
        model=model,
        method=method,
        estimator=estimator,
        num_sources=num_sources,
        num_ranked=num_sources_to_show,
        unshown=num_sources > num_sources_to_show,
    )
    return fragment


def _rows(
    attribution: "Attribution", documents: Sequence["Document"], count: int
) -> list[dict[str, Any]]:
    scores = [abs(ranked.score) for ranked in attribution.sources if isfinite(ranked.score)]
    largest = max(scores, default=0.0)
    rows = []
    for ranked in attribution.sources[:count]:
        document = documents[ranked.source.document]
        named = document.title or document.id
        number = f"document {ranked.source.document + 1}" if len(documents) > 1 else ""
        share = abs(ranked.score) / largest if largest and isfinite(ranked.score) else 0.0
        rows.append(
            {
                "rank": ranked.rank,
                "score": f"{ranked.score:.{_DIGITS}f}".replace("-", "−"),
                "width": max(1, round(100 * share)),
                # a negative score has an empty bar, which also a printer shows
                "fill": "currentColor" if ranked.score > 0 else "none",
                "cited": ranked.cited,
                "text": shortened(ranked.source.text, _SOURCE_SHOWN),
                "where": shortened(named, _NAME_SHOWN) if named else number,
            }
        )
    return rows
