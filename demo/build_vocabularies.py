"""Write the tag vocabularies that ship with the demo: `python -m demo.build_vocabularies`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from demo.captions import TAG_TEMPLATES
from demo.glyphs import glyphs

__all__ = ["GENERAL", "main", "vocabulary"]

GENERAL_TEMPLATES: Final = ("a photo of a {}", "a close-up photo of a {}", "a photo of the {}", "{}")
GENERAL: Final[Mapping[str, Sequence[str]]] = {
    "architecture": (
        "house",
        "skyscraper",
        "church",
        "castle",
        "bridge",
        "tower",
        "temple",
        "barn",
        "lighthouse",
        "stadium",
        "staircase",
        "window",
        "door",
        "fence",
        "street",
        "tunnel",
        "ruin",
        "shop",
    ),
    "nature": (
        "mountain",
        "forest",
        "tree",
        "flower",
        "beach",
        "sea",
        "lake",
        "river",
        "waterfall",
        "desert",
        "field",
        "sky",
        "cloud",
        "sunset",
        "snow",
        "rock",
        "grass",
        "garden",
    ),
    "animals": (
        "dog",
        "cat",
        "horse",
        "cow",
        "sheep",
        "bird",
        "duck",
        "elephant",
        "bear",
        "zebra",
        "giraffe",
        "fish",
        "butterfly",
        "insect",
    ),
    "people": ("man", "woman", "child", "crowd", "face", "hand", "cyclist", "athlete"),
    "vehicles": ("car", "bus", "truck", "motorcycle", "bicycle", "train", "airplane", "helicopter", "boat", "ship"),
    "food": ("pizza", "sandwich", "cake", "salad", "apple", "banana", "bread", "soup", "coffee", "wine"),
    "objects": (
        "chair",
        "table",
        "sofa",
        "bed",
        "lamp",
        "clock",
        "book",
        "laptop",
        "keyboard",
        "telephone",
        "television",
        "camera",
        "bottle",
        "cup",
        "plate",
        "knife",
        "vase",
        "umbrella",
        "backpack",
        "suitcase",
        "shoe",
        "hat",
        "glasses",
        "guitar",
        "piano",
        "ball",
        "kite",
        "sign",
        "traffic light",
        "toy",
    ),
}
"""Category -> words for photographs, meant for large open_clip models."""


def vocabulary(name: str, templates: Sequence[str], words: Mapping[str, Sequence[str]]) -> dict[str, object]:
    """A vocabulary as the ingest service takes it: name, prompt templates, entries with their category."""
    entries = [{"name": word, "category": category} for category, some in words.items() for word in some]
    return {"name": name, "prompt_templates": list(templates), "entries": entries}


def demo_words() -> dict[str, list[str]]:
    """Category -> names of the pictograms."""
    words: dict[str, list[str]] = {}
    for glyph in glyphs().values():
        words.setdefault(glyph.category, []).append(glyph.name)
    return words


def main(
    out: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path(__file__).parent,
) -> None:
    """Write `vocabulary.json` (the pictograms) and `vocabulary_general.json` (words for photographs)."""
    for file, content in (
        ("vocabulary.json", vocabulary("demo", TAG_TEMPLATES, demo_words())),
        ("vocabulary_general.json", vocabulary("general", GENERAL_TEMPLATES, GENERAL)),
    ):
        (out / file).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"wrote {out / file}")


if __name__ == "__main__":
    typer.run(main)
