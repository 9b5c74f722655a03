"""The pictograms that scenes are made of: names, categories and pictures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from PIL import Image

__all__ = ["GLYPH_FOLDER", "Glyph", "article", "glyph_names", "glyphs", "picture"]

GLYPH_FOLDER: Final = Path(__file__).parent / "glyphs"
SILENT_H: Final = frozenset({"hourglass"})


@dataclass(frozen=True, slots=True)
class Glyph:
    """One pictogram: a plain English name (singular, lower case), its category and its PNG file."""

    name: str
    category: str
    codepoint: str
    file: Path


@cache
def glyphs() -> Mapping[str, Glyph]:
    """All pictograms by name, in the order of `names.json`."""
    entries: list[dict[str, str]] = json.loads((GLYPH_FOLDER / "names.json").read_text(encoding="utf-8"))
    return {
        entry["name"]: Glyph(entry["name"], entry["category"], entry["codepoint"], GLYPH_FOLDER / entry["file"])
        for entry in entries
    }


@cache
def glyph_names() -> tuple[str, ...]:
    """The names of all pictograms, in the order of `names.json`."""
    return tuple(glyphs())


@cache
def picture(name: str) -> Image.Image:
    """The pictogram as RGBA, cropped to what is visible, at most 128 px on its longer side.

    Shared between callers: do not draw on it.
    """
    with Image.open(glyphs()[name].file) as image:
        return image.convert("RGBA")


def article(name: str) -> str:
    """ "a" or "an", as English wants it before `name`."""
    return "an" if name[0] in "aeiou" or name in SILENT_H else "a"
