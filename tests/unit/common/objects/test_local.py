import asyncio
import itertools
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.common.objects import LocalObjects, ObjectMissing, open_object_store
from services.common.objects.local import DRAFTS
from services.common.settings import ObjectSettings

KEYS = st.lists(st.sampled_from(["a", "a-b", "a.b", "a0", "_", "-", "b", "é", "😀"]), min_size=1, max_size=3).map(
    "/".join
)


def opened(root: Path, *, url_expiry_s: int = 3600) -> LocalObjects:
    store = open_object_store(ObjectSettings(objects_url=f"file://{root}", url_expiry_s=url_expiry_s))
    assert isinstance(store, LocalObjects)
    return store


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[LocalObjects]:
    local = opened(tmp_path / "objects")
    yield local
    await local.close()


def apart(keys: set[str]) -> set[str]:
    """The keys without those that are the folder of another."""
    return {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    keys=st.sets(KEYS, max_size=8).map(apart),
    prefix=st.sampled_from(["", "a", "a/", "a-", "a/a", "a/b/", "é"]),
    start_after=KEYS | st.just(""),
    limit=st.integers(1, 5),
)
async def test_listings_are_those_of_sorted_keys(
    tmp_path_factory: pytest.TempPathFactory, keys: set[str], prefix: str, start_after: str, limit: int
) -> None:
    store = opened(tmp_path_factory.mktemp("objects"))
    for key in keys:
        await store.put(key, key.encode())
    matching = sorted((key for key in keys if key.startswith(prefix)), key=str.encode)

    wanted = [key for key in matching if key > start_after][:limit]
    got = await store.list(prefix, start_after=start_after, limit=limit)
    assert [info.key for info in got] == wanted
    assert [info.size_bytes for info in got] == [len(key.encode()) for key in wanted]

    folder = prefix[: prefix.rfind("/") + 1]
    below = sorted(key[len(folder) :] for key in keys if key.startswith(folder))
    names = [name for name, _ in itertools.groupby(key.split("/")[0] for key in below if "/" in key)]
    assert await store.list_folders(folder) == names
    for number, name in enumerate(names):
        assert await store.list_folders(folder, start_after=name, limit=2) == names[number + 1 : number + 3]

    assert await store.delete_prefix(prefix) == len(matching)
    assert {info.key for info in await store.list("")} == keys - set(matching)
    await store.close()


async def test_an_emptied_folder_goes_and_the_root_stays(store: LocalObjects, tmp_path: Path) -> None:
    await store.put("a/b/c", b"1")
    await store.put("a/d", b"2")
    await store.delete("a/b/c")
    assert os.listdir(tmp_path / "objects" / "a") == ["d"]
    await store.delete("a/d")
    await store.delete("a/d")
    assert os.listdir(tmp_path / "objects") == [DRAFTS]
    assert await store.list_folders("") == []


async def test_writes_and_deletes_may_race(store: LocalObjects) -> None:
    async def write(name: str) -> None:
        for _ in range(10):
            await store.put(f"a/b/{name}", name.encode())
            assert await store.get(f"a/b/{name}") == name.encode()
            await store.delete(f"a/b/{name}")

    await asyncio.gather(*[write(name) for name in "cdef"])
    assert await store.list("") == []


async def test_a_write_leaves_no_draft_and_replaces_as_a_whole(store: LocalObjects, tmp_path: Path) -> None:
    first, second = b"a" * 500_000, b"b" * 400_000

    async def write() -> None:
        for number in range(5):
            await store.put("a/b", second if number % 2 else first)

    async def read() -> None:
        while not writing.done():
            assert await store.get("a/b") in {first, second}

    await store.put("a/b", first)
    writing = asyncio.create_task(write())
    await asyncio.gather(writing, read())
    assert os.listdir(tmp_path / "objects" / "a") == ["b"]
    assert os.listdir(tmp_path / "objects" / DRAFTS) == []


async def test_drafts_of_a_killed_process_are_no_objects(store: LocalObjects, tmp_path: Path) -> None:
    await store.put("a/b", b"1")
    (tmp_path / "objects" / DRAFTS / "123").write_bytes(b"half")
    assert [info.key for info in await store.list("")] == ["a/b"]
    assert await store.list_folders("") == ["a"]
    assert await store.delete_prefix("") == 1


async def test_drafts_of_a_killed_process_go_with_time(store: LocalObjects, tmp_path: Path) -> None:
    await store.put("a/b", b"1")
    old, young = (tmp_path / "objects" / DRAFTS / name for name in ("old", "young"))
    for draft in (old, young):
        draft.write_bytes(b"half")
    # Ten times the longest that a call may take.
    hours_ago = time.time() - 3_600
    os.utime(old, (hours_ago, hours_ago))
    await store.check()
    assert os.listdir(tmp_path / "objects" / DRAFTS) == ["young"]
    assert await store.get("a/b") == b"1"


async def test_a_write_that_fails_leaves_no_draft(store: LocalObjects, tmp_path: Path) -> None:
    await store.put("a/b", b"1")
    with pytest.raises(FailedPrecondition):
        await store.put("a/b/c", b"2")
    assert os.listdir(tmp_path / "objects" / DRAFTS) == []


@pytest.mark.parametrize(
    "key", ["", "/", "a//b", "../a", "a/../../b", "/etc/passwd", "a/", ".a", "a/.b", "a\0b", "a\nb"]
)
async def test_a_key_that_leads_elsewhere_is_refused(store: LocalObjects, key: str) -> None:
    for call in (store.get(key), store.put(key, b""), store.delete(key), store.presign(key)):
        with pytest.raises(InvalidArgument) as caught:
            await call
        assert caught.value.reason == "OBJECT_KEY"


async def test_a_folder_is_no_object(store: LocalObjects) -> None:
    await store.put("a/b", b"1")
    with pytest.raises(ObjectMissing):
        await store.get("a")
    with pytest.raises(ObjectMissing):
        await store.get("a/b/c")


async def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = opened(tmp_path / "file" / "objects")
    with pytest.raises(FailedPrecondition, match="file/objects"):
        await store.check()
    with pytest.raises(FailedPrecondition):
        await store.put("a", b"")
    await store.close()


def presigned(url: str) -> tuple[str, str, str]:
    """Key, expiry and signature of an address."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    return unquote(parts.path.removeprefix("/objects/")), query["expires"][0], query["signature"][0]


PNG = b"\x89PNG\r\n\x1a\n...."


async def test_a_presigned_address_opens_one_object(store: LocalObjects) -> None:
    key = "collections/c/images/-a b.é/original"
    await store.put(key, PNG)
    url = await store.presign(key)
    assert url.startswith("http://127.0.0.1:8080/objects/collections/c/images/-a%20b")
    named, expires, signature = presigned(url)
    assert named == key
    assert await store.read_presigned(key, expires, signature) == (PNG, "image/png")
    await store.put("other", b"1")
    for changed in (
        ("other", expires, signature),
        (key, str(int(expires) + 1), signature),
        (key, expires, signature[:-1] + ("0" if signature[-1] != "0" else "1")),
        (key, expires, ""),
        (key, expires, "é"),
        (key, "soon", signature),
        ("../../etc/passwd", expires, signature),
    ):
        with pytest.raises(InvalidArgument):
            await store.read_presigned(*changed)
    await store.delete(key)
    with pytest.raises(ObjectMissing):
        await store.read_presigned(key, expires, signature)


async def test_an_address_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path, url_expiry_s=10)
    await store.put("a", b"1")
    key, expires, signature = presigned(await store.presign("a"))
    assert (await store.read_presigned(key, expires, signature))[0] == b"1"
    monkeypatch.setattr("services.common.objects.signing.time.time", lambda: float(expires))
    with pytest.raises(NotFound, match="expired"):
        await store.read_presigned(key, expires, signature)
    await store.close()


async def test_processes_of_one_folder_share_a_key_of_their_own(tmp_path: Path) -> None:
    stores = [opened(tmp_path) for _ in range(4)]
    urls = await asyncio.gather(*[each.presign("a") for each in stores])
    await stores[0].put("a", b"1")
    for url in urls:
        for each in stores:
            assert (await each.read_presigned(*presigned(url)))[0] == b"1"
    assert [name for name in os.listdir(tmp_path) if "key" in name] == [".signing-key"]
    assert stat.S_IMODE(os.stat(tmp_path / ".signing-key").st_mode) == 0o600
    assert await stores[0].list("") != []
    await asyncio.gather(*[each.close() for each in stores])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
async def test_a_folder_without_rights_is_said(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o500)
    store = opened(tmp_path)
    with pytest.raises(FailedPrecondition, match="may not be used"):
        await store.put("a", b"")
    await store.close()


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
        (b"GIF89a", "image/gif"),
        (b"BM..", "image/bmp"),
        (b"II*\0", "image/tiff"),
        (b"<script>", "application/octet-stream"),
        (b"", "application/octet-stream"),
    ],
)
async def test_the_media_type_is_told_from_the_bytes(store: LocalObjects, data: bytes, content_type: str) -> None:
    await store.put("a", data)
    assert await store.read_presigned(*presigned(await store.presign("a"))) == (data, content_type)
