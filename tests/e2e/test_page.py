"""The web page in a real browser, over the whole stack."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, JSHandle, Page, expect

from saccade.labels import Label
from services.stack.stack import Stack

BUILD: Final = Path(__file__).parents[2] / "build"
# Two shared cores serve the models and draw the page.
PATIENCE_MS: Final = 60_000


@pytest.fixture
def page(browser: Browser, stack: Stack) -> Iterator[Page]:
    """The open page, which at the end must have asked no other origin and complained about nothing."""
    BUILD.mkdir(exist_ok=True)
    context = browser.new_context(viewport={"width": 1360, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    origins: set[str] = set()
    complaints: list[str] = []
    page.on("request", lambda request: origins.add(urlsplit(request.url).netloc))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(f"{stack.gateway_url}/?c=demo")
    page.wait_for_selector(".card img.loaded")
    yield page
    context.close()
    assert origins - {""} == {urlsplit(stack.gateway_url).netloc}
    assert complaints == []


def results(page: Page) -> list[str]:
    """Ids of the results, best first, when they are there."""
    page.wait_for_selector("#results:not([aria-busy]) .card .score")
    return [str(card.get_attribute("data-id")) for card in page.query_selector_all(".card")]


def search(page: Page, text: str) -> list[str]:
    page.fill("#text", text)
    page.press("#text", "Enter")
    page.wait_for_url(lambda url: "q=" in url)
    return results(page)


def a_scene_of_several(labels: list[Label]) -> Label:
    """A scene with more than one thing in it, of which the first is not small."""
    return next(label for label in labels if len(label.objects) > 1 and label.objects[0].area_fraction > 0.04)


def things(page: Page, label: Label) -> int:
    """How many segments of a stored scene cover no more than half of it; there must be a larger one too."""
    areas: list[float] = page.evaluate(
        """async (id) => {
            const answer = await fetch(`/v1/collections/demo/images/${id}`);
            return (await answer.json()).image.segments.map((segment) => segment.area_fraction);
        }""",
        label.id,
    )
    small = sum(area <= 0.5 for area in areas)
    assert 0 < small < len(areas)
    return small


def draw(page: Page, box: tuple[float, float, float, float]) -> None:
    """Drag a box over the query picture, given as fractions of it."""
    frame = page.locator("#picture-overlay").bounding_box()
    assert frame
    corners = [
        (frame["x"] + x * frame["width"], frame["y"] + y * frame["height"])
        for x, y in ((box[0], box[1]), (box[2], box[3]))
    ]
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=8)
    page.mouse.up()


def transfer(page: Page, path: Path) -> JSHandle:
    """What the browser hands to a page when a file is dropped on it or pasted into it."""
    return page.evaluate_handle(
        """([data, name]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: "image/jpeg" }));
            return transfer;
        }""",
        [base64.b64encode(path.read_bytes()).decode(), path.name],
    )


def test_uploads_a_picture_draws_a_box_and_sees_outlined_results(page: Page, labels: list[Label]) -> None:
    label = a_scene_of_several(labels)
    page.set_input_files("#file", label.path)
    page.wait_for_selector("#picture-regions .chip")
    assert label.id in results(page)[:1]
    # A click finds the background too, but only the things before it are offered by name.
    assert page.locator("#picture-regions .chip").count() == things(page, label)

    with page.expect_response(lambda answer: answer.url.endswith("/search")) as caught:
        draw(page, label.objects[0].box)
    assert caught.value.status == 200
    assert label.id in results(page)[:10]

    outline = page.locator(f'.card[data-id="{label.id}"] svg.overlay .first .line')
    expect(outline).to_have_count(1)
    # A shape, not only a box: its outline bends.
    assert "Q" in str(outline.get_attribute("d"))
    expect(page.locator("#picture-overlay .line")).to_have_count(1)
    expect(page.locator("#plan")).to_contain_text("embed")
    page.locator(".card img.loaded").nth(5).wait_for()
    page.screenshot(path=BUILD / "page.png")


def test_words_find_pictures_and_the_address_leads_back_to_them(page: Page, labels: list[Label]) -> None:
    label = a_scene_of_several(labels)
    found = search(page, label.caption)
    assert label.id in found[:10]
    page.locator(".card img.loaded").nth(8).wait_for()
    page.screenshot(path=BUILD / "page-text.png", full_page=True)
    page.reload()
    assert results(page) == found
    page.go_back()
    expect(page.locator("#summary")).to_have_text(re.compile("pictures to search"))


def test_details_lead_on_to_more_like_one_segment(page: Page, labels: list[Label]) -> None:
    first = search(page, labels[0].caption)[0]
    page.locator(f'.card[data-id="{first}"] .frame').click()
    expect(page.locator("#detail")).to_be_visible()
    page.locator(".segment-row button").first.click()
    expect(page.locator("#detail")).to_be_hidden()
    found = results(page)
    assert first not in found
    assert f"like={first}" in page.url
    assert "seg=" in page.url
    page.wait_for_selector("#picture-overlay .line")
    page.locator("#whole").click()
    page.wait_for_url(lambda url: "seg=" not in url)
    assert first not in results(page)


def test_details_list_the_background_last_and_without_a_name(page: Page, labels: list[Label]) -> None:
    label = a_scene_of_several(labels)
    search(page, label.caption)
    page.locator(f'.card[data-id="{label.id}"] .frame').click()
    page.wait_for_selector(".segment-row")
    small = things(page, label)
    shares = [
        float(words.split(" %")[0].split()[-1]) for words in page.locator(".segment-row .words").all_inner_texts()
    ]
    assert max(shares[:small]) <= 50 < min(shares[small:])
    for words in page.locator(".segment-row .words").all_inner_texts()[small:]:
        assert re.match(r"Region \d+ ", words)


def test_the_search_box_suggests_a_picture_that_is_there(page: Page, labels: list[Label]) -> None:
    placeholder = str(page.locator("#text").get_attribute("placeholder"))
    suggested = placeholder.removeprefix("Describe what you are looking for: ")
    titles = {name.lower() for name in page.locator(".card .name").all_inner_texts()}
    assert suggested in titles


def test_says_how_words_are_read_where_they_are_more_than_one_thing(page: Page) -> None:
    search(page, "an owl on the left")
    expect(page.locator("#reading")).to_contain_text("at the left")
    search(page, "an owl")
    expect(page.locator("#reading")).to_be_hidden()


def test_outlines_of_one_picture_differ_in_hue(page: Page, labels: list[Label]) -> None:
    page.locator(f'.card[data-id="{a_scene_of_several(labels).id}"] .frame').click()
    page.wait_for_selector(".segment-row")
    strokes: list[str] = page.locator("#detail-stage .line").evaluate_all(
        "(lines) => lines.map((line) => getComputedStyle(line).stroke)"
    )
    assert len(set(strokes)) == len(strokes) > 1


def test_a_click_on_a_thing_searches_with_it(page: Page, labels: list[Label]) -> None:
    label = a_scene_of_several(labels)
    page.goto(f"{urlsplit(page.url)._replace(query='', path='/').geturl()}?c=demo&like={label.id}")
    page.wait_for_selector("#picture-regions .chip")
    x0, y0, x1, y1 = label.objects[0].box
    frame = page.locator("#picture-overlay").bounding_box()
    assert frame
    page.mouse.click(frame["x"] + (x0 + x1) / 2 * frame["width"], frame["y"] + (y0 + y1) / 2 * frame["height"])
    page.wait_for_url(re.compile(r"[?&](seg|at)="))
    assert label.id not in results(page)


def test_a_box_can_be_made_with_the_keyboard(page: Page, labels: list[Label]) -> None:
    page.set_input_files("#file", labels[0].path)
    results(page)
    page.locator("#picture-overlay").focus()
    for key in ("ArrowLeft", "Shift+ArrowDown"):
        page.keyboard.press(key)
    with page.expect_response(lambda answer: answer.url.endswith("/search")) as caught:
        page.keyboard.press("Enter")
    assert caught.value.status == 200
    expect(page.locator("#whole")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#whole")).to_be_hidden()


def test_tags_narrow_and_modes_change_what_answers(page: Page, labels: list[Label]) -> None:
    page.wait_for_selector("#known-tags option", state="attached")
    tag = str(page.locator("#known-tags option").first.get_attribute("value"))
    page.fill("#tag", tag)
    page.press("#tag", "Enter")
    page.wait_for_url(lambda url: "tag=" in url)
    found = search(page, labels[0].caption)
    assert found
    page.get_by_label("Segments").check(force=True)
    page.wait_for_url(lambda url: "mode=segment" in url)
    assert results(page)
    page.get_by_label(f"Remove the tag {tag}").click()
    assert "tag=" not in page.url


def test_tags_alone_and_titles(page: Page, labels: list[Label]) -> None:
    label = a_scene_of_several(labels)
    search(page, label.caption)
    page.get_by_label("Titles").check(force=True)
    page.wait_for_url(lambda url: "mode=title" in url)
    assert label.id in results(page)[:3]
    expect(page.locator("#reading")).to_be_hidden()
    page.get_by_label("Tags", exact=True).check(force=True)
    page.wait_for_url(lambda url: "mode=tags" in url)
    found = search(page, label.objects[0].name)
    holders = {other.id for other in labels if label.objects[0].name in other.names}
    assert found[0] in holders
    assert "Tags: " in str(page.locator(".card .score").first.get_attribute("title"))
    page.locator(".card img.loaded").nth(0).wait_for()
    page.screenshot(path=BUILD / "page-tags.png")
    page.locator(".card .frame").first.click()
    expect(page.locator("#detail-body")).to_contain_text("Made of")


def test_a_dropped_picture_is_searched_with(page: Page, labels: list[Label]) -> None:
    dropped = transfer(page, labels[0].path)
    page.dispatch_event("#results", "dragenter", {"dataTransfer": dropped})
    expect(page.locator("#drop")).to_be_visible()
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    expect(page.locator("#drop")).to_be_hidden()
    assert results(page)[0] == labels[0].id
    expect(page.locator("#picture-name")).to_have_text(labels[0].path.name)


def test_a_pasted_picture_is_searched_with(page: Page, labels: list[Label]) -> None:
    pasted = transfer(page, labels[1].path)
    page.locator("#text").evaluate(
        "(field, clipboardData) => field.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true }))",
        pasted,
    )
    assert results(page)[0] == labels[1].id
    expect(page.locator("#picture-name")).to_have_text(labels[1].path.name)


def test_more_like_a_result_searches_with_that_picture(page: Page, labels: list[Label]) -> None:
    second = search(page, labels[0].caption)[1]
    card = page.locator(f'.card[data-id="{second}"]')
    card.hover()
    card.get_by_role("button", name="More like").click()
    page.wait_for_url(lambda url: f"like={second}" in url)
    found = results(page)
    assert found
    assert second not in found
    expect(page.locator("#text")).to_have_value("")


def test_show_more_appends_the_next_page(page: Page, labels: list[Label]) -> None:
    page.select_option("#top-k", "12")
    first = search(page, labels[0].caption)
    assert len(first) == 12
    page.locator("#more").click()
    expect(page.locator(".card")).to_have_count(24, timeout=PATIENCE_MS)
    both = results(page)
    assert both[:12] == first
    assert len(set(both)) == 24


def test_what_can_not_be_searched_with_is_explained(browser: Browser, stack: Stack, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    page = browser.new_page(reduced_motion="reduce")
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{stack.gateway_url}/?c=demo")
    page.wait_for_selector(".card")
    page.set_input_files("#file", broken)
    alert = page.locator("#error")
    alert.wait_for()
    expect(alert).to_contain_text("This can not be searched with")
    expect(alert).to_contain_text("IMAGE_")
    page.close()


def test_a_phone_sees_all_of_it(browser: Browser, stack: Stack) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740}, color_scheme="dark", reduced_motion="reduce")
    page.set_default_timeout(PATIENCE_MS)
    page.goto(f"{stack.gateway_url}/?c=demo")
    page.wait_for_selector(".card img.loaded")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    placeholder = page.locator("#text").evaluate(
        """(field) => {
            const pen = document.createElement("canvas").getContext("2d");
            pen.font = getComputedStyle(field).font;
            return { room: field.clientWidth, length: pen.measureText(field.placeholder).width };
        }"""
    )
    assert placeholder["length"] < placeholder["room"]
    bottoms = page.locator(".card").evaluate_all(
        "(cards) => cards.slice(0, 4).map((card) => Math.round(card.getBoundingClientRect().bottom))"
    )
    assert bottoms[0] == bottoms[1] < bottoms[2] == bottoms[3]
    page.close()


def test_the_api_page_needs_no_other_origin(browser: Browser, stack: Stack) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_MS)
    origins: set[str] = set()
    complaints: list[str] = []
    page.on("request", lambda request: origins.add(urlsplit(request.url).netloc))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(f"{stack.gateway_url}/docs")
    page.wait_for_selector(".opblock")
    page.close()
    assert origins - {""} == {urlsplit(stack.gateway_url).netloc}
    assert complaints == []
