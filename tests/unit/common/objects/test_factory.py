from pathlib import Path

import pytest

from services.common.errors import FailedPrecondition
from services.common.objects import LocalObjects, open_object_store
from services.common.objects.minio import S3Objects
from services.common.settings import ObjectSettings


def settings(url: str, **others: str) -> ObjectSettings:
    return ObjectSettings.model_validate({"objects_url": url, "s3_access_key": "a", "s3_secret_key": "b", **others})


async def test_the_url_says_which_store(tmp_path: Path) -> None:
    for url, kind in ((f"file://{tmp_path}/with%20space", LocalObjects), ("s3://bucket/some/prefix", S3Objects)):
        store = open_object_store(settings(url))
        assert isinstance(store, kind)
        await store.close()
    store = open_object_store(settings(f"file://{tmp_path}/with%20space"))
    await store.put("a", b"1")
    assert (tmp_path / "with space" / "a").read_bytes() == b"1"
    await store.close()


@pytest.mark.parametrize(
    "url", ["", "bucket", "s3://", "file://", "file:///", "file://host/folder", "http://x/y", "s3://b?x=1"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(FailedPrecondition, match="objects_url"):
        open_object_store(settings(url))


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ({"s3_access_key": ""}, "s3_access_key"),
        ({"s3_secret_key": ""}, "s3_secret_key"),
        ({"s3_endpoint": "127.0.0.1:9000"}, "s3_endpoint"),
        ({"s3_endpoint": "http://127.0.0.1:9000/path"}, "s3_endpoint"),
        ({"s3_public_endpoint": "ftp://x"}, "s3_public_endpoint"),
    ],
)
def test_what_s3_lacks_is_named(others: dict[str, str], named: str) -> None:
    with pytest.raises(FailedPrecondition, match=named):
        open_object_store(settings("s3://bucket", **others))
