import numpy as np

from demo.captions import background_caption, listing, object_caption, scene_caption, training_caption
from demo.holdout import held_out

CENTRES = {"owl": (0.2, 0.5), "bus": (0.8, 0.5)}


def test_listing() -> None:
    assert listing(["owl"]) == "an owl"
    assert listing(["owl", "bus"]) == "an owl and a bus"
    assert listing(["owl", "bus", "ambulance"]) == "an owl, a bus and an ambulance"


def test_scene_captions_name_everything_and_only_what_is_true() -> None:
    rng = np.random.default_rng(0)
    captions = [scene_caption(rng, CENTRES, "orange", name_colour=True) for _ in range(60)]
    assert all(c.names == {"owl", "bus"} and c.colour == "orange" for c in captions)
    assert all("owl" in c.text and "bus" in c.text and c.text.endswith("an orange background") for c in captions)
    placed = {c.text for c in captions if " of " in c.text.replace("photo of", "").replace("picture of", "")}
    assert placed
    assert all("owl to the left of" in text or "bus to the right of" in text for text in placed)


def test_near_objects_are_not_said_to_be_left_or_above() -> None:
    rng = np.random.default_rng(1)
    near = {"owl": (0.5, 0.5), "bus": (0.6, 0.6)}
    texts = {scene_caption(rng, near, "red", name_colour=False).text for _ in range(60)}
    assert not [text for text in texts if "above" in text or "left" in text]


def test_training_captions_name_what_they_say() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        caption = training_caption(rng, CENTRES, "red", held_out())
        assert caption.names
        assert caption.names <= set(CENTRES)
        assert all((name in caption.text) == (name in caption.names) for name in CENTRES)
        assert ("red" in caption.text) == (caption.colour is not None)


def test_objects_and_backgrounds_alone() -> None:
    rng = np.random.default_rng(3)
    texts = {object_caption(rng, "owl").text for _ in range(60)}
    assert {"owl", "an owl", "a photo of a owl", "a photo of an owl"} <= texts
    assert background_caption(rng, "orange").text.endswith("an orange background")
