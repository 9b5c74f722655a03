from pathlib import Path
from xml.etree import ElementTree

import pytest

from saccade.cli.mapping import draw_map
from saccade.query.v1 import query_service_pb2 as query
from tests.unit.saccade.fakes import FakeServices
from tests.unit.saccade.test_cli import Run, run  # noqa: F401 - a fixture

ANSWER = query.ProjectImagesResponse(
    images=[
        query.ProjectedImage(image_id="a", x=-1, y=0, tag="owl"),
        query.ProjectedImage(image_id="b<", x=1, y=0.5, tag='"dog" & co'),
        query.ProjectedImage(image_id="c", x=0, y=0),
    ],
    parts=[query.ProjectedImage(x=0.5, y=-0.5)],
    explained_variance=[0.5, 0.25],
)


def test_a_page_with_the_map(services: FakeServices, run: Run, tmp_path: Path) -> None:  # noqa: F811
    services.will("ProjectImages", ANSWER)
    out = tmp_path / "map.html"
    outcome = run("map", "--out", out, "--text", "<owl>", "--tag", "bird", "--max-images", 3)
    assert outcome.code == 0
    assert "3 images on" in outcome.err
    assert outcome.out == ""
    assert services.last.parts[0].text == "<owl>"
    assert (services.last.max_images, list(services.last.filter.tags.names)) == (3, ["bird"])
    page = out.read_text()
    assert page.count("<circle") == 3
    assert "50%, 25%" in page
    assert "<owl>" not in page


def test_the_map_keeps_distances_and_names() -> None:
    page = draw_map(ANSWER, "a & b", ["<owl>"])
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])  # noqa: S314 - our own
    circles = svg.findall("circle")
    titles = [str(circle.findtext("title")) for circle in circles]
    assert titles == ["a owl", 'b< "dog" & co', "c"]
    (left, right, middle) = (float(circle.attrib["cx"]) for circle in circles)
    (low, high, _) = (float(circle.attrib["cy"]) for circle in circles)
    assert (left, right) == (40, 860)
    assert middle == pytest.approx(450)
    # Up is up, and the axes have one scale.
    assert low - high == pytest.approx((right - left) / 4)
    assert len({circle.attrib["fill"] for circle in circles}) == 3
    assert svg.findtext("text") == "<owl>"


@pytest.mark.parametrize("images", [[], ANSWER.images[:1]])
def test_a_map_of_nothing_or_of_one(images: list[query.ProjectedImage]) -> None:
    page = draw_map(query.ProjectImagesResponse(images=images), "demo", [])
    assert page.count("<circle") == len(images)
    assert "nan" not in page


def test_a_map_in_numbers(services: FakeServices, run: Run) -> None:  # noqa: F811
    services.will("ProjectImages", ANSWER)
    outcome = run("map", "--like", "abc")
    assert "looked for" in outcome.out
    assert run("map", "--json").lines[0]["images"][0]["image_id"] == "a"
    assert "--method needs pca or umap" in run("map", "--method", "tsne").err
