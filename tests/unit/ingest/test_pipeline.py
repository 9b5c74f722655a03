import numpy as np

from services.common.domain import Analysis, Box, Segment, Tag
from services.ingest.pipeline import model_tags

VECTOR = np.ones(1, np.float32)


def segment(index: int, *tags: Tag) -> Segment:
    return Segment(index, Box(0, 0, 1, 1), 1.0, 1.0, 1.0, tags=tags)


def test_a_tag_has_the_best_confidence_of_its_segments() -> None:
    segments = (
        segment(0, Tag("cat", "animals", 0.5), Tag("dog", "animals", 0.4)),
        segment(1, Tag("cat", "animals", 0.9)),
    )
    tags = model_tags(Analysis(VECTOR, segments, (Tag("indoors", "", 0.99),), 8, 8))
    assert [(tag.name, tag.category, tag.confidence) for tag in tags] == [
        ("cat", "animals", 0.9),
        ("dog", "animals", 0.4),
    ]


def test_without_segments_the_whole_image_counts() -> None:
    assert [tag.name for tag in model_tags(Analysis(VECTOR, (), (Tag("fog", "", 0.6),), 8, 8))] == ["fog"]
