from itertools import combinations

import pytest

from demo.arrangements import arrangements
from demo.holdout import held_out
from demo.scenes import Scene

MADE = arrangements(5, limit=5, side=128)


def names(scene: Scene) -> list[str]:
    return sorted(item.name for item in scene.objects)


def test_every_object_occurs_in_one_query_only_and_pairs_are_held_out() -> None:
    shown = [{name for scene in made.scenes for name in names(scene)} for made in MADE]
    assert not any(first & second for first, second in combinations(shown, 2))
    assert all(frozenset(pair) in held_out().pairs for some in shown for pair in combinations(some, 2))


@pytest.mark.parametrize("made", [made for made in MADE if made.kind != "count"], ids=lambda made: made.text)
def test_the_others_show_the_same_objects(made: object) -> None:
    first, *others = made.scenes  # type: ignore[attr-defined]
    assert all(names(other) == names(first) for other in others)
    assert all(item.area_fraction > 0.01 for scene in (first, *others) for item in scene.objects)


def test_counts() -> None:
    for made, count in zip([made for made in MADE if made.kind == "count"], (2, 3, 4, 2, 3), strict=True):
        assert [len(scene.objects) for scene in made.scenes] == [count, count - 1, count + 1]
        assert made.text.split()[0] == {2: "two", 3: "three", 4: "four"}[count]


def test_the_text_says_where_the_objects_are() -> None:
    for made in MADE:
        first = made.scenes[0].objects[0].box
        middle = (first[0] + first[2]) / 2, (first[1] + first[3]) / 2
        if "left" in made.text:
            assert middle[0] < 0.4
        if "right" in made.text:
            assert middle[0] > 0.6
        if "top" in made.text or "above" in made.text:
            assert middle[1] < 0.4


def test_the_same_seed_gives_the_same_scenes() -> None:
    again = arrangements(5, limit=1, side=128)
    assert [made.text for made in again] == [made.text for made in MADE[:3]]
    assert again[0].scenes[0].image.tobytes() == MADE[0].scenes[0].image.tobytes()
