"""Imports of a real ingest process: from a folder, from addresses and from a bucket; killed and cancelled."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import SecretStr

from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from services.common.objects import open_object_store
from services.common.settings import ObjectSettings
from services.ingest.jobs.sources import Bucket
from tests.engines import free_port, milvus_lite, minio_server, wait_until
from tests.integration.ingest_support import (
    Ingest,
    Stack,
    T,
    counts,
    embedder_process,
    ended,
    ingest_process,
    listed,
    make_collection,
    picture,
    refused,
    tagged,
)

RECOVERY_S = 60
COUNT = 150


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, two of the same content, and two files that are none; a link that leads out."""
    root = tmp_path_factory.mktemp("import")
    (root / "photos" / "deep").mkdir(parents=True)
    for i in range(COUNT):
        (root / "photos" / ("deep" if i % 2 else "") / f"p{i:03}.png").write_bytes(picture(seed=i))
    (root / "photos" / "twin.png").write_bytes(picture(seed=0))
    (root / "photos" / "empty.png").touch()
    (root / "photos" / "text.txt").write_text("no picture")
    (root / "outside.png").write_bytes(picture(seed=COUNT))
    (root / "photos" / "link.png").symlink_to(root / "outside.png")
    return root / "photos"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Stack]:
    root = tmp_path_factory.mktemp("imports")
    port = free_port()
    settings = {"SACCADE_INGEST_IMPORT_ROOT": str(folder), "SACCADE_INGEST_IMPORT_BACKLOG": "40"}
    with milvus_lite(root / "milvus") as milvus, embedder_process(port, SACCADE_SEGMENTER=""):
        yield Stack(milvus, port, root / "objects", settings)


@pytest.fixture
def service(stack: Stack) -> Iterator[Ingest]:
    with ingest_process(stack) as ingest:
        yield ingest


def start(ingest: IngestServiceStub, collection: str, **source: Any) -> pb.Job:
    request = pb.ImportImagesRequest(collection=collection, tags=["imported"], **source)
    return ingest.ImportImages(request, timeout=T, wait_for_ready=True).job


def job_of(ingest: IngestServiceStub, job: pb.Job) -> pb.Job:
    return ingest.GetJob(pb.GetJobRequest(id=job.id), timeout=T, wait_for_ready=True).job


def test_a_folder_is_imported_through_kills(service: Ingest, folder: Path) -> None:
    """Killed twice on the way it goes on; each picture is stored once, and what is none is listed."""
    ingest = service.stub
    name = make_collection(ingest, name="killed")
    job = start(ingest, name, folder=folder.as_uri())
    for least in (1, 70):
        assert wait_until(lambda least=least: job_of(ingest, job).done >= least, timeout_s=RECOVERY_S)  # type: ignore[misc]
        service.process.kill()
        service.process.restart()
    job = ended(ingest, job.id)
    assert (job.state, job.done, job.failed) == (pb.Job.STATE_SUCCEEDED, COUNT + 1, 3), job
    assert {error.field.rpartition("/")[2]: error.reason for error in job.errors} == {
        "empty.png": "IMAGE_UNREADABLE",
        "text.txt": "IMAGE_FORMAT",
        "link.png": "IMPORT_LINK",
    }
    assert wait_until(lambda: counts(ingest, name) == (COUNT, 0, 0), timeout_s=RECOVERY_S)
    assert len(listed(ingest, name, filter=tagged("imported"), page_size=1_000)) == COUNT

    again = ended(ingest, start(ingest, name, folder=folder.as_uri()).id)
    assert (again.done, again.failed) == (COUNT + 1, 3)
    assert wait_until(lambda: counts(ingest, name) == (COUNT, 0, 0), timeout_s=RECOVERY_S)


def test_an_import_is_cancelled_and_what_it_stored_stays(service: Ingest, folder: Path) -> None:
    ingest = service.stub
    name = make_collection(ingest, name="cancelled")
    job = start(ingest, name, folder=folder.as_uri())
    assert wait_until(lambda: job_of(ingest, job).done > 0, timeout_s=RECOVERY_S)
    job = ingest.CancelJob(pb.CancelJobRequest(id=job.id), timeout=T).job
    assert wait_until(lambda: job_of(ingest, job).state == pb.Job.STATE_CANCELLED, timeout_s=RECOVERY_S)
    assert wait_until(lambda: counts(ingest, name)[2] == 0, timeout_s=RECOVERY_S)
    assert job_of(ingest, job).done <= counts(ingest, name)[0] <= COUNT


def test_addresses_are_imported(service: Ingest, folder: Path) -> None:
    ingest = service.stub
    name = make_collection(ingest, name="addresses")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        site = f"http://127.0.0.1:{server.server_port}"
        urls = [f"{site}/{file}" for file in ("p000.png", "twin.png", "p002.png", "gone.png")]
        job = ended(ingest, start(ingest, name, urls=pb.ImportImagesRequest.Urls(urls=urls)).id)
        server.shutdown()
        thread.join()
    assert (job.state, job.total, job.done, job.failed) == (pb.Job.STATE_SUCCEEDED, 4, 3, 1), job
    assert (job.errors[0].field, job.errors[0].reason) == (urls[3], "URL_STATUS")
    assert wait_until(lambda: counts(ingest, name) == (2, 0, 0), timeout_s=RECOVERY_S)


def test_what_may_not_be_imported(service: Ingest, folder: Path) -> None:
    ingest = service.stub
    name = make_collection(ingest, name="refused")
    urls = pb.ImportImagesRequest.Urls
    refusals: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "source"),
        ({"folder": folder.parent.as_uri()}, grpc.StatusCode.FAILED_PRECONDITION, "folder"),
        ({"folder": f"{folder.as_uri()}/../.."}, grpc.StatusCode.FAILED_PRECONDITION, "folder"),
        ({"folder": f"{folder.as_uri()}/none"}, grpc.StatusCode.NOT_FOUND, "folder"),
        ({"folder": str(folder)}, grpc.StatusCode.INVALID_ARGUMENT, "folder"),
        ({"bucket": {"bucket": "secrets"}}, grpc.StatusCode.FAILED_PRECONDITION, "bucket.bucket"),
        ({"urls": urls()}, grpc.StatusCode.INVALID_ARGUMENT, "urls.urls"),
        ({"urls": urls(urls=["http://a"] * 10_001)}, grpc.StatusCode.INVALID_ARGUMENT, "urls.urls"),
    ]
    for source, code, field in refusals:
        error = refused(ingest.ImportImages, pb.ImportImagesRequest(collection=name, **source))
        assert (error.code, error.fields[0][0]) == (code, field), source
    error = refused(ingest.ImportImages, pb.ImportImagesRequest(collection="nowhere", urls=urls(urls=["http://a"])))
    assert error.code == grpc.StatusCode.NOT_FOUND


async def test_a_bucket_is_read_below_its_prefix(tmp_path: Path) -> None:
    with minio_server(tmp_path) as minio:
        settings = ObjectSettings(
            objects_url="s3://photos",
            s3_endpoint=f"http://{minio.endpoint}",
            s3_access_key=SecretStr(minio.access_key),
            s3_secret_key=SecretStr(minio.secret_key),
            s3_create_bucket=True,
        )
        store = open_object_store(settings)
        await store.check()
        for key in ("2025/a", "2026/a", "2026/b", "2026/large"):
            await store.put(key, b"x" * (100 if key.endswith("large") else 1))
        bucket = Bucket(settings, "photos", "2026/", max_bytes=10)
        first = await bucket.page("", 2)
        assert first == [("2026/a", "2026/a"), ("2026/b", "2026/b")]
        assert await bucket.read("2026/a") == b"x"
        assert await bucket.page("2026/b", 2) == [("2026/large", "2026/large")]
        with pytest.raises(Exception, match="at most 10"):
            await bucket.read("2026/large")
        assert await bucket.page("2026/large", 2) == []
        await bucket.close()
        await store.close()
