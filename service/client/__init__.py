"""A client of the server, without a model library: `Client`, and `AsyncClient` for asyncio.

from service.client import Client

with Client("http://127.0.0.1:8000") as client:
    generation = client.generate("Where does Ann live?", "Ann lives in Rome.")
    for attribution in client.attribute(generation, split_by="sentence").attributions:
        print(attribution.text, attribution.sources[0].text)

    with client.stream("Where does Ann live?", "Ann lives in Rome.") as stream:
        for text in stream:
            print(text, end="")
    print(stream.generation.finish_reason)

With asyncio the same words have `async` or `await` before them, and `close` is called `aclose`.
"""

from service.client.aio import AsyncClient, AsyncGenerationStream
from service.client.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    BusyError,
    ClientError,
    ConnectionFailedError,
    DeadlineError,
    NotFoundError,
    ProtocolError,
    ServerError,
    UnavailableError,
    UnsendableError,
)
from service.client.retry import Retry
from service.client.sync import Client, GenerationStream

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncGenerationStream",
    "AuthenticationError",
    "BadRequestError",
    "BusyError",
    "Client",
    "ClientError",
    "ConnectionFailedError",
    "DeadlineError",
    "GenerationStream",
    "NotFoundError",
    "ProtocolError",
    "Retry",
    "ServerError",
    "UnavailableError",
    "UnsendableError",
]
