"""Whether an index answers from its lists or graph yet, or still compares every row.

Milvus compares rows one by one until they are written out, indexed, and the index is loaded, which takes half a minute.
A recall that is measured before that says nothing.
"""

import asyncio
import time
from typing import Any, Final

import grpc
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from services.common.vectors.engine import Engine

__all__ = ["settle"]

# Rows for which Milvus builds no index.
_UNINDEXED_ROWS: Final = 1_024
_POLL_S: Final = 0.5
# How fast milvus-lite builds an index, at the least.
_LITE_BUILD_S: Final = 2.0
_LITE_ROWS_PER_S: Final = 5_000


async def settle(engine: Engine, name: str, *, limit_s: float) -> bool:
    """Have a collection's rows written out, and wait until all that are to be found by their index are.

    Returns:
        Whether that is so; False where it takes longer than `limit_s` seconds.
    """
    end = time.monotonic() + limit_s
    await engine.run(lambda client, left_s: client.flush(name, timeout=left_s), reads=name)
    flushed = time.monotonic()
    while not await engine.run(lambda client, left_s: _is_settled(client, name, left_s, flushed), reads=name):
        if time.monotonic() >= end:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _is_settled(client: MilvusClient, name: str, left_s: float, flushed: float) -> bool:
    index = client.describe_index(name, "vector", timeout=left_s)
    if index.get("index_type") == "FLAT":
        # Every row is compared, before and after.
        return True
    rows = int(index.get("total_rows", 0))
    # Its "state" is of no use: it is Finished before building begins.
    if int(index.get("pending_index_rows", 0)) > 0:
        return False
    try:
        loaded: list[Any] = client.list_loaded_segments(name, timeout=left_s)
    except grpc.RpcError as exc:
        if exc.code() is grpc.StatusCode.UNIMPLEMENTED:
            return _lite_is_settled(client, name, left_s, flushed)
        raise
    except MilvusException:
        # Segments come and go while they are loaded.
        return False
    indexed = all(segment.index_name or segment.num_rows < _UNINDEXED_ROWS for segment in loaded)
    return indexed and sum(segment.num_rows for segment in loaded) >= rows


def _lite_is_settled(client: MilvusClient, name: str, left_s: float, flushed: float) -> bool:
    """milvus-lite builds in the background after a flush and says nothing of it: the time that takes has passed."""
    rows = int(client.get_collection_stats(name, timeout=left_s)["row_count"])
    return time.monotonic() - flushed >= _LITE_BUILD_S + rows / _LITE_ROWS_PER_S
