"""Write the demo's vocabulary, the words that tags are chosen from: `python -m demo.build_vocabulary`."""

import json
from pathlib import Path
from typing import Annotated, Final

import typer

from demo.captions import TAG_TEMPLATES
from demo.glyphs import glyphs

__all__ = ["FILE", "main"]

FILE: Final = Path(__file__).with_name("vocabulary.json")


def main(out: Annotated[Path, typer.Option(help="The file to write.")] = FILE) -> None:
    """Write the names of the pictograms with their categories, as the ingest service takes a vocabulary."""
    by_category = sorted(glyphs().values(), key=lambda glyph: list(categories()).index(glyph.category))
    entries = [{"name": glyph.name, "category": glyph.category} for glyph in by_category]
    content = {"name": "demo", "prompt_templates": list(TAG_TEMPLATES), "entries": entries}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    typer.echo(f"wrote {out}")


def categories() -> dict[str, None]:
    """The categories of the pictograms, in the order of their first one."""
    return {glyph.category: None for glyph in glyphs().values()}


if __name__ == "__main__":
    typer.run(main)
