"""Responses that an OpenAI-compatible server writes: what it is asked, and what its replies mean.

Ids are the truth, so it is asked for ids in return for ids (`return_token_ids`, as vLLM has it).
Servers that do not take that are asked in the next form, down to messages, which they put into a
template of their own. Knows HTTP and ids; nothing of tasks or records.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

import httpx
from httpx_sse import EventSource, SSEError

from at2.errors import InputError
from at2.text.chat_template import Message
from service import tracing
from service.engine.sampling import Sampling
from service.failures import (
    GeneratorError,
    GeneratorLateError,
    GeneratorUnavailableError,
    ServerFailure,
)

logger = logging.getLogger("at2.service")

_CONNECT_SECONDS = 5.0
"""For the server to take a connection. What it takes to write is the request's limit, not ours."""

_SEED_BITS = 31
"""Of a seed, as far as all servers take it."""

_MESSAGE_SHOWN = 200
"""Characters of a server's message that ours repeats."""

_REFUSALS = frozenset({400, 404, 405, 415, 422, 501})
"""Statuses by which a server says that it does not take a request of this form."""

_BUSY = frozenset({429, 502, 503})
_LATE = frozenset({408, 504})

_DONE = "[DONE]"

_BROKEN_OFF = frozenset({"abort", "error", "content_filter"})
"""Reasons of an end that is not the model's: what there is by then is no whole response."""

_MOST_LINE_BYTES = 16 * 2**20
"""Of one line of a reply, or of a failure's. The longest usual one repeats the ids of a prompt."""


class Form(IntEnum):
    """How a server is asked, the best first."""

    IDS_FOR_IDS = 0
    """A completion of ids, with the ids of what is written."""
    IDS = 1
    """A completion of ids."""
    TEXT = 2
    """A completion of text."""
    MESSAGES = 3
    """A chat."""


@dataclass(frozen=True)
class Wanted:
    """A response that is wanted.

    Attributes:
        input_ids: the prompt.
        messages: the same as a chat.
        max_new_tokens: the most tokens of the response.
        sampling: how to choose them.
    """

    input_ids: Sequence[int]
    messages: Sequence[Message]
    max_new_tokens: int
    sampling: Sampling


@dataclass(frozen=True)
class Piece:
    """A piece of a response: its ids, or its text where ids are not given."""

    content: list[int] | str
    finish_reason: Literal["stop", "length"] | None


class RemoteApi:
    """Asks one server.

    Args:
        url: of its API, up to `/v1`.
        key: to be sent with each request.
        model: what the server calls the model.
        tokenizer: the model's own.
    """

    def __init__(self, url: str, key: str | None, model: str, tokenizer: Any) -> None:
        self.url = url
        self._model = model
        self._tokenizer = tokenizer
        self._vocabulary = len(tokenizer)
        self._form: Form | None = None  # the one that it takes
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def pieces(self, wanted: Wanted) -> AsyncIterator[Piece]:
        """A response as it is written, up to a piece with its end. Close the iterator.

        Raises:
            GeneratorError, GeneratorUnavailableError, GeneratorLateError: there is none.
            InputError: the prompt cannot be given to a server that takes text only.
        """
        left = wanted.max_new_tokens
        try:
            async with AsyncExitStack() as stack:
                response = await self._ask(wanted, stack)
                async for event in EventSource(response).aiter_sse():
                    if event.data == _DONE:
                        break
                    piece = self._read(event.data)
                    if piece is None:
                        continue
                    if isinstance(piece.content, list):
                        if len(piece.content) > left:  # it knows no limit
                            piece = Piece(piece.content[:left], "length")
                        left -= len(piece.content)
                    yield piece
                    if piece.finish_reason is not None:
                        return
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise GeneratorUnavailableError("cannot be reached") from error
        except (httpx.HTTPError, SSEError) as error:
            raise GeneratorError(f"gave no whole reply: {type(error).__name__}") from error
        raise GeneratorError("ended its reply too early")

    async def _ask(self, wanted: Wanted, stack: AsyncExitStack) -> httpx.Response:
        """The reply to a request in the first form that the server takes."""
        known = self._form
        sure = True  # that the forms before were refused, and did not fail by chance
        failure: ServerFailure = GeneratorError("takes no request that is known here")
        for form in Form if known is None else (known,):
            path, body = await self._request(form, wanted)
            stream = self._client.stream(
                "POST", self.url + path, json=body, headers=tracing.headers()
            )
            response = await stack.enter_async_context(stream)
            response.stream = _ShortLines(response.stream)
            if response.status_code == httpx.codes.OK:
                if sure and self._form != form:
                    logger.info("%s takes %s", self.url, form.name.lower().replace("_", " "))
                    self._form = form
                return response
            failure = _failure(response.status_code, _message(await response.aread()))
            if response.status_code not in _REFUSALS:
                if known is not None or response.status_code != httpx.codes.INTERNAL_SERVER_ERROR:
                    raise failure
                sure = False
            await response.aclose()
        self._form = None  # another server may have taken its place
        raise failure

    async def _request(self, form: Form, wanted: Wanted) -> tuple[str, dict[str, Any]]:
        sampling = wanted.sampling
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": wanted.max_new_tokens,
            "temperature": sampling.temperature,
            "stream": True,
        }
        if sampling.temperature > 0:
            body["top_p"] = sampling.top_p
            if sampling.seed is not None:
                body["seed"] = sampling.seed % 2**_SEED_BITS
        if form in (Form.TEXT, Form.MESSAGES):
            # the server's template may obey control tokens in messages, too
            text = await asyncio.to_thread(_text_of, self._tokenizer, wanted.input_ids)
            if form is Form.MESSAGES:
                return "/chat/completions", body | {"messages": [dict(m) for m in wanted.messages]}
            return "/completions", body | {"prompt": text}
        if form is Form.IDS_FOR_IDS:
            body["return_token_ids"] = True
        return "/completions", body | {"prompt": list(wanted.input_ids)}

    def _read(self, data: str) -> Piece | None:
        """What an event says; None if it is about something else."""
        try:
            event = json.loads(data)
            if event.get("error"):
                raise GeneratorError(f"failed: {_message(data.encode())}")
            if not event["choices"]:
                return None
            choice = event["choices"][0]
            delta = choice.get("delta")
            text = (choice.get("text") if delta is None else delta.get("content")) or ""
            text.encode()
            ids = choice.get("token_ids")
            reason = choice.get("finish_reason")
            if reason in _BROKEN_OFF:
                raise GeneratorError(f"broke its response off ({reason})")
            content = text if ids is None else [int(token_id) for token_id in ids]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise GeneratorError("gave a reply that makes no sense") from error
        if isinstance(content, list):
            for token_id in content:
                if not 0 <= token_id < self._vocabulary:
                    raise GeneratorError(
                        f"wrote token {token_id}, where the model here has {self._vocabulary}: "
                        "it serves another model"
                    )
        if not content and reason is None:
            return None
        return Piece(content, reason and ("length" if reason == "length" else "stop"))


class _ShortLines(httpx.AsyncByteStream):
    """The bytes of a reply, which is given up where a line has no end: lines are held in memory.

    Args:
        whole: its stream.
    """

    def __init__(self, whole: Any) -> None:
        self._whole = whole

    async def __aiter__(self) -> AsyncIterator[bytes]:
        line = 0
        async for part in self._whole:
            end = part.rfind(b"\n")
            line = line + len(part) if end < 0 else len(part) - end - 1
            if line > _MOST_LINE_BYTES:
                raise GeneratorError(f"gave more than {_MOST_LINE_BYTES} bytes in one line")
            yield part

    async def aclose(self) -> None:
        """Close the reply."""
        await self._whole.aclose()


def _text_of(tokenizer: Any, ids: Sequence[int]) -> str:
    """A prompt as a text that gives these ids when a server encodes it, control tokens included.

    Raises:
        InputError: it would have other control tokens: those that a user wrote as text.
    """
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    expected = [token_id for token_id in ids if token_id in special]
    given = list(ids)
    if given[:1] == [tokenizer.bos_token_id] == tokenizer("").input_ids[:1]:
        given = given[1:]  # it is added
    text: str = tokenizer.decode(given, clean_up_tokenization_spaces=False)
    found = [token_id for token_id in tokenizer(text).input_ids if token_id in special]
    if found != expected:
        raise InputError(
            "the text has control tokens of the model, and the server that writes the responses "
            "takes no ids, by which they would be told from its own"
        )
    return text


def _failure(status: int, message: str) -> ServerFailure:
    said = f" ({status}{message and f': {message}'})"
    if status in (401, 403):
        return GeneratorError(f"refuses the key ({status})")
    if status in _BUSY:
        return GeneratorUnavailableError(f"is overloaded or down{said}")
    if status in _LATE:
        return GeneratorLateError(f"took too long{said}")
    return GeneratorError(f"refuses the request{said}")


def _message(body: bytes) -> str:
    """What a server says about its failure, in a line."""
    try:
        found = json.loads(body)
        error = found.get("error", found)
        told = error if isinstance(error, str) else error.get("message", error.get("detail", ""))
    except (ValueError, AttributeError):
        return ""
    return " ".join(str(told).split())[:_MESSAGE_SHOWN]
