import inspect
from array import array
from pathlib import Path

import grpc
import pytest

from saccade import ApiError, AsyncClient, Client, NewImage, calls, make_part, make_region
from saccade import filters as f
from saccade.common.v1 import types_pb2
from saccade.embedder.v1 import embedder_service_pb2 as embedder
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from saccade.query.v1 import query_service_pb2 as query
from saccade.requests import vector_tensor
from services.common.errors import InvalidArgument, NotFound, Overloaded
from tests.unit.saccade.fakes import FakeServices


def test_search_puts_every_argument_into_the_request(services: FakeServices, client: Client, tmp_path: Path) -> None:
    picture = tmp_path / "owl.jpg"
    picture.write_bytes(b"jpeg")
    services.will("Search", query.SearchResponse(next_page_token="more"))
    answer = client.search(
        "demo",
        text="an owl",
        image=picture,
        like="abc",
        region=make_region(image="https://example.org/a.png", box=(0.0, 0.25, 0.5, 1.0)),
        parts=[make_part(text="a dog", weight=-0.5), make_part(vector=[1.0, 0.0])],
        mode="segment",
        filter=f.all_of(
            f.tags("pizza", all=True, min_confidence=0.5),
            f.negated(f.metadata("lens.mm", max=35)),
            f.segment_within(0.0, 0.25, 0.5, 1.0),
        ),
        top_k=5,
        page_token="token",
        min_score=0.5,
        weights={"whole": 0.25},
        exact=True,
        nprobe=8,
        consistency="strong",
        explain=True,
        include_masks=True,
        title_text="menu",
        target_recall=0.5,
        modifier="in the snow",
    )
    assert answer.next_page_token == "more"
    request = services.last
    assert [part.WhichOneof("content") for part in request.parts] == [
        "text",
        "image",
        "image_id",
        "region",
        "text",
        "vector",
    ]
    assert request.parts[1].image == b"jpeg"
    assert request.parts[3].region.image_url == "https://example.org/a.png"
    assert request.parts[3].region.box.y0 == 0.25
    assert [part.modifier for part in request.parts] == ["", *["in the snow"] * 3, "", ""]
    assert (request.title_text, request.target_recall) == ("menu", 0.5)
    assert request.parts[4].weight == -0.5
    assert not request.parts[0].HasField("weight")
    assert list(request.parts[5].vector.shape) == [2]
    assert request.mode == query.SEARCH_MODE_SEGMENT
    assert request.consistency == query.CONSISTENCY_STRONG
    assert list(request.filter.all.filters[0].tags.names) == ["pizza"]
    assert request.filter.all.filters[0].tags.min_confidence == 0.5
    assert request.filter.all.filters[2].segment_within.y0 == 0.25
    assert request.filter.all.filters[1].negated.metadata.range.max == 35
    assert list(request.filter.all.filters[1].negated.metadata.path) == ["lens", "mm"]
    assert not request.filter.all.filters[1].negated.metadata.range.HasField("min")
    assert (request.top_k, request.page_token, request.nprobe, request.exact) == (5, "token", 8, True)
    assert request.weights.whole == 0.25
    assert not request.weights.HasField("segment")
    assert request.explain
    assert request.include_masks


def nested(depth: int) -> dict[str, object]:
    inner: dict[str, object] = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda c: c.search("demo", text="a", mode="both"), "needs one of whole, segment, hybrid, tags, not 'both'"),
        (lambda c: c.search("demo", text="a", weights={"colour": 1.0}), "there is none named 'colour'"),
        (lambda c: c.search("demo", text="a", filter={"tag": {}}), "filter: "),
        (lambda c: c.search("demo", text="a", filter={"width": {"min": {1}}}), "filter: "),
        (lambda c: c.create_image("demo", "no such file"), "No such file"),
        (lambda c: c.embed_images(["http://example.org/a.png"]), "not an address"),
        (lambda c: c.update_image("demo", "a"), "needs title, metadata or tags"),
        (lambda c: c.update_image("demo", "a", metadata={"n": 10**400}), "metadata: "),
        (lambda c: c.update_image("demo", "a", metadata={"n": 10**5_000}), "metadata: "),
        (lambda c: c.update_image("demo", "a", metadata={"n": nested(5_000)}), "metadata: "),
        (lambda c: c.search("demo", text="a", filter={"width": {"min": 10**400}}), "filter: "),
        (lambda _: make_part(), "exactly one of"),
        (lambda _: make_part(text="a", like="b"), "exactly one of"),
        (lambda _: make_region(box=(0, 0, 1, 1)), "needs a picture"),
        (lambda _: make_region(like="abc"), "needs a box"),
        (lambda _: f.metadata("a"), "exactly one of"),
        (lambda _: f.metadata("a", equals=1, exists=True), "exactly one of"),
    ],
)
def test_a_wrong_argument_never_leaves(services: FakeServices, client: Client, wrong: object, sentence: str) -> None:
    assert callable(wrong)
    with pytest.raises((ValueError, OSError), match=sentence):
        wrong(client)
    assert not services.requests


def test_errors_are_unpacked(services: FakeServices, client: Client) -> None:
    services.will("Search", InvalidArgument("must be finite", field="parts[0].weight", reason="NOT_FINITE"))
    with pytest.raises(ApiError) as caught:
        client.search("demo", text="a")
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.reason == "NOT_FINITE"
    assert caught.value.fields == (("parts[0].weight", "must be finite"),)
    assert str(caught.value) == "INVALID_ARGUMENT: parts[0].weight: must be finite"

    services.will("GetImage", Overloaded("too much at a time", retry_after_s=1.5))
    with pytest.raises(ApiError) as caught:
        client.get_image("demo", "a")
    assert caught.value.retry_after_s == 1.5


def test_a_service_that_is_not_there_is_unavailable() -> None:
    with Client(query="127.0.0.1:1", timeout_s=5) as client, pytest.raises(ApiError) as caught:
        client.search("demo", text="a")
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE


def test_calls_carry_their_deadline(services: FakeServices, client: Client) -> None:
    services.will("GetCollection", ingest.GetCollectionResponse())
    client.get_collection("demo")
    assert 5 < services.timeouts[-1] < 11
    client.with_timeout(3).get_collection("demo")
    assert 1 < services.timeouts[-1] < 4


def test_create_image_takes_bytes_paths_and_addresses(services: FakeServices, client: Client, tmp_path: Path) -> None:
    services.will("CreateImage", ingest.CreateImageResponse(existed=True))
    path = tmp_path / "a.png"
    path.write_bytes(b"png")

    assert client.create_image("demo", path, wait_for="segmented", replace=True).existed
    assert services.last.image.data == b"png"
    assert services.last.image.source == str(path)
    assert services.last.wait_for == types_pb2.IMAGE_STATE_SEGMENTED
    assert services.last.replace

    client.create_image("demo", "https://example.org/a.png")
    assert services.last.image.url == "https://example.org/a.png"
    assert services.last.image.source == "https://example.org/a.png"
    assert services.last.wait_for == types_pb2.IMAGE_STATE_UNSPECIFIED

    new = NewImage(b"raw", id="a", source="s", title="t", metadata={"lens": {"mm": 35}, "x": [1, None]}, tags=["owl"])
    client.create_image("demo", new)
    image = services.last.image
    assert (image.data, image.id, image.source, image.title, list(image.tags)) == (b"raw", "a", "s", "t", ["owl"])
    assert image.metadata["lens"]["mm"] == 35


def test_update_names_only_what_is_given(services: FakeServices, client: Client) -> None:
    services.will("UpdateImage", ingest.UpdateImageResponse(image=types_pb2.Image(id="a")))
    assert client.update_image("demo", "a", title="", tags=["owl"], etag="7").id == "a"
    assert list(services.last.update_mask.paths) == ["title", "tags"]
    assert services.last.image.tags[0].name == "owl"
    assert services.last.image.etag == "7"


def test_lists_ask_for_page_after_page(services: FakeServices, client: Client) -> None:
    pages = {
        "": ingest.ListImagesResponse(images=[types_pb2.Image(id="a"), types_pb2.Image(id="b")], next_page_token="2"),
        "2": ingest.ListImagesResponse(images=[types_pb2.Image(id="c")]),
    }
    services.will("ListImages", lambda request: pages[request.page_token])
    images = client.list_images("demo", filter={"tags": {"names": ["owl"]}}, page_size=2)
    assert not services.requests
    assert [image.id for image in images] == ["a", "b", "c"]
    assert [request.page_token for request in services.requests] == ["", "2"]
    assert services.last.filter.tags.names == ["owl"]


def test_the_rest_of_ingest(services: FakeServices, client: Client) -> None:
    services.will("CreateCollection", ingest.CreateCollectionResponse(collection=ingest.Collection(name="demo")))
    assert client.create_collection("demo", model="timm:resnet18", vocabulary="general").name == "demo"
    assert (services.last.collection.model, services.last.collection.vocabulary) == ("timm:resnet18", "general")
    services.will("ListCollections", ingest.ListCollectionsResponse(collections=[ingest.Collection(name="demo")]))
    assert [collection.name for collection in client.list_collections()] == ["demo"]
    services.will("DeleteCollection", ingest.DeleteCollectionResponse())
    client.delete_collection("demo", force=True)
    assert services.last.force
    services.will("DeleteImage", ingest.DeleteImageResponse())
    client.delete_image("demo", "a", allow_missing=True)
    assert services.last.allow_missing
    services.will("PutVocabulary", ingest.PutVocabularyResponse(vocabulary=ingest.Vocabulary(name="v")))
    client.put_vocabulary("v", {"owl": "animals"}, prompt_templates=["a {}"])
    assert services.last.vocabulary.entries[0].category == "animals"
    assert client.put_vocabulary("v", ["owl", "dog"]).name == "v"
    assert [entry.name for entry in services.last.vocabulary.entries] == ["owl", "dog"]
    services.will("GetVocabulary", ingest.GetVocabularyResponse(vocabulary=ingest.Vocabulary(name="v")))
    assert client.get_vocabulary("v").name == "v"


def test_vectors_come_as_arrays_of_floats(services: FakeServices, client: Client) -> None:
    rows = types_pb2.Tensor(
        data_type=types_pb2.DATA_TYPE_FLOAT32, shape=[2, 2], data=array("f", [1, 2, 3, 4]).tobytes()
    )
    services.will("EmbedTexts", embedder.EmbedTextsResponse(vectors=rows))
    assert client.embed_texts(["a", "b"], model="other") == [array("f", [1, 2]), array("f", [3, 4])]
    assert services.last.model == "other"

    results = [
        embedder.EmbedImageResult(vector=vector_tensor([0.5, 0.25])),
        embedder.EmbedImageResult(
            error=types_pb2.ItemError(code=3, reason="IMAGE_EMPTY", message="no bytes", field="images[1]")
        ),
    ]
    services.will("EmbedImages", embedder.EmbedImagesResponse(results=results))
    good, bad = client.embed_images([b"a", b""])
    assert good == array("f", [0.5, 0.25])
    assert isinstance(bad, ApiError)
    assert str(bad) == "INVALID_ARGUMENT: images[1]: no bytes"


def test_the_rest_of_the_embedder_and_segments(services: FakeServices, client: Client) -> None:
    analysis = embedder.ImageAnalysis(width=10)
    services.will(
        "AnalyzeImages",
        embedder.AnalyzeImagesResponse(results=[embedder.AnalyzeImageResult(analysis=analysis)]),
    )
    (found,) = client.analyze_images([b"a"], vocabulary={"owl": "animals"}, include_masks=True)
    assert found == analysis
    assert services.last.vocabulary[0].name == "owl"
    services.will("SegmentAt", embedder.SegmentAtResponse(segment=types_pb2.Segment(index=3)))
    assert client.segment_at(b"a", points=[(0.5, 0.25), (0.1, 0.1, True)]).index == 3
    assert [point.background for point in services.last.points] == [False, True]
    services.will("GetModel", embedder.GetModelResponse(model="toy"))
    assert client.get_model().model == "toy"
    assert services.last.model == ""
    client.get_model("other")
    assert services.last.model == "other"
    services.will("SegmentImage", query.SegmentImageResponse(segments=[types_pb2.Segment(index=1)]))
    assert [segment.index for segment in client.segment_image("demo", b"a", max_segments=3)] == [1]


async def test_the_async_client_does_the_same(services: FakeServices, async_client: AsyncClient) -> None:
    services.will("Search", query.SearchResponse(next_page_token="x"))
    assert (await async_client.search("demo", text="an owl")).next_page_token == "x"
    services.will("GetImage", NotFound("there is none", field="id"))
    with pytest.raises(ApiError) as caught:
        await async_client.get_image("demo", "a")
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    pages = {
        "": ingest.ListImagesResponse(images=[types_pb2.Image(id="a")], next_page_token="2"),
        "2": ingest.ListImagesResponse(images=[types_pb2.Image(id="b")]),
    }
    services.will("ListImages", lambda request: pages[request.page_token])
    assert [image.id async for image in async_client.list_images("demo")] == ["a", "b"]
    assert await async_client.check("query") is None


def test_check_says_whether_a_service_serves(services: FakeServices, client: Client) -> None:
    assert client.check("ingest") is None
    with Client(ingest="127.0.0.1:1", timeout_s=2) as lost:
        error = lost.check("ingest")
    assert error
    assert error.code == grpc.StatusCode.UNAVAILABLE


def test_both_faces_have_every_call_with_its_documentation() -> None:
    for name in set(calls.__all__) - {"Call", "Pages", "Service"}:
        for kind in (Client, AsyncClient):
            method = getattr(kind, name)
            assert method.__name__ == name
            assert method.__doc__ == getattr(calls, name).__doc__
            assert next(iter(inspect.signature(method).parameters)) == "self"
    assert "collection" in inspect.signature(Client.search).parameters


def test_an_image_to_store_says_how_long_it_is(services: FakeServices, client: Client) -> None:
    services.will("CreateImage", ingest.CreateImageResponse())
    client.create_image("demo", NewImage(b"x" * 1000))
    assert services.told == {"saccade-bytes": str(services.last.ByteSize())}
