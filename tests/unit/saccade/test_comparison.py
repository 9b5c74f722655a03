"""What a comparison asks, and how it reads the answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.measures import average_precision_at
from saccade import ApiError, Client, filters
from saccade.comparison import Comparison, ComparisonError, average_precision_at_10
from saccade.embedder.v1 import embedder_service_pb2 as embedder
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.labels import Label, read_labels
from saccade.query.v1 import query_service_pb2 as query
from services.common.errors import FailedPrecondition, NotFound
from tests.unit.saccade.fakes import FakeServices, created, failed

BOX = [0.1, 0.1, 0.5, 0.5]
THINGS: list[tuple[str, list[str]]] = [
    ("an owl and a bus", ["owl", "bus"]),
    ("an owl", ["owl", "owl"]),
    ("", ["bus"]),
    ("a lonely cat", ["cat"]),
]


@pytest.fixture
def labels(tmp_path: Path) -> list[Label]:
    lines = []
    for number, (caption, names) in enumerate(THINGS):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
        objects = [{"name": name, "box": BOX} for name in names]
        lines.append(json.dumps({"file": f"{number}.jpg", "id": "same", "caption": caption, "objects": objects}))
    (tmp_path / "labels.jsonl").write_text("\n".join(lines))
    return read_labels(tmp_path / "labels.jsonl")


def always(*ids: str) -> query.SearchResponse:
    response = query.SearchResponse()
    for id in ids:
        response.results.add().image.id = id
    return response


def ready(services: FakeServices, **model: Any) -> list[str]:
    """A stack that stores everything and always finds the first three; the list gets the names of collections."""
    made: list[str] = []

    def make(request: ingest.CreateCollectionRequest) -> ingest.CreateCollectionResponse:
        made.append(request.collection.name)
        return ingest.CreateCollectionResponse(collection=request.collection)

    def remove(request: ingest.DeleteCollectionRequest) -> ingest.DeleteCollectionResponse:
        assert request.force
        made.remove(request.name)
        return ingest.DeleteCollectionResponse()

    known: dict[str, Any] = {"model": "m", "dimension": 7, "has_text": True, "segmenter": "s", "models": ["m"]} | model
    services.will("GetModel", embedder.GetModelResponse(**known))
    services.will("CreateCollection", make)
    services.will("DeleteCollection", remove)
    pending = [ingest.GetCollectionResponse(collection=ingest.Collection(pending_count=count)) for count in (2, 1, 0)]
    services.will("GetCollection", *pending)
    services.will("Search", always("0", "1", "2"))
    return made


def asked(services: FakeServices, content: str) -> list[query.SearchRequest]:
    searches = [request for request in services.requests if isinstance(request, query.SearchRequest)]
    return [request for request in searches if request.parts[0].WhichOneof("content") == content]


def test_every_figure(services: FakeServices, client: Client, labels: list[Label]) -> None:
    made = ready(services)
    steps: list[tuple[str, int, int]] = []
    report = Comparison(client, labels, progress=lambda *step: steps.append(step)).run("m")
    assert made == []
    assert (report.model, report.dimension, report.images, report.failed) == ("m", 7, 4, 0)
    assert report.searchable_per_s > 0
    assert report.segmented_per_s is not None
    assert 0 < report.segmented_per_s < report.searchable_per_s
    assert report.search_p50_ms > 0
    # 0 is near to 1 and 2, 1 to 0, 2 to 0; nothing is near to 3, which is not asked for.
    assert sorted(request.parts[0].image_id for request in asked(services, "image_id")) == ["0", "1", "2"]
    by_image = [(1 / 2 + 2 / 3) / 2, 1, 1]
    assert report.image_map_at_10 == pytest.approx(sum(by_image) / 3)
    regions = asked(services, "region")
    assert sorted(request.parts[0].region.image_id for request in regions) == ["0", "0", "1", "1", "2"]
    for request in regions:
        assert request.filter == filters.negated(filters.ids(request.parts[0].region.image_id))
    # The owl and the bus of 0, the two owls of 1, the bus of 2: 1, 2, 0, 0 and 0 are right.
    assert report.region_map_at_10 == pytest.approx((1 / 2 + 1 / 3 + 1 + 1 + 1) / 5)
    texts = asked(services, "text")
    assert {request.parts[0].text for request in texts} == {"an owl and a bus", "an owl", "bus", "a lonely cat"}
    assert all(request.literal_text for request in texts)
    assert (report.text_recall_at_1, report.text_recall_at_10) == (0.25, 0.75)
    assert ("by text", 4, 4) in steps
    assert json.loads(json.dumps(report.to_dict()))["dimension"] == 7


def test_pictures_are_stored_alone(services: FakeServices, client: Client, labels: list[Label]) -> None:
    made = ready(services)
    sent: list[Any] = []

    def store(requests: Iterator[ingest.StreamImagesRequest]) -> Iterator[ingest.StreamImagesResponse]:
        for request in requests:
            sent.append(request.create.image)
            yield created(request)

    services.stream = store
    Comparison(client, labels, max_queries=1).run("m")
    assert made == []
    assert sorted((image.id, image.source, image.title) for image in sent) == [
        (str(number), f"{number}.jpg", "") for number in range(4)
    ]
    assert not any(image.metadata or image.tags for image in sent)
    assert len(asked(services, "region")) == len(asked(services, "text")) == len(asked(services, "image_id")) == 1


def test_what_a_model_can_not_do_has_no_figure(services: FakeServices, client: Client, labels: list[Label]) -> None:
    ready(services, has_text=False, segmenter="")
    report = Comparison(client, labels).run("m")
    assert report.image_map_at_10 is not None
    assert (report.segmented_per_s, report.region_map_at_10) == (None, None)
    assert (report.text_recall_at_1, report.text_recall_at_10) == (None, None)
    assert not asked(services, "text")
    assert not asked(services, "region")


def test_images_that_can_not_be_stored_do_not_count(
    services: FakeServices, client: Client, labels: list[Label]
) -> None:
    made = ready(services)

    def store(requests: Iterator[ingest.StreamImagesRequest]) -> Iterator[ingest.StreamImagesResponse]:
        for request in requests:
            yield failed(request, 3, "IMAGE_FORMAT") if request.create.image.id == "1" else created(request)

    services.stream = store
    report = Comparison(client, labels).run("m")
    assert (report.images, report.failed) == (3, 1)
    assert sorted(request.parts[0].image_id for request in asked(services, "image_id")) == ["0", "2"]

    def refuse(requests: Iterator[ingest.StreamImagesRequest]) -> Iterator[ingest.StreamImagesResponse]:
        for request in requests:
            yield failed(request, 3, "IMAGE_FORMAT")

    services.stream = refuse
    with pytest.raises(ComparisonError, match=r"no image could be stored; \d.jpg: INVALID_ARGUMENT"):
        Comparison(client, labels).run("m")
    assert made == []


def test_the_collection_is_removed_after_an_error(services: FakeServices, client: Client, labels: list[Label]) -> None:
    made = ready(services)
    services.will("Search", FailedPrecondition("broken", reason="BROKEN"))
    with pytest.raises(ApiError, match="broken"):
        Comparison(client, labels).run("m")
    assert made == []


def test_a_collection_that_stays_is_named(services: FakeServices, client: Client, labels: list[Label]) -> None:
    made = ready(services)
    services.will("Search", FailedPrecondition("broken", reason="BROKEN"))
    services.will("DeleteCollection", FailedPrecondition("busy", reason="BUSY"))
    warnings: list[str] = []
    with pytest.raises(ApiError, match="broken"):
        Comparison(client, labels, warn=warnings.append).run("m")
    assert len(warnings) == 1
    assert made[0] in warnings[0]
    assert "busy" in warnings[0]


def test_an_unknown_model_makes_nothing(services: FakeServices, client: Client, labels: list[Label]) -> None:
    made = ready(services)
    services.will("GetModel", NotFound("the model 'x' is not loaded here", field="model", reason="MODEL_NOT_LOADED"))
    with pytest.raises(ApiError, match="not loaded here"):
        Comparison(client, labels).run("x")
    assert made == []


@given(
    found=st.lists(st.integers(0, 30).map(str), unique=True, max_size=15),
    relevant=st.sets(st.integers(0, 30).map(str), min_size=1),
)
def test_precision_is_that_of_the_benchmarks(found: list[str], relevant: set[str]) -> None:
    assert average_precision_at_10(found, relevant) == pytest.approx(average_precision_at(found, relevant, 10))
