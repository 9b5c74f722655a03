import io
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.query_sets import demo_arrangements, exclusion_queries, object_queries
from saccade.labels import Label, LabelledObject

LEFT, RIGHT = (0.0, 0.0, 0.25, 1.0), (0.5, 0.0, 1.0, 1.0)


@pytest.fixture
def labels(tmp_path: Path) -> list[Label]:
    """Owls in a, b and c; a dog in b and d; a bus in c alone."""
    shown = {"a": ["owl"], "b": ["owl", "dog"], "c": ["owl", "bus"], "d": ["dog"]}
    labels = []
    for name, things in shown.items():
        path = tmp_path / f"{name}.jpg"
        Image.new("RGB", (80, 40)).save(path)
        boxes = [RIGHT if name == "b" else LEFT, LEFT]
        objects = tuple(LabelledObject(thing, box) for thing, box in zip(things, boxes, strict=False))
        labels.append(Label(path.name, path, id=name, objects=objects))
    return labels


def test_objects_that_stand_in_several_images(labels: list[Label]) -> None:
    queries = {query.text: query for query in object_queries(labels)}
    assert set(queries) == {"a photo of an owl", "a photo of a dog"}
    owl = queries["a photo of an owl"]
    assert owl.relevant == {"a", "b", "c"}
    # Cut from where it is largest.
    assert owl.source == "b"
    with Image.open(io.BytesIO(owl.picture())) as crop:
        assert crop.size == (40, 40)


def test_exclusions_have_something_to_remove_and_something_to_keep(labels: list[Label]) -> None:
    queries = {query.wanted: query for query in exclusion_queries(labels)}
    owl = queries["a photo of an owl"]
    assert owl.unwanted in {"a photo of a dog", "a photo of a bus"}
    assert owl.relevant & owl.holding == set()
    assert owl.relevant | owl.holding >= {"a", "b", "c"}
    # The only bus stands with an owl: without owls there is none to find.
    assert "a photo of a bus" not in queries


def test_each_arrangement_has_one_right_answer_among_its_images() -> None:
    queries = demo_arrangements(4)
    assert [query.kind for query in queries] == ["place", "relation", "count", "place"]
    names = [name for query in queries for name in query.images]
    assert len(names) == len(set(names))
    assert all(query.wanted in query.images for query in queries)
