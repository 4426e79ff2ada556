"""A client that closes the connection is a caller who leaves.

Plain ASGI: once the body is read, the only message still to come says that the connection closed.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from service.caller import Caller, Departure


@asynccontextmanager
async def connected(receive: Receive, caller: Caller) -> AsyncIterator[None]:
    """Inside the block, the caller leaves when the client closes the connection.

    The request's body must have been read.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        caller.leave(Departure.GONE)

    watching = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
