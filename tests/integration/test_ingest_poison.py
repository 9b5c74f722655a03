"""An image that makes the embedder's process end each time it is looked at: it is set aside, and others go on."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from saccade.ingest.v1 import ingest_service_pb2 as pb
from services.common.records import CollectionRecord, collection_key
from services.common.settings import VectorSettings
from services.common.vectors import Generation, VectorStore
from tests.engines import EngineError, Process, free_port, milvus_lite, wait_until
from tests.integration.ingest_support import (
    DURABLE,
    FAILED,
    SEGMENTED,
    Ingest,
    Stack,
    T,
    change,
    counts,
    create,
    embedder_process,
    ended,
    get,
    ingest_process,
    make_collection,
    picture,
    read,
)

RECOVERY_S = 90
POISON = picture("purple", "purple")
# The toy model, which as long as a file is there dies of pictures that are purple in their middle.
FRAGILE = """
import os, pathlib, runpy, sys
import numpy as np
from services.embedder.models.toy import ToyEncoder
whole = ToyEncoder.preprocess
def preprocess(self, image):
    pixels = whole(self, image)
    if pathlib.Path({flag!r}).exists() and np.array_equal(pixels[16, 16], (130, 50, 170)):
        os._exit(1)
    return pixels
ToyEncoder.preprocess = preprocess
runpy.run_module("services.embedder", run_name="__main__")
"""


@contextmanager
def kept_alive(process: Process) -> Iterator[list[int]]:
    """Start a process again whenever it ends, as an orchestrator does; how often that was."""
    ended_for_good = threading.Event()
    starts: list[int] = []

    def watch() -> None:
        while not ended_for_good.wait(0.05):
            if not process.running:
                starts.append(len(starts))
                # It may end again before it has said that it is ready.
                with suppress(EngineError):
                    process.restart()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield starts
    finally:
        ended_for_good.set()
        thread.join()


@pytest.fixture
def flag(tmp_path: Path) -> Path:
    """There as long as the embedder is fragile."""
    path = tmp_path / "fragile"
    path.touch()
    return path


@pytest.fixture
def embedder(flag: Path) -> Iterator[tuple[Process, int]]:
    port = free_port()
    process = embedder_process(port, command=[sys.executable, "-c", FRAGILE.format(flag=str(flag))])
    with process:
        yield process, port


@pytest.fixture
def stack(tmp_path: Path, embedder: tuple[Process, int]) -> Iterator[Stack]:
    with milvus_lite(tmp_path / "milvus") as milvus:
        yield Stack(milvus, embedder[1], tmp_path / "objects", {"SACCADE_INGEST_MAX_BACKOFF_S": "1"})


@pytest.fixture
def service(stack: Stack) -> Iterator[Ingest]:
    with ingest_process(stack) as ingest:
        yield ingest
        assert ingest.mistakes() == []


def forget(stack: Stack, collection: str, ids: list[str]) -> None:
    """Let the index lose rows."""
    record = CollectionRecord.model_validate_json(read(stack, collection_key(collection)))

    async def run() -> None:
        vectors = VectorStore(VectorSettings(milvus_uri=stack.milvus.uri))
        await vectors.delete_images(Generation.of(record), ids)
        await vectors.close()

    asyncio.run(run())


def test_it_is_set_aside_and_tried_again_when_it_is_changed_or_repaired(
    stack: Stack, service: Ingest, embedder: tuple[Process, int], flag: Path
) -> None:
    ingest = service.stub
    name = make_collection(ingest)
    with kept_alive(embedder[0]) as starts:
        create(ingest, name, POISON, id="poison", wait_for=DURABLE)
        for i in range(6):
            create(ingest, name, picture(seed=i), id=f"i{i}", wait_for=DURABLE)
        assert wait_until(lambda: counts(ingest, name)[2] == 0, timeout_s=RECOVERY_S)
        image = get(ingest, name, "poison")
        assert (image.state, "the embedder went away" in image.failure) == (FAILED, True), image
        assert [get(ingest, name, f"i{i}").state for i in range(6)] == [SEGMENTED] * 6
        # It has its chances, and no more; others that were asked about at the same time share the first of them.
        assert 3 <= len(starts) <= 20

        flag.unlink()
        change(ingest, name, "poison", title="another try")
        assert wait_until(lambda: get(ingest, name, "poison").state == SEGMENTED, timeout_s=RECOVERY_S)

        flag.touch()
        create(ingest, name, POISON, id="again", wait_for=DURABLE)
        assert wait_until(lambda: get(ingest, name, "again").state == FAILED, timeout_s=RECOVERY_S)
        flag.unlink()
        job = ingest.RepairCollection(pb.RepairCollectionRequest(collection=name), timeout=T).job
        assert ended(ingest, job.id).state == pb.Job.STATE_SUCCEEDED
        assert wait_until(lambda: get(ingest, name, "again").state == SEGMENTED, timeout_s=RECOVERY_S)

        # A repair that has to make its vectors anew sets it aside too, and restores the others.
        flag.touch()
        assert wait_until(lambda: counts(ingest, name)[2] == 0, timeout_s=RECOVERY_S)
        forget(stack, name, ["again", "i1"])
        job = ingest.RepairCollection(pb.RepairCollectionRequest(collection=name), timeout=T).job
        job = ended(ingest, job.id)
        assert job.state == pb.Job.STATE_SUCCEEDED, job
        assert {finding.kind: finding.found for finding in job.findings} == {"ROWS_MISSING": 2}, job
        image = get(ingest, name, "again")
        assert (image.state, "the embedder went away" in image.failure) == (FAILED, True), image
        assert (counts(ingest, name)[0], counts(ingest, name)[2]) == (7, 0)
