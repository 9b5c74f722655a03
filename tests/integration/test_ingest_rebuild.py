"""A backup of the object folder, an empty Milvus, `saccade rebuild`: the same answers as before. Real processes.

The commands are those of docs/recovery.md.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from saccade.errors import api_error
from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from saccade.query.v1 import query_service_pb2 as query_pb
from saccade.query.v1.query_service_pb2_grpc import QueryServiceStub
from tests.engines import Process, milvus_lite, wait_until
from tests.integration.ingest_support import (
    COLOURS,
    DURABLE,
    SEGMENTED,
    Ingest,
    Stack,
    T,
    counts,
    create,
    ended,
    get,
    ingest_process,
    make_collection,
    picture,
)
from tests.integration.query_gallery import connected, start_process

RECOVERY_S = 60
NAMES = ("first", "second")
IMAGES = len(COLOURS)
Answer = list[tuple[str, float]]


@contextmanager
def serving(stack: Stack) -> Iterator[tuple[Ingest, QueryServiceStub]]:
    environment = stack.environment(0)
    kept = ("SACCADE_EMBEDDER_ADDRESS", "SACCADE_MILVUS_URI", "SACCADE_OBJECTS_URL")
    with (
        ingest_process(stack) as ingest,
        start_process("services.query", {name: environment[name] for name in kept}) as (_, address),
        connected(address) as query,
    ):
        yield ingest, query


def fill(ingest: IngestServiceStub) -> None:
    for name in NAMES:
        make_collection(ingest, name=name)
        colours = [*COLOURS]
        for i, ground in enumerate(colours):
            spot = colours[(i + 3) % len(colours)]
            create(
                ingest, name, picture(ground, spot, seed=i), id=f"i{i}", title=ground, tags=[spot], wait_for=SEGMENTED
            )
        assert wait_until(lambda name=name: counts(ingest, name)[2] == 0, timeout_s=RECOVERY_S)  # type: ignore[misc]


def answers(query: QueryServiceStub) -> dict[str, Answer]:
    """What a few searches of different kinds give."""
    found = {}
    for name in NAMES:
        for part in (query_pb.Part(text="red"), query_pb.Part(image=picture("blue")), query_pb.Part(image_id="i2")):
            for mode in (query_pb.SEARCH_MODE_WHOLE, query_pb.SEARCH_MODE_SEGMENT, query_pb.SEARCH_MODE_HYBRID):
                request = query_pb.SearchRequest(collection=name, parts=[part], mode=mode, top_k=IMAGES)
                results = query.Search(request, timeout=T, wait_for_ready=True).results
                assert results
                found[f"{name} {part.WhichOneof('content')} {mode}"] = [(r.image.id, r.score) for r in results]
    return found


def command(ingest: Ingest, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}
    return subprocess.run(
        [sys.executable, "-c", "from saccade.cli import main; main()", *arguments],
        env=environment | {"SACCADE_INGEST_ADDRESS": f"127.0.0.1:{ingest.port}"},
        capture_output=True,
        text=True,
        timeout=2 * RECOVERY_S,
        check=False,
    )


def same(before: dict[str, Answer], after: dict[str, Answer]) -> bool:
    """The same images with the same scores; the order of those that score alike is nobody's promise."""
    assert before.keys() == after.keys()
    for asked, answer in before.items():
        assert dict(after[asked]) == pytest.approx(dict(answer), abs=1e-3), asked
    return True


def killed_in_the_middle(ingest: Ingest, embedder: Process, collection: str) -> pb.Job:
    """A rebuild whose process is killed while rows are being made; the job when it has ended all the same."""
    embedder.signal(signal.SIGSTOP)
    try:
        job = ingest.stub.RepairCollection(pb.RepairCollectionRequest(collection=collection), timeout=T).job

        def is_held() -> bool:
            """The index is made, and the first rows wait for the embedder."""
            now = ingest.stub.GetJob(pb.GetJobRequest(id=job.id), timeout=T).job
            return "ROWS_MISSING" in {finding.kind for finding in now.findings}

        assert wait_until(is_held, timeout_s=RECOVERY_S)
        ingest.process.kill()
    finally:
        embedder.signal(signal.SIGCONT)
    ingest.process.restart()
    return ended(ingest.stub, job.id)


def test_a_backup_is_restored_on_an_empty_index(tmp_path: Path, embedder_port: int, embedder: Process) -> None:
    with milvus_lite(tmp_path / "milvus") as milvus:
        stack = Stack(milvus, embedder_port, tmp_path / "objects")
        with serving(stack) as (ingest, query):
            fill(ingest.stub)
            before = answers(query)
    # The backup; what it holds is all that there is.
    shutil.copytree(tmp_path / "objects", tmp_path / "backup")
    shutil.rmtree(tmp_path / "objects")
    shutil.rmtree(tmp_path / "milvus")

    with milvus_lite(tmp_path / "empty") as milvus:
        stack = Stack(milvus, embedder_port, tmp_path / "backup")
        with serving(stack) as (ingest, query):
            # Services start, and say what is missing.
            collections = ingest.stub.ListCollections(pb.ListCollectionsRequest(), timeout=T).collections
            assert [(c.name, c.index_missing, c.image_count) for c in collections] == [(n, True, 0) for n in NAMES]
            assert "the index has lost the collection" in ingest.process.output
            with pytest.raises(grpc.RpcError) as caught:
                query.Search(query_pb.SearchRequest(collection="first", parts=[query_pb.Part(text="red")]), timeout=T)
            assert api_error(caught.value).reason == "INDEX_MISSING"
            assert "saccade rebuild" in api_error(caught.value).message
            # Images are read, and taken; those that come now are indexed afterwards.
            assert get(ingest.stub, "first", "i1").title == [*COLOURS][1]
            create(ingest.stub, "first", picture(seed=99), id="late", wait_for=DURABLE)
            report = command(ingest, "doctor")
            assert (report.returncode, report.stdout.count("INDEX_MISSING")) == (1, 2), report

            job = killed_in_the_middle(ingest, embedder, "first")
            # What was there already was not made once more.
            assert (job.state, job.failed, job.done) == (pb.Job.STATE_SUCCEEDED, 0, IMAGES + 1), job
            rebuilt = command(ingest, "rebuild")
            assert rebuilt.returncode == 0, rebuilt
            assert ("first" in rebuilt.stdout, rebuilt.stdout.count("ROWS_MISSING")) == (False, 1), rebuilt
            assert wait_until(lambda: counts(ingest.stub, "first")[2] == 0, timeout_s=RECOVERY_S)
            assert get(ingest.stub, "first", "late").state == SEGMENTED
            ingest.stub.DeleteImage(pb.DeleteImageRequest(collection="first", id="late"), timeout=T)
            assert same(before, answers(query))
            whole = command(ingest, "doctor")
            assert (whole.returncode, whole.stdout) == (0, ""), whole
