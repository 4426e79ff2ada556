"""What both clients share: bodies from arguments, results from replies. Knows nothing of sockets.

Values are checked by the server and nowhere else; what was not given is not sent, so that its
defaults hold.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx
from httpx_sse import SSEError
from pydantic import BaseModel, TypeAdapter, ValidationError

from service.client.errors import (
    ConnectionFailedError,
    ProtocolError,
    UnsendableError,
    of_event,
    of_response,
)
from service.client.retry import parse_retry_after
from service.field_types import fits_header
from service.reply_schemas import Delta, Done, ErrorReply, GenerateReply
from service.request_schemas import Document, Message

DocumentLike = str | Document | Mapping[str, Any]
"""A text, or a document with `id`, `title` and `text`."""

MessageLike = Message | Mapping[str, str] | tuple[str, str]
"""An earlier turn: a message, its JSON, or (role, content)."""

SourceMessagesLike = Literal["all", "tool"] | Sequence[int]
"""Which messages are sources."""

SpanLike = tuple[int, int]
"""Characters `start` to `end` of the response."""

DEFAULT_URL = "http://127.0.0.1:8000"

DEFAULT_TIMEOUT = httpx.Timeout(300.0, connect=10.0)
"""Longer than the server's usual limit for a request, which gives the better message. Give more for
a request that a slow machine takes longer for: the server's limit follows its speed."""

_MOST_PORT = 65_535

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")

_EVENT: TypeAdapter[Delta | Done | ErrorReply] = TypeAdapter(Delta | Done | ErrorReply)
_LAST_EVENT = "[DONE]"


def address(url: str) -> httpx.URL:
    """Where a server is.

    Raises:
        UnsendableError: the address is none.
    """
    with transport_errors(url):
        found = httpx.URL(url)
        try:
            found.raw_host.decode("ascii").encode("idna")  # as it will be looked up
        except UnicodeError as error:
            raise httpx.InvalidURL(str(error)) from error
        if (found.port or 0) > _MOST_PORT:
            raise httpx.InvalidURL(f"port {found.port}")
    return found


def headers(key: str | None) -> dict[str, str]:
    """Headers of every request.

    Raises:
        UnsendableError: the key is none that a header can have; the message does not show it.
    """
    if key and not fits_header(key):
        raise UnsendableError(
            "the key cannot be sent: it has white space around it, or a character that is not "
            "printable ASCII"
        )
    return {"Authorization": f"Bearer {key}"} if key else {}


def request_body(
    query: str | None,
    context: str | None,
    documents: Sequence[DocumentLike] | None,
    messages: Sequence[MessageLike],
    source_messages: SourceMessagesLike | None,
    **fields: Any,
) -> dict[str, Any]:
    """The body of a request: the prompt and other fields, without those that are None."""
    body = {
        "query": query,
        "context": context,
        "documents": None if documents is None else [_document(one) for one in documents],
        "messages": [_message(message) for message in messages] or None,
        "source_messages": listed(source_messages),
        **fields,
    }
    return {name: value for name, value in body.items() if value is not None}


def listed(value: str | Sequence[T] | None) -> str | list[T] | None:
    """A text as it is; several values as a list."""
    return value if value is None or isinstance(value, str) else list(value)


def _document(document: DocumentLike) -> dict[str, Any]:
    if isinstance(document, str):
        return {"text": document}
    if isinstance(document, Document):
        return document.model_dump(exclude_none=True)
    return dict(document)


def _message(message: MessageLike) -> dict[str, str]:
    if isinstance(message, Message):
        return message.model_dump()
    if isinstance(message, Mapping):
        return dict(message)
    role, content = message
    return {"role": role, "content": content}


def span_fields(span: SpanLike | None, spans: Sequence[SpanLike] | None) -> dict[str, Any]:
    """One span, or several, as fields of a request."""
    start, end = (None, None) if span is None else span
    several = None if spans is None else [{"start": first, "end": last} for first, last in spans]
    return {"start": start, "end": end, "spans": several}


def generation_path(generation_id: str) -> str:
    """The path of a generation, whatever its id is made of."""
    return f"/generations/{quote(generation_id, safe='')}"


@contextmanager
def transport_errors(url: httpx.URL | str) -> Iterator[None]:
    """Turn the exceptions of the HTTP library into ours.

    Raises:
        UnsendableError: the address is none.
        ConnectionFailedError: there was no reply, or half of one.
        ProtocolError: the reply is not what HTTP or server-sent events are made of.
    """
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise ConnectionFailedError(f"no server at {url}") from error
    except httpx.TimeoutException as error:
        raise ConnectionFailedError(f"{url} did not answer in time") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise UnsendableError(f"{url} is not an address such as {DEFAULT_URL}") from error
    except (SSEError, httpx.DecodingError) as error:
        raise ProtocolError(f"{url} does not answer as this client expects") from error
    except httpx.HTTPError as error:
        raise ConnectionFailedError(f"the connection to {url} broke off") from error


@contextmanager
def sending_errors() -> Iterator[None]:
    """Turn what is wrong with a caller's values into one error.

    Raises:
        UnsendableError: one of them cannot be sent.
    """
    try:
        yield
    except UnicodeEncodeError as error:
        shown = ascii(error.object[max(0, error.start - 10) : error.end + 10])
        raise UnsendableError(f"{shown} cannot be sent: it is not {error.encoding} text") from error
    except (TypeError, ValueError) as error:
        raise UnsendableError(f"what was given cannot be sent: {error}") from error


def result(response: httpx.Response, model: type[R]) -> R:
    """The typed content of a good reply.

    Raises:
        ApiError: it is not a good one.
        ProtocolError: it is good, but of something else.
    """
    check(response)
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise ProtocolError(f"{response.url} does not answer as this client expects") from error


def check(response: httpx.Response) -> None:
    """Raise what a reply says is wrong; its body must have been read if its status is an error.

    Raises:
        ApiError: the status is an error.
        ProtocolError: the status is no answer, such as a redirection.
    """
    if response.is_error:
        raise of_response(response, parse_retry_after(response.headers.get("retry-after")))
    if not response.is_success:
        raise ProtocolError(f"{response.url} answered {response.status_code}")


@dataclass
class StreamReader:
    """Makes texts of a stream's events, and at the end a generation."""

    request_id: str | None = None
    generation: GenerateReply | None = None
    ended: bool = False

    def text(self, data: str) -> str | None:
        """What an event adds to the response; None if it adds nothing.

        Raises:
            ApiError: the event is an error.
            ProtocolError: it is none of those that a stream has.
        """
        if data == _LAST_EVENT:
            self.ended = True
            return None
        try:
            event = _EVENT.validate_json(data)
        except ValidationError as error:
            raise ProtocolError("the stream has an event that this client does not know") from error
        if isinstance(event, ErrorReply):
            raise of_event(event.error, self.request_id)
        if isinstance(event, Done):
            self.generation = event.generation
            return None
        return event.text

    def end(self) -> None:
        """Call this after the last event.

        Raises:
            ProtocolError: the stream ended before the response did.
        """
        if self.generation is None or not self.ended:
            raise ProtocolError("the stream broke off before the response was complete")
