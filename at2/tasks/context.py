"""Attribute a response to the context it was given: one text, or several documents."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from string import Formatter
from typing import Any

from at2.errors import InputError, PromptError
from at2.ranges import CharRange, TokenRange
from at2.tasks.chat import AttributionTaskWithChatPrompt
from at2.tasks.generation import DEFAULT_GENERATE_KWARGS
from at2.tasks.sources import DEFAULT_SOURCE_TYPE
from at2.tasks.spans import Document, DocumentLike, as_document, is_document
from at2.text.chat_template import Message
from at2.text.encoding import check_text

_BETWEEN_DOCUMENTS = "\n\n"


class ContextAttributionTask(AttributionTaskWithChatPrompt):
    """The target is the whole response. A subclass that defines `prompt` and `_get_document_ranges`
    attributes to any number of documents."""

    @property
    def target_token_range(self) -> TokenRange:
        """The whole response."""
        return self.generation_token_start, self.generation_token_end


class DocumentsContextAttributionTask(ContextAttributionTask):
    """Several documents and a query.

    Args:
        documents: in the order in which the model reads them: texts, or values with `text` and, if
            there are such, `title` and `id`; see `as_document`.
        query: the question about them.
        source_ranges: per document the character ranges of its text to use as sources.

    The other arguments are those of `AttributionTaskWithChatPrompt`.

    Raises:
        InputError: one is no document.
        PromptError: a text, title or id is not valid Unicode.
    """

    template = "Context: {context}\n\nQuery: {query}"

    def __init__(
        self,
        documents: Sequence[DocumentLike],
        query: str,
        model: Any,
        tokenizer: Any,
        generate_kwargs: Mapping[str, Any] = DEFAULT_GENERATE_KWARGS,
        previous_messages: Sequence[Message] | None = None,
        source_type: str = DEFAULT_SOURCE_TYPE,
        **kwargs: Any,
    ) -> None:
        self.documents = tuple(_checked(documents))
        self.query = check_text(query, "query")
        super().__init__(
            model, tokenizer, generate_kwargs, previous_messages, source_type, **kwargs
        )

    @property
    def prompt_documents(self) -> list[Document]:
        """The documents as they were given."""
        return list(self.documents)

    def _joined(self) -> tuple[str, list[CharRange]]:
        """The context and the characters of each document's text in it."""
        context, ranges = "", []
        for number, document in enumerate(self.documents):
            context += _BETWEEN_DOCUMENTS if number else ""
            context += f"{document.title}\n" if document.title else ""
            ranges.append((len(context), len(context) + len(document.text)))
            context += document.text
        return context, ranges

    @property
    def prompt(self) -> str:
        """The template with the joined documents and the query filled in."""
        return _fill(self.template, context=self._joined()[0], query=self.query)[0]

    def _get_document_ranges(self) -> list[CharRange]:
        context, ranges = self._joined()
        offset = _fill(self.template, context=context, query=self.query)[1]
        return [(offset + start, offset + end) for start, end in ranges]


class SimpleContextAttributionTask(DocumentsContextAttributionTask):
    """A context and a query.

    Args:
        context: the text to attribute to.
        query: the question about it.
        source_ranges: character ranges of the context to use as sources, instead of `source_type`.

    The other arguments are those of `AttributionTaskWithChatPrompt`.
    """

    def __init__(
        self,
        context: str,
        query: str,
        model: Any,
        tokenizer: Any,
        generate_kwargs: Mapping[str, Any] = DEFAULT_GENERATE_KWARGS,
        previous_messages: Sequence[Message] | None = None,
        source_type: str = DEFAULT_SOURCE_TYPE,
        cache: Mapping[str, Any] | None = None,
        *,
        source_ranges: Sequence[CharRange] | None = None,
        **kwargs: Any,
    ) -> None:
        self.context = check_text(context, "context")
        super().__init__(
            [context],
            query,
            model,
            tokenizer,
            generate_kwargs,
            previous_messages,
            source_type,
            cache=cache,
            source_ranges=None if source_ranges is None else [source_ranges],
            **kwargs,
        )


def _checked(documents: Sequence[DocumentLike]) -> Iterator[Document]:
    if is_document(documents) or not isinstance(documents, Iterable):
        kind = type(documents).__name__
        raise InputError(f"documents is one {kind}, not a sequence of documents", param="documents")
    for number, given in enumerate(documents):
        document = as_document(given, number)
        for text in (document.text, document.title or "", document.id or ""):
            check_text(text, "documents")
        yield document


def _fill(template: str, **fields: str) -> tuple[str, int]:
    """`template.format(**fields)` and where the context begins in it, whatever the context says."""
    text, start = "", None
    for literal, field, _, _ in Formatter().parse(template):
        text += literal
        if field is not None:
            if field not in fields:
                raise PromptError(f"the task's template has an unknown field {field!r}")
            if field == "context" and start is None:
                start = len(text)
            text += fields[field]
    if start is None:
        raise PromptError("the task's template has no field {context}")
    return text, start
