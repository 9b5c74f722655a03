"""Where an import may take images from."""

from pathlib import Path
from typing import Any

import pytest

from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.ingest.jobs.sources import check_bucket, check_folder
from services.ingest.settings import IngestSettings


def settings(**values: Any) -> IngestSettings:
    known: dict[str, Any] = {"listen": "127.0.0.1:0", "objects_url": "s3://saccade/kept"}
    return IngestSettings(**(known | values))


def test_a_bucket_has_to_be_named_and_is_never_the_stores_own() -> None:
    allowed = settings(import_buckets="photos, saccade")
    check_bucket(allowed, "photos")
    for refused in ("secrets", "saccade", ""):
        with pytest.raises(FailedPrecondition) as caught:
            check_bucket(allowed, refused)
        assert (caught.value.field, caught.value.reason) == ("bucket.bucket", "IMPORT_NOT_ALLOWED")


def test_a_folder_lies_below_the_root_and_apart_from_the_store(tmp_path: Path) -> None:
    for name in ("photos/trip", "store/collections", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "store")
    allowed = settings(objects_url=(tmp_path / "store").as_uri(), import_root=str(tmp_path))
    assert check_folder(allowed, (tmp_path / "photos" / "trip").as_uri()) == tmp_path / "photos" / "trip"
    for refused in ("store", "store/collections", "photos/link", ""):
        with pytest.raises(FailedPrecondition, match="another place"):
            check_folder(allowed, (tmp_path / refused).as_uri())
    with pytest.raises(FailedPrecondition, match="below the one"):
        check_folder(settings(import_root=str(tmp_path / "photos")), (tmp_path / "elsewhere").as_uri())
    with pytest.raises(FailedPrecondition, match="names none"):
        check_folder(settings(), (tmp_path / "photos").as_uri())
    with pytest.raises(NotFound):
        check_folder(allowed, (tmp_path / "none").as_uri())
    with pytest.raises(InvalidArgument):
        check_folder(allowed, str(tmp_path / "photos"))
