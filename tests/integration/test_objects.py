"""What every object store does, shown on a local folder and on a real MinIO server; and how MinIO's failures look."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from services.common.errors import FailedPrecondition, InvalidArgument, Unavailable
from services.common.objects import LocalObjects, ObjectMissing, ObjectStore, open_object_store
from services.common.settings import ObjectSettings
from tests.engines import S3Server, minio_server

# Names whose order says whether folders are compared with the slash behind them, and bytes as bytes.
NAMES = ["-", "-a", "0", "_", "a", "a-b", "a.b", "a0", "ab", "z.", "é", "😀"]
buckets = (f"bucket-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with minio_server(tmp_path_factory.mktemp("minio")) as running:
        yield running


def s3_settings(server: S3Server, url: str, **others: object) -> ObjectSettings:
    return ObjectSettings.model_validate(
        {
            "objects_url": url,
            "s3_endpoint": f"http://{server.endpoint}",
            "s3_access_key": server.access_key,
            "s3_secret_key": server.secret_key,
            "s3_create_bucket": True,
            **others,
        }
    )


@pytest.fixture(params=["local", "minio", "minio-prefix"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    if request.param == "local":
        settings = ObjectSettings(objects_url=f"file://{tmp_path}/objects")
    else:
        prefix = "/some/prefix" if request.param == "minio-prefix" else ""
        settings = s3_settings(request.getfixturevalue("server"), f"s3://{next(buckets)}{prefix}")
    opened = open_object_store(settings)
    await opened.check()
    yield opened
    await opened.close()


async def test_an_object_comes_back_until_it_is_deleted(store: ObjectStore) -> None:
    key = "collections/c/images/-a_b.c/original"
    with pytest.raises(ObjectMissing, match=r"-a_b\.c") as caught:
        await store.get(key)
    assert caught.value.reason == "OBJECT_MISSING"
    for data in (b"first", b"", bytes(range(256)) * 40_000):
        await store.put(key, data, content_type="image/jpeg")
        assert await store.get(key) == data
        infos = await store.list("collections/c/")
        assert [(info.key, info.size_bytes) for info in infos] == [(key, len(data))]
        assert infos[0].modified_at_ms > 1_700_000_000_000
    await store.delete(key)
    await store.delete(key)
    with pytest.raises(ObjectMissing):
        await store.get(key)
    assert await store.list("") == []


async def test_listings_are_in_the_order_of_bytes(store: ObjectStore) -> None:
    keys = sorted((f"images/{name}/{leaf}" for name in NAMES for leaf in ("original", "record.json")), key=str.encode)
    await asyncio.gather(*[store.put(key, b"1") for key in keys], store.put("images.json", b"1"))

    assert [info.key for info in await store.list("images/")] == keys
    assert [info.key for info in await store.list("image")] == sorted([*keys, "images.json"])
    paged: list[str] = []
    while page := await store.list("images/", start_after=paged[-1] if paged else "", limit=5):
        paged += [info.key for info in page]
    assert paged == keys
    assert [info.key for info in await store.list("images/", start_after="images/a/")] == [
        key for key in keys if key > "images/a/"
    ]
    assert await store.list("images/a", start_after="images/b") == []

    folders = sorted(NAMES, key=lambda name: f"{name}/".encode())
    assert await store.list_folders("images/") == folders
    assert await store.list_folders("") == ["images"]
    assert await store.list_folders("images/a/") == []
    assert await store.list_folders("nowhere/") == []
    walked: list[str] = []
    while names := await store.list_folders("images/", start_after=walked[-1] if walked else "", limit=5):
        walked += names
    assert walked == folders


async def test_a_prefix_is_deleted_whole_and_alone(store: ObjectStore) -> None:
    doomed = [f"collections/a/images/{number:04d}/original" for number in range(30)]
    kept = ["collections/a_1/images/x/original", "collections/ab.json", "vocabularies/a.json"]
    await asyncio.gather(*[store.put(key, b"1") for key in [*doomed, *kept]])
    assert await store.delete_prefix("collections/a/") == len(doomed)
    assert await store.delete_prefix("collections/a/") == 0
    assert [info.key for info in await store.list("")] == kept


async def test_concurrent_writers_of_one_key_leave_one_whole_object(store: ObjectStore) -> None:
    bodies = [bytes([number]) * 100_000 for number in range(8)]
    await asyncio.gather(*[store.put("a/b", body) for body in bodies])
    assert await store.get("a/b") in bodies


@pytest.mark.parametrize("key", ["", "a//b", "../a", "/a", "a/", "a/.b", "a\0b", "a\nb", "x" * 256, "a/" * 600 + "a"])
async def test_a_key_that_is_none_is_refused(store: ObjectStore, key: str) -> None:
    for call in (lambda: store.get(key), lambda: store.put(key, b""), lambda: store.presign(key)):
        with pytest.raises(InvalidArgument) as caught:
            await call()
        assert caught.value.field == "key"
    with pytest.raises(InvalidArgument):
        await store.list("../")
    with pytest.raises(InvalidArgument):
        await store.list_folders("images")
    for limit in (0, 10_001):
        with pytest.raises(InvalidArgument):
            await store.list("", limit=limit)


async def test_a_presigned_address_is_good_for_one_object(store: ObjectStore) -> None:
    if isinstance(store, LocalObjects):
        pytest.skip("the gateway answers for local objects; see the unit tests")
    await store.put("a/-b c.é", b"data", content_type="image/webp")
    url = await store.presign("a/-b c.é")
    async with httpx.AsyncClient() as client:
        answer = await client.get(url)
        assert (answer.status_code, answer.content) == (200, b"data")
        assert answer.headers["content-type"] == "image/webp"
        assert (await client.get(url.replace("/a/", "/b/"))).status_code == 403
        assert (await client.get(url.replace("X-Amz-Expires=3600", "X-Amz-Expires=7200"))).status_code == 403
        assert (await client.get(url.partition("?")[0])).status_code == 403
        assert (await client.put(url, content=b"other")).status_code == 403
        assert (await client.delete(url)).status_code == 403
    assert await store.get("a/-b c.é") == b"data"


async def test_a_presigned_address_expires(server: S3Server) -> None:
    store = open_object_store(s3_settings(server, f"s3://{next(buckets)}", url_expiry_s=1))
    await store.check()
    await store.put("a", b"data")
    url = await store.presign("a")
    async with httpx.AsyncClient() as client, asyncio.timeout(30):
        while (answer := await client.get(url)).status_code == 200:  # noqa: ASYNC110 - a server's clock tells nobody
            await asyncio.sleep(0.2)
    assert answer.status_code == 403
    assert b"data" not in answer.content
    await store.close()


async def test_a_missing_bucket_is_named(server: S3Server) -> None:
    store = open_object_store(s3_settings(server, "s3://nowhere", s3_create_bucket=False))
    for call in (store.check, lambda: store.get("a"), lambda: store.put("a", b""), lambda: store.list("")):
        with pytest.raises(FailedPrecondition, match="nowhere") as caught:
            await call()
        assert caught.value.reason == "BUCKET_MISSING"
    await store.close()


async def test_replicas_may_make_the_bucket_at_once(server: S3Server) -> None:
    url = f"s3://{next(buckets)}"
    stores = [open_object_store(s3_settings(server, url)) for _ in range(4)]
    await asyncio.gather(*[store.check() for store in stores])
    await stores[0].put("a", b"1")
    assert await stores[3].get("a") == b"1"
    await asyncio.gather(*[store.close() for store in stores])


@pytest.mark.parametrize("wrong", ["s3_secret_key", "s3_access_key"])
async def test_wrong_credentials_are_said(server: S3Server, wrong: str) -> None:
    store = open_object_store(s3_settings(server, "s3://bucket", **{wrong: "wrong-wrong"}))
    for call in (store.check, lambda: store.get("a"), lambda: store.put("a", b"")):
        with pytest.raises(FailedPrecondition, match="s3_secret_key") as caught:
            await call()
        assert caught.value.reason == "OBJECTS_REFUSED"
    await store.close()


@pytest.mark.timeout(180)
async def test_a_server_that_comes_back_is_used_again(tmp_path: Path) -> None:
    with minio_server(tmp_path) as server:
        store = open_object_store(s3_settings(server, "s3://bucket"))
        await store.check()
        await store.put("a", b"1")
        server.kill()
        with pytest.raises(Unavailable):
            await store.get("a")
        server.restart()
        assert await store.get("a") == b"1"
        await store.close()
