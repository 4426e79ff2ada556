"""What an attribution found, on its own: no model, no task, only values to keep and to show.

Files are JSON with a version, written by `save` and read by `load`. All ranges are half-open, in
characters.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from at2.display import (
    attributions_fragment,
    shortened,
    statement_heatmap,
    token_heatmap,
)
from at2.errors import InputError, check_count
from at2.estimator.identity import public_name
from at2.files import Place, place_of, write_whole
from at2.methods import (
    DEFAULT_MIN_SHARE,
    Attribution,
    Attributor,
    RankedSource,
    TokenScoreAttributor,
)
from at2.tasks import Document, SourceSpan

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

FORMAT = "at2.attribution_result"
"""What a file says that it is."""

VERSION = 1
"""Of the files that are written here. Files of later versions are refused."""

_SOURCES_PLOTTED = 8
_LINE = 100

Span = str | tuple[int, int]
"""A part of the response: a text that it says once, or its characters `(start, end)`."""

Spans = Literal["sentence"] | Span | Sequence[Span] | None
"""What to attribute: the whole response (None), each of its statements, one part of it, or some."""


@dataclass(frozen=True)
class AttributionResult:
    """Sources of one or several spans of a response, ranked.

    `len(result)` is the number of spans, `result[0]` the attribution of the first.

    Attributes:
        model: the model's name.
        method: the method's name.
        estimator: the name of its score estimator, if it has one.
        query: what was asked, if the task has a query.
        response: the text that was attributed.
        documents: what was read.
        sources: the parts of them that were scored, in order.
        attributions: one a span, each with all sources, best first.
        tokens: characters of the response per token.
        token_scores: float32 [tokens, sources], of methods that score token by token; a span's
            score is their mean. Two results are compared without them.
    """

    model: str
    method: str
    estimator: str | None
    query: str | None
    response: str
    documents: tuple[Document, ...]
    sources: tuple[SourceSpan, ...]
    attributions: tuple[Attribution, ...]
    tokens: tuple[tuple[int, int], ...] = field(default=(), repr=False)
    token_scores: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        attributor: Attributor,
        spans: Spans = None,
        *,
        min_share: float = DEFAULT_MIN_SHARE,
        method: str | None = None,
        estimator: str | None = None,
    ) -> "AttributionResult":
        """Attribute with any attributor, of any task.

        Args:
            attributor: its task's response is generated if it has none.
            spans: what to attribute. A text other than "sentence" is a quotation.
            min_share: the share of all positive scores from which on a source is cited.
            method, estimator: their names in the result; by default the attributor's own.

        Raises:
            SpanError: a span is outside the response or covers no token; or the response does not
                say a text, or says it several times.
            InputError: a span is something else.
        """
        task = attributor.task
        attributions = tuple(
            attributor.attribute(*span, min_share=min_share) for span in _chosen(attributor, spans)
        )
        return cls(
            model=public_name(str(task.model.name_or_path)),
            method=method or attributor.name,
            estimator=estimator,
            query=getattr(task, "query", None),
            response=task.target,
            documents=tuple(task.source_documents),
            sources=tuple(task.source_spans),
            attributions=attributions,
            tokens=tuple(
                (span.start, span.end)
                for token in range(len(task.target_ids))
                for span in [task.token_span(token, token + 1)]
            ),
            token_scores=attributor.scores
            if isinstance(attributor, TokenScoreAttributor)
            else None,
        )

    def __len__(self) -> int:
        return len(self.attributions)

    def __getitem__(self, number: int) -> Attribution:
        return self.attributions[number]

    def __iter__(self) -> Iterator[Attribution]:
        return iter(self.attributions)

    @property
    def scores(self) -> NDArray[np.float32]:
        """Scores [spans, sources], sources in their order in the documents."""
        scores = np.zeros((len(self.attributions), len(self.sources)), dtype=np.float32)
        for row, attribution in zip(scores, self.attributions, strict=True):
            for ranked in attribution.sources:
                row[ranked.source.index] = ranked.score
        return scores

    # -- to look at ----------------------------------------------------------------------------

    def __str__(self) -> str:
        """Each span with its cited sources, or else its first, one a line."""
        lines = []
        for attribution in self.attributions:
            lines.append(shortened(attribution.text, _LINE))
            cited = [ranked for ranked in attribution.sources if ranked.cited]
            for ranked in cited or attribution.sources[:1]:
                text = shortened(ranked.source.text, _LINE)
                lines.append(f"  {ranked.score:.3f}  {text}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """What a notebook shows: see `at2.display.attributions_fragment`."""
        return attributions_fragment(
            self.response,
            self.attributions,
            self.documents,
            query=self.query,
            model=self.model,
            method=self.method,
            estimator=self.estimator,
        )

    def plot_tokens(self, span: int | None = None, num_sources: int = _SOURCES_PLOTTED) -> "Figure":
        """The response's tokens × the sources that matter most to them (needs matplotlib).

        Args:
            span: only the tokens of the span of this number; all of the response by default.
            num_sources: rows at most.

        Raises:
            InputError: the method does not score token by token, there is no such span, or there
                is nothing to plot.
        """
        if self.token_scores is None:
            raise InputError(
                f"{self.method} scores spans, not tokens: use plot_sources", param="method"
            )
        check_count(num_sources, "num_sources")
        start, end = 0, len(self.response)
        if span is not None:
            if not 0 <= span < len(self.attributions):
                raise InputError(f"no span {span} of {len(self.attributions)}", param="span")
            start, end = self.attributions[span].start, self.attributions[span].end
        chosen = [i for i, (s, e) in enumerate(self.tokens) if s < end and e > start]
        texts = [self.response[slice(*self.tokens[i])] for i in chosen]
        sources = [source.text for source in self.sources]
        return token_heatmap(self.token_scores[chosen], texts, sources, num_sources)

    def plot_sources(self, num_sources: int = _SOURCES_PLOTTED) -> "Figure":
        """The spans × the sources that matter most to them, with scores (needs matplotlib).

        Args:
            num_sources: rows at most.

        Raises:
            InputError: there is nothing to plot.
        """
        check_count(num_sources, "num_sources")
        spans = [attribution.text for attribution in self.attributions]
        sources = [source.text for source in self.sources]
        return statement_heatmap(self.scores, spans, sources, num_sources)

    # -- as values -----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `save` writes them. A source stands once, under `sources`; an
        attribution ranks them by their `index`."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "method": self.method,
            "estimator": self.estimator,
            "query": self.query,
            "response": self.response,
            "documents": [asdict(document) for document in self.documents],
            "sources": [
                {**asdict(source), "document_id": self.documents[source.document].id}
                for source in self.sources
            ],
            "attributions": [
                {
                    "start": attribution.start,
                    "end": attribution.end,
                    "text": attribution.text,
                    "attributed_text": attribution.attributed_text,
                    "sources": [
                        {
                            "rank": ranked.rank,
                            "index": ranked.source.index,
                            "score": _number(ranked.score),
                            "cited": ranked.cited,
                        }
                        for ranked in attribution.sources
                    ],
                }
                for attribution in self.attributions
            ],
            "tokens": [list(token) for token in self.tokens],
            "token_scores": None if self.token_scores is None else _plain(self.token_scores),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AttributionResult":
        """The result that `to_dict` gave.

        Raises:
            InputError: the values are something else, or of a later version.
        """
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InputError(f"these values are no {FORMAT}")
        if values.get("version") != VERSION:
            raise InputError(f"version {values.get('version')!r}: only {VERSION} is read here")
        try:
            return _from_values(values)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"the values of a {FORMAT} are damaged: {error!r}") from error

    def save(self, path: str | Place) -> None:
        """Write the result as JSON. The file appears whole or not at all."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)
        write_whole(place_of(path), text.encode("utf-8"))

    @classmethod
    def load(cls, path: str | Place) -> "AttributionResult":
        """Read a result that `save` wrote.

        Raises:
            InputError: the file is not there, or is something else.
        """
        place = place_of(path)
        try:
            values = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{place.name} is no readable result: {reason}", param="path") from (
                error
            )
        return cls.from_dict(values)

    def to_pandas(self) -> "DataFrame":
        """A row for each span and source, best first (needs pandas).

        Columns: `span` (its number), `start`, `end`, `text` of the span; `rank`, `score`, `cited`;
        `source` (its index), `document` (its number), `document_id`; `source_start`, `source_end`,
        `source_text`.
        """
        import pandas as pd

        columns = ["span", "start", "end", "text", "rank", "score", "cited", "source"]
        columns += ["document", "document_id", "source_start", "source_end", "source_text"]
        rows = [
            (
                number,
                attribution.start,
                attribution.end,
                attribution.text,
                ranked.rank,
                ranked.score,
                ranked.cited,
                ranked.source.index,
                ranked.source.document,
                self.documents[ranked.source.document].id,
                ranked.source.start,
                ranked.source.end,
                ranked.source.text,
            )
            for number, attribution in enumerate(self.attributions)
            for ranked in attribution.sources
        ]
        return pd.DataFrame(rows, columns=columns)


def _chosen(attributor: Attributor, spans: Spans) -> list[tuple[int | str | None, int | None]]:
    """The arguments of `attribute`, span by span."""
    if spans is None:
        return [(None, None)]
    if isinstance(spans, str) and spans == "sentence":
        return list(attributor.task.statements)
    if isinstance(spans, str) or _is_range(spans):
        return [_one(spans)]
    if not isinstance(spans, Sequence):
        raise InputError(f"spans is a {type(spans).__name__}, not a text or ranges", param="spans")
    return [_one(span) for span in spans]


def _one(span: Any) -> tuple[int | str | None, int | None]:
    if isinstance(span, str):
        return span, None
    if not _is_range(span):
        raise InputError(f"span {span!r} is neither a text nor (start, end)", param="spans")
    return int(span[0]), int(span[1])


def _is_range(span: object) -> bool:
    whole = (int, np.integer)
    return (
        isinstance(span, Sequence)
        and len(span) == 2
        and all(isinstance(end, whole) and not isinstance(end, bool) for end in span)
    )


def _plain(scores: NDArray[np.float32]) -> list[list[float | None]]:
    """Each float32 as the shortest decimal number that reads back as the same."""
    return [[_number(float(str(score))) for score in row] for row in scores]


def _number(score: float) -> float | None:
    """A score as JSON has it: None for NaN and infinity."""
    return score if isfinite(score) else None


def _ranked(values: dict[str, Any], sources: Sequence[SourceSpan]) -> RankedSource:
    score = nan if values["score"] is None else float(values["score"])
    return RankedSource(values["rank"], sources[values["index"]], score, values["cited"])


def _from_values(values: dict[str, Any]) -> AttributionResult:
    sources = tuple(
        SourceSpan(one["index"], one["document"], one["start"], one["end"], one["text"])
        for one in values["sources"]
    )
    tokens = tuple((int(start), int(end)) for start, end in values["tokens"])
    scores = values["token_scores"]
    return AttributionResult(
        model=values["model"],
        method=values["method"],
        estimator=values["estimator"],
        query=values["query"],
        response=values["response"],
        documents=tuple(
            Document(one["text"], id=one["id"], title=one["title"]) for one in values["documents"]
        ),
        sources=sources,
        attributions=tuple(
            Attribution(
                one["start"],
                one["end"],
                one["text"],
                one["attributed_text"],
                tuple(_ranked(ranked, sources) for ranked in one["sources"]),
            )
            for one in values["attributions"]
        ),
        tokens=tokens,
        token_scores=None
        if scores is None
        else np.array(scores, dtype=np.float32).reshape(len(tokens), len(sources)),
    )
