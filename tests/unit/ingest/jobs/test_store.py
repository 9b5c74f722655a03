import pytest

from services.common.errors import InvalidArgument, NotFound
from services.common.objects import ObjectStore
from services.ingest.jobs.record import JobRecord, JobState, Lease, check_job_id, new_job_id
from services.ingest.jobs.store import JobStore
from services.ingest.markers import now_ms


def job(number: int, collection: str = "c") -> JobRecord:
    """A job with a lower number for a newer one, as ids are."""
    return JobRecord(id=f"{number:018}", kind="reindex", collection=collection, created_at_ms=1)


@pytest.fixture
async def store(objects: ObjectStore) -> JobStore:
    return JobStore(objects, lease_s=10)


def test_newer_ids_sort_first(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for ms in (1, 1_000, 1_764_000_000_000, 1_764_000_000_001, 4_000_000_000_000):
        monkeypatch.setattr("services.ingest.jobs.record.now_ms", lambda ms=ms: ms)
        made.append(check_job_id(new_job_id()))
    assert sorted(made, reverse=True) == made
    for wrong in ("", "a/b", made[0].upper(), made[0] + "a", "ä" * 18):
        with pytest.raises(InvalidArgument):
            check_job_id(wrong)


async def test_pages_of_one_collection(store: JobStore) -> None:
    for number in range(10):
        await store.write(job(number, "c" if number % 3 == 0 else "other"))
    found, after = await store.page(collection="c", start_after="", limit=2)
    assert [int(one.id) for one in found] == [0, 3]
    found, after = await store.page(collection="c", start_after=after, limit=2)
    assert [int(one.id) for one in found] == [6, 9]
    assert after == "" or await store.page(collection="c", start_after=after, limit=2) == ([], "")
    found, after = await store.page(collection="", start_after="", limit=10)
    assert len(found) == 10
    found, after = await store.page(collection="nowhere", start_after="", limit=3)
    assert (found, after) == ([], "")


async def test_a_new_job_is_left_to_its_replica_for_a_moment(store: JobStore) -> None:
    await store.add(job(1))
    assert await store.active() == [job(1).id]
    assert (await store.lease(job(1).id)).held_by_other_than(store.owner)
    await store.hold(job(1).id)
    assert not (await store.lease(job(1).id)).held_by_other_than(store.owner)
    await store.close(job(1).id)
    assert await store.active() == []
    assert await store.lease(job(1).id) == Lease()
    with pytest.raises(NotFound):
        await store.get(job(2).id)


async def test_the_oldest_that_have_ended_go(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.ingest.jobs.store._KEPT", 3)
    for number in range(9, 1, -1):
        state = JobState.RUNNING if number == 8 else JobState.SUCCEEDED
        await store.write(job(number).model_copy(update={"state": state, "ended_at_ms": now_ms()}))
    await store.add(job(1))
    found, _ = await store.page(collection="", start_after="", limit=100)
    # Those that run stay, however old.
    assert [int(one.id) for one in found] == [1, 2, 3, 8]
