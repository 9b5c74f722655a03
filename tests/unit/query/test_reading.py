import numpy as np
import pytest

from services.common.domain import Box, Point
from services.query.domain import (
    Address,
    Content,
    OwnVector,
    QueryPart,
    Region,
    Stored,
    StoredSegment,
    Text,
    Upload,
)
from services.query.reading import reading

BOX = Box(0, 0, 0.5, 0.5)


def parts(*contents: tuple[Content, float]) -> tuple[QueryPart, ...]:
    return tuple(QueryPart(at, content, weight) for at, (content, weight) in enumerate(contents))


def test_a_sum() -> None:
    query = parts((Text("", "an owl"), 1), (Stored("", "a1"), 0.5), (Text("", "a dog"), -1))
    assert reading(query) == 'text "an owl" + 0.5 x image "a1" - text "a dog"'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Upload("", b"..."), "the picture sent"),
        (Address("", "https://example.org/a.jpg"), "the picture at https://example.org/a.jpg"),
        (OwnVector("", np.ones(1, dtype=np.float32)), "a vector"),
        (StoredSegment("", "a1", 3), 'segment 3 of image "a1"'),
        (Region("", Upload("", b""), (), BOX), "the region at a box on the picture sent"),
        (Region("", Stored("", "a1"), (Point(0.5, 0.5),), None), 'the region at a point on image "a1"'),
        (Text("", "line\nbreak " + "x" * 100), f'text "line break {"x" * 68}…"'),
    ],
)
def test_each_content(content: Content, words: str) -> None:
    assert reading(parts((content, 1))) == words


def test_a_title() -> None:
    assert reading((), title="snowy owl") == 'title "snowy owl"'
    assert reading(parts((Text("", "owl"), 1)), title="snow") == 'text "owl", title "snow"'


def test_a_negative_first_part() -> None:
    assert reading(parts((Text("", "dog"), -2), (Text("", "owl"), 1))) == '- 2 x text "dog" + text "owl"'
