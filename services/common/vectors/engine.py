"""The connection to Milvus: made when first needed, and every error one of our own."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import grpc
from pymilvus import MilvusClient
from pymilvus.exceptions import ConnectionConfigException, MilvusException, ParamError

from services.common.deadline import time_left_s
from services.common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    NotFound,
    Overloaded,
    SaccadeError,
    Unavailable,
)
from services.common.retry import Guard
from services.common.settings import VectorSettings
from services.common.threads import Workers

__all__ = ["ALIAS_NOT_FOUND", "COLLECTION_NOT_FOUND", "Engine", "IndexMissing"]

# Longest wait for a connection, in seconds.
CONNECT_TIMEOUT_S: Final = 5.0

# Milvus' own codes; see `merr` in its source.
COLLECTION_NOT_FOUND: Final = 100
COLLECTION_NOT_LOADED: Final = 101
ALIAS_NOT_FOUND: Final = 1600
_BUSY: Final = frozenset({3, 4, 5, 8, 9})  # memory, requests, disk and rate limits, and writes that quotas deny
_AWAY: Final = frozenset({1, 2})  # not ready, no connection
# Too few nodes; replicas, channels and segments on the move; nodes, storage and log gone.
_PASSING: Final = frozenset({7, 103, *range(400, 700), *range(900, 1100), *range(1300, 1400)})
_UNAVAILABLE: Final = "MILVUS_UNAVAILABLE"

_T = TypeVar("_T")


class IndexMissing(NotFound):
    """The index has no such collection."""

    default_reason = "INDEX_MISSING"


class Engine:
    """Runs blocking calls on one Milvus client. Safe for concurrent use."""

    def __init__(self, settings: VectorSettings) -> None:
        """Connect when first used."""
        # The library logs a trace for each error that it raises; ours tells it already.
        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
        self._settings = settings
        self._workers = Workers("Milvus", settings.milvus_concurrency, settings.milvus_timeout_s)
        self._guard = Guard("milvus", where=f"Milvus at {settings.milvus_uri}", reason=_UNAVAILABLE)
        self._client: MilvusClient | None = None
        self._connecting: asyncio.Task[MilvusClient] | None = None

    async def run(self, call: Callable[[MilvusClient, float], _T], *, reads: str = "", again: bool = False) -> _T:
        """Run `call(client, seconds_left)` in a thread.

        Args:
            call: What to do.
            reads: A collection that is loaded, and the call made again, if it turns out not to be: milvus-lite forgets
                with every restart which ones are.
            again: Whether it may be made again where Milvus was away, because twice is as good as once; reads are.

        Raises:
            Unavailable: Milvus can not be reached, or is not ready.
            DeadlineExceeded: it did not answer in time.
            Overloaded: it refuses for its own protection.
            IndexMissing: there is no such collection.
            Internal: it refused for another reason.
        """
        return await self._guard.call(lambda: self._run(call, reads), again=again or bool(reads))

    async def _run(self, call: Callable[[MilvusClient, float], _T], reads: str) -> _T:
        client = await self._connected()

        def attempt(left_s: float) -> _T:
            end = time.monotonic() + left_s
            try:
                return call(client, left_s)
            except MilvusException as exc:
                if exc.code != COLLECTION_NOT_LOADED or not reads:
                    raise
            client.load_collection(reads, timeout=max(0.1, end - time.monotonic()))
            return call(client, max(0.1, end - time.monotonic()))

        try:
            return await self._workers.run(attempt)
        except (MilvusException, grpc.RpcError) as exc:
            raise self.wrapped(exc) from exc

    async def close(self) -> None:
        """Close the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        self._workers.close()
        if self._client is not None:
            client, self._client = self._client, None
            await asyncio.to_thread(client.close)

    async def _connected(self) -> MilvusClient:
        if self._client is not None:
            return self._client
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._connection_done)
        # Many callers wait for one attempt; the first that gives up does not take it from the others.
        left_s = time_left_s(self._settings.milvus_timeout_s)
        try:
            async with asyncio.timeout(left_s):
                return await asyncio.shield(self._connecting)
        except TimeoutError as exc:
            raise DeadlineExceeded(f"Milvus at {self._settings.milvus_uri} did not answer in time") from exc

    def _connection_done(self, task: "asyncio.Task[MilvusClient]") -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._client = task.result()

    async def _connect(self) -> MilvusClient:
        if not self._settings.milvus_uri.startswith(("http://", "https://", "tcp://", "unix:")):
            # The client would take it for the name of a file, and open a database of its own there.
            raise FailedPrecondition(
                f"milvus_uri must be http(s)://host:port, not {self._settings.milvus_uri!r}", reason="MILVUS_URI"
            )
        token = self._settings.milvus_token.get_secret_value()
        limit_s = min(CONNECT_TIMEOUT_S, self._settings.milvus_timeout_s)

        def connect() -> MilvusClient:
            return MilvusClient(self._settings.milvus_uri, token=token, timeout=limit_s, dedicated=True)

        try:
            async with asyncio.timeout(limit_s * 2):
                return await asyncio.to_thread(connect)
        except TimeoutError as exc:
            raise self._unavailable("no answer") from exc
        except (ConnectionConfigException, ParamError) as exc:
            raise FailedPrecondition(
                f"milvus_uri {self._settings.milvus_uri!r} is no address: {exc.message}", reason="MILVUS_URI"
            ) from exc
        except (MilvusException, grpc.RpcError) as exc:
            error = self.wrapped(exc)
            raise error from exc

    def _unavailable(self, why: str, *, reason: str = _UNAVAILABLE) -> Unavailable:
        where = self._settings.milvus_uri
        return Unavailable(f"Milvus at {where} does not answer: {why}", reason=reason, retry_after_s=1.0)

    def wrapped(self, exc: Exception) -> SaccadeError:
        """What an exception of the client is in our own tree."""
        code: Any = exc.code() if isinstance(exc, grpc.RpcError) else getattr(exc, "code", None)
        text = (exc.details() if isinstance(exc, grpc.RpcError) else getattr(exc, "message", "")) or str(exc)
        if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED} or code in _AWAY | _PASSING:
            # What passes may be about one collection, while others are answered.
            return self._unavailable(str(text), reason="MILVUS_NOT_READY" if code in _PASSING else _UNAVAILABLE)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"Milvus at {self._settings.milvus_uri} did not answer in time")
        if code in {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}:
            return FailedPrecondition(f"Milvus refuses us: {text}; check milvus_token", reason="MILVUS_REFUSED")
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED or code in _BUSY:
            return Overloaded(f"Milvus is at its limit: {text}", retry_after_s=1.0)
        if code == COLLECTION_NOT_FOUND:
            return IndexMissing(
                f"the index has lost the collection ({text}); `saccade rebuild`, or RepairCollection, restores it"
            )
        return Internal(f"Milvus refused a request: {text}", reason=f"MILVUS_{code}")
