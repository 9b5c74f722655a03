from services.embedder.people import LATELY_S, People


def test_they_are_there_for_a_while_after_they_asked() -> None:
    now = [100.0]
    people = People(lambda: now[0])
    assert not people.are_here
    assert people.bulk_batch(32) == 32
    people.seen()
    assert people.are_here
    assert people.bulk_batch(32) == 8
    assert people.bulk_batch(1) == 1
    now[0] += LATELY_S
    assert not people.are_here
