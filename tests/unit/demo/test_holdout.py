from itertools import combinations

import numpy as np

from demo.backgrounds import COLOURS
from demo.build_gallery import plan_gallery
from demo.captions import background_caption, object_caption, training_caption
from demo.glyphs import glyph_names
from demo.holdout import GROUP_SIZE, held_out
from demo.labels import read_labels
from demo.scenes import pick_names, training_spec


def test_groups_cover_every_name_and_their_pairs_are_held_out() -> None:
    out = held_out()
    assert len(out.groups) >= 240
    assert all(len(set(group)) == GROUP_SIZE for group in out.groups)
    assert {name for group in out.groups for name in group} == set(glyph_names())
    assert all(frozenset(pair) in out.pairs for group in out.groups for pair in combinations(group, 2))


def test_most_pairs_remain_for_training() -> None:
    count = len(glyph_names())
    assert len(held_out().pairs) < 0.3 * count * (count - 1) / 2


def test_gallery_scenes_hold_only_held_out_combinations() -> None:
    out = held_out()
    for planned in plan_gallery():
        if planned.colour:
            assert planned.colour in out.single_colours[planned.names[0]]
        else:
            assert any(set(planned.names) <= set(group) for group in out.groups)
            assert all(frozenset(pair) in out.pairs for pair in combinations(planned.names, 2))


def test_training_never_draws_a_held_out_combination() -> None:
    out = held_out()
    rng = np.random.default_rng(1)
    colours = list(COLOURS)
    for _ in range(1_500):
        colour = colours[rng.integers(len(colours))]
        names = pick_names(rng, out, colour)
        assert len(set(names)) == len(names)
        if len(names) == 1:
            assert colour not in out.single_colours[names[0]]
        assert not {frozenset(pair) for pair in combinations(names, 2)} & out.pairs


def test_training_never_says_what_a_gallery_caption_says() -> None:
    out = held_out()
    rng = np.random.default_rng(2)
    gallery = {label.caption for label in read_labels()}
    said = {background_caption(rng, colour).text for colour in COLOURS for _ in range(20)}
    said |= {object_caption(rng, name).text for name in glyph_names() for _ in range(20)}
    for _ in range(100):
        spec = training_spec(rng, out)
        said |= {training_caption(rng, spec.centres, spec.background.colour, out).text for _ in range(10)}
    for _ in range(1_500):
        colour = list(COLOURS)[rng.integers(len(COLOURS))]
        centres = dict.fromkeys(pick_names(rng, out, colour), (0.5, 0.5))
        said.add(training_caption(rng, centres, colour, out).text)
    assert len(said) > 2_000
    assert not said & gallery
