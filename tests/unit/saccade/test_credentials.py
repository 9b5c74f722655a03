from pathlib import Path

import pytest

from saccade import AsyncClient, Client, NewImage
from saccade.credentials import bearer, tls_credentials
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from tests.unit.saccade.fakes import FakeServices


def test_every_call_shows_the_key(services: FakeServices) -> None:
    services.will("GetImage", ingest.GetImageResponse())
    services.will("ListImages", ingest.ListImagesResponse())
    at = services.address
    with Client(embedder=at, ingest=at, query=at, key="sk_one", timeout_s=20) as client:
        client.get_image("c", "i")
        list(client.list_images("c"))
        list(client.stream_images([NewImage(b"x", id="i")], collection="c"))
    assert services.shown == ["Bearer sk_one"] * 3


async def test_the_asynchronous_client_too(services: FakeServices) -> None:
    services.will("GetImage", ingest.GetImageResponse())
    at = services.address
    async with AsyncClient(embedder=at, ingest=at, query=at, key="sk_one", timeout_s=20) as client:
        await client.get_image("c", "i")
        assert [result async for result in client.stream_images([NewImage(b"x", id="i")], collection="c")]
    assert services.shown == ["Bearer sk_one"] * 2


def test_without_a_key_nothing_is_shown(services: FakeServices, client: Client) -> None:
    services.will("GetImage", ingest.GetImageResponse())
    client.get_image("c", "i")
    assert services.shown == [""]


@pytest.mark.parametrize("key", ["a b", "a\n", "é", "sk_\x00"])
def test_what_is_no_key_is_not_sent(key: str) -> None:
    with pytest.raises(ValueError, match="no key has") as caught:
        bearer(key)
    assert key not in str(caught.value)


def test_files_of_certificates(tmp_path: Path) -> None:
    assert tls_credentials() is None
    assert tls_credentials(tls=True) is not None
    with pytest.raises(ValueError, match="--cert-key"):
        tls_credentials(cert="x")
    with pytest.raises(OSError, match=r"none\.pem"):
        tls_credentials(tmp_path / "none.pem")
