"""A store in Redis, which all replicas of a server share: any of them finds what one has kept.

A record is one value, written by one command, which Redis forgets by itself when its time is over.
Beside it are the scores of its tokens, which go with it. How much is kept, and what goes first, is
Redis' own business: `maxmemory`, and the policy `volatile-ttl` for the oldest first.
"""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

import redis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import TimeoutError as NoAnswerError

from service.failures import DamagedRecordError, StoreError
from service.records.base import Generation, Kept

logger = logging.getLogger("at2.service")

T = TypeVar("T")

_LAYOUT = 1
"""Version of keys and values, in every key: another layout does not read this one's."""

_CONNECTIONS = 32
"""The most that one process opens; further calls wait for one."""

_SECONDS = 5.0
"""How long Redis may take to be connected to, and to answer one command."""

_RETRIES = 1
"""After a connection that had ended: those in the pool do not outlive a restart of Redis."""

_PAUSE_SECONDS = 0.05
"""Before that retry."""

_PIECE = 1000
"""Records that a sweep asks for at once."""

_MOST_SCORE_BYTES = 64 * 2**20
"""Larger scores are not shared: every replica computes its own."""

_NO_ADDRESS = (
    "the store's address cannot be read: it is like redis://:PASSWORD@HOST:6379/0, with the "
    "characters / ? # @ % of a password percent-encoded (/ is %2F)"
)

_PUT_SCORES = """
local left = redis.call('PTTL', KEYS[1])
if left > 0 then redis.call('SET', KEYS[2], ARGV[1], 'PX', left) end
return left
"""
"""Scores go with their record, and do not come back after it."""


class RedisStore:
    """Keeps generations in a Redis server.

    Args:
        place: its address, `redis://`, `rediss://` (TLS) or `unix://`, with password and number of
            the database; what redis-py takes as a query (`?ssl_ca_certs=…`) is taken.
        seconds: how long each generation is kept.
        max_bytes: a larger one is not kept.
        max_records: how many this process remembers, to forget their scores in its memory.

    A server that does not answer is waited for: until then every call fails.

    Raises:
        StoreError: the address makes no sense, or the server refuses this client.
    """

    def __init__(self, place: str, seconds: int, max_bytes: int, max_records: int) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._max_records = max_records
        self._known: dict[str, None] = {}  # ids that were seen here, the latest last
        try:
            pool = BlockingConnectionPool.from_url(
                place,
                max_connections=_CONNECTIONS,
                timeout=_SECONDS,
                socket_timeout=_SECONDS,
                socket_connect_timeout=_SECONDS,
                retry=Retry(ConstantBackoff(_PAUSE_SECONDS), _RETRIES),
            )
            pool.connection_kwargs["decode_responses"] = False  # whatever the address says
            self._redis = Redis.from_pool(pool)
            _try(place)
        except (ValueError, TypeError):  # its message, and its context, may hold the password
            raise StoreError(_NO_ADDRESS) from None

    # -- records -------------------------------------------------------------------------------

    async def put(self, generation: Generation, owner: str = "") -> int | None:
        """Keep a generation.

        Returns:
            When it goes; None if it could not be written, which is logged: a full Redis, or none,
            must not cost anybody a reply.
        """
        data, expires = generation.to_json(), int(time.time()) + self._seconds
        if len(data) > self._max_bytes:
            return None
        head = json.dumps({"owner": owner, "expires": expires}).encode()
        key = _record_key(generation.id)
        try:
            await self._run(self._redis.set(key, head + b"\n" + data, ex=self._seconds))
        except StoreError as error:
            logger.error("generation %s is not kept: %s", generation.id, error)
            return None
        self._remember(generation.id)
        return expires

    async def get(self, generation_id: str, owner: str = "") -> Kept | None:
        """See `RecordStore`."""
        stored = await self._read(generation_id, owner)
        if stored is None:
            return None
        data, expires = stored
        self._remember(generation_id)
        try:
            return Kept(Generation.from_json(data), expires)
        except ValueError as error:
            raise DamagedRecordError(generation_id) from error

    async def delete(self, generation_id: str, owner: str = "") -> bool:
        """See `RecordStore`; damaged ones go as well."""
        try:
            if await self._read(generation_id, owner) is None:
                return False
        except DamagedRecordError:
            logger.warning("the damaged record of generation %s is deleted", generation_id)
        keys = (_record_key(generation_id), _scores_key(generation_id))
        self._remember(generation_id)  # until the next sweep
        return await self._run(self._redis.delete(*keys)) > 0

    @property
    def erased(self) -> bool:
        """See `RecordStore`: Redis' own files, if it has any, are not looked at."""
        return True

    async def sweep(self) -> list[str]:
        """See `RecordStore`: of the ids that were seen here, those that are not kept any more."""
        gone: list[str] = []
        known = list(self._known)
        for start in range(0, len(known), _PIECE):
            piece = known[start : start + _PIECE]
            pipeline = self._redis.pipeline(transaction=False)
            for generation_id in piece:
                pipeline.exists(_record_key(generation_id))
            replies = await self._run(pipeline.execute())
            gone += [
                generation_id
                for generation_id, kept in zip(piece, replies, strict=True)
                if not kept
            ]
        for generation_id in gone:
            self._known.pop(generation_id, None)
        return gone

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
        await self._redis.connection_pool.disconnect()

    # -- scores --------------------------------------------------------------------------------

    async def put_scores(self, generation_id: str, scores: bytes) -> None:
        """See `ScoreStore`; what cannot be written is logged."""
        if len(scores) > _MOST_SCORE_BYTES:
            return
        keys = (_record_key(generation_id), _scores_key(generation_id))
        try:
            await self._run(self._redis.eval(_PUT_SCORES, len(keys), *keys, scores))
        except StoreError as error:
            logger.error("the scores of generation %s are not kept: %s", generation_id, error)

    async def get_scores(self, generation_id: str) -> bytes | None:
        """See `ScoreStore`."""
        return await self._value(_scores_key(generation_id))

    # -- inside --------------------------------------------------------------------------------

    async def _read(self, generation_id: str, owner: str) -> tuple[bytes, int] | None:
        """A record as JSON and when it goes, if it is this owner's.

        Raises:
            DamagedRecordError: it is no record.
        """
        value = await self._value(_record_key(generation_id))
        if value is None:
            return None
        head, _, data = value.partition(b"\n")
        try:
            fields = json.loads(head)
            its_owner, expires = fields["owner"], int(fields["expires"])
        except (ValueError, TypeError, KeyError) as error:
            raise DamagedRecordError(generation_id) from error
        return (data, expires) if its_owner in ("", owner) else None

    async def _value(self, key: str) -> bytes | None:
        command: Awaitable[Any] = self._redis.get(key)  # which does not decode
        value: bytes | None = await self._run(command)
        return value

    def _remember(self, generation_id: str) -> None:
        self._known.pop(generation_id, None)
        self._known[generation_id] = None
        if len(self._known) > self._max_records:
            del self._known[next(iter(self._known))]

    async def _run(self, command: Awaitable[T]) -> T:
        """The answer to a command.

        Raises:
            StoreError: there is none.
        """
        try:
            return await command
        except (RedisError, OSError) as error:
            raise StoreError(f"the store cannot be used: {_reason(error)}") from error


def _record_key(generation_id: str) -> str:
    return f"at2:{_LAYOUT}:record:{{{generation_id}}}"


def _scores_key(generation_id: str) -> str:
    return f"at2:{_LAYOUT}:scores:{{{generation_id}}}"


def _try(place: str) -> None:
    """Talk to the server once.

    Raises:
        StoreError: it answers, and refuses.
    """
    client = redis.Redis.from_url(
        place, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS, retry=None
    )
    try:
        client.ping()
    except (AuthenticationError, ResponseError) as error:
        raise StoreError(f"the store cannot be used: {_reason(error)}") from error
    except (RedisError, OSError) as error:
        logger.warning("no generation is kept until the store answers: %s", _reason(error))
    finally:
        client.close()


def _reason(error: Exception) -> str:
    """What is wrong, in one line, without address or password."""
    if isinstance(error, NoAnswerError | TimeoutError | asyncio.TimeoutError):
        return f"Redis does not answer within {_SECONDS:g} s"
    if isinstance(error, AuthenticationError):
        return "Redis refuses the password"
    if isinstance(error, NoConnectionError | OSError):
        return "Redis cannot be reached"
    return f"Redis says {' '.join(str(error).split())!r}"
