import re

import pytest

from demo.glyphs import GLYPH_FOLDER, article, glyph_names, glyphs, picture
from demo.rasterise_glyphs import GLYPHS


def test_there_are_enough_pictograms_with_plain_names() -> None:
    assert len(glyph_names()) >= 120
    assert len(set(glyph_names())) == len(glyph_names())
    assert all(re.fullmatch(r"[a-z]+( [a-z]+)?", name) for name in glyph_names())


def test_no_name_is_a_word_of_another() -> None:
    names = set(glyph_names())
    assert not [name for name in names if " " in name and names & set(name.split())]


def test_files_match_the_table_they_are_drawn_from() -> None:
    listed = {(g.category, g.name, int(g.codepoint[2:], 16)) for g in glyphs().values()}
    drawn = {(c, name, code) for c, names in GLYPHS.items() for name, code in names.items()}
    assert listed == drawn
    assert {g.file for g in glyphs().values()} == set(GLYPH_FOLDER.glob("*.png"))


def test_pictures_are_small_and_transparent_outside() -> None:
    for name in glyph_names():
        image = picture(name)
        assert image.mode == "RGBA"
        assert max(image.size) <= 128
        assert image.getchannel("A").getextrema()[1] == 255


def test_the_licence_ships_with_the_glyphs() -> None:
    assert "SIL OPEN FONT LICENSE Version 1.1" in (GLYPH_FOLDER / "OFL.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "expected"), [("owl", "an"), ("bus", "a"), ("hourglass", "an"), ("umbrella", "an"), ("horse", "a")]
)
def test_article(name: str, expected: str) -> None:
    assert article(name) == expected
