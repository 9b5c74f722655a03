import json
from pathlib import Path

from demo.build_vocabulary import FILE, main
from demo.glyphs import glyphs


def test_the_vocabulary_is_the_pictograms() -> None:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    assert content["name"] == "demo"
    assert {(e["name"], e["category"]) for e in content["entries"]} == {(g.name, g.category) for g in glyphs().values()}


def test_the_file_is_what_the_code_writes(tmp_path: Path) -> None:
    main(tmp_path / "vocabulary.json")
    assert (tmp_path / "vocabulary.json").read_text(encoding="utf-8") == FILE.read_text(encoding="utf-8")
