import json
from pathlib import Path
from typing import Any

import pytest

import demo
from demo.build_vocabularies import main
from demo.glyphs import glyphs

FOLDER = Path(demo.__file__).parent


def read(file: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    return content


def test_the_demo_vocabulary_is_the_pictograms() -> None:
    content = read("vocabulary.json")
    assert content["name"] == "demo"
    assert {(e["name"], e["category"]) for e in content["entries"]} == {(g.name, g.category) for g in glyphs().values()}


def test_the_general_vocabulary_is_broad() -> None:
    content = read("vocabulary_general.json")
    names = [entry["name"] for entry in content["entries"]]
    assert len(names) == len(set(names)) >= 60
    assert {"architecture", "nature", "objects"} <= {entry["category"] for entry in content["entries"]}


@pytest.mark.parametrize("file", ["vocabulary.json", "vocabulary_general.json"])
def test_files_are_what_the_code_writes_and_templates_have_one_place(file: str, tmp_path: Path) -> None:
    main(tmp_path)
    assert (tmp_path / file).read_text(encoding="utf-8") == (FOLDER / file).read_text(encoding="utf-8")
    assert all(template.count("{}") == 1 for template in read(file)["prompt_templates"])
