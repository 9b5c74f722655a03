import pytest

from services.common.domain import Lane
from services.common.embedder_client import EmbedderClient
from services.embedder.people import LATELY_S, People
from tests.unit.embedder.conftest import Served
from tests.unit.embedder.pictures import encoded, picture


@pytest.mark.parametrize(("later_s", "here", "batch"), [(0.0, True, 8), (LATELY_S, False, 32)])
def test_they_are_there_for_a_while_after_they_asked(later_s: float, here: bool, batch: int) -> None:
    now = [100.0]
    people = People(now=lambda: now[0])
    assert people.bulk_batch(32) == 32
    people.seen()
    now[0] += later_s
    assert people.are_here is here
    assert people.bulk_batch(32) == batch
    assert people.bulk_batch(1) == 1


@pytest.mark.parametrize("seen_at", [float("-inf"), float("inf")])
async def test_who_has_bulk_work_done_learns_of_them(served: Served, seen_at: float) -> None:
    client = EmbedderClient(f"dns:///{served.address}", timeout_s=30)
    # Never, or however long this takes.
    served.engines.people._seen_at = seen_at
    (vector,) = await client.embed_images([encoded(picture())], lane=Lane.BULK)
    assert not isinstance(vector, Exception)
    assert client.people_are_here is (seen_at > 0)
    await client.close()
