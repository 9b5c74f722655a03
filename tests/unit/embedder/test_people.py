from services.common.domain import Lane
from services.common.embedder_client import EmbedderClient
from services.embedder.people import LATELY_S, People
from tests.unit.embedder.conftest import Served
from tests.unit.embedder.pictures import encoded, picture


def test_they_are_there_for_a_while_after_they_asked() -> None:
    now = [100.0]
    people = People(now=lambda: now[0])
    assert not people.are_here
    assert people.bulk_batch(32) == 32
    people.seen()
    assert people.are_here
    assert people.bulk_batch(32) == 8
    assert people.bulk_batch(1) == 1
    now[0] += LATELY_S
    assert not people.are_here


async def test_who_has_bulk_work_done_learns_of_them(served: Served) -> None:
    client = EmbedderClient(f"dns:///{served.address}", timeout_s=30)
    people = served.engines.people
    people._seen_at = float("-inf")
    assert not isinstance((await client.embed_images([encoded(picture())], lane=Lane.BULK))[0], Exception)
    assert not client.people_are_here
    await client.embed_texts(["red"])
    # However long that took.
    people._seen_at = float("inf")
    await client.embed_images([encoded(picture())], lane=Lane.BULK)
    assert client.people_are_here
    await client.close()
