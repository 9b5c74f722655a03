"""One search of each kind on a fresh stack, over gRPC and over HTTP, each answer checked against the labels."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
from google.protobuf import json_format
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from saccade import calls, filters
from saccade.client import Client
from saccade.errors import ApiError
from saccade.labels import Label, LabelledObject
from saccade.query.v1 import query_service_pb2 as query
from saccade.requests import Mode, Point, make_region
from services.common.domain import Mask
from services.stack import gallery
from services.stack.console import Screen
from services.stack.settings import StackSettings
from services.stack.stack import Stack, temporary_stack

__all__ = ["Case", "Outcome", "cases", "run_cases", "run_smoke"]

SCENES: Final = 60

Search = Callable[[calls.Call[query.SearchResponse]], query.SearchResponse]


@dataclass(frozen=True)
class Case:
    """A kind of search; `check` runs it and says what is wrong with its answer, or ""."""

    name: str
    check: Callable[[Search], str]


@dataclass(frozen=True)
class Outcome:
    """How one case went over one transport; `wrong` is "" where the answer was right."""

    name: str
    transport: str
    seconds: float
    wrong: str


def run_smoke(settings: StackSettings, environ: Mapping[str, str], screen: Screen) -> bool:
    """Run the smoke test with a table of its results; whether every answer was right."""
    started = time.monotonic()
    with temporary_stack(environ, engines=settings.smoke_engines, show=screen.show, progress=screen.starting) as stack:
        ready_s = time.monotonic() - started
        labels = gallery.gallery_labels(settings.demo_dir, SCENES)
        with stack.client() as client:
            gallery.prepare(client, settings.demo_dir)
            loaded = gallery.load(
                client, labels, wait="segmented", progress=screen.counting("loading scenes", len(labels))
            )
            screen.done()
            outcomes = run_cases(stack, client, labels)
    _show(outcomes)
    right = sum(not outcome.wrong for outcome in outcomes)
    screen.say(
        f"{settings.smoke_engines} engines: ready after {ready_s:.1f} s, {loaded.stored} scenes in "
        f"{loaded.seconds:.1f} s, {right} of {len(outcomes)} answers right"
    )
    return right == len(outcomes)


def run_cases(stack: Stack, client: Client, labels: Sequence[Label]) -> list[Outcome]:
    """Every case over both transports, on a stack that holds the labelled scenes in its demo collection."""
    with httpx.Client(base_url=stack.gateway_url, timeout=60) as http:

        def over_http(call: calls.Call[query.SearchResponse]) -> query.SearchResponse:
            body = json_format.MessageToDict(call.request, preserving_proto_field_name=True)
            answer = http.post(f"/v1/collections/{body.pop('collection')}/search", json=body)
            if answer.is_error:
                raise OSError(f"{answer.status_code}: {answer.text}")
            return json_format.ParseDict(answer.json(), query.SearchResponse())

        searches: dict[str, Search] = {"gRPC": client.call, "HTTP": over_http}
        return [_run(case, name, search) for case in cases(labels) for name, search in searches.items()]


def cases(labels: Sequence[Label]) -> list[Case]:
    """One case of each kind, made from the labels of what is stored."""
    return [*_picture_cases(labels), *_word_cases(labels), *_filter_cases(labels)]


def _picture_cases(labels: Sequence[Label]) -> list[Case]:
    scene, thing = _shared_object(labels)
    data = scene.path.read_bytes()
    holders = {label.id for label in labels if thing.name in label.names}
    related = {label.id for label in labels if set(label.names) & set(scene.names)} - {scene.id}
    boxed = make_region(image=data, box=thing.box)
    pointed = make_region(image=data, points=[_inside(thing)])
    stored = make_region(like=scene.id, box=thing.box)

    def alike(search: Search) -> str:
        answer = search(_search(like=scene.id))
        if scene.id in _ids(answer):
            return f"{scene.id} found itself"
        return _among(answer, related, 10)

    return [
        Case("image", lambda search: _first(search(_search(image=data)), scene.id)),
        Case("stored image", alike),
        Case("region by box", lambda search: _matched(search(_search(region=boxed, mode="segment")), holders)),
        Case("region by point", lambda search: _matched(search(_search(region=pointed, mode="segment")), holders)),
        Case("region of a stored image", lambda search: _matched(search(_search(region=stored)), holders)),
    ]


def _word_cases(labels: Sequence[Label]) -> list[Case]:
    scene = next(label for label in labels if len(label.objects) == 2)
    same_title = {label.id for label in labels if label.caption == scene.caption}
    both = {label.id for label in labels if set(scene.names) <= set(label.names)}
    name = _shared_object(labels)[1].name
    holders = {label.id for label in labels if name in label.names}
    apart, left, right = _side_by_side(labels)
    related = f"{left.name} to the left of {right.name}"
    hybrid: Mode = "hybrid"
    return [
        Case("text, hybrid", lambda search: _among(search(_search(text=scene.caption, mode=hybrid)), both, 1)),
        Case("text, whole", lambda search: _among(search(_search(text=scene.caption, mode="whole")), both, 1)),
        Case("text, segment", lambda search: _matched(search(_search(text=name, mode="segment")), holders)),
        Case("text, tags", lambda search: _among(search(_search(text=name, mode="tags")), holders, 1)),
        Case("title", lambda search: _titled(search, scene.caption, same_title)),
        Case("text with a relation", lambda search: _first(search(_search(text=related)), apart.id)),
    ]


def _filter_cases(labels: Sequence[Label]) -> list[Case]:
    colour, count = Counter(str(label.extra["background"]) for label in labels).most_common(1)[0]
    coloured = {label.id for label in labels if label.extra["background"] == colour}
    name = _shared_object(labels)[1].name

    def tagged(search: Search) -> str:
        answer = search(_search(text=name, filter=filters.tags(name)))
        without = [r.image.id for r in answer.results if name not in {tag.name for tag in r.image.tags}]
        if without:
            return f"{without} are not tagged {name}"
        return "" if answer.results else f"nothing is tagged {name}"

    def by_metadata(search: Search) -> str:
        answer = search(_search(text=name, filter=filters.metadata("background", equals=colour), top_k=100))
        found = set(_ids(answer))
        return "" if found == coloured else f"{len(found)} results, not the {count} on {colour}"

    def paged(search: Search) -> str:
        whole = _ids(search(_search(text=name, mode="whole", top_k=20)))
        first = search(_search(text=name, mode="whole", top_k=10))
        second = search(_search(text=name, mode="whole", top_k=10, page_token=first.next_page_token))
        return "" if _ids(first) + _ids(second) == whole else "two pages of 10 are not the page of 20"

    return [Case("tag filter", tagged), Case("metadata filter", by_metadata), Case("two pages", paged)]


def _run(case: Case, transport: str, search: Search) -> Outcome:
    started = time.monotonic()
    try:
        wrong = case.check(search)
    except (ApiError, OSError, httpx.HTTPError, json_format.ParseError) as exc:
        wrong = str(exc) or type(exc).__name__
    return Outcome(case.name, transport, time.monotonic() - started, wrong)


def _search(**arguments: Any) -> calls.Call[query.SearchResponse]:
    return calls.search(gallery.COLLECTION, consistency="strong", **arguments)


def _ids(answer: query.SearchResponse) -> list[str]:
    return [result.image.id for result in answer.results]


def _first(answer: query.SearchResponse, wanted: str) -> str:
    found = _ids(answer)
    return "" if found[:1] == [wanted] else f"{wanted} is not first in {found}"


def _among(answer: query.SearchResponse, wanted: set[str], top: int) -> str:
    found = _ids(answer)[:top]
    return "" if wanted & set(found) else f"none of {sorted(wanted)} in {found}"


def _matched(answer: query.SearchResponse, wanted: set[str]) -> str:
    """A wanted image comes first, and says which of its segments answered."""
    if wrong := _among(answer, wanted, 1):
        return wrong
    best = answer.results[0]
    return "" if best.matched_segments else f"{best.image.id} has no matched segment"


def _titled(search: Search, words: str, wanted: set[str]) -> str:
    """A wanted image comes first by its title; where the engine has no full-text index, it is said."""
    try:
        return _among(search(_search(title_text=words)), wanted, 1)
    except (ApiError, OSError) as exc:
        if "full-text index" in str(exc):
            return ""
        raise


def _shared_object(labels: Sequence[Label]) -> tuple[Label, LabelledObject]:
    """A scene and an object in it that stands in other scenes too: a middling one, neither tiny nor the whole."""
    counts = Counter(name for label in labels for name in label.names)
    things = [(label, thing) for label in labels for thing in label.objects if counts[thing.name] > 1]
    return max(things, key=lambda pair: min(pair[1].area_fraction, 0.1) + 0.01 * counts[pair[1].name])


def _side_by_side(labels: Sequence[Label]) -> tuple[Label, LabelledObject, LabelledObject]:
    """Two objects of a scene that stand farthest apart sideways, the left one first."""

    def middle(thing: LabelledObject) -> float:
        return (thing.box[0] + thing.box[2]) / 2

    pairs = [
        (label, left, right)
        for label in labels
        for left in label.objects
        for right in label.objects
        if left is not right
    ]
    return max(pairs, key=lambda pair: middle(pair[2]) - middle(pair[1]))


def _inside(thing: LabelledObject) -> Point:
    """A point well inside the object: the middle of its mask's widest row near the mask's own middle, or of its box."""
    x0, y0, x1, y1 = thing.box
    if not thing.mask:
        return (x0 + x1) / 2, (y0 + y1) / 2
    height, width = int(thing.mask["height"]), int(thing.mask["width"])
    mask = Mask(height, width, tuple(thing.mask["counts"])).to_array()
    row = int(mask.sum(axis=1).argmax())
    columns = mask[row].nonzero()[0]
    return float(columns[len(columns) // 2] + 0.5) / width, (row + 0.5) / height


def _show(outcomes: Sequence[Outcome]) -> None:
    table = Table("search", "over", "ms", "answer", box=None, header_style="bold", pad_edge=False)
    for outcome in outcomes:
        verdict = f"[red]wrong: {escape(outcome.wrong)}[/]" if outcome.wrong else "[green]right[/]"
        table.add_row(outcome.name, outcome.transport, f"{outcome.seconds * 1000:.0f}", verdict)
    Console().print(table)
