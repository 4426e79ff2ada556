"""Statements with what they cite, in the shape that a caller knows: ours, Anthropic's or Cohere's.

All of them have the sources that are `cited` (`at2.methods.citing`), and nothing else.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from at2.evaluation.support import Support
from at2.methods import Attribution
from at2.tasks import Document
from service.citation_schemas import (
    Annotation,
    CharLocation,
    CitationFormat,
    CitedDocument,
    CitedSource,
    CohereCitation,
    DocumentSource,
    MeasuredAnnotation,
    TextBlock,
)
from service.engine import Finding


class Citations:
    """Puts the statements of one response, in their order, into a format of citations.

    Args:
        shape: whose; None for ours.
        documents: what `document` of a source counts.
    """

    def __init__(self, shape: CitationFormat | None, documents: Sequence[Document]) -> None:
        self._shape = shape
        self._documents = documents
        self._given = 0  # characters of the response that are in blocks

    def of_statement(
        self, found: Attribution, response: str, support: Support | None = None
    ) -> list[Annotation] | list[TextBlock] | list[CohereCitation]:
        """The citations of a statement.

        Args:
            found: its sources.
            response: at least up to its end.
            support: of the statement, for our own shape.
        """
        annotation = annotation_of(found, self._documents, support)
        if self._shape == "anthropic":
            return self._blocks(annotation, response)
        if self._shape == "cohere":
            return [_cohere(annotation)] if annotation.sources else []
        return [annotation]

    def of_rest(self, response: str) -> list[TextBlock]:
        """The text after the last statement, in a format that repeats the whole response."""
        rest = response[self._given :] if self._shape == "anthropic" else ""
        return [TextBlock(type="text", text=rest, citations=None)] if rest else []

    def of_all(self, statements: Iterable[Finding], response: str) -> list[Any]:
        """The citations of a whole response, with the support of its statements if it is known."""
        cited: list[Any] = []
        for found in statements:
            cited += self.of_statement(found.attribution, response, found.support)
        return [*cited, *self.of_rest(response)]

    def _blocks(self, annotation: Annotation, response: str) -> list[TextBlock]:
        """A statement as a block, after a block of the text before it. No character is in two
        blocks."""
        start, end = max(annotation.start, self._given), annotation.end
        locations = [
            CharLocation(
                type="char_location",
                cited_text=source.text,
                document_index=source.document,
                document_title=source.document_title,
                start_char_index=source.start,
                end_char_index=source.end,
                file_id=None,
            )
            for source in annotation.sources
        ]
        blocks = [
            TextBlock(type="text", text=response[self._given : start], citations=None),
            TextBlock(type="text", text=response[start:end], citations=locations or None),
        ]
        self._given = max(self._given, end)
        return [block for block in blocks if block.text]


def annotation_of(
    found: Attribution, documents: Sequence[Document], support: Support | None = None
) -> Annotation:
    """A statement with the sources that it cites, and its support if that was measured."""
    annotation = Annotation(
        type="citation",
        start=found.start,
        end=found.end,
        text=found.text,
        sources=[
            CitedSource(
                document=ranked.source.document,
                document_id=documents[ranked.source.document].id,
                document_title=documents[ranked.source.document].title,
                start=ranked.source.start,
                end=ranked.source.end,
                text=ranked.source.text,
                score=ranked.score,
            )
            for ranked in found.sources
            if ranked.cited
        ],
    )
    if support is None:
        return annotation
    return MeasuredAnnotation(**dict(annotation), support=support.support, verdict=support.verdict)


def _cohere(annotation: Annotation) -> CohereCitation:
    sources = [
        DocumentSource(
            type="document",
            id=_id(source),
            document=CitedDocument(
                id=_id(source),
                title=source.document_title,
                text=source.text,
                start=source.start,
                end=source.end,
            ),
        )
        for source in annotation.sources
    ]
    return CohereCitation(
        type="TEXT_CONTENT",
        content_index=0,
        start=annotation.start,
        end=annotation.end,
        text=annotation.text,
        sources=sources,
        document_ids=list(dict.fromkeys(source.id for source in sources)),
    )


def _id(source: CitedSource) -> str:
    return f"doc:{source.document}" if source.document_id is None else source.document_id
