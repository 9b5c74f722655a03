from itertools import combinations

from demo.holdout import held_out
from demo.labels import read_labels
from demo.queries import SMALL_AREA, query_variant, region_queries, relevant_ids

LABELS = read_labels()


def test_a_variant_shows_the_same_objects_otherwise() -> None:
    label = LABELS[0]
    first, again, other = (query_variant(label, seed, side=96) for seed in (1, 1, 2))
    assert {item.name for item in first.objects} == set(label.names)
    assert first.background != label.background
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()


def test_region_queries_are_small_held_out_and_reproducible() -> None:
    names = {name for label in LABELS[:100] for name in label.names}
    queries = region_queries(12, 3, among=names, side=96)
    assert len(queries) == 12
    for query in queries:
        assert query.target in query.scene.objects
        assert query.target.area_fraction < SMALL_AREA
        assert query.target.name in names
        shown = [item.name for item in query.scene.objects]
        assert all(frozenset(pair) in held_out().pairs for pair in combinations(shown, 2))
    again = region_queries(12, 3, among=names, side=96)
    assert [q.target for q in queries] == [q.target for q in again]


def test_relevant_scenes_show_the_object() -> None:
    name = LABELS[0].names[0]
    assert "scene-0000" in relevant_ids(LABELS, name)
    assert relevant_ids(LABELS, "nothing") == frozenset()
