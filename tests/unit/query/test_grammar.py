from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.query.domain import Place, RelationKind
from services.query.grammar import Phrase, Sentence, read_text


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("an owl on the left", Place.LEFT),
        ("an owl on the left side of the picture", Place.LEFT),
        ("an owl at the right edge", Place.RIGHT),
        ("An Owl, in the upper half", Place.TOP),
        ("an owl at the bottom of the image", Place.BOTTOM),
        ("an owl in the middle", Place.CENTER),
        ("an owl in the centre of the photo.", Place.CENTER),
    ],
)
def test_places(text: str, place: Place) -> None:
    sentence = read_text(text)
    assert sentence.first.place is place
    assert sentence.first.text.lower() == "an owl"
    assert sentence.second is None


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("to the left of", RelationKind.LEFT_OF),
        ("left of", RelationKind.LEFT_OF),
        ("is to the right of", RelationKind.RIGHT_OF),
        ("above", RelationKind.ABOVE),
        ("on top of", RelationKind.ABOVE),
        ("underneath", RelationKind.BELOW),
        ("is below", RelationKind.BELOW),
        ("next to", RelationKind.NEAR),
        ("beside", RelationKind.NEAR),
        ("inside of", RelationKind.INSIDE),
    ],
)
def test_relations(words: str, kind: RelationKind) -> None:
    assert read_text(f"an owl {words} a red ball") == Sentence(Phrase("an owl"), kind, Phrase("a red ball"))


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("two dogs", Phrase("a dog", count=2)),
        ("3 hot dogs", Phrase("a hot dog", count=3)),
        ("a photo of four buses", Phrase("a photo of a bus", count=4)),
        ("ten owls", Phrase("an owl", count=10)),
        ("five children", Phrase("a child", count=5)),
        ("two owls on the left", Phrase("an owl", Place.LEFT, 2)),
    ],
)
def test_counts(text: str, phrase: Phrase) -> None:
    assert read_text(text) == Sentence(phrase)


def test_a_relation_of_several_things() -> None:
    sentence = read_text("two dogs under a tree")
    assert sentence == Sentence(Phrase("a dog", count=2), RelationKind.BELOW, Phrase("a tree"))


@pytest.mark.parametrize(
    "text",
    [
        "an owl",
        "an owl and a bus",
        "an owl on a red background",
        "one dog",
        "two of a kind",
        "twenty dogs",
        "the left of the picture",
        "on the left",
        "above",
        "two",
        "a leftover pizza",
        "a bus stop  with two\nlines",
    ],
)
def test_what_it_does_not_know_stays_as_written(text: str) -> None:
    assert read_text(text) == Sentence(Phrase(text))


@given(st.text(max_size=60))
def test_any_text_has_a_reading_that_is_not_empty(text: str) -> None:
    sentence = read_text(text)
    for phrase in (sentence.first, sentence.second):
        assert phrase is None or phrase.text.strip() or not text.strip()
    assert (sentence.relation is None) == (sentence.second is None)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["two", "ten", "-of-", "of", "left", "the", "on", "s", ",", "-", "photo", "é", "'s", "over"])
    )
)
def test_any_words_have_a_reading(words: list[str]) -> None:
    assert read_text("two " + " ".join(words)).first.text


HOSTILE = [
    "two ",
    "on the left ",
    "a over ",
    "is ",
    "o",
    "two dogs and ",
    "in the upper ",
    "-",
    "two -of-",
    ", on",
    "ss ",
]


@pytest.mark.parametrize("start", ["", "two "])
@pytest.mark.parametrize("pattern", HOSTILE)
def test_reading_takes_time_in_proportion(pattern: str, start: str) -> None:
    def cost(size: int) -> float:
        """Processor time alone, the least of several, for other programs' work is none of this."""
        text = (start + pattern * size)[:size]
        best = float("inf")
        for _ in range(5):
            before = process_time()
            for _ in range(3):
                read_text(text)
            best = min(best, process_time() - before)
        return best

    # In proportion that is 8; by the square 64.
    assert cost(2_000) < 35 * cost(250) + 0.001
