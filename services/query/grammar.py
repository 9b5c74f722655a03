"""What English text says of place, relation and count.

    text      = thing [place] | thing relation thing
    thing     = [number] words
    place     = ("on" | "at" | "in" | "to") "the" ("left" | "right" | "top" | "bottom" | "middle" | "center" | "centre")
                ["side" | "half" | "part" | "edge" | "corner"] ["of the" ("picture" | "image" | "photo" | "scene")]
              | "in the" ("upper" | "lower") ("part" | "half") ...
    relation  = ["to the"] "left of" | ["to the"] "right of" | "above" | "over" | "on top of" | "below" | "under"
              | "beneath" | "next to" | "beside" | "near" | "inside" | "inside of" | "within"
    number    = "two" .. "ten" | "2" .. "10"

A number asks for so many of a plural ("two dogs"). What does not fit is one thing, as written. "a photo of" and the
like in front are left with the first thing, for models know them.
"""

import re
from dataclasses import dataclass
from typing import Final

import inflect

from services.query.domain import Place, RelationKind

__all__ = ["Phrase", "Sentence", "read_text"]


@dataclass(frozen=True, slots=True)
class Phrase:
    """One thing: its words, where it should be and how many of it; None and 0: wherever, however many."""

    text: str
    place: Place | None = None
    count: int = 0


@dataclass(frozen=True, slots=True)
class Sentence:
    """What a text was read as: one thing, or two and how the first should stand to the second."""

    first: Phrase
    relation: RelationKind | None = None
    second: Phrase | None = None


_PICTURE: Final = r"(?:\s+of\s+(?:the|this|a)\s+(?:picture|image|photo|photograph|scene|frame))?"
_PLACE: Final = re.compile(
    r"^(?P<thing>.+?)\s*,?\s+(?:on|at|in|to|towards?)\s+the\s+"
    r"(?:(?P<side>left|right|top|bottom|middle|cent(?:er|re))(?:[\s-]+(?:side|half|part|edge|third))?"
    r"|(?P<level>upper|lower)\s+(?:half|part|third))" + _PICTURE + r"$",
    re.IGNORECASE,
)
_PLACES: Final = {
    "left": Place.LEFT,
    "right": Place.RIGHT,
    "top": Place.TOP,
    "upper": Place.TOP,
    "bottom": Place.BOTTOM,
    "lower": Place.BOTTOM,
    "middle": Place.CENTER,
    "center": Place.CENTER,
    "centre": Place.CENTER,
}
# Longer ones first: "on top of" begins with "on".
_RELATIONS: Final = (
    (r"(?:on\s+the\s+|to\s+the\s+)?left\s+of", RelationKind.LEFT_OF),
    (r"(?:on\s+the\s+|to\s+the\s+)?right\s+of", RelationKind.RIGHT_OF),
    (r"on\s+top\s+of|above|over", RelationKind.ABOVE),
    (r"below|under|underneath|beneath", RelationKind.BELOW),
    (r"next\s+to|beside|close\s+to|near", RelationKind.NEAR),
    (r"inside(?:\s+of)?|within", RelationKind.INSIDE),
)
_SPLITS: Final = tuple(
    (re.compile(rf"^(?P<first>.+?)\s+(?:is\s+|are\s+)?(?:{words})\s+(?P<second>.+)$", re.IGNORECASE), kind)
    for words, kind in _RELATIONS
)
_NUMBERS: Final = {
    word: number
    for number, word in enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=2)
} | {str(number): number for number in range(2, 11)}
_COUNTED: Final = re.compile(
    rf"^(?P<lead>(?:an?\s+)?(?:photo|picture|image|scene)\s+(?:of|with)\s+)?(?P<number>{'|'.join(_NUMBERS)})\s+(?P<many>\S.*)$",
    re.IGNORECASE,
)
# "the left of the picture" is a place, and no relation to a picture.
_NO_THING: Final = re.compile(r"^(?:the|this|a)\s+(?:picture|image|photo|photograph|scene|frame)$", re.IGNORECASE)
_english: Final = inflect.engine()


def read_text(text: str) -> Sentence:
    """The reading of a text; one thing, as written, where the grammar does not know better."""
    flat = " ".join(text.split()).rstrip(".!")
    if placed := _placed(flat):
        return Sentence(placed)
    for split, kind in _SPLITS:
        match = split.match(flat)
        if match and not _NO_THING.match(match["second"]):
            return Sentence(_counted(match["first"]), kind, _counted(match["second"]))
    phrase = _counted(flat)
    return Sentence(phrase if phrase.count else Phrase(text))


def _placed(text: str) -> Phrase | None:
    match = _PLACE.match(text)
    if match is None:
        return None
    thing = _counted(match["thing"])
    return Phrase(thing.text, _PLACES[(match["side"] or match["level"]).lower()], thing.count)


def _counted(text: str) -> Phrase:
    match = _COUNTED.match(text)
    if match is None:
        return Phrase(text)
    one = _one_of(match["many"])
    if not one:
        return Phrase(text)
    return Phrase(f"{match['lead'] or ''}{one}", count=_NUMBERS[match["number"].lower()])


def _one_of(many: str) -> str:
    """A plural's singular with its article; empty where there is none."""
    try:
        one = _english.singular_noun(many)
        return str(_english.a(one)) if one else ""
    # inflect raises nearly anything on what are no words.
    except Exception:
        return ""
