"""A query in words, for people who look at how it was carried out."""

from typing import Final

from services.query.domain import (
    Address,
    Content,
    OwnVector,
    Picture,
    QueryPart,
    Region,
    Relation,
    Stored,
    StoredSegment,
    Text,
)

__all__ = ["reading"]

_SHOWN_CHARACTERS: Final = 80


def reading(parts: tuple[QueryPart, ...], relations: tuple[Relation, ...] = (), title: str = "") -> str:
    """Such as `text "an owl" at the left + 0.5 x image "a1" - text "a dog" (1 above 2), title "snow"`."""
    words: list[str] = []
    for part in parts:
        if words:
            words.append("-" if part.weight < 0 else "+")
        elif part.weight < 0:
            words.append("-")
        size = abs(part.weight)
        what = f"{_content(part.content)}{_wish(part)}"
        words.append(what if size == 1 else f"{size:g} x {what}")
    words += [f"({relation.first + 1} {relation.kind.value} {relation.second + 1})" for relation in relations]
    found = [" ".join(words)] if words else []
    return ", ".join([*found, f'title "{_short(title)}"'] if title else found)


def _wish(part: QueryPart) -> str:
    words = ""
    if part.placement is not None:
        words += " in a box" if part.placement.box else f" at the {part.placement.place.value}"
    return f"{words}, {part.count} of it" if part.count else words


def _content(content: Content) -> str:
    match content:
        case Text(text=text):
            return f'text "{_short(text)}"'
        case OwnVector():
            return "a vector"
        case StoredSegment(image_id=image_id, index=index):
            return f'segment {index} of image "{image_id}"'
        case Region(picture=picture, box=box):
            how = "box" if box else "point"
            return f"the region at a {how} on {_picture(picture)}"
    return _picture(content)


def _picture(picture: Picture) -> str:
    match picture:
        case Stored(image_id=image_id):
            return f'image "{image_id}"'
        case Address(url=url):
            return f"the picture at {_short(url)}"
    return "the picture sent"


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN_CHARACTERS else f"{flat[: _SHOWN_CHARACTERS - 1]}…"
