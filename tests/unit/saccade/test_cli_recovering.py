from pathlib import Path
from typing import Any

import pytest

from saccade import Client
from saccade.embedder.v1 import embedder_service_pb2 as embedder
from saccade.ingest.v1 import ingest_service_pb2 as ingest
from services.common.errors import DeadlineExceeded, NotFound, SaccadeError, Unavailable
from tests.unit.saccade.fakes import FakeServices
from tests.unit.saccade.test_cli import Run, run  # noqa: F401 - a fixture


def job(kind: str, state: str = "STATE_SUCCEEDED", **fields: Any) -> ingest.Job:
    return ingest.Job(id="j1", kind=kind, collection="mine", state=ingest.Job.State.Value(state), **fields)


def finding(kind: str, found: int, repaired: int) -> ingest.Job.Finding:
    return ingest.Job.Finding(kind=kind, found=found, repaired=repaired)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (["s3://photos/2026/"], {"bucket": {"bucket": "photos", "prefix": "2026/"}}),
        (["file:///srv/photos"], {"folder": "file:///srv/photos"}),
        (["http://a/1.png", "https://b/2.png"], {"urls": {"urls": ["http://a/1.png", "https://b/2.png"]}}),
    ],
)
def test_import(services: FakeServices, run: Run, source: list[str], wanted: dict[str, Any]) -> None:  # noqa: F811
    services.will("ImportImages", ingest.ImportImagesResponse(job=job("import", "STATE_RUNNING")))
    outcome = run("import", "mine", *source, "--tag", "new")
    assert (outcome.code, "j1" in outcome.err) == (0, True)
    assert services.last == ingest.ImportImagesRequest(collection="mine", tags=["new"], **wanted)


def test_import_of_a_list(services: FakeServices, run: Run, tmp_path: Path) -> None:  # noqa: F811
    services.will("ImportImages", ingest.ImportImagesResponse(job=job("import")))
    (tmp_path / "list").write_text("http://a/1.png\n\nhttp://a/2.png\n")
    assert run("import", "mine", tmp_path / "list", "--listed", "--wait").code == 0
    assert list(services.last.urls.urls) == ["http://a/1.png", "http://a/2.png"]


@pytest.mark.parametrize("source", [["photos/"], ["s3://a", "s3://b"], ["s3://a", "http://b"]])
def test_sources_that_can_not_be_imported(run: Run, source: list[str]) -> None:  # noqa: F811
    assert run("import", "mine", *source).code == 2


def test_a_client_names_one_source(client: Client) -> None:
    with pytest.raises(ValueError, match="one of bucket, folder and urls"):
        client.import_images("mine", bucket="a", urls=["http://b"])


def test_doctor(services: FakeServices, run: Run) -> None:  # noqa: F811
    services.will(
        "ListCollections",
        ingest.ListCollectionsResponse(collections=[ingest.Collection(name="mine"), ingest.Collection(name="other")]),
    )
    differs = job("repair", failed=2, findings=[finding("ROWS_MISSING", 2, 0)])
    differs.errors.add(field="a", reason="ROWS_MISSING", message="rows are missing in the index")
    whole = job("repair", detail="3 images compared, no difference")
    services.will("RepairCollection", *[ingest.RepairCollectionResponse(job=one) for one in (differs, whole)])
    outcome = run("doctor")
    assert outcome.code == 1
    assert "ROWS_MISSING" in outcome.out
    assert "no difference" in outcome.err
    assert "mine: a: ROWS_MISSING" in outcome.err
    assert [r.dry_run for r in services.requests if isinstance(r, ingest.RepairCollectionRequest)] == [True, True]

    mended = job("repair", findings=[finding("ROWS_MISSING", 2, 2)])
    services.will("RepairCollection", ingest.RepairCollectionResponse(job=mended))
    outcome = run("doctor", "mine", "--repair", "--json")
    assert (outcome.code, services.last.dry_run) == (0, False)
    assert outcome.lines[0][0]["findings"] == [{"kind": "ROWS_MISSING", "found": "2", "repaired": "2"}]


def test_rebuild(services: FakeServices, run: Run) -> None:  # noqa: F811
    collections = [ingest.Collection(name="whole"), ingest.Collection(name="lost", index_missing=True)]
    services.will("ListCollections", ingest.ListCollectionsResponse(collections=collections))
    done = job("repair", findings=[finding("INDEX_MISSING", 1, 1)])
    services.will("RepairCollection", ingest.RepairCollectionResponse(job=done))
    assert run("rebuild").code == 0
    assert [r.collection for r in services.requests if isinstance(r, ingest.RepairCollectionRequest)] == ["lost"]
    assert run("rebuild", "--all").code == 0
    assert services.last.collection == "lost"
    assert sum(isinstance(r, ingest.RepairCollectionRequest) for r in services.requests) == 3
    assert "`saccade rebuild` restores" in run("collections").err

    services.will("RepairCollection", ingest.RepairCollectionResponse(job=job("repair", "STATE_FAILED", failure="no")))
    outcome = run("rebuild", "lost")
    assert (outcome.code, "mine: no" in outcome.err) == (1, True)

    services.will("ListCollections", ingest.ListCollectionsResponse(collections=collections[:1]))
    assert "lost no collection" in run("rebuild").err


@pytest.mark.parametrize(
    "error",
    [
        NotFound("the index has lost the collection", reason="INDEX_MISSING"),
        Unavailable("Milvus does not answer", reason="MILVUS_UNAVAILABLE"),
        DeadlineExceeded("Milvus did not answer in time"),
    ],
)
def test_images_are_taken_while_the_index_is_away(
    services: FakeServices,
    run: Run,  # noqa: F811
    tmp_path: Path,
    error: SaccadeError,
) -> None:
    services.will("GetModel", embedder.GetModelResponse(model="toy"))
    for call in ("GetCollection", "ListImages", "ListCollections"):
        services.will(call, error)
    (tmp_path / "a.jpg").write_bytes(b"a")
    outcome = run("ingest", tmp_path, "--collection", "mine", "--wait", "durable")
    assert outcome.code == 0
    assert "1 stored" in outcome.err
    # How things stand is asked just then.
    outcome = run("status")
    assert (outcome.code, f"collections: unknown, because {error.message}" in outcome.err) == (1, True)
    assert "toy" in outcome.err


def test_an_import_that_failed_at_some_ends_with_1(services: FakeServices, run: Run) -> None:  # noqa: F811
    services.will("ImportImages", ingest.ImportImagesResponse(job=job("import", done=10, failed=3)))
    assert run("import", "mine", "s3://photos", "--wait").code == 1
    assert run("import", "mine", "s3://photos").code == 0
