"""Engines that are there and do not take what they are given: disks that are full or read-only, writes denied."""

from pathlib import Path

import grpc
import pytest

from benchmarks.cluster import Cluster
from saccade import ApiError
from services.stack.engines import EngineMissing
from services.stack.processes import wait_until
from tests.engines import not_installed
from tests.faults.support import PASSING, PATIENCE_S, SETTINGS, Callers, Disk, small_disk

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
        # Milvus looks at its limits every few seconds, and takes some writes at first. From then on indexing waits, so
        # that callers in a hurry run out of time.
        refusals: list[ApiError] = []

        def is_refused() -> bool:
            try:
                callers.store("searchable")
            except ApiError as exc:
                refusals.append(exc)
            return bool(refusals)

        assert wait_until(is_refused, timeout_s=PATIENCE_S), refusals
        assert {error.code for error in refusals} <= PASSING
        # The object store is the truth: what only has to be kept is acknowledged.
        callers.store("durable", deadline_s=30)
    finally:
        cluster.replace("milvus", usual)
    callers.works_again()


@pytest.mark.thorough
def test_a_full_disk_of_milvus_loses_nothing(tmp_path: Path) -> None:
    """Milvus itself may have to be started again, as a supervisor does; nothing else has."""
    with small_disk(tmp_path / "disk", 800) as disk:
        if disk is None:
            pytest.skip("mounting a small disk needs root")
        try:
            described = Cluster(tmp_path, settings=SETTINGS, milvus_dir=disk.path / "milvus")
        except EngineMissing as exc:
            not_installed(str(exc))
        with described as cluster, cluster.client() as client:
            callers = Callers(cluster, client)
            callers.begin()
            with disk.full():
                callers.store("durable", deadline_s=30)
                callers.all_at_once()
            cluster.processes["milvus"].restart()
            callers.works_again()
