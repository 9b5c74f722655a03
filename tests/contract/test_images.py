"""Bad pictures, wherever a picture may come in: each refused with its reason and field, its neighbours unharmed."""

import base64
from collections.abc import Callable
from typing import Final

import grpc
import httpx
import pytest
from PIL import Image

from saccade import ApiError, Client, NewImage, calls, make_region
from saccade.embedder.v1 import embedder_service_pb2 as embedder
from tests.contract.conftest import COLLECTION, Refusal, refused, refused_by, refused_over_http
from tests.contract.pictures import BAD, animated_gif, encoded, good

Send = Callable[[Client, bytes], Refusal]

GRPC: Final[dict[str, tuple[Send, str]]] = {
    "CreateImage": (lambda c, data: refused(c, calls.create_image(COLLECTION, data)), "image.data"),
    "Search, image": (lambda c, data: refused(c, calls.search(COLLECTION, image=data)), "parts[0].image"),
    "Search, region": (
        lambda c, data: refused(c, calls.search(COLLECTION, region=make_region(image=data, box=(0.1, 0.1, 0.5, 0.5)))),
        "parts[0].region.image",
    ),
    "SegmentImage": (lambda c, data: refused(c, calls.segment_image(COLLECTION, data)), "image"),
    "SegmentAt": (lambda c, data: refused(c, calls.segment_at(data, points=[(0.5, 0.5)])), "image"),
}


@pytest.mark.parametrize("call", GRPC)
@pytest.mark.parametrize("kind", BAD)
def test_grpc_refuses(client: Client, kind: str, call: str) -> None:
    data, reason = BAD[kind]
    send, field = GRPC[call]
    refusal = send(client, data)
    assert (refusal.code, refusal.reason, refusal.field) == (grpc.StatusCode.INVALID_ARGUMENT, reason, field)


@pytest.mark.parametrize("kind", BAD)
def test_http_refuses_an_upload(http: httpx.Client, kind: str) -> None:
    data, reason = BAD[kind]
    response = http.post(f"/v1/collections/{COLLECTION}/images", files={"file": ("a.jpg", data, "image/jpeg")})
    refusal = refused_over_http(response)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert refusal.field == "data"


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "60 MB"])
def test_http_refuses_a_query_picture(http: httpx.Client, kind: str) -> None:
    data, reason = BAD[kind]
    parts = [{"text": "red"}, {"image": base64.b64encode(data).decode()}]
    refusal = refused_over_http(http.post(f"/v1/collections/{COLLECTION}/search", json={"parts": parts}))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert refusal.field == "parts[1].image"


def test_http_refuses_60_mb_in_json(http: httpx.Client) -> None:
    data, _ = BAD["60 MB"]
    parts = [{"image": base64.b64encode(data).decode()}]
    response = http.post(f"/v1/collections/{COLLECTION}/search", json={"parts": parts})
    assert response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
    assert refused_over_http(response).reason


def test_neighbours_in_a_stream_are_stored(client: Client) -> None:
    images = []
    for number, (kind, (data, _)) in enumerate(BAD.items()):
        images += [
            NewImage(data, source=kind, id=f"bad-{number}"),
            NewImage(good("white", "purple"), source="good", id=f"neighbour-{number}"),
        ]
    results = list(client.stream_images(images, collection=COLLECTION))
    assert len(results) == len(images)
    for result in results:
        if result.item.source == "good":
            assert result.image
        else:
            assert result.error
            assert result.error.reason == BAD[result.item.source][1]
            assert result.error.fields[0][0] == "image.data"
    for number in range(len(BAD)):
        client.delete_image(COLLECTION, f"neighbour-{number}")


def test_neighbours_in_a_batch_are_embedded(client: Client) -> None:
    small = {kind: pair for kind, pair in BAD.items() if kind != "60 MB"}
    images = [good(), *(data for data, _ in small.values()), good()]
    alone = client.embed_images([good()])[0]
    first, *bad, last = client.embed_images(images)
    assert first == last == alone
    for number, (error, (_, reason)) in enumerate(zip(bad, small.values(), strict=True), start=1):
        assert isinstance(error, ApiError)
        assert error.reason == reason
        assert error.fields[0][0] == f"images[{number}]"
    analyses = client.analyze_images(images)
    assert [isinstance(analysis, embedder.ImageAnalysis) for analysis in analyses] == [
        True,
        *[False] * len(small),
        True,
    ]


def test_60_mb_in_a_batch(client: Client) -> None:
    vector, error = client.embed_images([good(), BAD["60 MB"][0]])
    assert not isinstance(vector, ApiError)
    assert isinstance(error, ApiError)
    assert error.reason == "IMAGE_TOO_LARGE"


def test_a_message_beyond_the_limit_is_refused(client: Client) -> None:
    with pytest.raises(ValueError, match="longer than"):
        client.create_image(COLLECTION, b"\0" * 90_000_000)


def test_strange_pictures_are_taken(client: Client, http: httpx.Client) -> None:
    """An animation counts as its first frame; the content decides what a picture is, not its name."""
    animated = client.create_image(COLLECTION, NewImage(animated_gif(), id="animated")).image
    assert (animated.content_type, animated.width) == ("image/gif", 64)
    png = encoded(Image.new("RGB", (32, 32), "orange"), "PNG")
    response = http.post(
        f"/v1/collections/{COLLECTION}/images", files={"file": ("photo.jpg", png, "image/jpeg")}, data={"id": "named"}
    )
    assert response.json()["image"]["content_type"] == "image/png"
    for image_id in ("animated", "named"):
        client.delete_image(COLLECTION, image_id)


def test_addresses_that_lead_nowhere_good(client: Client) -> None:
    for url in ("http://127.0.0.1:1/a.jpg", "http://[::1]/a.jpg", "http://localhost/a.jpg", "https://10.0.0.1/a.jpg"):
        refusal = refused_by(lambda url=url: client.create_image(COLLECTION, NewImage(url)))  # type: ignore[misc]
        assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.field == "image.url"
        refusal = refused(client, calls.search(COLLECTION, image=url))
        assert refusal.field == "parts[0].image_url"
