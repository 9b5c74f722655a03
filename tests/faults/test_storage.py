"""Engines that are there and do not take what they are given: disks that are full or read-only, writes denied."""

import grpc
import pytest

from benchmarks.cluster import Cluster
from saccade import ApiError
from tests.faults.support import PASSING, Callers, Disk

# Milvus' own switch for operators: every write is refused, reads go on.
DENY_WRITES = {"QUOTAANDLIMITS_ENABLED": "true", "QUOTAANDLIMITS_LIMITWRITING_FORCEDENY": "true"}


def test_a_full_object_store_says_so_and_goes_on_when_there_is_room(callers: Callers, full_disk: Disk) -> None:
    with full_disk.full():
        with pytest.raises(ApiError) as caught:
            callers.store("durable")
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.UNAVAILABLE, "OBJECTS_FULL")
        assert "full" in caught.value.message
        # What is there can still be found and read.
        callers.search()
        callers.read()
        assert {error.code for error in callers.all_at_once()} == {grpc.StatusCode.UNAVAILABLE}
    callers.works_again()


def test_a_read_only_object_store_says_so_and_goes_on_when_it_is_writable(callers: Callers, full_disk: Disk) -> None:
    with full_disk.read_only():
        with pytest.raises(ApiError) as caught:
            callers.store("durable")
        assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "OBJECTS_REFUSED")
        callers.search()
        callers.read()
        callers.all_at_once()
    callers.works_again()


def test_what_milvus_refuses_is_stored_and_indexed_later(callers: Callers, cluster: Cluster) -> None:
    usual = cluster.processes["milvus"]
    cluster.replace("milvus", usual.variant(DENY_WRITES))
    try:
        # The object store is the truth: what only has to be kept is acknowledged.
        callers.store("durable", deadline_s=30)
        with pytest.raises(ApiError) as caught:
            callers.store("searchable")
        assert caught.value.code in PASSING
    finally:
        cluster.replace("milvus", usual)
    callers.works_again()
