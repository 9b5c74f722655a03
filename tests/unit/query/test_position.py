import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.domain import Box
from services.query.domain import Place, Placement, Relation, RelationKind
from services.query.position import (
    Layout,
    Wishes,
    as_array,
    count_agreement,
    place_agreement,
    relation_agreement,
)

LEFT, RIGHT = Box(0.0, 0.4, 0.2, 0.6), Box(0.8, 0.4, 1.0, 0.6)
TOP, BOTTOM, MIDDLE = Box(0.4, 0.0, 0.6, 0.2), Box(0.4, 0.8, 0.6, 1.0), Box(0.4, 0.4, 0.6, 0.6)
KINDS = list(RelationKind)
OPPOSITE = {
    RelationKind.LEFT_OF: RelationKind.RIGHT_OF,
    RelationKind.ABOVE: RelationKind.BELOW,
    RelationKind.NEAR: RelationKind.NEAR,
}


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    x0, y0 = draw(st.floats(0, 0.9)), draw(st.floats(0, 0.9))
    return Box(x0, y0, draw(st.floats(x0 + 0.01, 1)), draw(st.floats(y0 + 0.01, 1)))


def related(first: Box, kind: RelationKind, second: Box) -> float:
    return relation_agreement(as_array([first]), as_array([second]), kind).item()


@pytest.mark.parametrize(
    ("place", "where"),
    [(Place.LEFT, LEFT), (Place.RIGHT, RIGHT), (Place.TOP, TOP), (Place.BOTTOM, BOTTOM), (Place.CENTER, MIDDLE)],
)
def test_a_place_is_a_third_of_the_picture(place: Place, where: Box) -> None:
    everywhere = [LEFT, RIGHT, TOP, BOTTOM, MIDDLE]
    agreement = dict(zip(everywhere, place_agreement(as_array(everywhere), Placement(place)), strict=True))
    assert agreement[where] == 1
    assert sum(value == 1 for value in agreement.values()) == 1


def test_a_box_is_asked_for_by_what_lies_in_it() -> None:
    half = Placement(box=Box(0.0, 0.0, 0.5, 1.0))
    assert place_agreement(as_array([LEFT, RIGHT, MIDDLE]), half).tolist() == pytest.approx([1, 0, 0.5])


@given(boxes(), boxes(), st.sampled_from(KINDS))
def test_agreement_is_a_share_and_turns_around(first: Box, second: Box, kind: RelationKind) -> None:
    value = related(first, kind, second)
    assert 0 <= value <= 1
    if kind in OPPOSITE:
        assert related(second, OPPOSITE[kind], first) == pytest.approx(value, abs=1e-9)


def test_relations() -> None:
    assert related(LEFT, RelationKind.LEFT_OF, RIGHT) == 1
    assert related(RIGHT, RelationKind.LEFT_OF, LEFT) == 0
    assert related(TOP, RelationKind.ABOVE, MIDDLE) == 1
    assert related(TOP, RelationKind.BELOW, MIDDLE) == 0
    assert related(MIDDLE, RelationKind.NEAR, Box(0.62, 0.4, 0.8, 0.6)) > 0.9
    assert related(LEFT, RelationKind.NEAR, RIGHT) == 0
    assert related(MIDDLE, RelationKind.INSIDE, Box(0.2, 0.2, 0.8, 0.8)) == 1
    assert related(Box(0.2, 0.2, 0.8, 0.8), RelationKind.INSIDE, MIDDLE) < 0.2


def test_counts() -> None:
    assert [count_agreement(found, 2) for found in (0, 1, 2, 3, 9)] == [0, 0.5, 1, 0.5, 0]


OWL, BALL, OTHER = 0.7, 0.65, 0.2


def layout(*segments: tuple[Box, float, float]) -> Layout:
    """Segments with their cosines to an owl and to a ball, in a collection that has both."""
    cosines = np.array([[owl, ball] for _, owl, ball in segments]).T.reshape(2, -1)
    return Layout(as_array([box for box, _, _ in segments]), cosines, np.array([OWL, BALL]))


def wishes(place: Place | None = None, count: int = 0, kind: RelationKind | None = None) -> Wishes:
    relations = (Relation(0, kind, 1),) if kind else ()
    return Wishes((Placement(place) if place else None, None), (count, 0), relations, 0.3)


def test_the_thing_itself_must_stand_there() -> None:
    owl_left = layout((LEFT, OWL, OTHER), (RIGHT, OTHER, BALL))
    owl_right = layout((RIGHT, OWL, OTHER), (LEFT, OTHER, BALL))
    assert owl_left.agreement(wishes(Place.LEFT)) > 0.9
    assert owl_right.agreement(wishes(Place.LEFT)) < 0.1
    assert owl_left.agreement(wishes(kind=RelationKind.LEFT_OF)) > 0.9
    assert owl_right.agreement(wishes(kind=RelationKind.LEFT_OF)) < 0.1


def test_what_is_not_in_the_image_stands_nowhere() -> None:
    assert layout((LEFT, OTHER, OTHER), (RIGHT, OTHER, BALL)).agreement(wishes(Place.LEFT)) == 0
    assert layout((LEFT, OWL, OTHER), (RIGHT, OTHER, OTHER)).agreement(wishes(kind=RelationKind.LEFT_OF)) == 0
    assert layout().agreement(wishes(Place.LEFT)) == 0


def test_things_are_counted_once_each() -> None:
    twice_the_same = (Box(0.0, 0.4, 0.2, 0.6), OWL, OTHER), (Box(0.0, 0.4, 0.21, 0.62), 0.69, OTHER)
    assert layout(*twice_the_same, (RIGHT, 0.68, OTHER)).agreement(wishes(count=2)) == 1
    assert layout(*twice_the_same).agreement(wishes(count=2)) == 0.5
    assert layout((LEFT, OWL, OTHER), (RIGHT, OTHER, BALL)).agreement(wishes(count=2)) == 0.5


def test_one_segment_is_not_two_things() -> None:
    assert layout((MIDDLE, OWL, BALL)).agreement(wishes(kind=RelationKind.NEAR)) == 0
