"""Processes and pictures for tests of ingest: an embedder with the toy models, and the service itself."""

import asyncio
import io
import itertools
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image, ImageDraw

from saccade.channel import channel_options
from saccade.common.v1 import types_pb2
from saccade.errors import ApiError, api_error
from saccade.ingest.v1 import ingest_service_pb2 as pb
from saccade.ingest.v1.ingest_service_pb2_grpc import IngestServiceStub
from services.common.objects import ObjectStore, open_object_store
from services.common.records import ImageRecord, ImageState
from services.common.settings import ObjectSettings
from services.ingest.files import content_hash
from services.ingest.markers import now_ms
from tests.engines import MilvusServer, Process, free_port, wait_until

__all__ = [
    "COLOURS",
    "DURABLE",
    "FAILED",
    "SEARCHABLE",
    "SEGMENTED",
    "Ingest",
    "Stack",
    "T",
    "change",
    "counts",
    "create",
    "embedder_process",
    "ended",
    "get",
    "ingest_process",
    "listed",
    "make_collection",
    "picture",
    "put",
    "read",
    "record_of",
    "refused",
    "serving",
    "tagged",
    "touch",
]

# Colours that the toy models tell apart.
COLOURS = {
    "red": (220, 30, 30),
    "orange": (245, 140, 20),
    "yellow": (245, 225, 40),
    "green": (40, 160, 60),
    "cyan": (40, 200, 210),
    "blue": (40, 70, 210),
    "purple": (130, 50, 170),
    "pink": (245, 150, 190),
}


def picture(ground: str = "red", spot: str = "blue", *, seed: int = 0, side_px: int = 64) -> bytes:
    """A PNG: a square of one colour on a ground of another; each seed gives other bytes of about the same look."""
    image = Image.new("RGB", (side_px, side_px), COLOURS[ground])
    quarter = side_px // 4
    ImageDraw.Draw(image).rectangle((quarter, quarter, 3 * quarter, 3 * quarter), fill=COLOURS[spot])
    for bit in range(min(24, side_px)):
        red, green, blue = COLOURS[ground]
        image.putpixel((bit, 0), (red ^ (seed >> bit & 1), green, blue))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


T = 20
"""Longest that a call may take, in seconds."""
JOB_T = 60
"""Longest that a job may take, in seconds."""
DURABLE, SEARCHABLE = types_pb2.IMAGE_STATE_DURABLE, types_pb2.IMAGE_STATE_SEARCHABLE
SEGMENTED, FAILED = types_pb2.IMAGE_STATE_SEGMENTED, types_pb2.IMAGE_STATE_FAILED
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Stack:
    """What ingest needs around it."""

    milvus: MilvusServer
    embedder_port: int
    objects: Path
    settings: Mapping[str, str] = field(default_factory=dict)

    def environment(self, port: int) -> dict[str, str]:
        """The service's environment, with pauses that suit a test."""
        return {
            **_clean_environment(),
            "SACCADE_INGEST_LISTEN": f"127.0.0.1:{port}",
            "SACCADE_INGEST_METRICS_LISTEN": "",
            "SACCADE_EMBEDDER_ADDRESS": f"dns:///127.0.0.1:{self.embedder_port}",
            "SACCADE_MILVUS_URI": self.milvus.uri,
            "SACCADE_OBJECTS_URL": f"file://{self.objects}",
            "SACCADE_INGEST_ALLOW_PRIVATE_URLS": "true",
            "SACCADE_INGEST_LEASE_S": "1.5",
            "SACCADE_INGEST_SCAN_S": "0.3",
            "SACCADE_INGEST_BACKOFF_S": "0.3",
            "SACCADE_INGEST_OUTAGE_PATIENCE_S": "0.5",
            "SACCADE_INGEST_COLLECTION_TTL_S": "0.2",
            "SACCADE_INGEST_INDEX_DRAIN_S": "3",
            "SACCADE_LOG_LEVEL": "INFO",
            **self.settings,
        }


@dataclass(frozen=True)
class Ingest:
    """The running service."""

    process: Process
    port: int
    channel: grpc.Channel

    @property
    def stub(self) -> IngestServiceStub:
        """Its calls, blocking."""
        return IngestServiceStub(self.channel)

    def mistakes(self) -> list[str]:
        """Lines of its log that tell of errors of our own; it writes one JSON object a line."""
        lines = self.process.output.splitlines()
        return [line for line in lines if '"level": "error"' in line or not line.startswith("{")]


def embedder_process(port: int, *, command: Sequence[str] = (), **settings: str) -> Process:
    """An embedder with the toy models, started by a command of one's own; settings are named as in the environment."""
    environment = {
        **_clean_environment(),
        "SACCADE_EMBEDDER_LISTEN": f"127.0.0.1:{port}",
        "SACCADE_EMBEDDER_METRICS_LISTEN": "",
        "SACCADE_MODEL": "toy",
        "SACCADE_SEGMENTER": "toy",
        **settings,
    }
    command = command or [sys.executable, "-m", "services.embedder"]
    return Process([*command], ready=lambda: serving(port), env=environment, grace_s=10)


@contextmanager
def ingest_process(stack: Stack, *, needs_ready: bool = True) -> Iterator[Ingest]:
    """The service on a free port; started when it is ready, or as soon as it listens."""
    port = free_port()
    name = "" if needs_ready else "liveness"
    process = Process(
        [sys.executable, "-m", "services.ingest"],
        ready=lambda: serving(port, name),
        env=stack.environment(port),
        grace_s=30,
    )
    with process, grpc.insecure_channel(f"dns:///127.0.0.1:{port}", options=channel_options()) as channel:
        yield Ingest(process, port, channel)
        # Shown where the test fails.
        print(process.last_lines())  # noqa: T201


def serving(port: int, name: str = "") -> bool:
    """Whether a gRPC server on a loopback port says that it is serving."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest(service=name), timeout=2
            )
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _clean_environment() -> dict[str, str]:
    # A developer's own settings must not reach what is tested.
    return {name: value for name, value in os.environ.items() if not name.startswith("SACCADE_")}


def make_collection(ingest: IngestServiceStub, **fields: Any) -> str:
    """Make a collection, under a name of its own where none is given; the name."""
    name = fields.pop("name", f"c{next(_numbers)}")
    ingest.CreateCollection(
        pb.CreateCollectionRequest(collection=pb.Collection(name=name, **fields)), timeout=T, wait_for_ready=True
    )
    return str(name)


def create(
    ingest: IngestServiceStub,
    collection: str,
    data: bytes = b"",
    *,
    wait_for: types_pb2.ImageState.ValueType = SEARCHABLE,
    replace: bool = False,
    **fields: Any,
) -> pb.CreateImageResponse:
    """Store an image."""
    image = pb.NewImage(data=data, **fields) if data else pb.NewImage(**fields)
    return ingest.CreateImage(
        pb.CreateImageRequest(collection=collection, image=image, wait_for=wait_for, replace=replace),
        timeout=T,
        wait_for_ready=True,
    )


def get(ingest: IngestServiceStub, collection: str, image_id: str, **options: bool) -> types_pb2.Image:
    """Read an image."""
    return ingest.GetImage(
        pb.GetImageRequest(collection=collection, id=image_id, **options), timeout=T, wait_for_ready=True
    ).image


def listed(ingest: IngestServiceStub, collection: str, **fields: Any) -> list[str]:
    """Ids of the first page."""
    answer = ingest.ListImages(pb.ListImagesRequest(collection=collection, **fields), timeout=T, wait_for_ready=True)
    return [image.id for image in answer.images]


def tagged(name: str) -> types_pb2.Filter:
    """Images with a tag."""
    return types_pb2.Filter(tags=types_pb2.Filter.Tags(names=[name]))


def refused(call: Any, request: Any) -> ApiError:
    """What a call is refused with."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=T, wait_for_ready=True)
    return api_error(caught.value)


def change(
    ingest: IngestServiceStub, collection: str, image_id: str, paths: Sequence[str] = (), **fields: Any
) -> types_pb2.Image:
    """Change an image."""
    image = types_pb2.Image(collection=collection, id=image_id, **fields)
    mask = field_mask_pb2.FieldMask(paths=paths)
    return ingest.UpdateImage(
        pb.UpdateImageRequest(image=image, update_mask=mask), timeout=T, wait_for_ready=True
    ).image


def counts(ingest: IngestServiceStub, collection: str) -> tuple[int, int, int]:
    """Images and segments that searches see, and images not finished."""
    found = ingest.GetCollection(pb.GetCollectionRequest(name=collection), timeout=T, wait_for_ready=True).collection
    return found.image_count, found.segment_count, found.pending_count


def ended(ingest: IngestServiceStub, job_id: str) -> pb.Job:
    """A job, once it has ended."""

    def job() -> pb.Job:
        return ingest.GetJob(pb.GetJobRequest(id=job_id), timeout=T, wait_for_ready=True).job

    assert wait_until(lambda: job().state != pb.Job.STATE_RUNNING, timeout_s=JOB_T), job()
    return job()


def touch(stack: Stack, what: Callable[[ObjectStore], Awaitable[Any]]) -> Any:
    """Do something to the stored objects behind the service's back."""

    async def run() -> Any:
        objects = open_object_store(ObjectSettings(objects_url=f"file://{stack.objects}"))
        try:
            return await what(objects)
        finally:
            await objects.close()

    return asyncio.run(run())


def put(stack: Stack, key: str, data: bytes) -> None:
    """Write an object behind the service's back."""
    touch(stack, lambda objects: objects.put(key, data))


def read(stack: Stack, key: str) -> bytes:
    """Read an object behind the service's back."""
    data = touch(stack, lambda objects: objects.get(key))
    assert isinstance(data, bytes)
    return data


def record_of(data: bytes, **fields: Any) -> ImageRecord:
    """The record of a picture that was stored and not looked at again."""
    given: dict[str, Any] = {
        "id": "a",
        "state": ImageState.DURABLE,
        "content_type": "image/png",
        "size_bytes": len(data),
        "width": 64,
        "height": 64,
        "sha256": content_hash(data),
        "created_at_ms": now_ms(),
        "updated_at_ms": now_ms(),
        "etag": "made-up",
    }
    return ImageRecord(**(given | fields))
