# Made from aio.py by `make client`: change that file, not this one.
"""The client for ordinary code."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import httpx
from httpx_sse import EventSource

from service.client import wire
from service.client.errors import ProtocolError
from service.client.retry import RETRIED, Retry, parse_retry_after
from service.client.wire import DocumentLike, MessageLike, SourceMessagesLike, SpanLike
from service.reply_schemas import AttributeReply, GenerateReply
from service.status_schemas import InfoReply


class Client:
    """Calls a server. Use it in a `with` block, which closes it at its end, or close it.

    Args:
        url: of the server.
        key: one of its keys, if it wants one.
        timeout: seconds without a sign from the server after which a call fails.
        retry: what to do while the server is busy or away (429 and 503).
        transport: another way to the server than a socket, for tests.

    Every method raises a `ClientError`: `ApiError` with the server's own message, or
    `ConnectionFailedError`.
    """

    def __init__(
        self,
        url: str = wire.DEFAULT_URL,
        *,
        key: str | None = None,
        timeout: float | httpx.Timeout = wire.DEFAULT_TIMEOUT,
        retry: Retry | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        with wire.transport_errors(url), wire.sending_errors():
            self._http = httpx.Client(
                base_url=wire.address(url),
                headers=wire.headers(key),
                timeout=timeout,
                transport=transport,
            )
        self._retry = retry or Retry()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def generate(
        self,
        query: str | None = None,
        context: str | None = None,
        *,
        documents: Sequence[DocumentLike] | None = None,
        messages: Sequence[MessageLike] = (),
        source_messages: SourceMessagesLike | None = None,
        source_thoughts: bool = False,
        source_type: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> GenerateReply:
        """Have a query answered from a context.

        Args:
            query: the question or task; left out where a tool's result is what is answered.
            context: what to answer from, if it is one text.
            documents: what to answer from, if it is several.
            messages: earlier turns, oldest first.
            source_messages: those that are sources: `"all"`, `"tool"`, or their numbers.
            source_thoughts: make what the model thinks before its response a source.
            source_type: what the context is cut into; `sentence` by default.
            max_new_tokens: the most tokens to write.
            temperature: 0, the default, is greedy decoding.
            top_p: share of probability to sample from.
            seed: makes sampling repeatable.
            stop: a text or several, before the first of which the response ends.
        """
        body = wire.request_body(
            query,
            context,
            documents,
            messages,
            source_messages,
            source_thoughts=source_thoughts or None,
            source_type=source_type,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=wire.listed(stop),
        )
        return wire.result(self._send("POST", "/generate", body), GenerateReply)

    def stream(
        self,
        query: str | None = None,
        context: str | None = None,
        *,
        documents: Sequence[DocumentLike] | None = None,
        messages: Sequence[MessageLike] = (),
        source_messages: SourceMessagesLike | None = None,
        source_thoughts: bool = False,
        source_type: str | None = None,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
    ) -> "GenerationStream":
        """Have a query answered, and read the response as it is written; arguments as `generate`.

        The request is sent when the stream is entered or first read.
        """
        body = wire.request_body(
            query,
            context,
            documents,
            messages,
            source_messages,
            source_thoughts=source_thoughts or None,
            source_type=source_type,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=wire.listed(stop),
            stream=True,
        )
        return GenerationStream(self, body)

    def attribute(
        self,
        generation: GenerateReply | str | None = None,
        *,
        query: str | None = None,
        context: str | None = None,
        documents: Sequence[DocumentLike] | None = None,
        messages: Sequence[MessageLike] = (),
        source_messages: SourceMessagesLike | None = None,
        thoughts: str | None = None,
        response: str | None = None,
        span: SpanLike | None = None,
        spans: Sequence[SpanLike] | None = None,
        quote: str | None = None,
        occurrence: int | None = None,
        split_by: str | None = None,
        source_type: str | None = None,
        top_k: int | None = None,
        min_share: float | None = None,
        method: str | None = None,
        estimator: str | None = None,
        retrieval_scores: Sequence[float] | None = None,
        hops: int | None = None,
        verify: bool = False,
        support: bool = False,
    ) -> AttributeReply:
        """Rank the sources of spans of a response; of all of it, if no span is given.

        Args:
            generation: what `generate` returned, or its id. Without it, `query`, `context` or
                `documents`, and `response` say what to attribute.
            query: as in `generate`.
            context: as in `generate`.
            documents: as in `generate`.
            messages: as in `generate`.
            source_messages: as in `generate`.
            thoughts: what was thought before that response: a source, too.
            response: a response written elsewhere.
            span: characters of the response.
            spans: several of these.
            quote: instead, what a span says.
            occurrence: which of the places that say it, from 0.
            split_by: `sentence` attributes every statement of the response.
            source_type: what the context is cut into.
            top_k: the most sources that a span gets.
            min_share: the share of all positive scores from which on a source is `cited`.
            method: `at2` by default; the others are in `info().methods`.
            estimator: name of one of `info().estimators`.
            retrieval_scores: for `method="fusion"`, of each document or each source.
            hops: over how many thoughts and statements scores are carried on to the documents.
            verify: really hide the sources found, and measure what the span loses.
            support: measure whether the context made the model say it.
        """
        body = wire.request_body(
            query,
            context,
            documents,
            messages,
            source_messages,
            **wire.span_fields(span, spans),
            id=generation.id if isinstance(generation, GenerateReply) else generation,
            thoughts=thoughts,
            response=response,
            quote=quote,
            occurrence=occurrence,
            split_by=split_by,
            source_type=source_type,
            top_k=top_k,
            min_share=min_share,
            method=method,
            estimator=estimator,
            retrieval_scores=retrieval_scores,
            hops=hops,
            verify=verify or None,
            support=support or None,
        )
        return wire.result(self._send("POST", "/attribute", body), AttributeReply)

    def get(self, generation_id: str) -> GenerateReply:
        """An earlier generation.

        Raises:
            NotFoundError: the server no longer has it.
        """
        return wire.result(self._send("GET", wire.generation_path(generation_id)), GenerateReply)

    def delete(self, generation_id: str) -> None:
        """Make the server forget a generation.

        Raises:
            NotFoundError: the server no longer has it.
        """
        wire.check(self._send("DELETE", wire.generation_path(generation_id)))

    def info(self) -> InfoReply:
        """What serves there, and within which limits."""
        return wire.result(self._send("GET", "/info"), InfoReply)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        with self._reply(method, path, body) as response:
            with wire.transport_errors(self._http.base_url):
                response.read()
            return response

    @contextmanager
    def _reply(
        self, method: str, path: str, body: dict[str, Any] | None
    ) -> Iterator[httpx.Response]:
        """A reply whose body is still to be read, after as many attempts as it takes."""
        attempt = 0
        while True:
            attempt += 1
            with wire.sending_errors():
                request = self._http.build_request(method, path, json=body)
            with wire.transport_errors(self._http.base_url):
                response = self._http.send(request, stream=True)
            try:
                wait = None
                if response.status_code in RETRIED:
                    asked = parse_retry_after(response.headers.get("retry-after"))
                    wait = self._retry.wait(attempt, asked, random.random())
                if wait is None:
                    yield response
                    return
            finally:
                response.close()
            time.sleep(wait)


class GenerationStream:
    """A response as it is written: iterate over its pieces, then take `generation`.

    Use it in a `with` block; leaving that early makes the server stop writing.
    """

    def __init__(self, client: Client, body: dict[str, Any]) -> None:
        self._client = client
        self._body = body
        self._stack = ExitStack()
        self._response: httpx.Response | None = None
        self._reader = wire.StreamReader()

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the server stops writing."""
        self._stack.close()

    @property
    def generation(self) -> GenerateReply:
        """All of it, with sources and statements, once the stream has been read to its end.

        Raises:
            ProtocolError: it has not.
        """
        if self._reader.generation is None:
            raise ProtocolError("the stream has not been read to its end")
        return self._reader.generation

    def _open(self) -> httpx.Response:
        if self._response is None:
            reply = self._client._reply("POST", "/generate", self._body)
            response = self._stack.enter_context(reply)
            try:
                with wire.transport_errors(response.url):
                    if not response.is_success:
                        response.read()
                wire.check(response)
            except BaseException:
                self._stack.close()
                raise
            self._reader.request_id = response.headers.get("x-request-id")
            self._response = response
        return self._response

    def __iter__(self) -> Iterator[str]:
        with self._stack:
            response = self._open()
            with wire.transport_errors(response.url):
                for event in EventSource(response).iter_sse():
                    text = self._reader.text(event.data)
                    if text is not None:
                        yield text
            self._reader.end()
