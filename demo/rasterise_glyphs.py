"""Draw the pictograms of the demo from the Noto Color Emoji font into `demo/glyphs/`.

The PNG files are committed, so that neither the scene generator nor training needs the font. Run this
again only to change the list: `python -m demo.rasterise_glyphs`.
"""

import json
from pathlib import Path
from typing import Annotated, Final

import typer
from PIL import Image, ImageDraw, ImageFont

__all__ = ["GLYPHS", "draw_glyph", "main"]

FONT: Final = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE_PX: Final = 109
"""The one size at which the font's bitmaps exist."""
MAX_SIDE_PX: Final = 128

GLYPHS: Final[dict[str, dict[str, int]]] = {
    "animal": {
        "bear": 0x1F43B,
        "bee": 0x1F41D,
        "butterfly": 0x1F98B,
        "camel": 0x1F42B,
        "cat": 0x1F408,
        "cow": 0x1F404,
        "crab": 0x1F980,
        "crocodile": 0x1F40A,
        "dog": 0x1F415,
        "duck": 0x1F986,
        "elephant": 0x1F418,
        "fish": 0x1F41F,
        "flamingo": 0x1F9A9,
        "fox": 0x1F98A,
        "frog": 0x1F438,
        "giraffe": 0x1F992,
        "hedgehog": 0x1F994,
        "kangaroo": 0x1F998,
        "koala": 0x1F428,
        "ladybug": 0x1F41E,
        "lion": 0x1F981,
        "octopus": 0x1F419,
        "owl": 0x1F989,
        "panda": 0x1F43C,
        "parrot": 0x1F99C,
        "penguin": 0x1F427,
        "pig": 0x1F416,
        "rabbit": 0x1F407,
        "rooster": 0x1F413,
        "snail": 0x1F40C,
        "snake": 0x1F40D,
        "spider": 0x1F577,
        "tiger": 0x1F405,
        "turtle": 0x1F422,
        "whale": 0x1F433,
        "zebra": 0x1F993,
    },
    "food": {
        "apple": 0x1F34E,
        "avocado": 0x1F951,
        "banana": 0x1F34C,
        "carrot": 0x1F955,
        "croissant": 0x1F950,
        "cupcake": 0x1F9C1,
        "donut": 0x1F369,
        "eggplant": 0x1F346,
        "hamburger": 0x1F354,
        "ice cream": 0x1F366,
        "lemon": 0x1F34B,
        "mushroom": 0x1F344,
        "pear": 0x1F350,
        "pineapple": 0x1F34D,
        "pizza": 0x1F355,
        "pretzel": 0x1F968,
        "strawberry": 0x1F353,
        "taco": 0x1F32E,
        "watermelon": 0x1F349,
    },
    "vehicle": {
        "airplane": 0x2708,
        "ambulance": 0x1F691,
        "bicycle": 0x1F6B2,
        "bus": 0x1F68C,
        "car": 0x1F697,
        "helicopter": 0x1F681,
        "motorcycle": 0x1F3CD,
        "rocket": 0x1F680,
        "sailboat": 0x26F5,
        "ship": 0x1F6A2,
        "tractor": 0x1F69C,
        "train": 0x1F682,
        "truck": 0x1F69A,
    },
    "building": {
        "castle": 0x1F3F0,
        "church": 0x26EA,
        "factory": 0x1F3ED,
        "house": 0x1F3E0,
        "mosque": 0x1F54C,
        "stadium": 0x1F3DF,
        "tent": 0x26FA,
    },
    "nature": {
        "cactus": 0x1F335,
        "cloud": 0x2601,
        "flame": 0x1F525,
        "globe": 0x1F30D,
        "maple leaf": 0x1F341,
        "moon": 0x1F319,
        "mountain": 0x1F3D4,
        "palm tree": 0x1F334,
        "pine tree": 0x1F332,
        "rainbow": 0x1F308,
        "rose": 0x1F339,
        "snowman": 0x26C4,
        "star": 0x2B50,
        "sun": 0x2600,
        "sunflower": 0x1F33B,
        "tulip": 0x1F337,
        "volcano": 0x1F30B,
    },
    "object": {
        "alarm clock": 0x23F0,
        "anchor": 0x2693,
        "backpack": 0x1F392,
        "balloon": 0x1F388,
        "bathtub": 0x1F6C1,
        "bed": 0x1F6CF,
        "bell": 0x1F514,
        "book": 0x1F4D6,
        "camera": 0x1F4F7,
        "chair": 0x1FA91,
        "crown": 0x1F451,
        "dress": 0x1F457,
        "gift": 0x1F381,
        "hammer": 0x1F528,
        "hourglass": 0x231B,
        "key": 0x1F511,
        "laptop": 0x1F4BB,
        "light bulb": 0x1F4A1,
        "lock": 0x1F512,
        "microscope": 0x1F52C,
        "pencil": 0x270F,
        "robot": 0x1F916,
        "shirt": 0x1F455,
        "shoe": 0x1F45F,
        "skull": 0x1F480,
        "teapot": 0x1FAD6,
        "telephone": 0x260E,
        "television": 0x1F4FA,
        "toilet": 0x1F6BD,
        "top hat": 0x1F3A9,
        "traffic light": 0x1F6A6,
        "umbrella": 0x2602,
        "wrench": 0x1F527,
    },
    "sport": {
        "basketball": 0x1F3C0,
        "boxing glove": 0x1F94A,
        "dartboard": 0x1F3AF,
        "football": 0x1F3C8,
        "skateboard": 0x1F6F9,
        "soccer ball": 0x26BD,
        "trophy": 0x1F3C6,
    },
    "music": {
        "accordion": 0x1FA97,
        "drum": 0x1F941,
        "guitar": 0x1F3B8,
        "microphone": 0x1F3A4,
        "radio": 0x1F4FB,
        "saxophone": 0x1F3B7,
        "trumpet": 0x1F3BA,
        "violin": 0x1F3BB,
    },
}
"""Category -> plain English name (singular) -> Unicode code point."""


def draw_glyph(codepoint: int, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One glyph as RGBA, cropped to what is visible, its longer side at most 128 px."""
    canvas = Image.new("RGBA", (2 * FONT_SIZE_PX, 2 * FONT_SIZE_PX))
    text = chr(codepoint) + "\ufe0f"
    ImageDraw.Draw(canvas).text((20, 20), text, font=font, embedded_color=True)
    box = canvas.getchannel("A").getbbox()
    if box is None:
        raise ValueError(f"the font draws nothing for U+{codepoint:04X}")
    glyph = canvas.crop(box)
    glyph.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    return glyph


def main(
    font: Annotated[Path, typer.Option(help="The Noto Color Emoji font, with bitmaps (CBDT).")] = FONT,
    out: Annotated[Path, typer.Option(help="Folder for the PNG files and names.json.")] = Path("demo/glyphs"),
) -> None:
    """Write one PNG for each glyph, and names.json with their names, categories and code points."""
    face = ImageFont.truetype(str(font), FONT_SIZE_PX)
    out.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, str]] = []
    for category, glyphs in GLYPHS.items():
        for name, codepoint in glyphs.items():
            file = f"{name.replace(' ', '-')}.png"
            draw_glyph(codepoint, face).save(out / file, optimize=True)
            entries.append({"name": name, "category": category, "codepoint": f"U+{codepoint:04X}", "file": file})
    text = ",\n".join(json.dumps(entry) for entry in entries)
    (out / "names.json").write_text(f"[\n{text}\n]\n", encoding="utf-8")
    typer.echo(f"{len(entries)} glyphs in {out}")


if __name__ == "__main__":
    typer.run(main)
